"""Requests, written short: what the laws ask a ledger, and how they read its balances."""

from typing import Any

from runcycles import (
    Action,
    Amount,
    Balance,
    CommitOveragePolicy,
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
    Subject,
    Unit,
)

from comptroller.ledger.interface import Ledger

ACTION = Action(kind="llm.completion", name="openai:gpt-4.1")
REJECT = CommitOveragePolicy.REJECT
IF_AVAILABLE = CommitOveragePolicy.ALLOW_IF_AVAILABLE
OVERDRAFT = CommitOveragePolicy.ALLOW_WITH_OVERDRAFT


def amount(count: int, unit: Unit = Unit.USD_MICROCENTS) -> Amount:
    """So many of a unit."""
    return Amount(unit=unit, amount=count)


def asking(
    key: str, count: int, *, tenant: str = "acme", unit: Unit = Unit.USD_MICROCENTS, **more: Any
) -> ReservationCreateRequest:
    """Return a reserve of `count`; subject fields and other members by name."""
    levels = {name: more.pop(name) for name in list(more) if name in Subject.model_fields}
    return ReservationCreateRequest(
        idempotency_key=key,
        subject=Subject(tenant=tenant, **levels),
        action=ACTION,
        estimate=amount(count, unit),
        **more,
    )


def deciding(key: str, count: int, *, tenant: str = "acme", **levels: Any) -> DecisionRequest:
    """Return a question whether `count` would be granted."""
    return DecisionRequest(
        idempotency_key=key,
        subject=Subject(tenant=tenant, **levels),
        action=ACTION,
        estimate=amount(count),
    )


def event(
    key: str,
    count: int,
    *,
    tenant: str = "acme",
    policy: CommitOveragePolicy | None = None,
    unit: Unit = Unit.USD_MICROCENTS,
    **levels: Any,
) -> EventCreateRequest:
    """Spend of `count` that has no reservation."""
    return EventCreateRequest(
        idempotency_key=key,
        subject=Subject(tenant=tenant, **levels),
        action=ACTION,
        actual=amount(count, unit),
        overage_policy=policy,
    )


def committing(
    key: str, count: int, unit: Unit = Unit.USD_MICROCENTS, **more: Any
) -> CommitRequest:
    """Return a commit of `count`."""
    return CommitRequest(idempotency_key=key, actual=amount(count, unit), **more)


def releasing(key: str, reason: str | None = None) -> ReleaseRequest:
    """Return a release."""
    return ReleaseRequest(idempotency_key=key, reason=reason)


def extending(key: str, by_ms: int) -> ReservationExtendRequest:
    """Return a lease's extension by so many milliseconds."""
    return ReservationExtendRequest(idempotency_key=key, extend_by_ms=by_ms)


def counts(balance: Balance) -> dict[str, int]:
    """Return a balance as whole numbers: allocated, spent, reserved, debt, remaining."""
    amounts = {
        "allocated": balance.allocated,
        "spent": balance.spent,
        "reserved": balance.reserved,
        "debt": balance.debt,
        "remaining": balance.remaining,
    }
    return {name: each.amount if each else 0 for name, each in amounts.items()}


async def balance_of(
    ledger: Ledger, scope: str, unit: Unit = Unit.USD_MICROCENTS
) -> dict[str, int]:
    """Return the counts of one scope's balance."""
    shown = (
        await ledger.balances(tenant=scope.split("/", maxsplit=1)[0].removeprefix("tenant:"))
    ).balances
    for balance in shown:
        if (balance.scope_path, balance.remaining.unit) == (scope, unit):
            return counts(balance)
    raise AssertionError(f"no balance of {scope} in {unit.value} is shown, but {shown}")


async def granted(ledger: Ledger, key: str, count: int, **more: Any) -> str:
    """Reserve `count`; the reservation's id."""
    name = (await ledger.reserve(asking(key, count, **more))).reservation_id
    assert name, f"a reserve of {count} under {key} was granted, and its answer has no id"
    return name
