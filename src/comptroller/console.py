"""What a person reads: receipts, budgets and reservations as tables.

Text of others (names, reasons) is shown as it is: no markup is read in it, and nothing in it moves
the cursor. Colours and widths are rich's: they follow the terminal and `NO_COLOR`.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from runcycles import Amount, Balance, ReservationStatus, SignedAmount, Unit
from runcycles.models import ReservationSummary

from .decide.lifecycle import Outcome
from .money import formatted, show
from .runtime.receipts import CallReceipt, Receipt

_UNFOLDED = 1000  # columns of what is no terminal: a program that reads lines wants whole ones
STYLES = {
    "committed": "green",
    "completed": "green",
    "abandoned": "yellow",
    "cancelled": "yellow",
    "denied": "red",
    "failed": "red",
}
"""How outcomes of calls and runs are coloured."""
NOTHING_RESERVED = "nothing to reserve"
"""Why a tool without a price has no reservation: no news."""
_SHORT = 12  # characters of a run's id that stand well in a table


def open_console(*, stderr: bool = False) -> Console:
    """A terminal with its width, or a file or pipe, where no line is folded."""
    out = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = _UNFOLDED
    return out


def write(shown: RenderableType, *, stderr: bool = False) -> None:
    """Something for people; a line of text is never folded."""
    out = open_console(stderr=stderr)
    if isinstance(shown, str):
        out.print(plain(shown), soft_wrap=True)
    else:
        out.print(shown)


def write_text(text: str, *, end: str = "\n") -> None:
    """An answer, or a piece of it, as it is."""
    print(text, end=end, flush=True)


def write_json(value: Any) -> None:
    """Something for machines."""
    write_text(as_json(value))


def as_line(value: Any) -> str:
    """Plain values as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


def as_json(value: Any) -> str:
    """Plain values as JSON that can be read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def plain(text: str) -> str:
    """One line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)


def table(*columns: str, right: Sequence[str] = (), padding: int = 1) -> Table:
    """An empty table; the columns in `right` hold amounts, and are never folded."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, padding), pad_edge=False, header_style="bold")
    for name in columns:
        amounts = name in right
        made.add_column(
            name, justify="right" if amounts else "left", no_wrap=amounts, overflow="fold"
        )
    return made


# -- receipts


def receipts_table(receipts: Iterable[Receipt]) -> Table:
    """Runs, call by call, each with its sum; nested calls are indented."""
    amounts = ("reserved", "charged", "tokens")
    made = table("call", "agent", "what", *amounts, "outcome", right=amounts, padding=0)
    for receipt in receipts:
        for call in receipt.calls:
            made.add_row(*_cells(call))
        made.add_row(*_sum(receipt), style="bold")
        made.add_section()
    return made


def notes(receipt: Receipt, problem: str | None) -> list[str]:
    """Why calls ended as they did, where neither the table nor the run's `problem` says it."""
    return [
        f"{call.id} {call.outcome}: {call.reason}"
        for call in receipt.calls
        if call.reason not in ("", NOTHING_RESERVED, problem)
        and call.outcome not in (Outcome.DENIED, Outcome.FAILED)
    ]


def _cells(call: CallReceipt) -> list[RenderableType]:
    depth = call.episode.count(".")
    attempt = f" #{call.attempt}" if call.attempt > 1 else ""
    charged = show(call.charged) if call.charged else "-"
    if call.actual is not None and call.shortfall:
        charged += f"\nshort {formatted(Unit(call.actual.unit), call.shortfall)}"
    return [
        "  " * depth + call.id,
        plain(call.agent),
        plain(call.name) + attempt,
        show(call.reserved) if call.reserved.amount else "-",
        charged,
        f"{call.tokens.input:,}+{call.tokens.output:,}" if call.tokens else "-",
        Text(call.ending, STYLES.get(call.outcome, "")),
    ]


def _sum(receipt: Receipt) -> list[str]:
    used = receipt.tokens
    return [
        receipt.run_id if len(receipt.run_id) <= _SHORT else "in all",
        "",
        "",
        "",
        amounts_of(receipt.charged),
        f"{used.input:,}+{used.output:,}" if used.total else "-",
        "",
    ]


def amounts_of(by_unit: Mapping[Unit, int]) -> str:
    """Amounts of several units, one below the other."""
    return "\n".join(formatted(unit, n) for unit, n in by_unit.items() if n) or "-"


# -- ledgers


def budgets_table(budgets: Iterable[Balance]) -> Table:
    """Budgets: one row for each scope and unit."""
    amounts = ("allocated", "spent", "reserved", "remaining", "debt")
    made = table("scope", *amounts, "state", right=amounts)
    for budget in budgets:
        made.add_row(
            budget.scope_path,
            *(_amount(getattr(budget, name)) for name in amounts),
            state(budget),
        )
    return made


def state(budget: Balance) -> str:
    """What a budget allows."""
    if getattr(budget, "closed", False):
        return "closed"
    if getattr(budget, "frozen", False):  # embedded ledgers tell it, and the period
        return "frozen"
    if budget.is_over_limit:
        return "over limit"
    if budget.debt and budget.debt.amount:
        return "in debt"
    per, zone = getattr(budget, "per", None), getattr(budget, "zone", None)
    shown = "open" if budget.remaining.amount > 0 else "used up"
    if per and zone and zone != "UTC":
        return f"{shown}, anew each {per} ({zone})"
    return f"{shown}, anew each {per}" if per else shown


def balance_line(budget: Balance, ledger: str) -> str:
    """One budget in a line."""
    spent, held = _amount(budget.spent), _amount(budget.reserved)
    return (
        f"{budget.scope_path} in {ledger}: {_amount(budget.remaining)} left of"
        f" {_amount(budget.allocated)}, {spent} spent, {held} reserved"
    )


def _amount(given: Amount | SignedAmount | None) -> str:
    return "-" if given is None else formatted(Unit(given.unit), given.amount)


def reservations_table(found: Iterable[ReservationSummary]) -> Table:
    """Reservations: who, what, how much, until when."""
    made = table(
        "reservation", "scope", "what", "reserved", "status", "until (UTC)",
        right=("reserved",), padding=0,
    )  # fmt: skip
    made.columns[0].no_wrap = True  # to be copied
    for one in found:
        until = f"{datetime.fromtimestamp(one.expires_at_ms / 1000, UTC):%m-%d %H:%M:%S}"
        made.add_row(
            one.reservation_id,
            one.scope_path,
            plain(one.action.name),
            show(one.reserved),
            one.status.value.lower(),
            until if one.status is ReservationStatus.ACTIVE else "",
        )
    return made
