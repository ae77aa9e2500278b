"""What an operator does from the command line: budgets and reservations."""

import os
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import anyio
import attrs
from pydantic import BaseModel
from runcycles import Balance, Caps, ReservationStatus, Unit
from runcycles.models import ReservationSummary

from comptroller.cli import output, parsing
from comptroller.cli.remote_operator import RemoteOperator
from comptroller.core.budgets import Terms
from comptroller.core.periods import Period
from comptroller.core.scopes import parse_scope
from comptroller.errors import LedgerRefused
from comptroller.ledger.interface import EmbeddedLedger, Ledger

T = TypeVar("T")

ADMIN_KEY = "COMPTROLLER_ADMIN_KEY"
_PAGE = 200  # the most of one page (protocol, listReservations)
_NEVER = "never"


def with_ledger(
    address: str | None,
    key_variable: str | None,
    work: Callable[..., Awaitable[T]],
    *args: Any,
    create: bool = False,
) -> T:
    """Do `work(ledger, *args)` at a ledger. `create`: also at one that is not there yet."""
    settings = parsing.ledger(address, key_variable, create=create)

    async def opened() -> T:
        async with settings.open() as ledger:
            return await work(ledger, *args)

    return anyio.run(opened)


def at_file(
    command: str,
    address: str | None,
    work: Callable[..., Awaitable[T]],
    *args: Any,
    create: bool = False,
) -> T:
    """As `with_ledger`, for a `command` that only the file can answer: a server cannot.

    Raises:
        LedgerRefused: it is a server; where to run the command is said.
    """
    if (url := _server(address)) is not None:
        raise LedgerRefused(
            f"comptroller {command} reads the ledger's file: run it on the machine that serves"
            f" {url}, with --ledger FILE"
        )
    return with_ledger(address, None, work, *args, create=create)


def as_operator(
    address: str | None,
    key_variable: str | None,
    work: Callable[..., Awaitable[T]],
    *args: Any,
    create: bool = False,
) -> T:
    """As `with_ledger`, to set budgets: at a server with the operator's key of the environment.

    Raises:
        LedgerRefused: it is a server, and there is no such key.
    """
    url = _server(address)
    if url is None:
        return with_ledger(address, key_variable, work, *args, create=create)
    key = os.environ.get(ADMIN_KEY)
    if not key:
        raise LedgerRefused(
            f"{url} is a remote ledger: its operator sets its budgets, with the key that it was"
            f" started with: export {ADMIN_KEY}=..."
        )
    return anyio.run(work, RemoteOperator(url, key), *args)


def _server(address: str | None) -> str | None:
    """Return the address of the server that is meant; None for an embedded ledger."""
    url = parsing.meant(address).url
    if not re.match("https?:", url, re.IGNORECASE):
        return None
    from comptroller.ledger.remote.connections import checked_address

    return checked_address(url)


@attrs.frozen(kw_only=True)
class BudgetOrder:
    """The terms of a budget as they were written; what was not written is None."""

    scope: str
    amount: str
    per: str | None
    zone: str | None
    overdraft: str | None
    alerts: tuple[str, ...] | None
    caps_below: str | None
    caps: Caps
    no_caps: bool


Operator = EmbeddedLedger | RemoteOperator
"""Who can set budgets."""


async def set_budget(operator: Operator, order: BudgetOrder, as_json: bool) -> None:
    """Set a budget, and show it. Terms that were not written stay."""
    allocated = parsing.amount(order.amount)
    terms = _terms(order, allocated.unit)
    if "caps" in terms and not order.no_caps:
        path = parse_scope(order.scope)
        for known in await operator.budgets():
            if known.scope_path == path and known.remaining.unit is allocated.unit:
                terms["caps"] = _together(getattr(known, "caps", None), order.caps)
    embedded = None if isinstance(operator, RemoteOperator) else operator
    before = await embedded.events(newest=True, limit=1) if embedded else []
    balance = await operator.set_budget(order.scope, allocated, **terms)
    _show(balance, operator.name, as_json)
    if embedded is not None and not as_json:
        await _tell_of_clocks(embedded, balance, before[-1].number if before else 0)


async def _tell_of_clocks(ledger: EmbeddedLedger, balance: Balance, after: int) -> None:
    """Say where a period that a wrong clock had begun was put right."""
    for entry in await ledger.events(after=after, kinds=["renewed"]):
        ahead_ms = entry.details.get("instead_of_ms")
        if ahead_ms is not None and entry.scope == balance.scope_path:
            output.write(
                f"a clock was ahead: it had begun the period of {_day(ahead_ms)};"
                f" the one of {_day(entry.since_ms)} has begun in its place"
            )


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def _terms(order: BudgetOrder, unit: Unit) -> Terms:
    terms = Terms()
    if order.per is not None:
        # checked where it is used
        terms["per"] = None if order.per == _NEVER else cast("Period", order.per)
    if order.zone is not None:
        terms["zone"] = order.zone
    if (overdraft := parsing.optional_amount("--overdraft", order.overdraft)) is not None:
        if overdraft.unit is not unit:
            raise ValueError(f"--overdraft {order.overdraft!r}: write it in the unit of the budget")
        terms["overdraft_limit"] = overdraft.amount
    if order.alerts is not None:
        terms["alerts"] = order.alerts
    written = bool(order.caps.model_dump(exclude_none=True))
    if written or order.no_caps:
        terms["caps"] = order.caps if written else None
    if order.caps_below is not None or order.no_caps:
        terms["caps_below"] = order.caps_below
    return terms


def _together(known: Caps | None, written: Caps) -> Caps:
    """Return the caps that were there, and in their place those that were written."""
    kept = known.model_dump(exclude_none=True) if known else {}
    return Caps(**{**kept, **written.model_dump(exclude_none=True)})


async def fund(operator: Operator, scope: str, text: str, as_json: bool) -> None:
    """Add to a budget, and show it, with how long that lasts."""
    balance = await operator.fund(scope, parsing.amount(text))
    _show(balance, operator.name, as_json, funded=True)


def _show(balance: Balance, ledger: str, as_json: bool, *, funded: bool = False) -> None:
    if as_json:
        output.write_json(plain(balance))
        return
    output.write("; ".join(filter(None, [
        output.balance_line(balance, ledger),
        output.terms(balance),
        output.lasts(balance) if funded else "",
    ])))  # fmt: skip


async def freeze(
    operator: Operator, scope: str, written: str | None, frozen: bool, as_json: bool
) -> None:
    """Freeze a scope in the unit that is written, or in all, or end that."""
    path, unit = parse_scope(scope), parsing.optional_unit("--unit", written)
    await (operator.freeze if frozen else operator.unfreeze)(path, unit)
    if as_json:
        of_unit = {"unit": unit.value} if unit else {}
        output.write_json({"scope": path, **of_unit, "frozen": frozen})
    else:
        of = f" (its {written})" if written else ""
        output.write(f"{path}{of} in {operator.name} is {'frozen' if frozen else 'open'}")


async def close(operator: Operator, scope: str, as_json: bool) -> None:
    """Close a scope."""
    path = parse_scope(scope)
    await operator.close_budget(path)
    if as_json:
        output.write_json({"scope": path, "closed": True})
    else:
        output.write(f"{path} in {operator.name} is closed; what it has spent stays in reports")


def budgets(
    address: str | None, key_variable: str | None, tenant: str | None, as_json: bool, wide: bool
) -> None:
    """List budgets: of a server as its operator where that key is there, else as its tenant."""
    asked = (tenant, as_json, wide)
    if _server(address) is None or not os.environ.get(ADMIN_KEY):
        with_ledger(address, key_variable, list_budgets, *asked)
    else:
        as_operator(address, key_variable, list_budgets, *asked)


async def list_budgets(
    ledger: Ledger | RemoteOperator, tenant: str | None, as_json: bool, wide: bool
) -> None:
    """Every budget, or one tenant's."""
    if isinstance(ledger, RemoteOperator) or not ledger.remote:
        found = await cast("Operator", ledger).budgets()
        if tenant is not None:
            path = parse_scope(f"tenant:{tenant}")
            found = [one for one in found if f"{one.scope_path}/".startswith(f"{path}/")]
    else:
        found = (await ledger.balances(tenant=_tenant(ledger, tenant))).balances
    if as_json:
        output.write_json([plain(budget) for budget in found])
    elif found:
        output.write(output.budgets_table(found), wide=wide)
    else:
        whose = f"tenant {tenant}" if tenant else "anybody"
        output.write(f"no budget for {whose} in {ledger.name}")


async def list_reservations(
    ledger: Ledger, tenant: str | None, status: str | None, limit: int, as_json: bool, wide: bool
) -> None:
    """Show the newest reservations, at most `limit`."""
    if ledger.remote:
        tenant = _tenant(ledger, tenant)
    wanted = _status(status)
    found: list[ReservationSummary] = []
    cursor, more = None, True
    while more and len(found) < limit:
        page = await ledger.reservations(
            tenant=tenant, status=wanted, limit=min(_PAGE, limit - len(found)), cursor=cursor
        )
        found += page.reservations
        cursor, more = page.next_cursor, bool(page.has_more and page.next_cursor)
    if as_json:
        output.write_json([plain(one) for one in found])
    elif found:
        output.write(output.reservations_table(found), wide=wide)
        if more:
            output.write(f"the newest {limit}; more with --limit")
    else:
        output.write(f"no {f'{status} ' if status else ''}reservation in {ledger.name}")


def _status(written: str | None) -> str | None:
    known = [status.value.lower() for status in ReservationStatus]
    if written is not None and written.lower() not in known:
        raise ValueError(f"--status {written!r}: write {', '.join(known[:-1])} or {known[-1]}")
    return written.upper() if written else None


def require_embedded(ledger: Ledger) -> EmbeddedLedger:
    """Return the ledger, whose operator we are. Raises LedgerRefused where we are not."""
    if ledger.remote:
        raise LedgerRefused(f"{ledger.name} is a remote ledger: its operator sets its budgets")
    return cast("EmbeddedLedger", ledger)


def _tenant(ledger: Ledger, tenant: str | None) -> str:
    if tenant is None:
        raise ValueError(f"whose at {ledger.name}? a Cycles server wants --tenant NAME")
    return tenant


def plain(value: BaseModel) -> Any:
    """Return a value of the protocol for machines; money in dollars, too."""
    return output.with_dollars(value.model_dump(mode="json", exclude_none=True))
