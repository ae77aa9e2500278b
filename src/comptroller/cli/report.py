"""Reports: what was spent, by whom and for what, as a table, as CSV, or as JSON."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from runcycles import Unit

from comptroller.cli import output
from comptroller.cli.budgets import require_embedded
from comptroller.cli.parsing import moment
from comptroller.cli.tables import NOTHING, Table
from comptroller.ledger.engine.usage_report import COUNTED, dimensions
from comptroller.ledger.interface import Ledger
from comptroller.ledger.models import Usage
from comptroller.money import dollars, formatted

FORMATS = ("table", "csv", "json")
_AMOUNTS = ("charged", "estimated", "reserved", "abandoned")
_MONEY = (*_AMOUNTS, "refused")
_FORMULAS = tuple("=+-@＝＋－＠")  # noqa: RUF001 - some programs take the wide ones for the others
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
    wide: bool = False


def format_of(written: str | None, as_json: bool) -> str:
    """How a report is shown: as a table, unless something else is asked for.

    Raises:
        ValueError: no such format, or two of them.
    """
    if written not in (None, *FORMATS):
        raise ValueError(f"--format {written!r}: use {', '.join(FORMATS)}")
    if as_json and written not in (None, "json"):
        raise ValueError(f"--json and --format {written}: name one of them")
    return "json" if as_json else written or "table"


async def report(ledger: Ledger, order: Order) -> None:
    """Show a report."""
    now = datetime.now(UTC)
    since, until = (
        moment(option, text, now, order.zone) if text else None
        for option, text in (("--since", order.since), ("--until", order.until))
    )
    lines = await require_embedded(ledger).usage(
        by=order.by, since=since, until=until, tenant=order.tenant, zone=order.zone
    )
    if order.shown == "json":
        output.write_json([_plain(line) for line in lines])
    elif order.shown == "csv":
        output.write_text(_csv(dimensions(order.by), lines), end="")
    elif lines:
        output.write(_table(dimensions(order.by), lines), wide=order.wide)
    else:
        output.write(f"nothing was charged, reserved or denied in {ledger.name} in that time")


def _plain(line: Usage) -> dict[str, Any]:
    """Return a line for machines: what is money is told in dollars, too."""
    counted = {name: getattr(line, name) for name in COUNTED}
    dollared = line.unit is Unit.USD_MICROCENTS
    money = {f"{name}_usd": dollars(counted[name]) if dollared else None for name in _MONEY}
    return {**line.by, "unit": line.unit.value, **counted, **money}


def _csv(by: Sequence[str], lines: Sequence[Usage]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, "unit", *COUNTED, *(f"{name}_usd" for name in _MONEY)])
    for line in lines:
        plain = _plain(line)
        writer.writerow([*map(_harmless, line.by.values()), *list(plain.values())[len(by) :]])
    return text.getvalue()


def _harmless(name: str) -> str:
    """Put an apostrophe before a name that a spreadsheet would take for a formula (CWE-1236).

    A client chose it; who opens the file did not.
    """
    dangerous = output.plain(name).lstrip()[:1] in _FORMULAS or name[:1].isspace()
    return f"'{name}" if dangerous else name


def _table(by: Sequence[str], lines: Sequence[Usage]) -> Table:
    numbers = ("calls", *_AMOUNTS, "denied", "tokens in", "out")
    table = Table(*by, *numbers, amounts=numbers, models=("model",))
    for line in lines:
        table.add_row(
            *(output.plain(value) or NOTHING for value in line.by.values()),
            f"{line.calls:,}",
            *(formatted(line.unit, amount) if amount else NOTHING for amount in _shown(line)),
            f"{line.denied:,}" if line.denied else NOTHING,
            *(f"{getattr(line, name):,}" if getattr(line, name) else NOTHING for name in _TOKENS),
        )
    return table


def _shown(line: Usage) -> list[int]:
    return [getattr(line, name) for name in _AMOUNTS]
