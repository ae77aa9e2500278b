"""Reserve, decide and record: requests that ask the budget of a subject.

Checked in this order: the request (400), whose it is (403), whether it was answered before, whether
a budget exists (404, or 400 for another unit), what the budget says (409).
"""

import secrets
from functools import partial

import attrs
from runcycles import (
    Amount,
    CommitOveragePolicy,
    DecisionRequest,
    DecisionResponse,
    EventCreateRequest,
    EventCreateResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
    Subject,
)

from comptroller.core import budgets
from comptroller.core.accounts import (
    Accounts,
    Authorization,
    Charge,
    Denial,
    admit,
    budgeted,
    charge,
)
from comptroller.core.scopes import scopes_of
from comptroller.errors import ComptrollerError
from comptroller.ledger.engine import responses
from comptroller.ledger.engine.denial_counter import QUARTER_MS, DenialKey
from comptroller.ledger.engine.denial_errors import denied, forbidden, invalid, must_be_possible
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.idempotency import IdempotencyKey, key_of
from comptroller.ledger.engine.records import (
    DEFAULT_GRACE_MS,
    LONG,
    Event,
    Reservation,
    StoredResponse,
)
from comptroller.ledger.engine.responses import ResponseFactory

TTL_MS = range(1_000, 86_400_000 + 1)
GRACE_MS = range(60_000 + 1)
TIMES_MS = range(2**63)
DEFAULT_TTL_MS = 60_000
DEFAULT_POLICY = CommitOveragePolicy.ALLOW_IF_AVAILABLE

_TOKEN_BYTES = 8


def reserve(
    book: Engine, request: ReservationCreateRequest, now_ms: int, *, tenant: str | None = None
) -> ResponseFactory[ReservationCreateResponse]:
    """Lock the estimate in every budgeted scope of the subject (protocol, createReservation).

    Raises:
        BudgetExceeded, BudgetNotFound, UnitMismatch, LedgerRefused: as the protocol's codes say.
    """
    ttl_ms, grace_ms = _lease(request)
    scopes, owner = _whose(request.subject, request.estimate, tenant)
    key = key_of(book, owner, "reserve", request, request.idempotency_key)
    known = key.recalled()
    if request.dry_run:
        known = known or key.remember(_evaluated(book, scopes, request.estimate, key, now_ms))
        return partial(responses.evaluated, scopes, request.estimate, known)
    if known is not None:
        ttl_ms = left(book, known.row, known.moment_ms, now_ms)
        return partial(responses.granted, scopes, request.estimate, known, ttl_ms)
    found = _accounts(book, scopes, request.estimate, now_ms)
    grant = found if isinstance(found, Denial) else admit(found, request.estimate.amount)
    if isinstance(grant, Denial):
        raise _refused(book, request, scopes[-1], grant, key, now_ms)
    answer = _reserved(book, request, scopes, owner, grant, now_ms, ttl_ms, grace_ms, key)
    return partial(responses.granted, scopes, request.estimate, answer, ttl_ms)


def decide(
    book: Engine, request: DecisionRequest, now_ms: int, *, tenant: str | None = None
) -> ResponseFactory[DecisionResponse]:
    """Say what a reserve would be answered now; a denial is an answer (protocol, decide).

    Raises:
        UnitMismatch, LedgerRefused: the request itself is wrong.
    """
    scopes, owner = _whose(request.subject, request.estimate, tenant)
    key = key_of(book, owner, "decide", request, request.idempotency_key)
    answer = key.recalled()
    if answer is None:
        answer = key.remember(_evaluated(book, scopes, request.estimate, key, now_ms))
    return partial(responses.decided, scopes, answer)


def record(
    book: Engine, request: EventCreateRequest, now_ms: int, *, tenant: str | None = None
) -> ResponseFactory[EventCreateResponse]:
    """Charge spend that has no reservation (protocol, createEvent).

    Raises:
        BudgetExceeded, BudgetNotFound, UnitMismatch, LedgerRefused: as the protocol's codes say.
    """
    time_ms = request.client_time_ms
    if time_ms is not None and time_ms not in TIMES_MS:
        raise invalid(f"client_time_ms={time_ms}: epoch milliseconds, from 0 on")
    scopes, owner = _whose(request.subject, request.actual, tenant)
    key = key_of(book, owner, "record", request, request.idempotency_key)
    answer = key.recalled()
    if answer is None:
        found = _accounts(book, scopes, request.actual, now_ms)
        policy = request.overage_policy or DEFAULT_POLICY
        if isinstance(found, Denial):
            raise _refused(book, request, scopes[-1], found, key, now_ms)
        charged = charge(found, request.actual.amount, policy)
        if isinstance(charged, Denial):
            raise _refused(book, request, scopes[-1], charged, key, now_ms)
        answer = _recorded(book, request, scopes, owner, found, charged, now_ms, key)
    return partial(responses.applied, request.actual, answer)


def left(book: Engine, row: int, expires_ms: int, now_ms: int) -> int:
    """Return what is left of a lease that ends at `expires_ms`; 0 once it is settled."""
    reservation = book.store.reservation(row)
    active = reservation is not None and reservation.active
    return max(0, expires_ms - now_ms) if active else 0


def _lease(request: ReservationCreateRequest) -> tuple[int, int]:
    ttl_ms = DEFAULT_TTL_MS if request.ttl_ms is None else request.ttl_ms
    grace_ms = DEFAULT_GRACE_MS if request.grace_period_ms is None else request.grace_period_ms
    if ttl_ms not in TTL_MS:
        raise invalid(f"ttl_ms={ttl_ms}: a lease lasts {TTL_MS[0]} to {TTL_MS[-1]} ms")
    if grace_ms not in GRACE_MS:
        raise invalid(f"grace_period_ms={grace_ms}: it is {GRACE_MS[0]} to {GRACE_MS[-1]} ms")
    return ttl_ms, grace_ms


def _whose(
    subject: Subject, asked: Amount, tenant: str | None
) -> tuple[tuple[str, ...], str | None]:
    """Return the scopes of a possible request's subject, and the effective tenant."""
    must_be_possible(asked)
    try:
        scopes = scopes_of(subject)
    except ValueError as error:
        raise invalid(str(error)) from None
    owner = tenant or subject.tenant
    if tenant and subject.tenant and subject.tenant.lower() != tenant.lower():
        raise forbidden(f"the subject's tenant is {subject.tenant}, the request is {tenant}'s")
    return scopes, owner.lower() if owner else None


def _accounts(
    book: Engine, scopes: tuple[str, ...], asked: Amount, now_ms: int
) -> Accounts | Denial:
    found = budgeted(scopes, asked.unit, asked.amount, [book.store.at(scope) for scope in scopes])
    if isinstance(found, Denial):
        if found.code == "BUDGET_NOT_FOUND":
            return _first_budget(book, scopes, asked, now_ms, found)
        return found
    if any(account.renewal for account in found):
        return tuple(book.renewed(account, now_ms) for account in found)
    return found


def _first_budget(
    book: Engine, scopes: tuple[str, ...], asked: Amount, now_ms: int, unknown: Denial
) -> Accounts | Denial:
    """Return the budget of a tenant that is new, kept with what is granted of it."""
    terms = book.default
    if terms is None or not scopes[0].startswith("tenant:"):
        return unknown
    if terms.allocated.unit is not asked.unit:
        return attrs.evolve(
            unknown,
            code="UNIT_MISMATCH",
            scope=scopes[0],
            expected_units=(terms.allocated.unit,),
        )
    return (budgets.apply_terms(None, scopes[0], terms, now_ms),)


def _refused(
    book: Engine,
    request: ReservationCreateRequest | EventCreateRequest,
    path: str,
    denial: Denial,
    key: IdempotencyKey,
    now_ms: int,
) -> ComptrollerError:
    """Return the denial as an error. What the budget itself denies is counted."""
    error = denied(denial, book.name)
    if denial.remaining is not None:
        action, run = request.action, (request.metadata or {}).get("run")
        asked = DenialKey(
            path,
            denial.unit,
            denial.code,
            action.kind,
            action.name,
            run if isinstance(run, str) else "",
            now_ms // QUARTER_MS * QUARTER_MS,
        )
        book.deny(asked, denial, key.digest, now_ms)
    return error


def _evaluated(
    book: Engine, scopes: tuple[str, ...], estimate: Amount, key: IdempotencyKey, now_ms: int
) -> StoredResponse:
    """Return what a reserve would do: a wrong unit is still an error, any other denial a reason."""
    found = _accounts(book, scopes, estimate, now_ms)
    if isinstance(found, Denial):
        if found.code == "UNIT_MISMATCH":
            raise denied(found, book.name)
        return StoredResponse(key.fingerprint, reason=found.code)
    grant = admit(found, estimate.amount)
    if isinstance(grant, Denial):
        return StoredResponse(key.fingerprint, reason=grant.code)
    there = tuple(one for one in found if one.unit in book.store.at(one.scope))
    return StoredResponse(key.fingerprint, caps=grant.caps, accounts=there)


def _reserved(
    book: Engine,
    request: ReservationCreateRequest,
    scopes: tuple[str, ...],
    owner: str | None,
    grant: Authorization,
    now_ms: int,
    ttl_ms: int,
    grace_ms: int,
    key: IdempotencyKey,
) -> StoredResponse:
    reservation = Reservation(
        row=book.store.next_reservation(),
        token=secrets.token_hex(_TOKEN_BYTES),
        tenant=owner,
        path=scopes[-1],
        held=_held(grant.accounts),
        unit=request.estimate.unit,
        estimate=request.estimate.amount,
        policy=request.overage_policy or DEFAULT_POLICY,
        created_ms=now_ms,
        expires_ms=now_ms + ttl_ms,
        grace_ms=grace_ms,
        key=request.idempotency_key,
        request=key.said,
        since=_since(grant.accounts),
        act=(request.action.kind, request.action.name),
        head=responses.head(request) if len(key.said) > LONG else None,
    )
    book.save(grant.accounts, now_ms)
    book.store.add(reservation)
    book.note("reserve", reservation.path, request.estimate, reservation.reservation_id, now_ms)
    return key.remember(
        StoredResponse(
            key.fingerprint,
            row=reservation.row,
            token=reservation.token,
            moment_ms=reservation.expires_ms,
            caps=grant.caps,
            accounts=grant.accounts,
        )
    )


def _recorded(
    book: Engine,
    request: EventCreateRequest,
    scopes: tuple[str, ...],
    owner: str | None,
    found: Accounts,
    charged: Charge,
    now_ms: int,
    key: IdempotencyKey,
) -> StoredResponse:
    event = Event(
        row=book.store.next_event(),
        token=secrets.token_hex(_TOKEN_BYTES),
        tenant=owner,
        created_ms=now_ms,
        charged=charged.charged,
        request=key.said,
        path=scopes[-1],
        held=_held(found),
        unit=request.actual.unit,
        since=_since(found),
    )
    book.charge(found, charged.accounts, event.event_id, now_ms)
    book.store.add_event(event)
    book.note("record", event.path, request.actual, event.event_id, now_ms)
    return key.remember(
        StoredResponse(
            key.fingerprint,
            row=event.row,
            token=event.token,
            amount=charged.charged,
            accounts=charged.accounts,
        )
    )


def _since(accounts: Accounts) -> tuple[int, ...]:
    """Return the periods of the accounts; empty where each is in its first one."""
    since = [account.since_ms for account in accounts]
    return tuple(since) if any(since) else ()


def _held(accounts: Accounts) -> tuple[str, ...]:
    return tuple([account.scope for account in accounts])
