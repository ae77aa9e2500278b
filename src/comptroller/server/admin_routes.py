"""Budgets over HTTP, for who has the admin key: set, fund, freeze, unfreeze, close, list, show.

The protocol leaves budgets to a plane of their own. Paths and members are those of the Cycles
governance plane where that has them, so that its tools find what they know; the terms of a budget
besides its amounts are ours (`caps`, `caps_below`, `per`, `zone`, `alerts`). Where a budget is
there already, what it has spent and reserved stays, and so does each term that is left out; one
that is null ends, as in a JSON merge patch (RFC 7396).
"""

from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from runcycles import Amount, Balance, Caps, SignedAmount, Unit

from comptroller.core.budgets import Funding, Terms
from comptroller.core.scopes import ancestor_scopes, parse_scope
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.server.request import invalid, problem
from comptroller.server.routing import Route, RoutedRequest, Routes


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SetBudget(_Request):
    """What a scope may spend."""

    scope: str
    unit: Unit
    allocated: Amount
    overdraft_limit: Amount | None = None
    caps: Caps | None = None
    caps_below: str | None = None
    per: Literal["day", "month"] | None = None
    zone: str | None = None
    alerts: list[str] | None = None
    tenant_id: str | None = None


class FundBudget(_Request):
    """How an operator moves money: see `Funding`."""

    operation: Literal["CREDIT", "DEBIT", "REPAY_DEBT"]
    amount: Amount
    reason: str | None = Field(default=None, max_length=512)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=256)


class Budget(BaseModel):
    """A budget as its operator sees it."""

    tenant_id: str
    scope: str
    scope_path: str
    unit: Unit
    allocated: Amount | None
    remaining: SignedAmount
    reserved: Amount | None
    spent: Amount | None
    debt: Amount | None
    overdraft_limit: Amount | None
    is_over_limit: bool | None
    status: Literal["ACTIVE", "FROZEN", "CLOSED"]
    per: str | None
    zone: str | None
    renews_at_ms: int | None
    renews_with: Amount | None
    caps: Caps | None
    caps_below: int | None
    alerts: list[int] | None


class Budgets(BaseModel):
    """All the budgets that were asked for."""

    ledgers: list[Budget]
    has_more: bool = False


async def _set(asked: RoutedRequest) -> BaseModel:
    given: SetBudget = asked.body
    amounts = (("allocated", given.allocated), ("overdraft_limit", given.overdraft_limit))
    for name, amount in amounts:
        if amount is not None and amount.unit is not given.unit:
            raise invalid(f"{name} is in {amount.unit.value}, the budget in {given.unit.value}")
    path = _path(given.scope, given.tenant_id)
    try:
        await _ledger(asked).set_budget(path, given.allocated, **_terms(given))
    except (TypeError, ValueError) as error:
        raise invalid(str(error)) from None
    return await _one(asked, path, given.unit)


def _terms(given: SetBudget) -> Terms:
    """Return the terms that the body names; one that is null is to end."""
    said = dict(given)
    if given.overdraft_limit is not None:
        said["overdraft_limit"] = given.overdraft_limit.amount
    ended = {"overdraft_limit": 0, "zone": "UTC", "alerts": ()}
    named = [name for name in Terms.__annotations__ if name in given.model_fields_set]
    return cast("Terms", {n: ended.get(n) if said[n] is None else said[n] for n in named})


async def _fund(asked: RoutedRequest) -> BaseModel:
    path, unit = _named(asked)
    given: FundBudget = asked.body
    if given.amount.unit is not unit:
        raise invalid(f"amount is in {given.amount.unit.value}, the budget in {unit.value}")
    await _ledger(asked).fund(
        path,
        given.amount,
        operation=Funding[given.operation],
        idempotency_key=given.idempotency_key,
    )
    return await _one(asked, path, unit)


async def _freeze(asked: RoutedRequest) -> BaseModel:
    path, unit = _named(asked)
    await _ledger(asked).freeze(path, unit)
    return await _one(asked, path, unit)


async def _unfreeze(asked: RoutedRequest) -> BaseModel:
    path, unit = _named(asked)
    await _ledger(asked).unfreeze(path, unit)
    return await _one(asked, path, unit)


async def _close(asked: RoutedRequest) -> BaseModel:
    path, unit = _named(asked)
    await _ledger(asked).close_budget(path)
    return await _one(asked, path, unit)


async def _look_up(asked: RoutedRequest) -> BaseModel:
    return await _one(asked, *_named(asked))


async def _list(asked: RoutedRequest) -> BaseModel:
    tenant = asked.exchange.query.get("tenant_id")
    found = map(_shown, await _ledger(asked).budgets())
    return Budgets(ledgers=[one for one in found if not tenant or one.tenant_id == tenant.lower()])


async def _one(asked: RoutedRequest, path: str, unit: Unit) -> Budget:
    for budget in await _ledger(asked).budgets():
        if budget.scope_path == path and budget.remaining.unit is unit:
            return _shown(budget)
    raise problem(f"no budget for {path} in {unit.value}", 404, "NOT_FOUND")


def _ledger(asked: RoutedRequest) -> EmbeddedLedger:
    return cast("EmbeddedLedger", asked.ledger)


def _named(asked: RoutedRequest) -> tuple[str, Unit]:
    """Return the scope and unit that the query names."""
    query = asked.exchange.query
    unit = query.get("unit", Unit.USD_MICROCENTS.value)
    if unit not in Unit.__members__:
        raise invalid(f"unit={unit[:64]!r}: use {', '.join(Unit.__members__)}")
    return _path(query.get("scope", ""), query.get("tenant_id")), Unit(unit)


def _path(text: str, tenant: str | None) -> str:
    try:
        path = parse_scope(text)
    except ValueError as error:
        raise invalid(str(error)) from None
    if tenant and _tenant_of(path) != tenant.lower():
        raise invalid(f"tenant_id is {tenant[:64]!r}, the scope {path}")
    return path


def _tenant_of(path: str) -> str:
    return ancestor_scopes(path)[0].removeprefix("tenant:")


def _shown(balance: Balance) -> Budget:
    more: Any = balance  # embedded ledgers tell whether it is frozen, and its terms
    return Budget(
        tenant_id=_tenant_of(balance.scope_path),
        scope=balance.scope_path,
        scope_path=balance.scope_path,
        unit=balance.remaining.unit,
        allocated=balance.allocated,
        remaining=balance.remaining,
        reserved=balance.reserved,
        spent=balance.spent,
        debt=balance.debt,
        overdraft_limit=balance.overdraft_limit,
        is_over_limit=balance.is_over_limit,
        status="CLOSED" if more.closed else "FROZEN" if more.frozen else "ACTIVE",
        **{name: getattr(more, name) for name in _TERMS},
    )


_TERMS = ("per", "zone", "renews_at_ms", "renews_with", "caps", "caps_below", "alerts")
BUDGETS = "/v1/admin/budgets"
ROUTES: Routes = {
    BUDGETS: {
        "POST": Route(_set, SetBudget, status=201, admits="operator"),
        "GET": Route(_list, admits="operator", long=True),
    },
    f"{BUDGETS}/lookup": {"GET": Route(_look_up, admits="operator")},
    f"{BUDGETS}/fund": {"POST": Route(_fund, FundBudget, admits="operator")},
    f"{BUDGETS}/freeze": {"POST": Route(_freeze, admits="operator")},
    f"{BUDGETS}/unfreeze": {"POST": Route(_unfreeze, admits="operator")},
    f"{BUDGETS}/close": {"POST": Route(_close, admits="operator")},
}
