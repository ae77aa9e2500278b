"""A grant that comes when its run has ended lets nothing begin, and is given back (law 3)."""

import asyncio

import anyio
import pytest
from agents import RunHooks

from comptroller import RunCancelled, risk_points, tokens
from comptroller.testing import StalledLedger
from support.recording_models import Trace, Turn, assistant_message, call
from support.scope_fixture import open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TOOLS = {"weather": risk_points(7)}


def stalled(ledger):
    return StalledLedger(ledger, [])


class Calling(RunHooks):
    """The user's own hooks: `does()` in one callback."""

    def __init__(self, callback, does):
        async def heard(*_args, **_named):
            does()

        setattr(self, callback, heard)


def caller(trace):
    """An agent that asks for a tool which goes on for a while."""

    async def body() -> str:
        await asyncio.sleep(1)
        return "done"

    tool = trace.tool(body)
    return trace.agent("Caller", "quick", [call("weather")], "Done.", tools=[tool])


async def gone(run, hooks, *, streamed):
    if not streamed:
        await run("go", hooks=hooks)
        return
    async for _ in run.stream("go", hooks=hooks):
        pass


@pytest.mark.parametrize("policy", ["stop", "tell_model"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_tool_does_not_begin_when_a_hook_of_the_users_has_cancelled_its_run(
    streamed, policy
):
    """The cancellation reaches the SDK some turns later only."""
    trace = Trace()
    agent = caller(trace)
    async with open_books(agent, tools=TOOLS, on_tool_denied=policy) as books:
        hooks = Calling("on_tool_start", lambda: books.run.cancel("seen enough"))
        with pytest.raises(RunCancelled, match="seen enough"):
            await gone(books.run, hooks, streamed=streamed)
    assert trace.tools == []
    assert books.tools() == [("weather", "released", None)]
    assert books.lines[-1].reason == "seen enough"


async def cancelled_after(turns, books, ledger):
    """So many turns after a grant has left the ledger."""
    await ledger.reached()
    ledger.resume()
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    books.run.cancel("too late")


@pytest.mark.parametrize("turns", range(8))
async def test_a_run_that_ends_while_a_grant_travels_lets_no_tool_begin(turns):
    """Whichever turn it ends in: a tool that did not run is not charged."""
    trace = Trace()
    agent = caller(trace)
    async with open_books(agent, around=stalled, tools=TOOLS) as books:
        ledger = books.run._run.terms.ledger
        hooks = Calling("on_llm_end", lambda: ledger.stall(["reserve"]))
        async with anyio.create_task_group() as group:
            group.start_soon(cancelled_after, turns, books, ledger)
            with pytest.raises(RunCancelled, match="too late"):
                await books.run("go", hooks=hooks)
    ended = ("abandoned", 7) if trace.tools else ("released", None)
    assert books.tools() == [("weather", *ended)]


@pytest.mark.parametrize("turns", range(8))
async def test_a_run_that_ends_while_a_grant_travels_asks_no_model(turns):
    trace = Trace()
    agent = trace.agent("Slow", "quick", Turn([assistant_message("x")], after=asyncio.Event().wait))
    async with open_books(agent, around=stalled) as books:
        ledger = books.run._run.terms.ledger
        ledger.stall(["reserve"])
        async with anyio.create_task_group() as group:
            group.start_soon(cancelled_after, turns, books, ledger)
            with pytest.raises(RunCancelled, match="too late"):
                await books.run("go")
    ended = ("abandoned", tokens(40_000)) if trace.attempts else ("released", None)
    [line] = books.lines
    assert (line.outcome, line.charged) == ended
