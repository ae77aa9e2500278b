"""A run under hooks, given up at every turn of its loop: nothing is left, nothing given back.

Cancelled natively, once and twice; plain, streamed, and behind hooks of one's own.
"""

import asyncio
import gc
from contextlib import suppress

import pytest
from agents import Agent, Runner
from agents.testing import function_call

from comptroller.testing import CountingModel, VirtualTimeLoop
from support.hooks_fixture import hooks_on, search
from support.hooks_scenarios import Beside

pytestmark = pytest.mark.filterwarnings(
    # The SDK starts tasks; one that is cancelled before its first step never takes it.
    "ignore:coroutine '.*' was never awaited:RuntimeWarning",
    "ignore:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def _collected():
    """What tasks that never began leave is collected here, not in another test."""
    yield
    gc.collect()


class Loop(VirtualTimeLoop):
    """Cancels a task at some of its turns."""

    turns = 0
    task: "asyncio.Task[object] | None" = None
    due: frozenset[int] = frozenset()

    def _run_once(self) -> None:
        if self.task is not None:
            self.turns += 1
            if self.turns in self.due:
                self.task.cancel()
        super()._run_once()


def cast():
    inner = CountingModel("inner answer")
    ask = Agent(name="Inner", model=inner).as_tool("ask", "asks")
    both = [
        function_call("search", {"query": "x"}, call_id="c1"),
        function_call("ask", {"input": "y"}, call_id="c2"),
    ]
    outer = CountingModel(both, "done")
    return Agent(name="Outer", model=outer, tools=[search, ask]), (outer, inner)


async def read(agent, hooks):
    async for _ in Runner.run_streamed(agent, "hi", hooks=hooks).stream_events():
        pass


WAYS = {
    "run": lambda agent, hooks: hooks.run(agent, "hi"),
    "plain": lambda agent, hooks: Runner.run(agent, "hi", hooks=hooks),
    "streamed": read,
    "beside": lambda agent, hooks: Runner.run(agent, "hi", hooks=Beside(hooks)),
}


async def once(way, due):
    """How many turns it took. Checks what is left."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    async with hooks_on() as (hooks, ledger):
        agent, models = cast()
        loop.due = frozenset(due)
        loop.task = asyncio.ensure_future(WAYS[way](agent, hooks))
        with suppress(asyncio.CancelledError):
            await loop.task
        took, loop.task = loop.turns, None
        if way == "streamed":  # its consumer was cancelled: the SDK's own run goes on to its end
            await until(lambda: hooks._carried == {})
        assert hooks._carried == hooks._begun == {}
        del ledger  # hooks_on sees that nothing is reserved in it
        charged = [line for line in hooks.receipt.calls if line.charged is not None]
        llm = sum(line.kind == "llm.completion" for line in charged)
        dispatches = sum(model.dispatches for model in models)
        # behind other hooks a call counts as begun when its callback has returned
        assert llm in (dispatches, dispatches + (way == "beside"))
        assert not any(line.open for line in hooks.receipt.calls)
    await until(lambda: asyncio.all_tasks() <= before)
    return took


async def until(done):
    for _ in range(10_000):
        if done():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


def played(way, due):
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(once(way, due))


@pytest.mark.parametrize(
    ("way", "again"),
    [("run", None), ("run", 2), ("plain", 5), ("streamed", None), ("streamed", 2), ("beside", 2)],
)
def test_given_up_at_every_turn(way, again):
    turns = played(way, ())
    assert turns > 20
    for turn in range(1, turns + 1):
        played(way, (turn,) if again is None else (turn, turn + again))
