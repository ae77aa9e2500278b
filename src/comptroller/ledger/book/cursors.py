"""Cursors: where a page ended, and of which query (protocol, listReservations).

A cursor is opaque to its caller. It names a place by what the page is sorted by, so rows that came
or went meanwhile move nothing, and it holds for its own query only: the digest of the query is part
of it. It grants nothing: whoever continues with it sees what the same query shows anyway.
"""

import base64
import hashlib
import json
from types import UnionType
from typing import Any

from comptroller.errors import ComptrollerError
from comptroller.ledger.book.refusals import invalid

_DIGEST, _LONGEST = 8, 1_024
_WHOLE_NUMBERS = range(-(2**63), 2**63)

Place = tuple[int | str, ...]


def cursor(query: Any, place: Place) -> str:
    """The cursor of the page of `query` (any value that JSON carries) that ended at `place`."""
    said = json.dumps(place, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(query) + said).decode().rstrip("=")


def place(query: Any, given: str, *like: type | UnionType) -> tuple[Any, ...]:
    """Where the page before ended; `like` are the types of its values.

    Raises:
        LedgerRefused: no cursor, or one of another query (INVALID_REQUEST).
    """
    try:
        text = given.encode("ascii")[:_LONGEST]
        found = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        values = tuple(json.loads(found[_DIGEST:]))
        typed = all(_sound(value, kind) for value, kind in zip(values, like, strict=True))
        sound = typed and found[:_DIGEST] == _digest(query)
    except (ValueError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise no_cursor(given)
    return values


def no_cursor(given: str) -> ComptrollerError:
    """400: it continues nothing, or another query."""
    return invalid(
        f"cursor={str(given)[:64]!r}: use the next_cursor of the same query's page before"
    )


def _sound(value: Any, like: type | UnionType) -> bool:
    if type(value) is int and value not in _WHOLE_NUMBERS:
        return False
    return isinstance(value, like) and not isinstance(value, bool)


def _digest(query: Any) -> bytes:
    said = json.dumps(query, sort_keys=True, default=str).encode()
    return hashlib.blake2b(said, digest_size=_DIGEST).digest()
