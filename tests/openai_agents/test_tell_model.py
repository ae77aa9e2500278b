"""Under `on_tool_denied="tell_model"` the model reads that a tool was not run, and goes on."""

import json

import anyio
import pytest
from agents import CustomTool, ToolGuardrailFunctionOutput, ToolInputGuardrail
from openai.types.responses import ResponseCustomToolCall
from runcycles import Caps

from comptroller import BudgetExceeded, LedgerUnreachable, Limits, risk_points, tokens
from comptroller.testing import RecordingLedger, virtual_backend
from openai_agents.scenarios import agents, approvals, guardrails, tools
from support.governed_vs_plain import Way, compare, governed, ungoverned
from support.recording_models import Trace, call
from support.scope_fixture import PLENTY, open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TELL = {"on_tool_denied": "tell_model"}
NO_WEATHER = {"tenant:acme/agent:Outer/toolset:weather": (risk_points(1),)}


def tools_of(trace, *names, **options):
    return [trace.tool(name_override=name, **options) for name in names]


async def by_run(run, given="go"):
    return await run(given)


async def by_stream(run, given="go"):
    stream = run.stream(given)
    async for _ in stream:
        pass
    return stream


both_ways = pytest.mark.parametrize("way", [by_run, by_stream])


def read(trace, attempt):
    """What the n-th attempt read of tool results: call id -> text."""
    items = json.loads(trace.attempts[attempt].asked[1])
    return {item["call_id"]: item["output"] for item in items if "output" in item}


@both_ways
async def test_the_model_reads_what_was_denied_and_goes_on(way):
    trace = Trace()
    agent = trace.agent("Outer", "quick", [call("weather")], "Then without.",
                        tools=tools_of(trace, "weather"))  # fmt: skip
    async with open_books(agent, NO_WEATHER, **TELL) as books:
        result = await way(books.run)
    assert result.final_output == "Then without."
    assert result.last_agent is agent
    text = read(trace, 1)["weather-1"]
    assert "weather was not run" in text
    assert "3 risk points requested for tool weather by agent Outer, 1 risk point left" in text
    assert trace.tools == []
    assert books.tools() == [("weather", "denied", None)]
    assert books.outcomes() == [("Outer", "committed")] * 2


@both_ways
async def test_of_several_tools_only_the_denied_one_does_not_run(way):
    trace = Trace()
    calls = [call(name) for name in ("clock", "weather", "moon")]
    agent = trace.agent("Outer", "quick", calls, [call("weather", 2)], "Two of three.",
                        tools=tools_of(trace, "clock", "weather", "moon"))  # fmt: skip
    async with open_books(agent, NO_WEATHER, **TELL) as books:
        result = await way(books.run)
    assert result.final_output == "Two of three."
    assert sorted(trace.tools) == ["clock", "moon"]
    assert "was not run" in read(trace, 1)["weather-1"]
    assert read(trace, 1)["clock-1"] == "done"
    assert "was not run" in read(trace, 2)["weather-2"]
    assert sorted(books.tools()) == [
        ("clock", "committed", 5), ("moon", "committed", 2), ("weather", "denied", None),
        ("weather", "denied", None),
    ]  # fmt: skip


@both_ways
async def test_a_nested_agents_model_is_told_too(way):
    trace = Trace()
    inner = trace.agent("Inner", "clever", [call("weather")], "No idea.",
                        tools=tools_of(trace, "weather"))  # fmt: skip
    agent = trace.agent("Outer", "quick", [call("ask", input="?")], "Nobody knows.",
                        tools=[inner.as_tool("ask", "asks")])  # fmt: skip
    budgets = {"tenant:acme/agent:Inner": (tokens(10**6), risk_points(1))}
    async with open_books(agent, budgets, **TELL) as books:
        result = await way(books.run)
    assert result.final_output == "Nobody knows."
    assert books.tools() == [("ask", "committed", 2), ("weather", "denied", None)]


@both_ways
async def test_limits_and_caps_are_told_as_well(way):
    trace = Trace()
    turns = [[call("clock", n)] for n in (1, 2)]
    agent = trace.agent("Outer", "quick", *turns, [call("weather")], "Enough.",
                        tools=tools_of(trace, "clock", "weather"))  # fmt: skip
    limits = Limits(tool_calls={"clock": 1})
    async with open_books(agent, limits=limits, **TELL) as books:
        await books.ledger.set_budget(
            "tenant:acme", PLENTY["tenant:acme"][0], caps=Caps(tool_denylist=["weather"])
        )
        result = await way(books.run)
    assert result.final_output == "Enough."
    assert trace.tools == ["clock"]
    assert "limit of tool_calls[clock]=1" in read(trace, 2)["clock-2"]
    assert "caps forbid the tool weather" in read(trace, 3)["weather-1"]


@both_ways
async def test_a_grant_that_waits_for_an_approval_is_given_back(way):
    """Reserved when the model asked for it, released when the episode ended without it; approved
    later, it is asked for anew.
    """
    trace = Trace()
    agent = trace.agent("Outer", "quick", [call("weather")], "Sunny.",
                        tools=tools_of(trace, "weather", needs_approval=True))  # fmt: skip
    async with open_books(agent, **TELL) as books:
        first = await way(books.run)
        state = first.to_state()
        state.approve(first.interruptions[0])
        second = await way(books.run, state)
    assert second.final_output == "Sunny."
    assert books.tools() == [("weather", "released", None), ("weather", "committed", 3)]


@both_ways
async def test_a_grant_whose_tool_a_guardrail_rejects_is_given_back(way):
    """When the model is asked again, not only at the end: its budget is free for that call."""
    trace = Trace()
    [tool] = tools_of(trace, "weather")

    async def judge(data):
        return ToolGuardrailFunctionOutput.reject_content("not that")

    tool.tool_input_guardrails = [ToolInputGuardrail(judge)]
    agent = trace.agent("Outer", "quick", [call("weather")], "Then without.", tools=[tool])
    async with open_books(agent, **TELL) as books:
        await way(books.run)
    assert books.tools() == [("weather", "released", None)]
    assert read(trace, 1)["weather-1"] == "not that"
    [line] = [line for line in books.lines if line.kind == "tool.invoke"]
    assert line.reason == "the model was asked again without running it"


@both_ways
async def test_a_call_that_stands_twice_in_a_response_is_paid_once(way):
    """The SDK runs it once; repeated in a later response, it is not run again."""
    trace = Trace()
    agent = trace.agent("Outer", "quick", [call("weather"), call("weather")], [call("weather")],
                        "Sunny.", tools=tools_of(trace, "weather"))  # fmt: skip
    async with open_books(agent, **TELL) as books:
        await way(books.run)
    assert trace.tools == ["weather"]
    assert books.tools() == [("weather", "committed", 3), ("weather", "released", None)]


@both_ways
async def test_a_resumed_approval_that_is_denied_ends_the_run(way):
    """Nobody is left to be told: the model has asked in an earlier episode."""
    trace = Trace()
    agent = trace.agent("Outer", "quick", [call("weather")], "never",
                        tools=tools_of(trace, "weather", needs_approval=True))  # fmt: skip
    budgets = {"tenant:acme/agent:Outer/toolset:weather": (risk_points(3),)}
    async with open_books(agent, budgets, **TELL) as books:
        first = await way(books.run)
        state = first.to_state()
        state.approve(first.interruptions[0])
        await books.ledger.freeze("tenant:acme/agent:Outer/toolset:weather")
        with pytest.raises(BudgetExceeded):
            await way(books.run, state)
    assert trace.tools == []


@both_ways
async def test_a_denied_tool_without_json_arguments_ends_the_run(way):
    """The SDK can be told to reject function tools only."""
    trace = Trace()

    async def run(context, given):
        raise AssertionError("it must not run")

    asked = ResponseCustomToolCall(type="custom_tool_call", call_id="c", name="weather", input="x")
    tool = CustomTool(name="weather", description="asks", on_invoke_tool=run)
    agent = trace.agent("Outer", "quick", [asked], "never", tools=[tool])
    async with open_books(agent, NO_WEATHER, **TELL) as books:
        with pytest.raises(BudgetExceeded):
            await way(books.run)
    assert books.tools() == [("weather", "denied", None)]


@both_ways
async def test_a_lost_ledger_ends_the_run_and_charges_no_tool(way):
    """One reservation comes after its sibling's has failed: neither tool began, neither is paid."""
    trace = Trace()
    agent = trace.agent("Outer", "quick", [call("clock"), call("weather")], "never",
                        tools=tools_of(trace, "clock", "weather"))  # fmt: skip

    class Torn(RecordingLedger):
        async def _handle(self, request, forward):
            name = request.body.action.name if request.verb == "reserve" else None
            if name == "weather":
                raise LedgerUnreachable("gone", status=-1)
            if name == "clock":
                await anyio.sleep(1)
            return await forward()

    async with open_books(agent, around=Torn, **TELL) as books:
        with pytest.raises(LedgerUnreachable):
            await way(books.run)
    assert trace.tools == []
    assert ("clock", "released", None) in books.tools()
    assert [line.name for line in books.refused] == ["weather"]


TELLING = [Way(), Way(streamed=True, nested=True, hooked=True)]
PERFORMANCES = [
    pytest.param(scenario, way, id=f"{scenario.name}-{way}")
    for module in (agents, tools, guardrails, approvals)
    for scenario in module.SCENARIOS
    for way in TELLING
    if scenario.nested >= way.nested
]


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
@pytest.mark.parametrize(("scenario", "way"), PERFORMANCES)
async def test_same_as_ungoverned_while_nothing_is_denied(scenario, way, anyio_backend):
    """Reserving ahead of time changes neither the calls nor what they cost."""
    alone = await ungoverned(scenario.build, way)
    compare(alone, await governed(scenario.build, way, **TELL), way)
