"""The checkpoint sweep: a run is given up at every single turn of its event loop.

One program is run once to count the turns of its loop, then once for every turn, at which it is
given up. Each time: the scope exits within its bound, no task is left, the ledger holds no
reservation, and what was spent is what the models and tools saw.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import attrs
import pytest
import trio
from anyio.lowlevel import current_token

from comptroller import RunCancelled, governed_run
from comptroller.ledger.memory import MemoryLedger
from comptroller.money import risk_points, tokens
from comptroller.testing import StalledLedger, VirtualTimeLoop, assert_settled, no_task_left
from comptroller.testing.trio_clock import virtual_clock
from runtime.bench import EPOCH_MS, funded
from trees import Dispatched, Tree, Truth, Turn, Work, act, each_ended_once, is_true, made, rules

NESTED = Tree([Turn(0.5, "answers", 20, [Work(0.5, "returns")]), Turn(0, "answers", 10)])
TREE = Tree(
    [
        Turn(0.5, "answers", 40, [Work(0.5, "returns"), Work(1, "returns"), NESTED]),
        Turn(0, "silent", 0, [Work(0, "reports")]),
        Turn(0.25, "answers", 30),
    ]
)

# The SDK starts tasks; one that is cancelled before its first step never takes it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine '.*' was never awaited:RuntimeWarning",
    "ignore:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning",
)

SETTLING = 1
RULES = attrs.evolve(rules(TREE), settle_timeout=SETTLING)


class Turns:
    """Counts the turns of a loop, and calls `then` at turns that were asked for."""

    def __init__(self) -> None:
        self.count = 0
        self.soon: Callable[[Callable[[], object]], object] = lambda then: then()
        self._due: dict[int, Callable[[], object]] = {}

    def at(self, turns: list[int], then: Callable[[], object]) -> None:
        self._due = {self.count + turn: then for turn in turns}

    def turn(self) -> None:
        self.count += 1
        if then := self._due.pop(self.count, None):
            self.soon(then)


class CountedLoop(VirtualTimeLoop):
    turns: Turns

    def _run_once(self) -> None:
        self.turns.turn()
        super()._run_once()


class CountedTrio(trio.abc.Instrument):
    """A turn on trio is a step of any task. What is due is done soon after it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        turns.soon = lambda then: trio.lowlevel.current_trio_token().run_sync_soon(then)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._turns.turn()


def run(backend: str, main: Callable[[Turns], object]) -> None:
    turns = Turns()
    if backend == "asyncio":
        loop = type("Loop", (CountedLoop,), {"turns": turns})
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main(turns))
    else:
        clock, pacing = virtual_clock()
        trio.run(main, turns, clock=clock, instruments=[pacing, CountedTrio(turns)])


@attrs.frozen
class Way:
    """How it is given up: `how`, again after so many turns, on what ledger, plain or streamed."""

    how: str = "scope"
    again: int | None = None
    stalls: bool = False
    streams: bool = False


class Sweep:
    """One program, given up at one turn of it; None: never."""

    def __init__(self, way: Way, turn: int | None) -> None:
        self._way, self._turn = way, turn
        self._truth = Truth()
        self._run: Any = None
        self._given_up: float | None = None
        self._give_up: Callable[[], object] = lambda: None
        self.turns = 0

    async def main(self, turns: Turns) -> None:
        native: Any = current_token().native_token
        self._clock = getattr(native, "time", trio.current_time)
        async with funded(100_000, 1_000) as memory:
            stalled = ["commit", "release"] if self._way.stalls else []
            ledger = StalledLedger(memory, stalled)
            async with no_task_left():
                if self._turn is not None:
                    again = [] if self._way.again is None else [self._turn + self._way.again]
                    turns.at([self._turn, *again], self._now)
                before = turns.count
                await self._performed(ledger)
                self.turns = turns.count - before
            if self._given_up is not None:
                took = anyio.current_time() - self._given_up
                assert took <= (SETTLING if stalled else 0) + 0.1
            await self._check(memory, ledger)

    def _now(self) -> None:
        if self._way.how == "handle" and self._run is None:
            return
        if self._given_up is None:
            self._given_up = self._clock()
        self._give_up()

    async def _performed(self, ledger: StalledLedger) -> None:
        if self._way.how == "task":
            task = asyncio.create_task(self._program(ledger))
            self._give_up = task.cancel
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None
            return
        with anyio.CancelScope() as scope:
            self._give_up = scope.cancel if self._way.how == "scope" else self._handle
            with suppress(RunCancelled):
                await self._program(ledger)

    def _handle(self) -> None:
        self._run.cancel("at this very turn")

    async def _program(self, ledger: StalledLedger) -> None:
        async with governed_run(
            made(TREE, self._truth), "acme", ledger=ledger, policy=RULES
        ) as self._run:
            await act(self._run, self._way.streams, Dispatched(self._truth))

    async def _check(self, memory: Any, ledger: StalledLedger) -> None:
        await each_ended_once(memory, ledger, lapsing=self._way.stalls)
        if self._run is None:
            assert ledger.asked("reserve") == []
        elif self._way.stalls:
            assert not any(line.open for line in self._run.receipt.calls)
            await anyio.sleep(120)  # the leases run out
            await assert_settled(memory)
        else:
            await is_true(memory, self._run.receipt, self._truth)


WAYS = {
    "scope": Way("scope"),
    "handle": Way("handle"),
    "task": Way("task"),
    "task_twice": Way("task", again=1),
    "task_again": Way("task", again=9),
    "task_stalled": Way("task", stalls=True),
    "scope_stalled": Way("scope", stalls=True),
    "task_twice_stalled": Way("task", again=4, stalls=True),
    "scope_streamed": Way("scope", streams=True),
    "handle_streamed": Way("handle", streams=True),
    "task_streamed": Way("task", streams=True),
}
ON_TRIO = ["scope", "handle", "scope_stalled", "scope_streamed", "handle_streamed"]
MANY = 40  # programs a sweep


@pytest.mark.parametrize(
    ("backend", "way"),
    [*(("asyncio", way) for way in WAYS), *(("trio", way) for way in ON_TRIO)],
)
def test_given_up_at_any_turn_it_leaves_nothing_and_charges_what_was_spent(backend, way, caplog):
    whole = Sweep(Way(streams=WAYS[way].streams), None)
    run(backend, whole.main)
    assert whole.turns > MANY / 4
    step = -(-whole.turns // MANY)
    for turn in range(1 + random.randrange(step), whole.turns, step):
        try:
            run(backend, Sweep(WAYS[way], turn).main)
            failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert failures == []
        except BaseException as error:
            error.add_note(f"given up at turn {turn} of {whole.turns}")
            raise


class LoopStops(Exception):
    pass


def test_a_loop_that_ends_at_any_turn_leaves_nothing():
    """`asyncio.run` cancels all tasks at once, natively, those that have not begun among them."""
    whole = Sweep(Way(), None)
    run("asyncio", whole.main)
    for turn in range(1 + random.randrange(2), whole.turns, 2):
        try:
            _stopped_at(turn)
        except BaseException as error:
            error.add_note(f"the loop ended at turn {turn} of {whole.turns}")
            raise


def _stopped_at(turn: int) -> None:
    ledger, truth, held = MemoryLedger(lambda: EPOCH_MS), Truth(), []

    def stop() -> None:
        raise LoopStops

    async def program(turns: Turns) -> None:
        await ledger.set_budget("tenant:acme", tokens(100_000))
        await ledger.set_budget("tenant:acme", risk_points(1_000))
        turns.at([turn], stop)
        async with governed_run(made(TREE, truth), "acme", ledger=ledger, policy=RULES) as run:
            held.append(run)
            await act(run, False, Dispatched(truth))

    turns = Turns()
    with asyncio.Runner(loop_factory=type("Loop", (CountedLoop,), {"turns": turns})) as runner:
        with pytest.raises(LoopStops):
            runner.run(program(turns))
        before = runner.get_loop().time()
        loop = runner.get_loop()
    assert loop.time() - before <= SETTLING + 1.1  # an actor that has not begun is waited for
    if held:
        asyncio.run(is_true(ledger, held[0].receipt, truth))
    else:
        asyncio.run(assert_settled(ledger))
