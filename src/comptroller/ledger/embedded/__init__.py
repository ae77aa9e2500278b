"""The ledgers of this process: in memory, and what they share with the one on SQLite."""
