"""Who may use a ledger: the process and the event loop that opened it, until it is closed."""

import os

import anyio.lowlevel

from comptroller.errors import ComptrollerError


class Ownership:
    """Remembers where it was made, which is where its ledger is used.

    Attributes:
        closed: set when the ledger is.
    """

    def __init__(self, ledger: str) -> None:
        self._ledger, self.closed = ledger, False
        self._process, self._loop = os.getpid(), anyio.lowlevel.current_token()

    @property
    def in_fork(self) -> bool:
        """Whether this process is a fork: what is open belongs to its parent."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Raise a ComptrollerError unless the ledger may be used here and now."""
        if self.in_fork:
            raise ComptrollerError(
                f"the ledger {self._ledger} was opened in process {self._process} and cannot be"
                f" used in its fork {os.getpid()}: open one in each process"
            )
        if self.closed:
            raise ComptrollerError(f"the ledger {self._ledger} is closed: open it again")
        if anyio.lowlevel.current_token() != self._loop:
            raise ComptrollerError(
                f"the ledger {self._ledger} was opened in another event loop:"
                " open it in each of them"
            )
