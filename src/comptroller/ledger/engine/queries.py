"""Balances and reservations: requests that change nothing.

They are checked when they are made, and answered when records are at hand.

Cursors: where a page ended, and of which query (protocol, listReservations).

A cursor is opaque to its caller. It names a place by what the page is sorted by, so rows that came
or went meanwhile move nothing, and it holds for its own query only: the digest of the query is part
of it. It grants nothing: whoever continues with it sees what the same query shows anyway.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import islice
from types import UnionType
from typing import Any, Protocol, Unpack

from runcycles import Balance, ReservationStatus
from runcycles.models import BalanceResponse

from comptroller.core.accounts import Account
from comptroller.core.budgets import renewed
from comptroller.core.identifiers import normalize_filter
from comptroller.core.scopes import LEVELS
from comptroller.errors import ComptrollerError
from comptroller.ledger.engine import responses
from comptroller.ledger.engine.commit import expired, find
from comptroller.ledger.engine.denial_errors import invalid
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.records import ORDERS, Bounds, Reservation, ReservationFilter
from comptroller.ledger.interface import BalanceQuery, ReservationQuery
from comptroller.ledger.models import ReservationPage

_DIGEST, _LONGEST = 8, 1_024
_WHOLE_NUMBERS = range(-(2**63), 2**63)

Place = tuple[int | str, ...]


def cursor(query: Any, place: Place) -> str:
    """Return the cursor of the page of `query` (any JSON value) that ended at `place`."""
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


LIMIT = range(1, 200 + 1)
DEFAULT_LIMIT = 50
MOST_SHOWN = 2**20
"""Characters of what callers have written that one page shows; more comes with the next one."""
_DIRECTIONS = ("asc", "desc")
_NUMERIC = ("row", "reserved", "created_at_ms", "expires_at_ms")
"""Orders by whole numbers; the others are by texts."""
_NOT_BOUND = ("limit", "cursor", "include", "sort_by", "sort_dir")
"""What may differ from page to page of one query, or is in the cursor itself."""


class Records(Protocol):
    """All records as they stand at one moment."""

    def accounts(self, tenant: str | None = None) -> Iterable[Account]:
        """Every account, or one tenant's, ordered by scope and unit."""

    def listed(self, wanted: ReservationFilter) -> Iterable[Reservation]:
        """Return the reservations wanted, in the order wanted, read one by one."""


def balances(
    now_ms: int, *, tenant: str | None = None, **query: Unpack[BalanceQuery]
) -> Callable[[Records], BalanceResponse]:
    """Return the balances of the scopes that have the given levels (protocol, getBalances).

    Raises:
        LedgerRefused: no level was given, or a limit or cursor that is none (INVALID_REQUEST).
    """
    wanted = _segments(tenant, query)
    if not wanted:
        raise invalid(f"which balances? give at least one of {', '.join(LEVELS)}")
    owner, limit, given = (
        normalize_filter("tenant", tenant),
        query.get("limit"),
        query.get("cursor"),
    )
    if limit is not None:
        _possible(limit)
    last = place(sorted(wanted), given, str, str) if given else ()

    def found(records: Records) -> BalanceResponse:
        following = (
            account
            for account in records.accounts(owner)
            if wanted <= set(account.scope.split("/"))
            and (account.scope, account.unit.value) > last
        )
        shown = list(islice(following, limit))
        more = None
        if limit is not None and next(following, None) is not None:
            more = cursor(sorted(wanted), (shown[-1].scope, shown[-1].unit.value))
        return responses.balances([renewed(one, now_ms) for one in shown], more)

    return found


def budgets(records: Records, now_ms: int) -> list[Balance]:
    """Every budget of every tenant."""
    return responses.budgets(renewed(account, now_ms) for account in records.accounts())


def reservations(
    *, tenant: str | None = None, **query: Unpack[ReservationQuery]
) -> Callable[[Records], ReservationPage]:
    """One page of reservations (protocol, listReservations).

    It ends at `limit` of them, or before what their callers have added is more than `MOST_SHOWN`.

    Raises:
        LedgerRefused: a status, order, window, limit or cursor that is none (INVALID_REQUEST).
    """
    limit = _possible(query.get("limit", DEFAULT_LIMIT))
    bound = {name: value for name, value in query.items() if name not in _NOT_BOUND and value}
    bound["tenant"] = owner = normalize_filter("tenant", tenant)
    order, ascending, after = _order(query, bound)
    key, include = query.get("idempotency_key"), frozenset(query.get("include") or ())
    wanted = ReservationFilter(
        limit=1 if key else limit + 1,  # one more says that more follow; a key has made one
        order=order,
        ascending=ascending,
        after=after,
        tenant=owner,
        status=_status(query.get("status")),
        key=key,
        segments=tuple(sorted(_segments(None, query))),
        created=_bounds(query, "created"),
        expires=_bounds(query, "expires"),
        finalized=_bounds(query, "finalized"),
        whole=bool(include & set(responses.METADATA)),
    )

    def page(records: Records) -> ReservationPage:
        shown: list[Reservation] = []
        size, more = 0, None
        for one in records.listed(wanted):
            size += one.size if wanted.whole else 0
            if shown and (len(shown) == limit or size > MOST_SHOWN):
                last = wanted.place(shown[-1])
                more = cursor(bound, (order, _DIRECTIONS[not ascending], *last))
                break
            shown.append(one)
        return responses.page(shown, more, include)

    return page


def reservation(book: Engine, reservation_id: str, *, tenant: str | None = None) -> Reservation:
    """One reservation, whole (protocol, getReservation).

    Raises:
        LedgerRefused: unknown (404), another tenant's (403), or expired (410).
    """
    found = find(book, reservation_id, tenant)
    if found.status is ReservationStatus.EXPIRED:
        raise expired(found)
    return found


def _segments(tenant: str | None, query: Any) -> set[str]:
    """Return what a scope's path must have, such as `agent:triage`."""
    given = {"tenant": tenant, **query}
    found = {level: normalize_filter(level, given.get(level)) for level in LEVELS}
    return {f"{level}:{value}" for level, value in found.items() if value}


def _possible(limit: int) -> int:
    if limit not in LIMIT:
        raise invalid(f"limit={limit}: a page has {LIMIT[0]} to {LIMIT[-1]} of them")
    return limit


def _status(status: str | None) -> ReservationStatus | None:
    if status is not None and status not in ReservationStatus.__members__:
        raise invalid(f"status={status!r}: use {', '.join(ReservationStatus.__members__)}")
    return ReservationStatus(status) if status else None


def _order(query: ReservationQuery, bound: Any) -> tuple[str, bool, tuple[int | str, int] | None]:
    """Return what to sort by, whether upwards, and after what; downwards is the protocol's default.

    A cursor knows the order of the page that it continues. Whoever says it again says the same.
    """
    by, way, given = query.get("sort_by"), query.get("sort_dir"), query.get("cursor")
    known = [name for name in ORDERS if name != "row"]
    if by is not None and by not in known:
        raise invalid(f"sort_by={by!r}: use {', '.join(known)}")
    if way is not None and way not in _DIRECTIONS:
        raise invalid(f"sort_dir={way!r}: use {' or '.join(_DIRECTIONS)}")
    if given is None:
        return by or ("created_at_ms" if way else "row"), way == "asc", None
    order, direction, value, row = place(bound, given, str, str, int | str, int)
    possible = order in ORDERS and direction in _DIRECTIONS
    possible &= (order in _NUMERIC) == isinstance(value, int)
    if not possible or by not in (None, order) or way not in (None, direction):
        raise no_cursor(given)
    return order, direction == "asc", (value, row)


def _bounds(query: Any, name: str) -> Bounds:
    first, last = query.get(f"{name}_from_ms"), query.get(f"{name}_to_ms")
    if first is not None and last is not None and first > last:
        raise invalid(f"the window of {name} ends before it begins: {first} > {last}")
    return first, last
