"""Checkpoints: the log's content moves into the ledger file, off every caller's path.

A checkpoint is what makes one transaction in a few hundred slow, so a thread of its own does it, on
its own connection, while others write. SQLite begins the log anew only when a checkpoint left
nothing in it: where the log has grown too long, the little that came since is moved in a turn of
the thread's own, which is what bounds the log's size.
"""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from comptroller.ledger.sqlite.turns import Turns

_ENOUGH = 2_000
"""Pages written between two checkpoints, about (8 MB)."""
_PAGES_PER_BATCH, _PAGES_PER_ACT = 6, 2
_TOO_LONG = 16_000
"""Pages in the log (64 MB) that are worth a pause of all writers."""
_PATIENCE = 5.0  # seconds for a turn
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


class Upkeep:
    """The thread that checkpoints one opened ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages = 0
        self._wanted, self._over = threading.Event(), False
        self._thread = threading.Thread(
            target=self._run, name=f"checkpoints of {path.name}", daemon=True
        )

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def note(self, acts: int) -> None:
        """A batch was written."""
        self._pages += _PAGES_PER_BATCH + _PAGES_PER_ACT * acts
        if self._pages >= _ENOUGH:
            self._pages = 0
            self._wanted.set()

    def end(self) -> None:
        """End the thread. Blocks while a checkpoint runs."""
        self._over = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._over:
                return
            try:
                self._checkpoint()
            except (sqlite3.Error, OSError):
                # The log stays as it is and nothing is lost; a fault of the file will be told to
                # whoever writes next, and the next checkpoint tries again.
                continue

    def _checkpoint(self) -> None:
        with closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as connection:
            _, pages, _ = connection.execute(_CHECKPOINT).fetchone()
            if pages < _TOO_LONG:
                return
            turns = Turns(self._path)
            try:
                if turns.take(time.monotonic() + _PATIENCE):
                    connection.execute(_CHECKPOINT)
            finally:
                turns.close()
