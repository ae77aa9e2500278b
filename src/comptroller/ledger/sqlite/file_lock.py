"""Whose turn it is to begin a transaction, among the processes that share one ledger file.

SQLite's own lock is taken by whoever asks at the right moment, which starves the others. So there
is one place before it, an advisory lock (flock) on a file beside the ledger: whoever has the turn
waits there until the transaction of another has ended, begins its own, and passes the turn on. The
one whose transaction just ended cannot come before those who wait.
The kernel drops the lock of a process that dies, once no fork of it has the file open: so a fork
closes it at once.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from weakref import WeakSet

from comptroller import _private_files

_PAUSES = (0.00005, 0.0005)
"""Seconds between two tries: at first about the time a short transaction takes, at most that of a
long one."""
PRIMARY = 0xFF  # the part of an extended SQLite error code that names the kind


class FileLock:
    """The turns of one opened ledger. Used by one thread at a time.

    Raises:
        OSError: the file cannot be made beside the ledger, or is another user's.
    """

    def __init__(self, path: Path) -> None:
        place = beside(path, "-next")
        self._place = _private_files.opened(place, os.O_RDWR | os.O_CREAT)
        self._ours = False
        _open.add(self)

    def take_now(self) -> bool:
        """Take the turn if nobody has it."""
        try:
            fcntl.flock(self._place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._ours = True
        return True

    def take(self, deadline: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the turn until `deadline` (`time.monotonic`), or until given up. Blocks."""
        return retry_until(self.take_now, deadline, given_up)

    def begin(self, sql: sqlite3.Connection, deadline: float) -> bool:
        """Begin a transaction when it is our turn; False where that was not by then. Blocks."""
        try:
            return self.take(deadline) and retry_until(partial(try_begin, sql), deadline)
        finally:
            self.pass_on()

    def pass_on(self) -> None:
        """Leave the turn, if it is ours, to the next one."""
        if self._ours:
            self._ours = False
            fcntl.flock(self._place, fcntl.LOCK_UN)

    def close(self) -> None:
        """End of use; a fork's copy has ended when it began."""
        if self in _open:
            _open.discard(self)
            os.close(self._place)


def beside(path: Path, suffix: str) -> Path:
    """Return the file beside a ledger: beside the file that a link leads to, as SQLite does."""
    real = path.resolve()
    return real.with_name(f"{real.name}{suffix}")


_open: WeakSet[FileLock] = WeakSet()


def _in_a_fork() -> None:
    for turns in list(_open):
        turns.close()


os.register_at_fork(after_in_child=_in_a_fork)


def retry_until(
    succeeds: Callable[[], bool], deadline: float, given_up: Callable[[], bool] = lambda: False
) -> bool:
    """Try until it succeeds, until `deadline` (`time.monotonic`), or until given up. Blocks."""
    pause, longest = _PAUSES
    while not succeeds():
        if time.monotonic() >= deadline or given_up():
            return False
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return True


def try_begin(sql: sqlite3.Connection) -> bool:
    """Begin a transaction that writes; False where another one is under way."""
    try:
        sql.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & PRIMARY != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
