"""Commit, release and extend: requests about one reservation, and the expiry that needs no request.

A reservation is settled in the period in which it was made, also where that is over.

Checked in this order: whether it exists (404), whose it is (403), whether the request was answered
before, whether it is settled (409) or expired (410), then what the request asks.
"""

import json
import re
from functools import partial

import attrs
from runcycles import (
    Amount,
    CommitOveragePolicy,
    CommitRequest,
    CommitResponse,
    ReleaseRequest,
    ReleaseResponse,
    ReservationExtendRequest,
    ReservationExtendResponse,
    ReservationStatus,
)

from comptroller.core import accounts as admission
from comptroller.core.accounts import Accounts, Charge, Denial
from comptroller.errors import ComptrollerError, refusal
from comptroller.ledger.engine import responses
from comptroller.ledger.engine.denial_errors import denied, forbidden, must_be_possible
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.idempotency import IdempotencyKey, key_of
from comptroller.ledger.engine.records import Endpoint, Reservation, StoredResponse
from comptroller.ledger.engine.reserve import left
from comptroller.ledger.engine.responses import ResponseFactory
from comptroller.money import formatted, show

_ID = re.compile(r"rsv_([0-9a-f]{1,15})_([0-9a-f]{16})\Z")


def commit(
    book: Engine,
    reservation_id: str,
    request: CommitRequest,
    now_ms: int,
    *,
    tenant: str | None = None,
) -> ResponseFactory[CommitResponse]:
    """Charge the actual, give back the rest (protocol, commitReservation).

    Raises:
        BudgetExceeded: the overage policy refuses what exceeds the estimate.
        UnitMismatch, LedgerRefused: as the protocol's codes say.
    """
    must_be_possible(request.actual)
    reservation = find(book, reservation_id, tenant)
    key = _key(book, reservation, "commit", request)
    answer = None if reservation.active else key.recalled()
    if answer is None:
        _must_be_open(reservation, reservation.ends_ms, now_ms)
        held = _held(book, reservation)
        charge = _charged(book, reservation, request, held)
        book.charge(held, charge.accounts, reservation_id, now_ms)
        book.note("commit", reservation.path, request.actual, reservation_id, now_ms)
        book.store.replace(
            reservation.ended(
                ReservationStatus.COMMITTED,
                now_ms,
                charged=charge.charged,
                settlement=_said(request),
            )
        )
        answer = key.remember(
            StoredResponse(key.fingerprint, amount=charge.charged, accounts=charge.accounts)
        )
    return partial(responses.committed, reservation, request.actual.amount, answer)


def release(
    book: Engine,
    reservation_id: str,
    request: ReleaseRequest,
    now_ms: int,
    *,
    tenant: str | None = None,
) -> ResponseFactory[ReleaseResponse]:
    """Give everything back (protocol, releaseReservation).

    Raises:
        LedgerRefused: as the protocol's codes say.
    """
    reservation = find(book, reservation_id, tenant)
    key = _key(book, reservation, "release", request)
    answer = None if reservation.active else key.recalled()
    if answer is None:
        _must_be_open(reservation, reservation.ends_ms, now_ms)
        accounts = admission.release(_held(book, reservation), reservation.estimate)
        said = json.dumps({"reason": request.reason}) if request.reason else None
        book.save(accounts, now_ms)
        book.note("release", reservation.path, None, reservation_id, now_ms)
        book.store.replace(reservation.ended(ReservationStatus.RELEASED, now_ms, settlement=said))
        answer = key.remember(StoredResponse(key.fingerprint, accounts=accounts))
    return partial(responses.released, reservation, answer)


def extend(
    book: Engine,
    reservation_id: str,
    request: ReservationExtendRequest,
    now_ms: int,
    *,
    tenant: str | None = None,
) -> ResponseFactory[ReservationExtendResponse]:
    """Move the lease's end outward, from where it is now (protocol, extendReservation).

    Raises:
        LedgerRefused: as the protocol's codes say; there is no grace period for an extension.
    """
    reservation = find(book, reservation_id, tenant)
    key = _key(book, reservation, "extend", request)
    answer = key.recalled()
    if answer is None:
        _must_be_open(reservation, reservation.expires_ms, now_ms)
        expires_ms = reservation.expires_ms + request.extend_by_ms
        book.note("extend", reservation.path, None, reservation_id, now_ms)
        book.store.replace(attrs.evolve(reservation, expires_ms=expires_ms))
        answer = key.remember(
            StoredResponse(
                key.fingerprint,
                moment_ms=expires_ms,
                accounts=_held(book, reservation),
            )
        )
    remaining_ttl_ms = left(book, reservation.row, answer.moment_ms, now_ms)
    return partial(responses.extended, answer, remaining_ttl_ms)


def sweep(book: Engine, now_ms: int) -> None:
    """Give back what reservations hold that can no longer be settled: their leases are over."""
    for reservation in list(book.store.overdue(now_ms)):
        accounts = admission.release(_held(book, reservation), reservation.estimate)
        book.save(accounts, now_ms)
        book.store.replace(reservation.ended(ReservationStatus.EXPIRED))


def find(book: Engine, reservation_id: str, tenant: str | None) -> Reservation:
    """Return the reservation of that id.

    Raises:
        LedgerRefused: it never existed (404), or is another tenant's (403).
    """
    named = _ID.match(reservation_id)
    reservation = book.store.reservation(int(named[1], 16)) if named else None
    if named is None or reservation is None or reservation.token != named[2]:
        raise refusal(
            f"no reservation {reservation_id} in {book.name}",
            status=404,
            error_code="NOT_FOUND",
            asks_for_budget=False,
        )
    if tenant and reservation.tenant != tenant.lower():
        raise forbidden(f"reservation {reservation_id} is another tenant's than {tenant}'s")
    return reservation


def expired(reservation: Reservation) -> ComptrollerError:
    """410: the lease is over."""
    return refusal(
        f"reservation {reservation.reservation_id} has expired: its estimate is free again;"
        " record what was spent as an event",
        status=410,
        error_code="RESERVATION_EXPIRED",
        asks_for_budget=False,
    )


def _must_be_open(reservation: Reservation, until_ms: int, now_ms: int) -> None:
    if reservation.status is ReservationStatus.EXPIRED:
        raise expired(reservation)
    if not reservation.active:
        raise refusal(
            f"reservation {reservation.reservation_id} is settled:"
            f" {reservation.status.value.lower()}",
            status=409,
            error_code="RESERVATION_FINALIZED",
            asks_for_budget=False,
        )
    if now_ms > until_ms:
        raise expired(reservation)


def _charged(
    book: Engine, reservation: Reservation, request: CommitRequest, held: Accounts
) -> Charge:
    if request.actual.unit is not reservation.unit:
        raise refusal(
            f"the reservation is in {reservation.unit.value},"
            f" the actual in {request.actual.unit.value}: commit in {reservation.unit.value}",
            status=400,
            error_code="UNIT_MISMATCH",
            asks_for_budget=False,
        )
    charge = admission.settle(held, reservation.estimate, request.actual.amount, reservation.policy)
    if isinstance(charge, Denial):
        raise denied(charge, book.name, _rejected(reservation, request.actual))
    return charge


def _rejected(reservation: Reservation, actual: Amount) -> str | None:
    if reservation.policy is not CommitOveragePolicy.REJECT:
        return None
    reserved = formatted(reservation.unit, reservation.estimate)
    return (
        f"{show(actual)} was spent, {reserved} reserved ({reservation.path}),"
        " and the overage policy is REJECT: record the rest as an event"
    )


def _held(book: Engine, reservation: Reservation) -> Accounts:
    """Return the accounts that hold its estimate, of the period in which it was made."""
    return book.held(reservation.held, reservation.unit, reservation.since)


def _key(
    book: Engine,
    reservation: Reservation,
    endpoint: Endpoint,
    request: CommitRequest | ReleaseRequest | ReservationExtendRequest,
) -> IdempotencyKey:
    key = request.idempotency_key
    return key_of(book, reservation.tenant, endpoint, request, key, reservation.row)


def _said(request: CommitRequest) -> str | None:
    if request.metrics is None and request.metadata is None:
        return None
    return request.model_dump_json(include={"metrics", "metadata"}, exclude_none=True)
