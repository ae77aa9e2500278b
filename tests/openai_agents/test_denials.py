"""A refusal ends the run wherever in the tree it fell: once, unwrapped, and nothing follows."""

import asyncio
import itertools
import traceback
from functools import partial

import anyio
import pytest
from agents import (
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    Runner,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
)

from comptroller import (
    BudgetExceeded,
    LedgerRefused,
    LedgerUnreachable,
    LimitReached,
    Limits,
    RunCancelled,
    risk_points,
    tokens,
)
from comptroller._eventloop import open_host
from comptroller.openai_agents.errors import for_sdk
from comptroller.testing import ScriptedLedger, lost_request, rate_limited, server_error
from openai_agents.scenarios.agents import own_loop
from openai_agents.scenarios.models import retrying
from openai_agents.scenarios.sessions import a_session_that_is_compacted
from support.recording_models import Trace, call
from support.scope_fixture import open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

POOR = {"tenant:acme/agent:Expert": (tokens(1),)}


def expert(trace):
    return trace.agent("Expert", "clever", "I must not be asked.")


def outer(trace, *tools, turns=None, **fields):
    turns = ([call("weather")], "I must not be asked again.") if turns is None else turns
    return trace.agent("Outer", "quick", *turns, tools=list(tools), **fields)


def as_a_tool(trace, **options):
    return outer(trace, expert(trace).as_tool("weather", "asks", **options),
                 turns=([call("weather", input="?")], "I must not be asked again."))  # fmt: skip


def as_a_tool_of_a_tool(trace):
    turns = ([call("ask", input="?")], "I must not be asked again.")
    middle = trace.agent("Middle", "deep", *turns, tools=[expert(trace).as_tool("ask", "asks")])
    return outer(trace, middle.as_tool("weather", "asks"),
                 turns=([call("weather", input="?")], "I must not be asked again."))  # fmt: skip


def in_a_tool(trace):
    agent = expert(trace)

    async def consult() -> str:
        return (await Runner.run(agent, "?")).final_output

    return outer(trace, trace.tool(consult))


def in_a_tool_that_hides_errors(trace):
    agent = expert(trace)

    async def consult() -> str:
        try:
            return (await Runner.run(agent, "?")).final_output
        except Exception as error:  # noqa: BLE001 - that is what it does
            return f"never mind: {error}"

    return outer(trace, trace.tool(consult))


def in_a_stream_in_a_tool(trace):
    agent = expert(trace)

    async def consult() -> str:
        result = Runner.run_streamed(agent, "?")
        return str([event async for event in result.stream_events()])

    return outer(trace, trace.tool(consult))


def in_a_stream_in_a_thread(trace):
    agent = expert(trace)

    async def read() -> str:
        result = Runner.run_streamed(agent, "?")
        return str([event async for event in result.stream_events()])

    async def consult() -> str:
        return await asyncio.to_thread(lambda: asyncio.run(read()))

    return outer(trace, trace.tool(consult))


def in_instructions(trace):
    agent = expert(trace)

    async def instructions(context, agent_):
        return (await Runner.run(agent, "?")).final_output

    return outer(trace, turns=("I must not be asked.",), instructions=instructions)


def in_a_synchronous_tool(trace):
    agent = expert(trace)

    def consult() -> str:
        with own_loop():
            return Runner.run_sync(agent, "?").final_output

    return outer(trace, trace.tool(consult))


def in_a_thread_of_a_tool(trace):
    agent = expert(trace)

    async def consult() -> str:
        work = asyncio.to_thread(lambda: asyncio.run(Runner.run(agent, "?")))
        return (await work).final_output

    return outer(trace, trace.tool(consult))


def judged(trace):
    agent = expert(trace)

    async def judge(context, agent_, given):
        await Runner.run(agent, "?")
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    return judge


def in_an_input_guardrail(trace):
    guard = InputGuardrail(judged(trace), run_in_parallel=False)
    return outer(trace, turns=("I must not be asked.",), input_guardrails=[guard])


def in_an_input_guardrail_beside(trace):
    guard = InputGuardrail(judged(trace))
    return outer(trace, turns=("I may be asked.",), input_guardrails=[guard])


def in_an_output_guardrail(trace):
    return outer(trace, turns=("Done.",), output_guardrails=[OutputGuardrail(judged(trace))])


def in_a_tool_guardrail(trace):
    agent = expert(trace)

    async def judge(data):
        await Runner.run(agent, "?")
        return ToolGuardrailFunctionOutput.allow()

    tool = trace.tool()
    tool.tool_input_guardrails = [ToolInputGuardrail(judge)]
    return outer(trace, tool)


def after_a_handoff(trace):
    return outer(trace, turns=([call("transfer_to_expert")],), handoffs=[expert(trace)])


PLACES = {
    place.__name__: place
    for place in (
        as_a_tool, as_a_tool_of_a_tool, in_a_tool, in_a_tool_that_hides_errors,
        in_a_stream_in_a_tool, in_a_stream_in_a_thread, in_instructions, in_a_synchronous_tool,
        in_a_thread_of_a_tool,
        in_an_input_guardrail, in_an_input_guardrail_beside, in_an_output_guardrail,
        in_a_tool_guardrail, after_a_handoff,
    )
}  # fmt: skip
PLACES["as_a_tool_that_raises"] = partial(as_a_tool, failure_error_function=None)
PLACES["as_a_streamed_tool"] = partial(as_a_tool, on_stream=lambda event: None)


async def by_run(agent, run):
    await run("go")


async def by_stream(agent, run):
    async for _ in run.stream("go"):
        pass


async def by_runner(agent, run):
    async with open_host() as host:
        await host.aio(Runner.run)(agent, "go")


async def by_runners_stream(agent, run):
    async def consume():
        async for _ in Runner.run_streamed(agent, "go").stream_events():
            pass

    async with open_host() as host:
        await host.aio(consume)()


WAYS = [by_run, by_stream, by_runner, by_runners_stream]


async def refused(books, way, agent, kind):
    """The run is refused once, and says so to everyone who asks."""
    with pytest.raises(kind) as caught:
        await way(agent, books.run)
    assert type(caught.value) is type(for_sdk(kind("the same, as the SDK hands it on")))
    with pytest.raises(kind) as again:
        await books.run("once more")
    assert again.value is caught.value
    return caught.value


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
async def test_a_denial_ends_the_whole_run(place, way):
    """Wherever the denied agent stands, the outer model is not asked again."""
    trace = Trace()
    agent = PLACES[place](trace)
    async with open_books(agent, POOR) as books:
        denial = await refused(books, way, agent, BudgetExceeded)
    voices = {voice.model: voice.asked for voice in trace.voices}
    assert voices["clever"] == 0
    assert voices["quick"] <= 1
    assert voices.get("deep", 0) <= 1
    [line] = books.refused
    assert (line.agent, line.id) == ("Expert", denial.call)
    assert denial.scope == "tenant:acme/agent:expert"
    assert "agent Expert" in str(denial)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["denied", "cancelled"])
async def test_a_refusal_does_not_grow_however_often_it_is_raised(way, end):
    """A loop that goes on asking keeps the frames of its last raise, not of all."""
    trace = Trace()
    agent = expert(trace)
    lengths = []
    async with open_books(agent, POOR if end == "denied" else {}) as books:
        if end == "cancelled":
            books.run.cancel("enough")
        for _ in range(4):
            with pytest.raises((BudgetExceeded, RunCancelled)) as caught:
                await way(agent, books.run)
            lengths.append(len([*traceback.walk_tb(caught.value.__traceback__)]))
    assert lengths[1:] == [lengths[1]] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", [lost_request, server_error])
@pytest.mark.parametrize("place", ["as_a_tool", "in_a_tool_that_hides_errors"])
async def test_an_unreachable_ledger_ends_the_whole_run(place, fault, way):
    """The outer call was granted; then the ledger is gone."""
    trace = Trace()
    agent = PLACES[place](trace)

    def around(ledger):
        script = itertools.chain([None, None], itertools.repeat(fault()))
        return ScriptedLedger(ledger, {"reserve": script})

    async with open_books(agent, around=around) as books:
        await refused(books, way, agent, LedgerUnreachable)
    assert {voice.model: voice.asked for voice in trace.voices} == {"quick": 1, "clever": 0}
    assert len(books.refused) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("limits", "place"),
    [
        (Limits(llm_calls=1), "as_a_tool"),
        (Limits(llm_calls=1), "in_a_tool_that_hides_errors"),
        (Limits(llm_calls=1), "in_a_thread_of_a_tool"),
        (Limits(tokens=50), "as_a_tool"),
        (Limits(spend=tokens(40_100)), "as_a_tool"),
    ],
)
async def test_a_reached_limit_ends_the_whole_run(place, limits, way):
    """It is checked before the ledger is asked, and leaves one line all the same."""
    trace = Trace()
    agent = PLACES[place](trace)
    async with open_books(agent, limits=limits) as books:
        await refused(books, way, agent, LimitReached)
    assert sum(voice.asked for voice in trace.voices) == 1
    assert [line.agent for line in books.refused] == ["Expert"]


NO_WEATHER = {"tenant:acme/agent:Outer/toolset:weather": (risk_points(1),)}


@pytest.mark.parametrize("way", WAYS)
async def test_a_denied_tool_does_not_run_and_ends_the_run(way):
    """Its sibling that ran is charged, one that waited for its grant is not."""
    trace = Trace()

    async def slow() -> str:
        await asyncio.sleep(60)
        return "late"

    calls = [call("clock"), call("weather")]
    agent = trace.agent("Outer", "quick", calls, "I must not be asked again.",
                        tools=[trace.tool(slow, name_override="clock"), trace.tool()])  # fmt: skip
    async with open_books(agent, NO_WEATHER) as books:
        await refused(books, way, agent, BudgetExceeded)
    assert "weather" not in trace.tools
    assert trace.voices[0].asked == 1
    [denied] = books.refused
    assert denied.name == "weather"
    [clock] = [line for line in books.lines if line.name == "clock"]
    ran = "clock" in trace.tools
    assert (clock.outcome, clock.charged and clock.charged.amount) == (
        ("abandoned", 5) if ran else ("released", None)
    )


@pytest.mark.parametrize("way", WAYS)
async def test_a_denied_nested_tool_ends_the_whole_run(way):
    """The tool of an agent that is a tool itself."""
    trace = Trace()
    inner = trace.agent("Inner", "clever", [call("weather")], "never", tools=[trace.tool()])
    turns = ([call("ask", input="?")], "I must not be asked again.")
    agent = trace.agent("Outer", "quick", *turns, tools=[inner.as_tool("ask", "asks")])
    budgets = {"tenant:acme/agent:Inner": (tokens(10**6), risk_points(1))}
    async with open_books(agent, budgets) as books:
        await refused(books, way, agent, BudgetExceeded)
    assert [voice.asked for voice in trace.voices] == [1, 1]
    assert trace.tools == []


RETRIED = [
    ({"tenant:acme/agent:Outer": (tokens(1),)}, None, BudgetExceeded),
    ({}, lost_request(), LedgerUnreachable),
    ({}, server_error(503), LedgerUnreachable),
    ({}, rate_limited(0), LedgerRefused),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("budgets", "fault", "kind"), RETRIED)
async def test_a_refusal_is_never_retried(budgets, fault, kind, way):
    """Not by a policy that retries everything: the ledger is asked once for the one call."""
    trace, records = Trace(), []
    agent = trace.agent("Outer", "quick", "never", model_settings=retrying(4))

    def around(ledger):
        script = {} if fault is None else {"reserve": itertools.repeat(fault)}
        records.append(ScriptedLedger(ledger, script))
        return records[0]

    async with open_books(agent, budgets, around=around) as books:
        began = anyio.current_time()
        await refused(books, way, agent, kind)
        assert anyio.current_time() == began  # a retry would have paused first
    assert trace.attempts == []
    assert len(records[0].asked("reserve")) == 1
    assert len(books.lines) == 1


async def test_a_denied_compaction_ends_the_run():
    """It is an LLM call like any other, and nobody is told of its denial but the caller."""
    trace = Trace()
    play = a_session_that_is_compacted(trace)
    budgets = {"tenant:acme/agent:Triage agent": (tokens(40_100), risk_points(10))}
    async with open_books(play.agent, budgets) as books:
        with pytest.raises(BudgetExceeded, match=r"gpt-4\.1"):
            await books.run("go", **play.options)
        with pytest.raises(BudgetExceeded):
            await books.run("go on", **play.options)
    play.options["session"].underlying_session.close()
    assert trace.compacted == []
    assert trace.voices[0].asked == 1
