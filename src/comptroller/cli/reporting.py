"""Reports: what was spent, by whom and for what, as a table, as CSV, or as JSON."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from rich.table import Table

from comptroller import console
from comptroller.ledger.book.usage import COUNTED, Usage, dimensions
from comptroller.ledger.interface import Ledger
from comptroller.money import formatted

from .moments import moment
from .operating import own

FORMATS = ("table", "csv", "json")
_AMOUNTS = ("charged", "reserved", "abandoned")
_TOKENS = ("tokens_input", "tokens_output")


@attrs.frozen
class Order:
    """What is reported, and how it is shown."""

    by: str
    since: str | None
    until: str | None
    tenant: str | None
    zone: str
    shown: str

    def __attrs_post_init__(self) -> None:
        if self.shown not in FORMATS:
            raise ValueError(f"--format {self.shown!r}: use {', '.join(FORMATS)}")


async def report(ledger: Ledger, order: Order) -> None:
    """Show a report."""
    now = datetime.now(UTC)
    since, until = (
        moment(option, text, now, order.zone) if text else None
        for option, text in (("--since", order.since), ("--until", order.until))
    )
    lines = await own(ledger).usage(
        by=order.by, since=since, until=until, tenant=order.tenant, zone=order.zone
    )
    if order.shown == "json":
        console.write_json([_plain(line) for line in lines])
    elif order.shown == "csv":
        console.write_text(_csv(dimensions(order.by), lines), end="")
    elif lines:
        console.write(_table(dimensions(order.by), lines))
    else:
        console.write(f"nothing was charged, reserved or denied in {ledger.name} in that time")


def _plain(line: Usage) -> dict[str, Any]:
    counted = {name: getattr(line, name) for name in COUNTED}
    return {**line.by, "unit": line.unit.value, **counted}


def _csv(by: Sequence[str], lines: Sequence[Usage]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, "unit", *COUNTED])
    writer.writerows(list(_plain(line).values()) for line in lines)
    return text.getvalue()


def _table(by: Sequence[str], lines: Sequence[Usage]) -> Table:
    numbers = ("calls", *_AMOUNTS, "denied", "tokens in", "out")
    table = console.table(*by, *numbers, right=numbers)
    for line in lines:
        table.add_row(
            *(console.plain(value) or "-" for value in line.by.values()),
            f"{line.calls:,}",
            *(formatted(line.unit, amount) if amount else "-" for amount in _shown(line)),
            f"{line.denied:,}" if line.denied else "-",
            *(f"{getattr(line, name):,}" if getattr(line, name) else "-" for name in _TOKENS),
        )
    return table


def _shown(line: Usage) -> list[int]:
    return [getattr(line, name) for name in _AMOUNTS]
