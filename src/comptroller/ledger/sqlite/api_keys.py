"""API keys in the ledger's own file, on a connection of their own.

A server asks for a key at every request: what it has found holds for a second, so a key that was
revoked by another process opens nothing a second later.
"""

import time
from collections.abc import Callable
from pathlib import Path

import attrs

from comptroller.ledger.api_keys import ApiKey, ApiKeyStore, unknown
from comptroller.ledger.sqlite.database_file import SideConnection

_CACHE_TTL = 1.0  # seconds
_KEY = "id, tenant, digest, created_ms, revoked_ms, note"


class SqliteKeys(ApiKeyStore):
    """The keys of an opened ledger's file.

    Raises:
        ComptrollerError: the file cannot be used; the text says why and what to do.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._found: dict[str, tuple[ApiKey, float]] = {}
        self._aside = SideConnection(path, durable=True)

    def close(self) -> None:
        """End of use."""
        self._aside.close()

    def find(self, key_id: str) -> ApiKey | None:
        """See `ApiKeyStore.find`. Reads do not wait for writers."""
        known, since = self._found.get(key_id, (None, 0.0))
        if known is not None and self._now() - since < _CACHE_TTL:
            return known
        with self._aside.explained():
            row = self._aside.sql.execute(
                f"SELECT {_KEY} FROM api_keys WHERE id = ?", (key_id,)
            ).fetchone()
        if row is None:
            self._found.pop(key_id, None)
            return None
        key = ApiKey(*row)
        self._found[key_id] = key, self._now()
        return key

    def add(self, key: ApiKey) -> None:
        """See `ApiKeyStore.add`."""
        with self._aside.writing() as sql:
            sql.execute(
                f"INSERT INTO api_keys ({_KEY}) VALUES (?, ?, ?, ?, ?, ?)", attrs.astuple(key)
            )

    def all(self) -> list[ApiKey]:
        """See `ApiKeyStore.all`."""
        with self._aside.explained():
            found = self._aside.sql.execute(f"SELECT {_KEY} FROM api_keys ORDER BY created_ms, id")
            return [ApiKey(*row) for row in found]

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """See `ApiKeyStore.revoke`."""
        self._found.pop(key_id, None)
        with self._aside.writing() as sql:
            sql.execute(
                "UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL",
                (now_ms, key_id),
            )
        if (key := self.find(key_id)) is None:
            raise unknown(key_id)
        return key
