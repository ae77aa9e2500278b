"""Queries as the protocol writes them, text by text, and as ledgers take them, value by value.

An empty text counts as left out, as clients fill templates with what may be unset, but where one of
a few words is wanted: it is none of them. A parameter that the protocol does not list is ignored,
so that it can grow (protocol, listReservations).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from comptroller.core.scopes import LEVELS
from comptroller.ledger.interface import BalanceQuery, ReservationQuery
from comptroller.ledger.protocol.codec import MalformedError

_MOMENTS = {
    "from": "created_from_ms",
    "to": "created_to_ms",
    "expires_from": "expires_from_ms",
    "expires_to": "expires_to_ms",
    "finalized_from": "finalized_from_ms",
    "finalized_to": "finalized_to_ms",
}
"""The protocol's name of each bound, and ours."""
_WORDS = ("status", "sort_by", "sort_dir")
_TEXTS = ("status", "idempotency_key", "sort_by", "sort_dir", "cursor")
_MAX_KEY_LENGTH = 256
_DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
"""RFC 3339, which is what OpenAPI means by `date-time`."""


def reservation_query(texts: Mapping[str, str]) -> ReservationQuery:
    """Return the query of listReservations, its tenant aside.

    Raises:
        MalformedError: a limit or a time that is none, or an empty word.
    """
    for name in _WORDS:
        if texts.get(name) == "":
            raise MalformedError(f"{name}: it is empty; leave it out")
    given = {name: text for name, text in texts.items() if text}
    query: Any = {name: given[name] for name in (*LEVELS[1:], *_TEXTS) if name in given}
    query |= {ours: _moment(name, given[name]) for name, ours in _MOMENTS.items() if name in given}
    if len(given.get("idempotency_key", "")) > _MAX_KEY_LENGTH:
        raise MalformedError(f"idempotency_key: more than {_MAX_KEY_LENGTH} characters")
    if "include" in given:
        query["include"] = tuple(filter(None, map(str.strip, given["include"].split(","))))
    if "limit" in given:
        query["limit"] = _limit(given["limit"])
    return query  # type: ignore[no-any-return]


def balance_query(texts: Mapping[str, str]) -> BalanceQuery:
    """Return the query of getBalances, its tenant aside.

    Raises:
        MalformedError: a limit or a boolean that is none.
    """
    # Those of scopes further in are shown anyway (protocol, getBalances: it may be ignored).
    if texts.get("include_children", "true") not in ("true", "false"):
        raise MalformedError("include_children: write true or false")
    given = {name: text for name, text in texts.items() if text}
    query: Any = {name: given[name] for name in (*LEVELS[1:], "cursor") if name in given}
    if "limit" in given:
        query["limit"] = _limit(given["limit"])
    return query  # type: ignore[no-any-return]


def parameters(**query: Any) -> dict[str, str]:
    """Return a query's parameters as the protocol writes them: the reverse of the above."""
    theirs = {ours: name for name, ours in _MOMENTS.items()}
    texts = {}
    for name, value in query.items():
        if value is None or value == ():
            continue
        if name in theirs:
            moment = datetime.fromtimestamp(value / 1000, UTC)
            texts[theirs[name]] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        else:
            texts[name] = ",".join(value) if name == "include" else str(value)
    return texts


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise MalformedError(f"limit: {text[:64]!r} is no number")
    return int(text)


def _moment(name: str, text: str) -> int:
    """Epoch milliseconds; a bound between two of them is moved inward."""
    found = _DATE_TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        day, clock, fraction, zone = found.groups()
        offset = "+00:00" if zone in "Zz" else zone
        seconds = int(datetime.fromisoformat(f"{day}T{clock}{offset}").timestamp())
    except (ValueError, OverflowError):
        raise MalformedError(
            f"{name}: {text[:64]!r} is no time: write it like 2026-01-31T12:00:00Z"
        ) from None
    digits = (fraction or "").ljust(3, "0")
    within = name.endswith("from") and digits[3:].strip("0") != ""
    return seconds * 1000 + int(digits[:3]) + within
