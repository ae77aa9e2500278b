"""The event log as it is written, and whether the balances are what it says they are."""

import signal
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import anyio
import anyio.abc
import attrs
from runcycles import Unit

from comptroller.cli import output
from comptroller.cli.budgets import require_embedded
from comptroller.cli.exit_codes import DONE, FAILED, SIGNALLED
from comptroller.cli.parsing import moment
from comptroller.cli.tables import Table
from comptroller.ledger.interface import EmbeddedLedger, Ledger
from comptroller.ledger.models import ACTS, OPERATORS, REQUESTS, BalanceMismatch, Kind, LogEntry
from comptroller.money import dollars, formatted

_OF_AMOUNTS = ("set", "fund", "debit", "repay", "renewed", "reserve", "commit", "record")
"""Kinds of entries whose amount is told, also where it is nothing."""
_AMOUNTS, _SHARES = ("remaining", "allocated", "overdraft_limit"), ("alerts", "caps_below")
"""What of the details is an amount, and what a share, in percent."""
_PAUSE = 0.5  # seconds between two looks at the log
_GROUPS: dict[str, tuple[str, ...]] = {
    "operator": OPERATORS,
    "request": REQUESTS,
    "all": get_args(Kind),
}


@attrs.frozen
class Order:
    """Which entries are shown, and how."""

    tenant: str | None
    kinds: tuple[str, ...]
    since: str | None
    limit: int
    follow: bool
    as_json: bool
    wide: bool = False


def kinds(written: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of entries that were asked for, by their own names or those of groups.

    Without any: all but requests, of which there are two a call, so that nothing else is seen.

    Raises:
        ValueError: there is no such kind.
    """
    found: list[str] = []
    for word in written:
        name = word.strip().lower()
        if name not in _GROUPS and name not in _GROUPS["all"]:
            known = ", ".join([*_GROUPS, *_GROUPS["all"]])
            raise ValueError(f"--kind {word!r}: there is no such kind: write any of {known}")
        found += _GROUPS.get(name, (name,))
    return tuple(dict.fromkeys(found)) or ACTS


async def events(ledger: Ledger, order: Order) -> int:
    """Show the newest entries, oldest first; with `follow` every further one until a signal.

    The exit code.
    """
    audited = require_embedded(ledger)
    since = moment("--since", order.since, datetime.now(UTC)) if order.since else None
    entries = await audited.events(
        kinds=order.kinds, tenant=order.tenant, since=since, limit=order.limit, newest=True
    )
    if not entries and not order.follow and not order.as_json:
        requests = " (requests are shown with --kind request)" if order.kinds == ACTS else ""
        output.write(f"no such event in {ledger.name}{requests}")
    if order.as_json or order.follow:
        for entry in entries:
            _show(entry, order)
    elif entries:
        output.write(_table(entries), wide=order.wide)
    if not order.follow:
        return DONE
    last = entries[-1].number if entries else 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, audited, order, last)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                tasks.cancel_scope.cancel(f"interrupted by {number.name}")
                return SIGNALLED + number
    return DONE


async def follow(ledger: EmbeddedLedger, order: Order, last: int) -> None:
    """Show every entry after `last`, for as long as one is let."""
    while True:
        for entry in await ledger.events(kinds=order.kinds, tenant=order.tenant, after=last):
            _show(entry, order)
            last = entry.number
        await anyio.sleep(_PAUSE)


async def verify(ledger: Ledger, as_json: bool) -> int:
    """Say whether every balance is what its history comes to. The exit code."""
    found = await require_embedded(ledger).verify()
    if as_json:
        output.write_json(
            {
                "accounts": found.accounts,
                "periods": found.periods,
                "differences": [_difference(one) for one in found.differences],
            }
        )
    elif found.differences:
        output.write(_differences(found.differences))
        output.write(_verdict(ledger.name, len(found.differences)))
    else:
        over = f" and {_many(found.periods, 'past period')}" if found.periods else ""
        output.write(
            f"{ledger.name}: the balances of {_many(found.accounts, 'budget')}{over} are what the"
            " log and the reservations come to"
        )
    return FAILED if found.differences else DONE


def _difference(one: BalanceMismatch) -> dict[str, Any]:
    plain = {**attrs.asdict(one), "unit": one.unit.value}
    for name in ("found", "expected") if one.unit is Unit.USD_MICROCENTS else ():
        if isinstance(plain[name], int):
            plain[f"{name}_usd"] = dollars(plain[name])
    return plain


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _verdict(name: str, differences: int) -> str:
    if differences == 1:
        return f"{name}: 1 balance differs from its history"
    return f"{name}: {differences} balances differ from their history"


def _differences(differences: Sequence[BalanceMismatch]) -> Any:
    numbers = ("ledger says", "history says")
    table = Table("scope", "period (UTC)", "balance", *numbers, amounts=numbers)
    for one in differences:
        table.add_row(
            output.plain(one.scope),
            f"from {_time(one.since_ms)}" if one.since_ms else "the first",
            one.balance,
            _number(one.unit, one.found),
            _number(one.unit, one.expected),
        )
    return table


def _number(unit: Unit, found: Any) -> str:
    """Return a balance; what another hand made of it is shown as it stands there."""
    return formatted(unit, found) if isinstance(found, int) else repr(found)


def _show(entry: LogEntry, order: Order) -> None:
    if order.as_json:
        output.write_text(output.as_line(_plain(entry)))
    else:
        output.write(_line(entry))


def _plain(entry: LogEntry) -> dict[str, Any]:
    money = entry.unit is Unit.USD_MICROCENTS
    said = {
        "number": entry.number,
        "at_ms": entry.at_ms,
        "kind": entry.kind,
        "scope": entry.scope,
        "unit": entry.unit.value if entry.unit else None,
        "amount": entry.amount,
        "usd": dollars(entry.amount) if money else None,
        "debt": entry.debt or None,
        "debt_usd": dollars(entry.debt) if money and entry.debt else None,
        "period_since_ms": entry.since_ms or None,
        "about": entry.about,
        **attrs.asdict(entry.origin),
        "details": dict(entry.details) or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _table(entries: Iterable[LogEntry]) -> Table:
    texts = ("amount", "about", "more", "who")
    made = Table("at (UTC)", "kind", "scope", *texts, prose=texts)
    for entry in entries:
        made.add_row(*map(output.plain, _cells(entry)))
    return made


def _line(entry: LogEntry) -> str:
    """Return an entry as it comes: what follows is not known, so neither is how wide it will be."""
    at, kind, *words = _cells(entry)
    return "  ".join(word for word in (at, f"{kind:<8}", *words) if word)


def _cells(entry: LogEntry) -> list[str]:
    shown = entry.details.items() if entry.kind != "alert" else ()
    ids = attrs.asdict(entry.origin)
    who = [ids.pop("who"), *(f"{name}={value}" for name, value in ids.items() if value)]
    return [
        _time(entry.at_ms),
        entry.kind,
        entry.scope,
        _what(entry),
        entry.about or "",
        " ".join(f"{name}={_said(name, value, entry.unit)}" for name, value in shown),
        " ".join(filter(None, who)),
    ]


def _what(entry: LogEntry) -> str:
    """Return the entry's amount; of an alert, how much of how much."""
    if entry.unit is None:
        return ""
    amount = formatted(entry.unit, entry.amount)
    if entry.kind == "alert":
        allocated = formatted(entry.unit, int(entry.details["allocated"]))
        return f"{entry.details['share']}% is spent: {amount} of {allocated}"
    shown = [amount] if entry.amount or entry.kind in _OF_AMOUNTS else []
    return ", ".join(
        [*shown, *([f"debt {formatted(entry.unit, entry.debt)}"] if entry.debt else [])]
    )


def _said(name: str, value: Any, unit: Unit | None) -> str:
    if unit is not None and name in _AMOUNTS and isinstance(value, int):
        return formatted(unit, value)
    if name in _SHARES:
        return ",".join(f"{share}%" for share in (value if isinstance(value, list) else [value]))
    return value if isinstance(value, str) else output.as_line(value)


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
