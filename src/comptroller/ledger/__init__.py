"""Ledgers: the interface, the embedded ones (memory, SQLite), the remote one (Cycles)."""
