"""What a person reads: receipts, budgets and reservations as tables.

Text of others (names, reasons) is shown as it is: no markup is read in it, and nothing in it moves
the cursor. Colours and widths are rich's: they follow the terminal and `NO_COLOR`.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console, RenderableType
from rich.text import Text
from runcycles import Amount, Balance, ReservationStatus, SignedAmount, Unit
from runcycles.models import ReservationSummary

from comptroller.cli.tables import NOTHING, Table
from comptroller.core.call_lifecycle import Outcome
from comptroller.money import dollars, formatted, show
from comptroller.receipts import CallReceipt, Receipt

_UNFOLDED = 1_000_000  # columns of what is no terminal: a program that reads lines wants whole ones
_NARROWEST = 40  # columns in which every figure is whole; a smaller terminal folds them itself
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


class CannotWriteError(Exception):
    """What was to be said cannot be written to stdout.

    Attributes:
        unread: nobody reads it any more, such as `head` that has seen enough.
        so: what that means for what was asked for.
    """

    so = "what was done stays done"

    def __init__(self, why: str, *, unread: bool = False) -> None:
        super().__init__(why)
        self.unread = unread

    def __str__(self) -> str:
        return f"stdout cannot be written ({self.args[0]}): {self.so}"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise it, as any other error of writing: the command decides how it ends."""
        raise  # noqa: PLE0704 - rich calls it where it handles the error


def open_console(*, stderr: bool = False, wide: bool = False) -> Console:
    """Open a terminal with its width, or a file, where no line is folded; so with `wide`."""
    out = _Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if wide or not (out.is_terminal or os.environ.get("COLUMNS")):
        out.width = _UNFOLDED
    out.width = max(out.width, _NARROWEST)
    return out


def write(
    shown: RenderableType, *, stderr: bool = False, wide: bool = False, most: int = _UNFOLDED
) -> None:
    """Something for people, in `most` columns; a line of text is never folded.

    Raises:
        CannotWriteError: it cannot be written; on stderr nobody could be told.
    """
    out = open_console(stderr=stderr, wide=wide)
    if not wide:
        out.width = min(out.width, most)
    with suppress(OSError) if stderr else _told():
        if isinstance(shown, str):
            out.print(plain(shown), soft_wrap=True)
        else:
            out.print(shown, crop=False)


def write_text(text: str, *, end: str = "\n") -> None:
    """Write an answer, or a piece of it, as it is.

    Raises:
        CannotWriteError: it cannot be written: a full disk, a pipe that nobody reads.
    """
    with _told():
        print(text, end=end, flush=True)


@contextmanager
def _told() -> Iterator[None]:
    if sys.stdout is None:  # it was closed before we began
        raise CannotWriteError("it is closed")
    try:
        yield
    except OSError as error:
        unread = isinstance(error, BrokenPipeError)
        raise CannotWriteError(str(error.strerror), unread=unread) from error


def write_json(value: Any) -> None:
    """Something for machines."""
    write_text(as_json(value))


def as_line(value: Any) -> str:
    """Plain values as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


def as_json(value: Any) -> str:
    """Plain values as JSON that can be read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def with_dollars(value: Any) -> Any:
    """Plain values of ours: beside each amount of microcents, `usd` says it in dollars."""
    if isinstance(value, list | tuple):
        return [with_dollars(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    told = {name: with_dollars(each) for name, each in value.items()}
    money = Unit.USD_MICROCENTS.value
    amount = value.get("amount") if value.get("unit") == money else value.get(money)
    return {**told, "usd": dollars(amount)} if isinstance(amount, int) else told


def plain(text: str) -> str:
    """One line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)


# -- receipts


def receipts_table(receipts: Iterable[Receipt]) -> Table:
    """Show runs, call by call, each with its sum; nested calls are indented."""
    amounts = ("reserved", "charged", "tokens")
    made = Table(
        "call",
        "agent",
        "what",
        *amounts,
        "outcome",
        amounts=amounts,
        prose=("outcome",),
        models=("what",),
    )
    for receipt in receipts:
        for call in receipt.calls:
            made.add_row(*_cells(call))
        made.add_row(*_sum(receipt), style="bold")
        made.end_section()
    return made


def notes(receipt: Receipt, problem: str | None) -> list[str]:
    """Why calls ended as they did, where neither the table nor the run's `problem` says it."""
    return [
        f"{call.id} {call.outcome}: {call.reason}"
        for call in receipt.calls
        if call.reason not in ("", NOTHING_RESERVED, problem)
        and call.outcome not in (Outcome.DENIED, Outcome.FAILED)
    ]


def _cells(call: CallReceipt) -> list[str | Text]:
    depth = call.episode.count(".")
    attempt = f" #{call.attempt}" if call.attempt > 1 else ""
    charged = show(call.charged) if call.charged else NOTHING
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
        f"{receipt.estimated} by estimate" if receipt.estimated else "",
    ]


def plain_receipt(receipt: Receipt) -> Any:
    """Return a receipt for machines; money in dollars, too."""
    return with_dollars(receipt.to_dict())


def amounts_of(by_unit: Mapping[Unit, int]) -> str:
    """Amounts of several units, one below the other."""
    return "\n".join(formatted(unit, n) for unit, n in by_unit.items() if n) or "-"


# -- ledgers


def budgets_table(budgets: Iterable[Balance]) -> Table:
    """Budgets: one row for each scope and unit."""
    amounts = ("allocated", "spent", "reserved", "remaining", "debt")
    made = Table("scope", *amounts, "state", amounts=amounts, prose=("state",))
    for budget in budgets:
        made.add_row(
            plain(budget.scope_path),
            *(_amount(getattr(budget, name)) for name in amounts),
            state(budget),
        )
    return made


def state(budget: Balance) -> str:
    """Return what a budget allows."""
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


def terms(budget: Balance) -> str:
    """Return what holds besides the amount: `$4.00 a day (UTC), alerts at 50%`; "" for nothing."""
    more: Any = budget  # embedded ledgers tell the terms
    said = []
    if per := getattr(more, "per", None):
        said.append(f"{_amount(more.renews_with)} a {per} ({more.zone})")
    if budget.overdraft_limit and budget.overdraft_limit.amount:
        said.append(f"{_amount(budget.overdraft_limit)} may be owed")
    if alerts := getattr(more, "alerts", None):
        said.append(f"alerts at {', '.join(f'{share}%' for share in alerts)}")
    if caps := getattr(more, "caps", None):
        named = caps.model_dump(exclude_none=True).items()
        shown = ", ".join(f"{name} {_listed(value)}" for name, value in named)
        below = f" below {more.caps_below}%" if more.caps_below else ""
        said.append(f"caps{below}: {shown}")
    return ", ".join(said)


def _listed(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def lasts(budget: Balance) -> str:
    """Until when what was added to a budget lasts; "" where it never renews."""
    more: Any = budget
    if (until_ms := getattr(more, "renews_at_ms", None)) is None:
        return ""
    until = datetime.fromtimestamp(until_ms / 1000, ZoneInfo(more.zone))
    return (
        f"what was added lasts until {until:%Y-%m-%d %H:%M} ({more.zone}),"
        f" when it begins anew with {_amount(more.renews_with)}"
    )


def _amount(given: Amount | SignedAmount | None) -> str:
    return "-" if given is None else formatted(Unit(given.unit), given.amount)


def reservations_table(found: Iterable[ReservationSummary]) -> Table:
    """Reservations: who, what, how much, until when."""
    facts = ("status", "until (UTC)")
    made = Table(
        "reservation", "scope", "what", "reserved", *facts, amounts=("reserved",), prose=facts
    )
    for one in found:
        until = f"{datetime.fromtimestamp(one.expires_at_ms / 1000, UTC):%m-%d %H:%M:%S}"
        made.add_row(
            plain(one.reservation_id),
            plain(one.scope_path),
            plain(one.action.name),
            show(one.reserved),
            one.status.value.lower(),
            until if one.status is ReservationStatus.ACTIVE else "",
        )
    return made
