"""API keys in the ledger's own file, on a connection of their own.

A server asks for a key at every request: what it has found holds for a second, so a key that was
revoked by another process opens nothing a second later.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from comptroller.errors import ComptrollerError
from comptroller.ledger.keys import Key, KeyTable, unknown
from comptroller.ledger.sqlite import files
from comptroller.ledger.sqlite.turns import Turns

_FRESH = 1.0  # seconds
_PATIENCE = 5.0  # seconds for a turn, and for another program's lock
_KEY = "id, tenant, digest, created_ms, revoked_ms, note"


class SqliteKeys(KeyTable):
    """The keys of an opened ledger's file.

    Raises:
        ComptrollerError: the file cannot be used; the text says why and what to do.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path, self._now = path, now
        self._found: dict[str, tuple[Key, float]] = {}
        with self._explained():
            self._sql = sqlite3.connect(
                path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._sql.execute("PRAGMA synchronous = FULL")
                self._sql.execute("PRAGMA wal_autocheckpoint = 0")  # the ledger does it
            except BaseException:  # a file that is no database: nobody else would close it
                self._sql.close()
                raise

    def close(self) -> None:
        """End of use."""
        self._sql.close()

    def find(self, key_id: str) -> Key | None:
        """See `KeyTable.find`. Reads do not wait for writers."""
        known, since = self._found.get(key_id, (None, 0.0))
        if known is not None and self._now() - since < _FRESH:
            return known
        with self._explained():
            row = self._sql.execute(
                f"SELECT {_KEY} FROM api_keys WHERE id = ?", (key_id,)
            ).fetchone()
        if row is None:
            self._found.pop(key_id, None)
            return None
        key = Key(*row)
        self._found[key_id] = key, self._now()
        return key

    def add(self, key: Key) -> None:
        """See `KeyTable.add`."""
        with self._writing():
            self._sql.execute(
                f"INSERT INTO api_keys ({_KEY}) VALUES (?, ?, ?, ?, ?, ?)", attrs.astuple(key)
            )

    def all(self) -> list[Key]:
        """See `KeyTable.all`."""
        with self._explained():
            found = self._sql.execute(f"SELECT {_KEY} FROM api_keys ORDER BY created_ms, id")
            return [Key(*row) for row in found]

    def revoke(self, key_id: str, now_ms: int) -> Key:
        """See `KeyTable.revoke`."""
        self._found.pop(key_id, None)
        with self._writing():
            self._sql.execute(
                "UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL",
                (now_ms, key_id),
            )
        if (key := self.find(key_id)) is None:
            raise unknown(key_id)
        return key

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, in a turn among the processes that share the file."""
        turns = Turns(self._path)
        try:
            with self._explained():
                if not turns.take(time.monotonic() + _PATIENCE):
                    raise ComptrollerError(f"{self._path}: others have held it: try again")
                self._sql.execute("BEGIN IMMEDIATE")
                yield
                self._sql.execute("COMMIT")
        finally:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            turns.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ComptrollerError(files.explained(self._path, error)) from error
