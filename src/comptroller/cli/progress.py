"""Runs while they go on: a table drawn in its place on a terminal, else a line for each call."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

import anyio
from rich.console import Console
from rich.live import Live
from rich.text import Text
from runcycles import Unit

from comptroller.cli.output import STYLES, amounts_of, open_console, plain
from comptroller.cli.tables import Table
from comptroller.core.call_lifecycle import Outcome
from comptroller.money import show
from comptroller.receipts import CallReceipt
from comptroller.runtime.registry import RunHandle

_PAUSE = 0.1  # seconds between two looks
_STEADY = 10  # columns at least, so that a growing figure moves nothing


async def watch(runs: Mapping[str, RunHandle], *, stderr: bool = False) -> None:
    """Show `runs`, by what they are called, those added meanwhile too, until cancelled.

    Where it cannot be written it ends: a run that is paid for does not hang on being watched.
    """
    with suppress(OSError), _view(open_console(stderr=stderr)) as view:
        try:
            while True:
                view.look(runs)
                await anyio.sleep(_PAUSE)
        finally:
            view.look(runs)


class View(Protocol):
    """Shows runs as they stand, again and again."""

    def look(self, runs: Mapping[str, RunHandle]) -> None:
        """Show what is new."""


@contextmanager
def _view(out: Console) -> Iterator[View]:
    if out.is_terminal and not out.is_dumb_terminal:
        with Live(console=out, auto_refresh=False) as live:
            yield LiveTable(live)
    else:
        yield Lines(out)


class Lines:
    """One line for each call that has ended."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._shown: set[tuple[str, str]] = set()

    def look(self, runs: Mapping[str, RunHandle]) -> None:
        """Print the calls that have ended since."""
        for name, run in runs.items():
            for call in run.receipt.calls:
                if not call.open and (name, call.id) not in self._shown:
                    self._shown.add((name, call.id))
                    if call.outcome is not Outcome.FAILED:  # the run's error tells that
                        self._out.print(_line(name, call), soft_wrap=True)


def _line(name: str, call: CallReceipt) -> str:
    cost = show(call.charged) if call.charged else "-"
    return (
        f"{plain(name):<9}  {plain(call.agent):<14}  {plain(call.name):<24}"
        f"  {call.outcome:<10}  {cost:>14}{'  (estimate)' if call.estimated else ''}"
    )


class LiveTable:
    """One row for each run."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def look(self, runs: Mapping[str, RunHandle]) -> None:
        """Draw them anew."""
        amounts = ("calls", "reserved", "charged")
        made = Table("run", "status", *amounts, "now", amounts=amounts, prose=("now",))
        for name, run in runs.items():
            made.add_row(plain(name), *_row(run))
        self._live.update(made, refresh=True)


def _row(run: RunHandle) -> list[str | Text]:
    receipt = run.receipt
    under_way = [call for call in receipt.calls if call.open]
    held: Counter[Unit] = Counter()
    for call in under_way:
        held[Unit(call.reserved.unit)] += call.reserved.amount
    estimated = f" (est. {amounts_of(receipt.estimated)})" if receipt.estimated else ""
    return [
        Text(run.status, STYLES.get(run.status, "")),
        str(len(receipt.calls)),
        amounts_of(held).rjust(_STEADY),
        (amounts_of(receipt.charged) + estimated).rjust(_STEADY),
        plain(", ".join(f"{call.agent}: {call.name}" for call in under_way)).ljust(_STEADY),
    ]
