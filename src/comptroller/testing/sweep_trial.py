"""One performance of a program, given up at one of its turns or left alone, and looked at."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import anyio
import attrs
from anyio.lowlevel import current_token

from comptroller._validation import at_least, one_of
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger
from comptroller.runtime.registry import RunHandle
from comptroller.testing.assertions import assert_settled, innermost, no_task_left, open_lines
from comptroller.testing.fixtures import Governing
from comptroller.testing.ledgers import PlannedFault, PlannedLedger
from comptroller.testing.virtual_time.steps import StepCounter

Check = Callable[[], Awaitable[object]]
SLACK = 0.1
"""Seconds that no bound counts."""


@attrs.frozen
class Cancellation:
    """How, at which turn, and after how many turns once more, a program is given up."""

    how: Literal["scope", "task", "handle"] = attrs.field(
        validator=one_of("scope", "task", "handle")
    )
    turn: int = attrs.field(validator=at_least(1))
    again: int | None = None

    def __str__(self) -> str:
        twice = f" and {self.again} later" if self.again is not None else ""
        return f"given up at turn {self.turn}{twice} ({self.how})"

    @property
    def turns(self) -> list[int]:
        """When."""
        return [self.turn] if self.again is None else [self.turn, self.turn + self.again]


class Trial:
    """What a program is given.

    Attributes:
        ledger: to be used for what it governs. It records what it was asked.
        governed: opens governed runs on it; tenant `acme` unless you say so.
        turns: how many turns the program took.
        error: what it raised, but for a cancellation.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = PlannedLedger(ledger)
        self.governed = Governing(self.ledger)
        self.turns = 0
        self.error: Exception | None = None
        self._checks: list[Check] = []
        self._handles: list[RunHandle] = []

    def watch(self, handle: RunHandle) -> None:
        """Take a run that was not opened with `governed` for one of it, too."""
        self._handles.append(handle)

    def afterwards(self, check: Check) -> None:
        """Await `check()` when the program has ended: its own promises, as AssertionErrors."""
        self._checks.append(check)

    @property
    def handles(self) -> Sequence[RunHandle]:
        """Every run that is known."""
        return [*self.governed.runs, *self._handles]

    def cancel(self) -> None:
        """Cancel every run by its handle."""
        for handle in self.handles:
            handle.cancel("given up by a sweep")

    async def check(self, lapse: float) -> None:
        """Raise AssertionError unless everything has ended, also in the ledger."""
        for check in self._checks:
            await check()
        for handle in self.handles:
            if lines := open_lines(handle.id, handle.receipt):
                raise AssertionError("; ".join(lines))
        if lapse:
            await anyio.sleep(lapse)
        asked = self.ledger.asked("reserve")
        for tenant in sorted({each.tenant or each.body.subject.tenant for each in asked}):
            await assert_settled(innermost(self.ledger), tenant=tenant)


Program = Callable[[Trial], Awaitable[object]]


async def performed(
    program: Program,
    open_ledger: Callable[[], AbstractAsyncContextManager[Ledger]],
    turns: StepCounter,
    way: Cancellation | None,
    planned: Sequence[PlannedFault],
    *,
    within: float,
    lapse: float,
    hold: Callable[[Trial], object],
) -> None:
    """One performance. Raises AssertionError, or what the program raised where that is unexpected.

    `hold` gets the trial.
    """
    async with open_ledger() as ledger:
        trial = Trial(ledger)
        trial.ledger.plan(*planned)
        hold(trial)
        giving_up = _GivingUp(program, trial, way)
        async with no_task_left():
            if way is not None:
                turns.at(way.turns, giving_up.now)
            before = turns.count
            await giving_up.perform()
            turns.at([], giving_up.now)
            trial.turns = turns.count - before
        if (took := giving_up.took()) > within + SLACK:
            raise AssertionError(f"it took {took:.1f} s to end, and may take {within:g} s")
        await trial.check(lapse)


class _GivingUp:
    """A program, and the moment since which it is no longer wanted."""

    def __init__(self, program: Program, trial: Trial, way: Cancellation | None) -> None:
        native: Any = current_token().native_token
        self._clock: Callable[[], float] = getattr(native, "time", anyio.current_time)
        self._program, self._trial, self._way = program, trial, way
        self._since: float | None = None
        self._give_up: Callable[[], object] = trial.cancel
        self._ended = 0.0

    def now(self) -> None:
        """Give it up. In a bare callback of the loop."""
        if self._way is not None and self._way.how == "handle" and not self._trial.handles:
            return  # there is nobody to cancel yet
        if self._since is None:
            self._since = self._clock()
        self._give_up()

    def took(self) -> float:
        """Seconds from then to its end."""
        return 0.0 if self._since is None else self._ended - self._since

    async def perform(self) -> None:
        """To its end."""
        if self._way is not None and self._way.how == "task":
            await self._as_task()
        else:
            with anyio.CancelScope() as scope:
                if self._way is not None and self._way.how == "scope":
                    self._give_up = scope.cancel
                await self._run()
        self._ended = self._clock()

    async def _as_task(self) -> None:
        """In this very task: a cancellation that was asked for ends here."""
        task = asyncio.current_task()
        if task is not None:
            self._give_up = task.cancel
        try:
            await self._run()
        except asyncio.CancelledError:
            if self._since is None:
                raise
        while task is not None and task.cancelling():
            task.uncancel()

    async def _run(self) -> None:
        try:
            await self._program(self._trial)
        except ComptrollerError as error:  # a refusal, or that it was cancelled
            self._trial.error = error
