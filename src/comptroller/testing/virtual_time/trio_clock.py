"""Virtual time on trio: `trio.testing.MockClock`, and an instrument that paces it.

A clock that always jumps runs ahead of worker threads and sockets. The instrument looks after
each step whether anything real is awaited, and lets the clock run or jump accordingly.
Only this module of the package imports trio at its head: it is imported where trio is in use.
"""

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from trio.testing import MockClock, active_thread_count

from comptroller.testing.virtual_time.steps import StepCounter

T = TypeVar("T")


def virtual_clock() -> tuple[MockClock, "ClockPacing"]:
    """Return a clock for one `trio.run`, and the instrument which must be given along with it."""
    clock = MockClock(autojump_threshold=0)
    return clock, ClockPacing(clock)


class ClockPacing(trio.abc.Instrument):
    """Keeps `clock` at real time while a thread, a socket or a child process is awaited."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Choose between running, jumping and waiting. Called by trio after a task's step."""
        del task
        now = trio.lowlevel.current_statistics()
        awaited = _files_awaited(now.io_statistics) > 1  # one: trio's own wake-up socket
        real = awaited or active_thread_count() > 0
        # where there is no deadline to jump to, a clock that may jump would spin
        jumps = not real and now.seconds_to_next_deadline < math.inf
        self._set(rate=1.0 if real else 0.0, autojump_threshold=0.0 if jumps else math.inf)

    def _set(self, *, rate: float, autojump_threshold: float) -> None:
        if rate != self._clock.rate:
            self._clock.rate = rate
        if autojump_threshold != self._clock.autojump_threshold:
            self._clock.autojump_threshold = autojump_threshold


def _files_awaited(statistics: object) -> int:
    names = ("tasks_waiting_read", "tasks_waiting_write", "tasks_waiting")  # epoll, kqueue
    return sum(getattr(statistics, name, 0) for name in names)


class CountedSteps(trio.abc.Instrument):
    """Counts the steps of all tasks. What is due at one of them is done soon after it."""

    def __init__(self, turns: StepCounter) -> None:
        self._turns = turns
        turns.soon = lambda then: trio.lowlevel.current_trio_token().run_sync_soon(then)

    def before_run(self) -> None:
        """Learn how to wake the loop. Called by trio."""
        token = trio.lowlevel.current_trio_token()
        self._turns.wake = lambda: token.run_sync_soon(int)  # does nothing

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """One turn. Called by trio."""
        del task
        self._turns.turn()


def run_counted(turns: StepCounter, main: Callable[[StepCounter], Awaitable[T]]) -> T:
    """`main(turns)` on virtual time, its steps counted."""
    clock, pacing = virtual_clock()
    read = clock.current_time

    def checked() -> float:
        turns.check()
        return read()

    clock.current_time = checked  # type: ignore[method-assign]  # final; read in every round
    try:
        return trio.run(main, turns, clock=clock, instruments=[pacing, CountedSteps(turns)])
    except trio.TrioInternalError as crash:
        raise crash.__cause__ or crash from None
