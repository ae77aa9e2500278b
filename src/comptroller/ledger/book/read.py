"""Balances and reservations: requests that change nothing."""

from functools import partial
from typing import Any, Unpack

from runcycles import Balance, ReservationStatus
from runcycles.models import BalanceResponse

from comptroller.decide.admission import Account
from comptroller.decide.funding import renewed
from comptroller.decide.names import lowered
from comptroller.decide.scopes import LEVELS
from comptroller.ledger.book import answers
from comptroller.ledger.book.answers import Answer
from comptroller.ledger.book.book import Book
from comptroller.ledger.book.cursors import cursor, no_cursor, place
from comptroller.ledger.book.records import ORDERS, Bounds, Wanted
from comptroller.ledger.book.refusals import invalid
from comptroller.ledger.book.settle import expired, find
from comptroller.ledger.interface import BalanceQuery, ReservationQuery

LIMIT = range(1, 200 + 1)
DEFAULT_LIMIT = 50
_DIRECTIONS = ("asc", "desc")
_NUMERIC = ("row", "reserved", "created_at_ms", "expires_at_ms")
"""Orders by whole numbers; the others are by texts."""
_NOT_BOUND = ("limit", "cursor", "include", "sort_by", "sort_dir")
"""What may differ from page to page of one query, or is in the cursor itself."""


def balances(
    book: Book, now_ms: int, *, tenant: str | None = None, **query: Unpack[BalanceQuery]
) -> Answer[BalanceResponse]:
    """The balances of the scopes that have the given levels (protocol, getBalances).

    Raises:
        LedgerRefused: no level was given, or a limit or cursor that is none (INVALID_REQUEST).
    """
    wanted = _segments(tenant, query)
    if not wanted:
        raise invalid(f"which balances? give at least one of {', '.join(LEVELS)}")
    found = [
        one
        for one in _accounts(book, now_ms, lowered("tenant", tenant))
        if wanted <= set(one.scope.split("/"))
    ]
    if given := query.get("cursor"):
        last = place(sorted(wanted), given, str, str)
        found = [one for one in found if (one.scope, one.unit.value) > last]
    limit = query.get("limit")
    if limit is None or len(found) <= _possible(limit):
        return partial(answers.balances, found)
    last_shown = found[limit - 1]
    more = cursor(sorted(wanted), (last_shown.scope, last_shown.unit.value))
    return partial(answers.balances, found[:limit], more)


def budgets(book: Book, now_ms: int) -> Answer[list[Balance]]:
    """Every budget of every tenant."""
    return partial(answers.budgets, _accounts(book, now_ms))


def reservations(
    book: Book, *, tenant: str | None = None, **query: Unpack[ReservationQuery]
) -> Answer[answers.Listing]:
    """One page of reservations (protocol, listReservations).

    Raises:
        LedgerRefused: a status, order, window, limit or cursor that is none (INVALID_REQUEST).
    """
    limit = _possible(query.get("limit", DEFAULT_LIMIT))
    bound = {name: value for name, value in query.items() if name not in _NOT_BOUND and value}
    bound["tenant"] = owner = lowered("tenant", tenant)
    order, ascending, after = _order(query, bound)
    key = query.get("idempotency_key")
    wanted = Wanted(
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
    )
    found = book.store.listed(wanted)
    more = None
    if len(found) > limit:
        more = cursor(bound, (order, _DIRECTIONS[not ascending], *wanted.place(found[limit - 1])))
    return partial(answers.page, found[:limit], more, frozenset(query.get("include") or ()))


def reservation(
    book: Book, reservation_id: str, *, tenant: str | None = None
) -> Answer[answers.Detail]:
    """One reservation, whole (protocol, getReservation).

    Raises:
        LedgerRefused: unknown (404), another tenant's (403), or expired (410).
    """
    found = find(book, reservation_id, tenant)
    if found.status is ReservationStatus.EXPIRED:
        raise expired(found)
    return partial(answers.detail, found)


def _segments(tenant: str | None, query: Any) -> set[str]:
    """What a scope's path must have, such as `agent:triage`."""
    given = {"tenant": tenant, **query}
    found = {level: lowered(level, given.get(level)) for level in LEVELS}
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
    """What to sort by, whether upwards, and after what; downwards is the protocol's default.

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


def _accounts(book: Book, now_ms: int, tenant: str | None = None) -> list[Account]:
    return [renewed(account, now_ms) for account in book.store.accounts(tenant)]
