"""API keys: made once, shown once, kept as digests; each belongs to one tenant.

A key is `ck_`, its id and 256 random bits: `ck_1f2e3d4c5b6a_kN3...`. The id says which one is
meant, and is no secret; the digest of the whole proves it. A plain SHA-256 is right for what cannot
be guessed: a slow hash protects what people make up.
"""

import hashlib
import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import attrs

from comptroller.core.identifiers import checked
from comptroller.errors import ComptrollerError

PREFIX = "ck_"
MAX_NOTE_LENGTH = 200
_ID_BYTES, _SECRET_BYTES = 6, 32
_NOBODYS = bytes(32)
"""What a key is compared with where there is none: an unknown id takes as long as a known one."""


@attrs.frozen
class ApiKey:
    """What is kept of an API key.

    Attributes:
        key_id: names it in lists and logs.
        tenant: whose it is, in lower case.
        digest: SHA-256 of the whole key.
        created_ms: epoch milliseconds.
        revoked_ms: since when it opens nothing, or None.
        note: what its maker wrote about it.
    """

    key_id: str
    tenant: str
    digest: bytes = attrs.field(repr=False)
    created_ms: int = 0
    revoked_ms: int | None = None
    note: str = ""


class ApiKeyVerifier(Protocol):
    """What opens the ledger to whom."""

    def opened(self, text: bytes) -> ApiKey | None:
        """Return the key that `text` is, if it is one and was not revoked."""


class ApiKeyStore(ABC):
    """Keys that can be made and revoked. Its methods may block, `opened` not for long."""

    @abstractmethod
    def find(self, key_id: str) -> ApiKey | None:
        """Return the key of that id."""

    @abstractmethod
    def add(self, key: ApiKey) -> None:
        """Keep a new key."""

    @abstractmethod
    def all(self) -> list[ApiKey]:
        """Every key, oldest first."""

    @abstractmethod
    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """End a key, for good; one that has ended stays as it is.

        Raises:
            ComptrollerError: there is none of that id.
        """

    def opened(self, text: bytes) -> ApiKey | None:
        """See `Keys.opened`. Compared in constant time."""
        key_id = text.decode("latin-1").removeprefix(PREFIX).partition("_")[0]
        known = self.find(key_id)
        same = hmac.compare_digest(known.digest if known else _NOBODYS, digest(text))
        return known if known and same and known.revoked_ms is None else None


def create_api_key(tenant: str, now_ms: int, note: str = "") -> tuple[str, ApiKey]:
    """Make a new key of `tenant`, to be shown once, and what is kept of it.

    Raises:
        TypeError, ValueError: a tenant that no subject can name, or a note that is too long.
    """
    if len(note) > MAX_NOTE_LENGTH:
        raise ValueError(f"the note has {len(note)} characters: at most {MAX_NOTE_LENGTH} are kept")
    owner = checked("tenant", tenant).lower()
    key_id = secrets.token_hex(_ID_BYTES)
    text = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return text, ApiKey(key_id, owner, digest(text.encode()), now_ms, note=note)


def digest(text: bytes) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(text).digest()


def unknown(key_id: str) -> ComptrollerError:
    """Return the error that there is no such key."""
    return ComptrollerError(f"no API key {key_id}: see them with: comptroller key list")


class MemoryKeys(ApiKeyStore):
    """Keys that are gone with the process."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    def find(self, key_id: str) -> ApiKey | None:
        """See `ApiKeyStore.find`."""
        return self._keys.get(key_id)

    def add(self, key: ApiKey) -> None:
        """See `ApiKeyStore.add`."""
        self._keys[key.key_id] = key

    def all(self) -> list[ApiKey]:
        """See `ApiKeyStore.all`."""
        return list(self._keys.values())

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """See `ApiKeyStore.revoke`."""
        if (key := self._keys.get(key_id)) is None:
            raise unknown(key_id)
        if key.revoked_ms is None:
            key = self._keys[key_id] = attrs.evolve(key, revoked_ms=now_ms)
        return key


class StaticApiKeys:
    """Keys of any form that a program brings along: text -> tenant. Their digests are kept.

    Raises:
        TypeError, ValueError: a key is empty, or a tenant none that a subject can name.
    """

    def __init__(self, tenants: Mapping[str, str]) -> None:
        self._keys: dict[bytes, ApiKey] = {}
        for text, tenant in tenants.items():
            if not text:
                raise ValueError(f"the API key of tenant {tenant!r} is empty: anybody has it")
            kept = digest(text.encode())
            self._keys[kept] = ApiKey(kept.hex()[:12], checked("tenant", tenant), kept)

    def opened(self, text: bytes) -> ApiKey | None:
        """See `Keys.opened`. How long a look-up by digest takes says nothing about a key."""
        return self._keys.get(digest(text))
