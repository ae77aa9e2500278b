"""The outbox of a remote ledger: charges that were decided and have not been accepted, on disk.

entries   one charge as a value, and as the text of its file
shelf     the directory of those files
clerk     the same off the event loop, in order
sending   when each charge is sent, and what the ledger's answer does to it
"""

from comptroller.ledger.remote.outbox.entries import Entry
from comptroller.ledger.remote.outbox.outbox import DiskOutbox
from comptroller.ledger.remote.outbox.storage import (
    OutboxDirectory,
    browse,
    counted,
    default_directory,
    directory,
    set_aside,
    text_of,
)

__all__ = [
    "DiskOutbox",
    "Entry",
    "OutboxDirectory",
    "browse",
    "counted",
    "default_directory",
    "directory",
    "set_aside",
    "text_of",
]
