"""Balances and reservations: requests that change nothing."""

import re
from functools import partial

from runcycles import Balance, ReservationStatus
from runcycles.models import BalanceResponse

from comptroller.decide.admission import Account
from comptroller.decide.funding import renewed
from comptroller.decide.scopes import LEVELS
from comptroller.ledger.book import answers
from comptroller.ledger.book.answers import Answer
from comptroller.ledger.book.book import Book
from comptroller.ledger.book.records import Wanted
from comptroller.ledger.book.refusals import invalid
from comptroller.ledger.book.settle import expired, find

LIMIT = range(1, 200 + 1)


def balances(book: Book, now_ms: int, **levels: str | None) -> Answer[BalanceResponse]:
    """The balances of the scopes that have the given levels (protocol, getBalances).

    Raises:
        LedgerRefused: no level was given (INVALID_REQUEST).
    """
    wanted = set(_segments(levels))
    if not wanted:
        raise invalid(f"which balances? give at least one of {', '.join(LEVELS)}")
    found = [one for one in _accounts(book, now_ms) if wanted <= set(one.scope.split("/"))]
    return partial(answers.balances, found)


def budgets(book: Book, now_ms: int) -> Answer[list[Balance]]:
    """Every budget of every tenant."""
    return partial(answers.budgets, _accounts(book, now_ms))


def reservations(
    book: Book,
    *,
    tenant: str | None = None,
    status: str | None = None,
    idempotency_key: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    **levels: str | None,
) -> Answer[answers.Listing]:
    """One page of reservations, newest first (protocol, listReservations).

    Raises:
        LedgerRefused: a status, limit or cursor that is none (INVALID_REQUEST).
    """
    if limit not in LIMIT:
        raise invalid(f"limit={limit}: a page has {LIMIT[0]} to {LIMIT[-1]} reservations")
    if status is not None and status not in ReservationStatus.__members__:
        raise invalid(f"status={status!r}: use {', '.join(ReservationStatus.__members__)}")
    if cursor is not None and not re.fullmatch("[0-9]{1,18}", cursor):
        raise invalid(f"cursor={cursor!r}: use the next_cursor of the page before")
    wanted = Wanted(
        limit=limit + 1,
        before=int(cursor) if cursor else None,
        tenant=tenant.lower() if tenant else None,
        status=ReservationStatus(status) if status else None,
        key=idempotency_key,
        segments=tuple(_segments(levels)),
    )
    return partial(answers.page, book.store.listed(wanted), limit)


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


def _segments(levels: dict[str, str | None]) -> list[str]:
    return [f"{level}:{value.lower()}" for level, value in levels.items() if value]


def _accounts(book: Book, now_ms: int) -> list[Account]:
    return [renewed(account, now_ms) for account in book.store.accounts()]
