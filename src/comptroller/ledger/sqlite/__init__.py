"""The durable embedded ledger: one SQLite file, shared by the processes of one machine.

ledger    the requests that wait, performed in batches: one transaction each, then the answers
store     the records of the protocol engine in tables, buffered within a batch
turns     whose turn it is among processes, by advisory locks
upkeep    checkpoints, in a thread of their own
listing   what a listing wants, as SQL
keys      API keys
audit     the event log, periods that are over, what was used and denied, added up
records   all records at one moment, for reports and audits
webhooks  where alerts are sent, and the thread that sends them
files     opening a file: its schema, and what is wrong with a bad one
"""

from comptroller.ledger.sqlite.api_keys import SqliteKeys
from comptroller.ledger.sqlite.ledger import SqliteLedger, open_sqlite
from comptroller.ledger.sqlite.webhooks import SqliteWebhooks

__all__ = ["SqliteKeys", "SqliteLedger", "SqliteWebhooks", "open_sqlite"]
