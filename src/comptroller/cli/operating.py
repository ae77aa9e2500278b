"""What an operator does from the command line: budgets and reservations.

A remote ledger's budgets are its own operator's: to set one from here is refused in one line.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import anyio
import attrs
from pydantic import BaseModel
from runcycles import Balance, Caps
from runcycles.models import ReservationSummary

from comptroller import console
from comptroller.decide.periods import Period
from comptroller.decide.scopes import parse_scope
from comptroller.errors import LedgerRefused
from comptroller.ledger.interface import EmbeddedLedger, Ledger

from . import reading

T = TypeVar("T")

_PAGE = 200  # the most of one page (protocol, listReservations)


def at(
    address: str | None,
    key_variable: str | None,
    work: Callable[..., Awaitable[T]],
    *args: Any,
    create: bool = False,
) -> T:
    """Do `work(ledger, *args)` at a ledger. `create`: also at one that is not there yet."""
    settings = reading.ledger(address, key_variable, create=create)

    async def opened() -> T:
        async with settings.open() as ledger:
            return await work(ledger, *args)

    return anyio.run(opened)


@attrs.frozen
class BudgetOrder:
    """The terms of a budget as they were written."""

    scope: str
    amount: str
    per: str | None
    zone: str
    overdraft: str | None
    alerts: tuple[str, ...]
    caps_below: str | None
    caps: Caps | None


async def set_budget(ledger: Ledger, order: BudgetOrder, as_json: bool) -> None:
    """Set a budget, and show it."""
    allocated = reading.amount(order.amount)
    overdraft = reading.optional_amount("--overdraft", order.overdraft)
    if overdraft is not None and overdraft.unit is not allocated.unit:
        raise ValueError(f"--overdraft {order.overdraft!r}: write it in the unit of the budget")
    operator = own(ledger)
    before = await operator.events(newest=True, limit=1)
    balance = await operator.set_budget(
        order.scope,
        allocated,
        per=cast("Period | None", order.per),  # checked where it is used
        zone=order.zone,
        overdraft_limit=overdraft.amount if overdraft else 0,
        alerts=order.alerts,
        caps=order.caps,
        caps_below=order.caps_below,
    )
    _show(balance, ledger, as_json)
    for entry in await operator.events(after=before[-1].number if before else 0, kinds=["renewed"]):
        ahead_ms = entry.details.get("instead_of_ms")
        if ahead_ms is not None and entry.scope == balance.scope_path and not as_json:
            console.write(
                f"a clock was ahead: it had begun the period of {_day(ahead_ms)};"
                f" the one of {_day(entry.since_ms)} has begun in its place"
            )


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def caps_of(
    max_tokens: int | None,
    max_steps: int | None,
    cooldown_ms: int | None,
    allowed: list[str] | None,
    denied: list[str] | None,
) -> Caps | None:
    """The caps that were written, if any."""
    caps = Caps(
        max_tokens=max_tokens,
        max_steps_remaining=max_steps,
        cooldown_ms=cooldown_ms,
        tool_allowlist=allowed or None,
        tool_denylist=denied or None,
    )
    return caps if caps.model_dump(exclude_none=True) else None


async def fund(ledger: Ledger, scope: str, text: str, as_json: bool) -> None:
    """Add to a budget, and show it."""
    _show(await own(ledger).fund(scope, reading.amount(text)), ledger, as_json)


def _show(balance: Balance, ledger: Ledger, as_json: bool) -> None:
    if as_json:
        console.write_json(_plain(balance))
    else:
        console.write(console.balance_line(balance, ledger.name))


async def freeze(ledger: Ledger, scope: str, frozen: bool, as_json: bool) -> None:
    """Freeze a scope, or end that."""
    operator, path = own(ledger), parse_scope(scope)
    await (operator.freeze if frozen else operator.unfreeze)(path)
    if as_json:
        console.write_json({"scope": path, "frozen": frozen})
    else:
        console.write(f"{path} in {ledger.name} is {'frozen' if frozen else 'open'}")


async def close(ledger: Ledger, scope: str, as_json: bool) -> None:
    """Close a scope."""
    path = parse_scope(scope)
    await own(ledger).close_budget(path)
    if as_json:
        console.write_json({"scope": path, "closed": True})
    else:
        console.write(f"{path} in {ledger.name} is closed; what it has spent stays in reports")


async def list_budgets(ledger: Ledger, tenant: str | None, as_json: bool) -> None:
    """Every budget, or one tenant's."""
    if not ledger.remote:
        budgets = await own(ledger).budgets()
        if tenant is not None:
            path = parse_scope(f"tenant:{tenant}")
            budgets = [one for one in budgets if f"{one.scope_path}/".startswith(f"{path}/")]
    else:
        budgets = (await ledger.balances(tenant=_tenant(ledger, tenant))).balances
    if as_json:
        console.write_json([_plain(budget) for budget in budgets])
    elif budgets:
        console.write(console.budgets_table(budgets))
    else:
        whose = f"tenant {tenant}" if tenant else "anybody"
        console.write(f"no budget for {whose} in {ledger.name}")


async def list_reservations(
    ledger: Ledger, tenant: str | None, status: str | None, limit: int, as_json: bool
) -> None:
    """The newest reservations, at most `limit`."""
    if ledger.remote:
        tenant = _tenant(ledger, tenant)
    found: list[ReservationSummary] = []
    cursor, more = None, True
    while more and len(found) < limit:
        page = await ledger.reservations(
            tenant=tenant,
            status=status.upper() if status else None,
            limit=min(_PAGE, limit - len(found)),
            cursor=cursor,
        )
        found += page.reservations
        cursor, more = page.next_cursor, bool(page.has_more and page.next_cursor)
    if as_json:
        console.write_json([_plain(one) for one in found])
    elif found:
        console.write(console.reservations_table(found))
        if more:
            console.write(f"the newest {limit}; more with --limit")
    else:
        console.write(f"no {f'{status} ' if status else ''}reservation in {ledger.name}")


def own(ledger: Ledger) -> EmbeddedLedger:
    """The ledger, whose operator we are. Raises LedgerRefused where we are not."""
    if ledger.remote:
        raise LedgerRefused(f"{ledger.name} is a remote ledger: its operator funds its budgets")
    return cast("EmbeddedLedger", ledger)


def _tenant(ledger: Ledger, tenant: str | None) -> str:
    if tenant is None:
        raise ValueError(f"whose at {ledger.name}? a Cycles server wants --tenant NAME")
    return tenant


def _plain(value: BaseModel) -> Any:
    return value.model_dump(mode="json", exclude_none=True)
