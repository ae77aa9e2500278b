"""Records as the protocol's answers.

What a request does ends with a `ResponseFactory`: it makes the answer when called, after the
ledger's turn, which is short for it. It depends on values only.
"""

import json
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from runcycles import (
    Amount,
    Balance,
    Caps,
    CommitResponse,
    Decision,
    DecisionResponse,
    EventCreateResponse,
    ReleaseResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
    ReservationExtendResponse,
    ReservationStatus,
    Unit,
)
from runcycles.models import (
    BalanceResponse,
    CommitStatus,
    EventStatus,
    ExtendStatus,
    ReleaseStatus,
)

from comptroller.core.accounts import Account
from comptroller.core.scopes import ancestor_scopes
from comptroller.ledger.engine import lazy_responses
from comptroller.ledger.engine.lazy_responses import (
    LazyCommitResponse,
    LazyEventResponse,
    LazyExtendResponse,
    LazyReleaseResponse,
    LazyReserveResponse,
    lazy,
    made,
)
from comptroller.ledger.engine.records import Reservation, StoredResponse
from comptroller.ledger.models import Budget, DetailedReservation, ReservationPage, ReservationRow

T_co = TypeVar("T_co", covariant=True)


class ResponseFactory(Protocol[T_co]):
    """Makes one answer."""

    def __call__(self) -> T_co:
        """Return the answer."""


def balance(account: Account) -> Balance:
    """Return an account as the protocol shows it."""
    return Balance.model_validate(lazy_responses.balance(account))


def budgets(accounts: Iterable[Account]) -> list[Balance]:
    """Accounts as their operator sees them."""
    return [budget(account) for account in accounts]


def budget(account: Account) -> Balance:
    """Return an account as its operator sees it."""
    renewal, alerts = account.renewal, account.alerts
    told = {**lazy_responses.balance(account), "frozen": account.frozen, "closed": account.closed}
    if renewal is not None:
        told |= {"per": renewal.per, "zone": renewal.zone, "renews_at_ms": renewal.at_ms}
        told["renews_with"] = lazy_responses.amount(account.unit, renewal.allocated)
    if alerts is not None and alerts.at:
        told["alerts"] = list(alerts.at)
    return Budget.model_validate({**told, "caps": account.caps, "caps_below": account.caps_below})


def balances(accounts: Iterable[Account], next_cursor: str | None = None) -> BalanceResponse:
    """Return a page of balances; with a cursor where more follow."""
    return BalanceResponse(
        balances=[balance(account) for account in accounts],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def _amount(unit: Unit, count: int) -> Amount:
    return made(Amount, {"unit": unit, "amount": count})


def nothing() -> None:
    """Where there is nothing to say."""


def granted(
    scopes: tuple[str, ...], reserved: Amount, answer: StoredResponse, remaining_ttl_ms: int
) -> ReservationCreateResponse:
    """Return a reserve that was granted."""
    return lazy(
        LazyReserveResponse,
        {
            "decision": _decision(answer.caps),
            "reservation_id": f"rsv_{answer.row:x}_{answer.token}",
            "affected_scopes": list(scopes),
            "scope_path": scopes[-1],
            "reserved": reserved,
            "expires_at_ms": answer.moment_ms,
            "remaining_ttl_ms": remaining_ttl_ms,
            "caps": answer.caps,
        },
        answer.accounts,
    )


def evaluated(
    scopes: tuple[str, ...], estimate: Amount, answer: StoredResponse
) -> ReservationCreateResponse:
    """Return a dry run: granted or denied, nothing locked."""
    values: dict[str, Any] = {
        "decision": _decision(answer.caps, answer.reason),
        "affected_scopes": list(scopes),
        "scope_path": scopes[-1],
    }
    if answer.reason:
        values["reason_code"] = answer.reason
        return ReservationCreateResponse.model_validate(values)
    return lazy(
        LazyReserveResponse, values | {"reserved": estimate, "caps": answer.caps}, answer.accounts
    )


def _decision(caps: Caps | None, reason: str | None = None) -> Decision:
    if reason:
        return Decision.DENY
    return Decision.ALLOW_WITH_CAPS if caps else Decision.ALLOW


def decided(scopes: tuple[str, ...], answer: StoredResponse) -> DecisionResponse:
    """Return what a reserve would be answered."""
    return DecisionResponse(
        decision=_decision(answer.caps, answer.reason),
        caps=answer.caps,
        reason_code=answer.reason,
        affected_scopes=list(scopes),
    )


def committed(reservation: Reservation, actual: int, answer: StoredResponse) -> CommitResponse:
    """Return a commit; `released` only where less than the estimate was spent."""
    unit, rest = reservation.unit, reservation.estimate - actual
    return lazy(
        LazyCommitResponse,
        {
            "status": CommitStatus.COMMITTED,
            "charged": _amount(unit, answer.amount),
            "released": _amount(unit, rest) if rest > 0 else None,
        },
        answer.accounts,
    )


def released(reservation: Reservation, answer: StoredResponse) -> ReleaseResponse:
    """Return a release."""
    return lazy(
        LazyReleaseResponse,
        {
            "status": ReleaseStatus.RELEASED,
            "released": _amount(reservation.unit, reservation.estimate),
        },
        answer.accounts,
    )


def extended(answer: StoredResponse, remaining_ttl_ms: int) -> ReservationExtendResponse:
    """Return an extension."""
    return lazy(
        LazyExtendResponse,
        {
            "status": ExtendStatus.ACTIVE,
            "expires_at_ms": answer.moment_ms,
            "remaining_ttl_ms": remaining_ttl_ms,
        },
        answer.accounts,
    )


def applied(actual: Amount, answer: StoredResponse) -> EventCreateResponse:
    """Return an event; `charged` only where it is less than the actual."""
    capped = answer.amount != actual.amount
    return lazy(
        LazyEventResponse,
        {
            "status": EventStatus.APPLIED,
            "event_id": f"evt_{answer.row:x}_{answer.token}",
            "charged": _amount(actual.unit, answer.amount) if capped else None,
        },
        answer.accounts,
    )


def detail(reservation: Reservation) -> DetailedReservation:
    """One reservation, whole."""
    asked = json.loads(reservation.request)
    return DetailedReservation.model_validate(
        _row(reservation, asked) | _metadata(reservation, asked)
    )


def head(request: ReservationCreateRequest) -> str:
    """Return what a listing shows of a request without being asked, as JSON."""
    return request.model_dump_json(include={"subject", "action"}, exclude_none=True)


METADATA = ("metadata", "committed_metadata")
"""What a row of a listing shows only where it is asked for."""


def page(
    found: list[Reservation], next_cursor: str | None, include: frozenset[str]
) -> ReservationPage:
    """Return a page of reservations; with a cursor where more follow."""
    return ReservationPage(
        reservations=[_listed(one, include) for one in found],
        has_more=next_cursor is not None,
        next_cursor=next_cursor,
    )


def _listed(reservation: Reservation, include: frozenset[str]) -> ReservationRow:
    whole = include & set(METADATA)
    asked = json.loads(reservation.request if whole else reservation.head or reservation.request)
    more = _metadata(reservation, asked) if whole else {}
    shown = {name: value for name, value in more.items() if name in include}
    return ReservationRow.model_validate(_row(reservation, asked) | shown)


def _metadata(reservation: Reservation, asked: dict[str, Any]) -> dict[str, Any]:
    said = json.loads(reservation.settlement) if reservation.settlement else {}
    return dict(zip(METADATA, (asked.get("metadata"), said.get("metadata")), strict=True))


def _row(reservation: Reservation, asked: dict[str, Any]) -> dict[str, Any]:
    unit = reservation.unit
    charged = lazy_responses.amount(unit, reservation.charged or 0)
    return {
        "reservation_id": reservation.reservation_id,
        "status": reservation.status,
        "idempotency_key": reservation.key,
        "subject": asked["subject"],
        "action": asked["action"],
        "reserved": lazy_responses.amount(unit, reservation.estimate),
        "committed": charged if reservation.status is ReservationStatus.COMMITTED else None,
        "created_at_ms": reservation.created_ms,
        "expires_at_ms": reservation.expires_ms,
        "finalized_at_ms": reservation.finalized_ms,
        "scope_path": reservation.path,
        "affected_scopes": list(ancestor_scopes(reservation.path)),
    }
