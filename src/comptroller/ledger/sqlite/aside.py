"""A connection to a ledger's file beside the ledger's own, for what is not its protocol.

What is written over it is written in a turn among the processes that share the file.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite import files
from comptroller.ledger.sqlite.opened import OpenedFiles, connect
from comptroller.ledger.sqlite.turns import Turns

_PATIENCE = 5.0  # seconds for a turn, and for another program's lock


class Aside:
    """Such a connection. One thread uses it at a time.

    Args:
        path: the file of a ledger that has been opened.
        durable: what it has written outlives a loss of power.

    Raises:
        ComptrollerError: the file cannot be used; the text says why and what to do.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._path, self._files = path, OpenedFiles(path)
        with self.explained():
            self.sql = connect(path, _PATIENCE)
            try:
                self.sql.execute("PRAGMA wal_autocheckpoint = 0")  # the ledger does it
                if durable:
                    self.sql.execute("PRAGMA synchronous = FULL")
            except BaseException:  # a file that is no database: nobody else would close it
                self.sql.close()
                raise

    def close(self) -> None:
        """End of use."""
        self.sql.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Blocks until its turn has come."""
        turns = Turns(self._path)
        try:
            with self.explained():
                if not turns.begin(self.sql, time.monotonic() + _PATIENCE):
                    raise ComptrollerError(f"{self._path}: others have held it: try again")
                yield self.sql
                self.sql.execute("COMMIT")
        finally:
            if self.sql.in_transaction:
                self.sql.execute("ROLLBACK")
            turns.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Faults of the files are told in one line; whatever is asked of them is asked in it."""
        self._files.must_still_be()
        try:
            yield
        except sqlite3.Error as error:
            raise ComptrollerError(files.explained(self._path, error)) from error
