"""A Cycles server as a ledger: its clients, its guards, its outbox."""
