"""Requests, written short."""

from runcycles import (
    Action,
    Amount,
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

ACTION = Action(kind="llm.completion", name="openai:gpt-4.1")
REJECT = CommitOveragePolicy.REJECT
IF_AVAILABLE = CommitOveragePolicy.ALLOW_IF_AVAILABLE
OVERDRAFT = CommitOveragePolicy.ALLOW_WITH_OVERDRAFT


def amount(count, unit=Unit.USD_MICROCENTS):
    return Amount(unit=unit, amount=count)


def asking(key, count, *, tenant="acme", unit=Unit.USD_MICROCENTS, **more):
    """A reserve of `count`; subject fields and other members by name."""
    levels = {name: more.pop(name) for name in list(more) if name in Subject.model_fields}
    return ReservationCreateRequest(
        idempotency_key=key,
        subject=Subject(tenant=tenant, **levels),
        action=ACTION,
        estimate=amount(count, unit),
        **more,
    )


def deciding(key, count, *, tenant="acme", **levels):
    return DecisionRequest(
        idempotency_key=key,
        subject=Subject(tenant=tenant, **levels),
        action=ACTION,
        estimate=amount(count),
    )


def event(key, count, *, tenant="acme", policy=None, unit=Unit.USD_MICROCENTS, **levels):
    return EventCreateRequest(
        idempotency_key=key,
        subject=Subject(tenant=tenant, **levels),
        action=ACTION,
        actual=amount(count, unit),
        overage_policy=policy,
    )


def committing(key, count, unit=Unit.USD_MICROCENTS, **more):
    return CommitRequest(idempotency_key=key, actual=amount(count, unit), **more)


def releasing(key, reason=None):
    return ReleaseRequest(idempotency_key=key, reason=reason)


def extending(key, by_ms):
    return ReservationExtendRequest(idempotency_key=key, extend_by_ms=by_ms)


def counts(balance):
    """A balance as whole numbers: allocated, spent, reserved, debt, remaining."""
    return {
        "allocated": balance.allocated.amount,
        "spent": balance.spent.amount,
        "reserved": balance.reserved.amount,
        "debt": balance.debt.amount if balance.debt else 0,
        "remaining": balance.remaining.amount,
    }


async def balance_of(ledger, scope, unit=Unit.USD_MICROCENTS):
    """The counts of one scope's balance."""
    shown = (await ledger.balances(tenant=scope.split("/")[0].removeprefix("tenant:"))).balances
    return next(counts(b) for b in shown if (b.scope_path, b.remaining.unit) == (scope, unit))
