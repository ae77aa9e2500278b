"""What a ledger file needs that no caller should wait for, in a thread of its own.

Checkpoints: the log's content moves into the ledger file. A checkpoint is what makes one
transaction in a few hundred slow, so it is done here, on another connection, while others write.
SQLite begins the log anew only when a checkpoint left nothing in it: where the log has grown too
long, the little that came since is moved in a turn of the thread's own, which is what bounds the
log's size.

Retention: when the ledger is opened, and every hour, what is finished and old is removed, a few
rows in each turn, with pauses that are many times as long.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite import schema
from comptroller.ledger.sqlite.file_guard import OpenedFiles, connect
from comptroller.ledger.sqlite.file_lock import FileLock, retry_until, try_begin
from comptroller.ledger.sqlite.retention import ExpiredRows, Retention

_CHECKPOINT_PAGES = 2_000
"""Pages written between two checkpoints, about (8 MB)."""
_PAGES_PER_BATCH, _PAGES_PER_ACT = 5, 2
_TOO_LONG = 16_000
"""Pages in the log (64 MB) that are worth a pause of all writers."""
_LOCK_TIMEOUT = 5.0  # seconds for a turn
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_BETWEEN_PASSES = 3600.0  # seconds
_SHARE = 10
"""A removal is followed by a pause this many times as long."""


class Maintenance:
    """The thread that keeps up one opened ledger. `now` gives epoch milliseconds."""

    def __init__(self, path: Path, retention: Retention, now: Callable[[], int]) -> None:
        self._path, self._retention, self._now = path, retention, now
        self._pages = 0
        self._wanted, self._over = threading.Event(), False
        self._checkpoint_wanted = False
        self._next_pass = 0.0
        self._thread = threading.Thread(
            target=self._run, name=f"upkeep of {path.name}", daemon=True
        )

    def begin(self, files: OpenedFiles) -> None:
        """Start the thread. `files` are the ledger's.

        Its connection is made now and kept: one made later, while somebody removes the log, would
        begin another log.
        """
        self._files, self._sql = files, connect(self._path, 0)
        schema.must_be_current(self._path, self._sql)
        self._thread.start()

    def note(self, acts: int) -> None:
        """Note that a batch was written."""
        self._pages += _PAGES_PER_BATCH + _PAGES_PER_ACT * acts
        if self._pages >= _CHECKPOINT_PAGES:
            self._pages = 0
            self._checkpoint_wanted = True
            self._wanted.set()

    def end(self) -> None:
        """End the thread. Blocks while it is at work."""
        self._over = True
        self._wanted.set()
        self._thread.join()
        self._sql.close()

    def _run(self) -> None:
        while not self._over:
            try:
                pause = self._work()
            except (sqlite3.Error, OSError, ComptrollerError):
                # The file stays as it is and nothing is lost; its fault will be told to whoever
                # writes next, and is tried again at the next occasion.
                pause = _BETWEEN_PASSES
            self._wanted.wait(pause)
            self._wanted.clear()

    def _work(self) -> float:
        """Do what is due; return how many seconds nothing more is."""
        self._files.must_still_be()
        schema.must_be_current(self._path, self._sql)
        if self._checkpoint_wanted:
            self._checkpoint_wanted = False
            self._checkpoint()
        while not self._over and time.monotonic() >= self._next_pass:
            due = self._retention.look(self._sql, self._now())
            if due is None:
                self._next_pass = time.monotonic() + _BETWEEN_PASSES
            elif due.rows:
                began = time.monotonic()
                self._forget(due)
                return (time.monotonic() - began) * _SHARE
        return max(0.0, self._next_pass - time.monotonic())

    def _checkpoint(self) -> None:
        _, pages, _ = self._sql.execute(_CHECKPOINT).fetchone()
        if pages >= _TOO_LONG:
            self._checkpoint_alone()

    def _checkpoint_alone(self) -> None:
        """Checkpoint while nobody writes: whoever has the turn lets no transaction begin."""
        deadline = time.monotonic() + _LOCK_TIMEOUT
        with closing(FileLock(self._path)) as turns:
            if turns.take(deadline) and retry_until(partial(try_begin, self._sql), deadline):
                self._sql.execute("ROLLBACK")  # the last one before us has ended
                self._sql.execute(_CHECKPOINT)

    def _forget(self, due: ExpiredRows) -> None:
        with closing(FileLock(self._path)) as turns:
            if turns.begin(self._sql, time.monotonic() + _LOCK_TIMEOUT):
                try:
                    due.forget(self._sql)
                    self._sql.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):  # SQLite may have undone it itself
                        self._sql.execute("ROLLBACK")
                    raise
