"""Whose turn it is among the processes that share one ledger file.

SQLite's own lock is taken by whoever asks at the right moment, which starves the others. So a turn
is taken before a transaction, by advisory locks (flock) on two files beside the ledger: whoever
waits for the turn holds the place of the next one, and the one whose turn just ended cannot pass.
The kernel drops the locks of a process that dies, once no fork of it has the files open: so a fork
closes them at once.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

_PAUSE = 0.0005  # seconds between two tries: about the time a short transaction takes


class Turns:
    """The turns of one opened ledger. Used by one thread at a time.

    Raises:
        OSError: the files cannot be made beside the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._next = _opened(path.with_name(f"{path.name}-next"))
        try:
            self._turn = _opened(path.with_name(f"{path.name}-turn"))
        except OSError:
            os.close(self._next)
            raise
        _open.add(self)

    def take_now(self) -> bool:
        """Take the turn if nobody has it or waits for it."""
        if not _locked(self._next):
            return False
        try:
            return _locked(self._turn)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def take(self, deadline: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the turn until `deadline` (`time.monotonic`), or until given up. Blocks."""
        if not waited(lambda: _locked(self._next), deadline, given_up):
            return False
        try:
            return waited(lambda: _locked(self._turn), deadline, given_up)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def give_back(self) -> None:
        """End the turn."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """End of use; a fork's copy has ended when it began."""
        if self in _open:
            _open.discard(self)
            os.close(self._next)
            os.close(self._turn)


_open: WeakSet[Turns] = WeakSet()


def _in_a_fork() -> None:
    for turns in list(_open):
        turns.close()


os.register_at_fork(after_in_child=_in_a_fork)


def waited(
    succeeds: Callable[[], bool], deadline: float, given_up: Callable[[], bool] = lambda: False
) -> bool:
    """Try until it succeeds, until `deadline` (`time.monotonic`), or until given up. Blocks."""
    while not succeeds():
        if time.monotonic() >= deadline or given_up():
            return False
        time.sleep(_PAUSE)
    return True


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _locked(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
