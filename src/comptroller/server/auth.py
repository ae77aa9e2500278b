"""Whose request it is: a tenant's, by its API key, or the operator's, by the admin key."""

import hmac

import attrs

from comptroller.ledger.api_keys import ApiKeyVerifier, digest

API_KEY, ADMIN_KEY = b"x-cycles-api-key", b"x-admin-api-key"


@attrs.frozen
class Caller:
    """Who asks. The operator has no tenant."""

    tenant: str | None
    key_id: str


OPERATOR = Caller(None, "admin")


class Authenticator:
    """The keys that open a server. Kept as digests, compared in constant time."""

    def __init__(self, keys: ApiKeyVerifier, admin_key: str | None) -> None:
        self._keys = keys
        self._admin = None if admin_key is None else digest(admin_key.encode())

    def tenant(self, text: bytes | None) -> Caller | None:
        """Whose API key `text` is."""
        key = None if text is None else self._keys.opened(text)
        return None if key is None else Caller(key.tenant, key.key_id)

    def operator(self, text: bytes | None) -> Caller | None:
        """Return the operator, if `text` is the admin key."""
        if text is None or self._admin is None:
            return None
        return OPERATOR if hmac.compare_digest(self._admin, digest(text)) else None
