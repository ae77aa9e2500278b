"""Many agents at once: each call is charged its own usage, whoever finishes first."""

import asyncio

import pytest
from agents import Runner

from comptroller import BudgetExceeded, tokens
from support.governed_vs_plain import Play, Way, governed, ungoverned
from support.recording_models import Trace, Turn, Voice, assistant_message, call
from support.scope_fixture import open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


def cast(trace, count=8):
    """Experts of different speed and cost, all asked in one response; the cheapest is slowest."""
    experts = []
    for number in range(1, count + 1):

        async def think(seconds=count - number):
            await asyncio.sleep(seconds)

        turns = [Turn([call("clock", number)], after=think), Turn([assistant_message("x")])]
        voice = Voice(trace, "quick", *turns, size=number)
        clock = trace.tool(name_override="clock")
        experts.append(trace.agent(f"Expert {number}", voice, tools=[clock]))
    calls = [call(f"ask_{number}", input="?") for number in range(1, count + 1)]
    tools = [trace.watched(each.as_tool(f"ask_{n}", "asks")) for n, each in enumerate(experts, 1)]
    return trace.agent("Outer", "deep", calls, "All said.", tools=tools)


@both_ways
async def test_eight_nested_agents_are_each_charged_their_own_usage(streamed):
    """By name, by episode, and in sum."""
    trace = Trace()
    agent = cast(trace)
    async with open_books(agent) as books:
        if streamed:
            async for _ in books.run.stream("go"):
                pass
        else:
            await books.run("go")
    for number in range(1, 9):
        mine = [line for line in books.lines if line.agent == f"Expert {number}"]
        kinds = [(line.kind, line.charged.amount) for line in mine]
        first, second = 120 * number + 2, 120 * number + 4
        assert kinds == [("llm.completion", first), ("tool.invoke", 5), ("llm.completion", second)]
        assert len({line.episode for line in mine}) == 1
    episodes = {line.episode for line in books.lines if line.agent != "Outer"}
    assert len(episodes) == 8
    assert {line.parent for line in books.lines if line.agent != "Outer"} == {"1"}


@both_ways
async def test_eight_nested_agents_do_what_they_do_without_us(streamed):
    def scenario(trace):
        return Play(cast(trace), unordered=True)

    way = Way(streamed=streamed)
    alone, other = await ungoverned(scenario, way), await governed(scenario, way)
    assert other.outcome.said == alone.said
    assert sorted(other.outcome.trace.tools) == sorted(alone.trace.tools)


async def test_a_budget_for_half_of_them_is_never_overspent():
    """What is reserved at once never exceeds what remains; the first denial ends all."""
    trace = Trace()
    agent = cast(trace)
    budgets = {f"tenant:acme/agent:Expert {number}": (tokens(10**6),) for number in range(1, 9)}
    budgets["tenant:acme/agent:Expert 5"] = (tokens(100),)
    async with open_books(agent, budgets, tools=None) as books:
        with pytest.raises(BudgetExceeded, match="agent Expert 5"):
            await books.run("go")
    assert [line.agent for line in books.refused] == ["Expert 5"]
    assert [voice.asked for voice in trace.voices if voice.model == "deep"] == [1]


async def test_an_expert_that_fails_is_charged_and_the_others_go_on():
    trace = Trace()
    agent = cast(trace, 3)
    trace.voices[1].turns[0] = Turn(error=ValueError("broken"))
    async with open_books(agent) as books:
        result = await books.run("go")
    assert result.final_output == "All said."
    [line] = [line for line in books.lines if line.agent == "Expert 2"]
    assert (line.outcome, line.charged) == ("abandoned", tokens(40_000))


async def test_two_threads_of_one_tool_do_not_mix():
    """Each with a loop of its own, at the same time as the outer one."""
    trace = Trace()
    experts = [trace.agent(f"Expert {n}", Voice(trace, "quick", "x", size=n)) for n in (1, 2, 3)]

    async def consult() -> str:
        work = [asyncio.to_thread(lambda e=each: asyncio.run(Runner.run(e, "?")))
                for each in experts]  # fmt: skip
        return str([result.final_output for result in await asyncio.gather(*work)])

    agent = trace.agent("Outer", "deep", [call("weather")], "Done.", tools=[trace.tool(consult)])
    async with open_books(agent) as books:
        await books.run("go")
    charged = {line.agent: line.charged.amount for line in books.lines if "Expert" in line.agent}
    assert charged == {"Expert 1": 122, "Expert 2": 242, "Expert 3": 362}
