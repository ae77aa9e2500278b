"""Cursors: where a page ended, and of which query (protocol, listReservations).

A cursor is opaque to its caller. It names a place by what the page is sorted by, so rows that came
or went meanwhile move nothing, and it holds for its own query only: the digest of the query is part
of it. It grants nothing: whoever continues with it sees what the same query shows anyway.
"""

import base64
import hashlib
import json
from typing import Any

from comptroller.ledger.book.refusals import invalid

_DIGEST, _LONGEST = 8, 1_024
_WHOLE_NUMBERS = range(-(2**63), 2**63)

Place = tuple[int | str, int | str]


def cursor(query: Any, place: Place) -> str:
    """The cursor of the page of `query` (any value that JSON carries) that ended at `place`."""
    said = json.dumps(place, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(query) + said).decode().rstrip("=")


def place(query: Any, given: str, *like: type) -> Place:
    """Where the page before ended; `like` are the types of its two values.

    Raises:
        LedgerRefused: no cursor, or one of another query (INVALID_REQUEST).
    """
    try:
        text = given.encode("ascii")[:_LONGEST]
        found = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        value, row = json.loads(found[_DIGEST:])
        sound = found[:_DIGEST] == _digest(query) and (type(value), type(row)) == like
    except (ValueError, TypeError, RecursionError):
        sound = False
    if not sound or any(type(one) is int and one not in _WHOLE_NUMBERS for one in (value, row)):
        raise invalid(f"cursor={given[:64]!r}: use the next_cursor of the same query's page before")
    return value, row


def _digest(query: Any) -> bytes:
    said = json.dumps(query, sort_keys=True, default=str).encode()
    return hashlib.blake2b(said, digest_size=_DIGEST).digest()
