"""Agents caught in the act: a model, a tool, a nested agent or a stream that is under way.

A `Play` has an agent, what is done with it inside a governed scope (`act`), and a way to wait until
it is in the middle of it (`underway`). Everything waits for what never comes, unless it is let go.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
from agents import Agent, function_tool
from agents.testing import function_call

from comptroller import Policy, governed_run, open_supervisor
from comptroller.money import risk_points, tokens
from comptroller.testing import BlockedModel, CountingModel, StreamingModel
from comptroller.testing.cross_loop import CrossLoopEvent

ESTIMATE = tokens(100)


def policy(**changes: Any) -> Policy:
    given = {"llm_estimate": ESTIMATE, "tools": {"work": risk_points(7)}, "settle_timeout": 1}
    return Policy(**(given | changes))


@attrs.define
class Play:
    """See the head of this module.

    Attributes:
        log: what tools did, in order.
        clean_up: seconds that its tools need after they are cancelled.
    """

    agent: Agent[Any]
    act: Callable[[Any], Awaitable[Any]]
    underway: Callable[[], Awaitable[Any]]
    log: list[str] = attrs.Factory(list)
    clean_up: float = 0.0
    let_go: Callable[[], object] = lambda: None


async def run_it(run: Any) -> Any:
    return await run("go")


async def stream_it(run: Any) -> str:
    stream = run.stream("go")
    async for _ in stream:
        pass
    return str(stream.final_output)


def asking(turns: int, *more: Any) -> CountingModel:
    """A model that asks for the tool `work` so many times at once, then answers."""
    calls = [function_call("work", {}, call_id=f"call-{n}") for n in range(turns)]
    return CountingModel(calls, *more, "done")


def plain() -> Play:
    model = BlockedModel()
    agent = Agent("Plain", model=model)
    return Play(agent, run_it, model.started, let_go=model.release)


def with_tool(clean_up: float = 0.0) -> Play:
    return _tools(1, clean_up)


def with_tools(clean_up: float = 0.0) -> Play:
    return _tools(3, clean_up)


def _tools(count: int, clean_up: float) -> Play:
    started, go = [CrossLoopEvent() for _ in range(count)], CrossLoopEvent()
    log: list[str] = []
    waiting = iter(started)

    @function_tool(failure_error_function=None)
    async def work() -> str:
        next(waiting).open()
        try:
            await go.wait_on_asyncio()
            log.append("worked")
        finally:
            if clean_up:
                await asyncio.sleep(clean_up)
                log.append("cleaned up")
        return "worked"

    async def underway() -> None:
        for latch in started:
            await latch.wait()

    agent = Agent("Handy", model=asking(count), tools=[work])
    return Play(agent, run_it, underway, log, clean_up, go.open)


def with_thread() -> Play:
    """A synchronous tool: its thread runs on to its end, whoever is cancelled."""
    started, go = CrossLoopEvent(), threading.Event()
    log: list[str] = []

    @function_tool(failure_error_function=None)
    def work() -> str:
        started.open()
        go.wait(10)
        log.append("worked")
        return "worked"

    return Play(Agent("Threaded", model=asking(1), tools=[work]), run_it, started.wait, log,
                let_go=go.set)  # fmt: skip


def nested() -> Play:
    model = BlockedModel()
    inner = Agent("Inner", model=model)
    call = function_call("ask", {"input": "?"}, call_id="call-1")
    tool = inner.as_tool("ask", "asks")
    outer = Agent("Outer", model=CountingModel([call], "done"), tools=[tool])
    return Play(outer, run_it, model.started, let_go=model.release)


def streamed() -> Play:
    """A stream in the middle of its text."""
    model = StreamingModel(*["words "] * 20, pause=1.0)

    async def underway() -> None:
        await model.started()
        await anyio.sleep(2.5)

    return Play(Agent("Teller", model=model), stream_it, underway)


def streamed_silence() -> Play:
    """A stream that has not begun to speak."""
    play = plain()
    play.act = stream_it
    return play


def streamed_tool() -> Play:
    play = with_tool()
    play.act = stream_it
    return play


SHAPES: dict[str, Callable[[], Play]] = {
    "plain": plain,
    "with_tool": with_tool,
    "with_tools": with_tools,
    "nested": nested,
    "streamed": streamed,
    "streamed_silence": streamed_silence,
    "streamed_tool": streamed_tool,
}


@asynccontextmanager
async def supervised_run(agent, tenant, *, ledger, policy=None, limits=None, run_id=None):
    """As `governed_run`, on a supervisor of its own."""
    async with open_supervisor(ledger=ledger, policy=policy) as supervisor:
        async with supervisor.run(agent, tenant, limits=limits, run_id=run_id) as run:
            yield run


SCOPES = {"governed": governed_run, "supervised": supervised_run}
