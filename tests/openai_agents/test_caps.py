"""Caps that a ledger attaches to a grant bind the call, and those that follow."""

import asyncio

import anyio
import pytest
from agents import ModelSettings, RunConfig, UserError
from runcycles import Caps

from comptroller import CallDenied, RunCancelled, ToolDenied, tokens
from support.recording_models import Trace, call
from support.scope_fixture import open_books

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


async def cap(books, **caps):
    """From now on these bind every grant of acme's tokens."""
    await books.ledger.set_budget("tenant:acme", tokens(10**9), caps=Caps(**caps) if caps else None)


async def drive(run, streamed, **options):
    if not streamed:
        return await run("go", **options)
    stream = run.stream("go", **options)
    async for _ in stream:
        pass
    return stream


# -- max_tokens


@both_ways
@pytest.mark.parametrize(
    ("own", "sent"), [(None, 100), (50, 50), (100, 100), (500, 100), (-1, 100)]
)
async def test_output_tokens_are_capped_by_the_smaller_number(own, sent, streamed):
    """The user's own limit or the ledger's; the agent is not changed."""
    trace = Trace()
    settings = ModelSettings(max_tokens=own, temperature=0.3)
    agent = trace.agent("Triage agent", "quick", "Sunny.", model_settings=settings)
    async with open_books(agent) as books:
        await cap(books, max_tokens=100)
        await drive(books.run, streamed)
    [attempt] = trace.attempts
    assert (attempt.settings.max_tokens, attempt.settings.temperature) == (sent, 0.3)
    assert agent.model_settings is settings
    assert settings.max_tokens == own


@both_ways
async def test_a_run_configs_limit_is_capped_too(streamed):
    trace = Trace()
    agent = trace.agent("Triage agent", "quick", "Sunny.", "Sunny.")
    async with open_books(agent) as books:
        await cap(books, max_tokens=100)
        for own in (70, 170):
            config = RunConfig(model_settings=ModelSettings(max_tokens=own))
            await drive(books.run, streamed, run_config=config)
    assert [attempt.settings.max_tokens for attempt in trace.attempts] == [70, 100]


BYPASSES = [
    {"extra_args": {"max_output_tokens": 5000}},
    {"extra_args": {"max_tokens": 50}},
    {"extra_body": {"max_completion_tokens": 5000}},
    {"extra_body": {"max_output_tokens": 5000, "other": 1}},
]


@both_ways
@pytest.mark.parametrize("settings", BYPASSES)
async def test_settings_that_would_bypass_the_cap_are_refused_loudly(settings, streamed):
    """Nothing is sent, the grant is given back, and the text says what to write instead."""
    trace = Trace()
    agent = trace.agent("Triage agent", "quick", "never", model_settings=ModelSettings(**settings))
    async with open_books(agent) as books:
        await cap(books, max_tokens=100)
        with pytest.raises(UserError, match=r"set ModelSettings\.max_tokens instead") as caught:
            await drive(books.run, streamed)
    assert "cap of 100 output tokens" in str(caught.value)
    assert trace.attempts == []
    assert books.outcomes() == [("Triage agent", "released")]


@both_ways
@pytest.mark.parametrize("settings", BYPASSES)
async def test_without_a_cap_such_settings_are_the_users_own_business(settings, streamed):
    trace = Trace()
    given = ModelSettings(**settings)
    agent = trace.agent("Triage agent", "quick", "Sunny.", model_settings=given)
    async with open_books(agent) as books:
        await cap(books, cooldown_ms=1)
        await drive(books.run, streamed)
    [attempt] = trace.attempts
    assert (attempt.settings.extra_args, attempt.settings.extra_body) == (
        given.extra_args, given.extra_body,
    )  # fmt: skip


# -- tools


def calling(trace, *names):
    turns = [[call(name)] for name in names]
    tools = [trace.tool(name_override=name) for name in dict.fromkeys(names)]
    return trace.agent("Triage agent", "quick", *turns, "Done.", tools=tools)


@both_ways
@pytest.mark.parametrize(
    ("caps", "denied"),
    [
        ({"tool_denylist": ["weather"]}, True),
        ({"tool_denylist": ["Weather", "clock"]}, False),
        ({"tool_allowlist": ["weather"]}, False),
        ({"tool_allowlist": ["Weather"]}, True),
        ({"tool_allowlist": ["weather"], "tool_denylist": ["weather"]}, False),
        ({"tool_allowlist": [], "tool_denylist": ["weather"]}, True),
        ({"tool_allowlist": []}, False),
    ],
)
async def test_tool_lists_bind_the_tools_that_follow(caps, denied, streamed):
    """A non-empty allowlist wins, an empty one is none, and names are case-sensitive."""
    trace = Trace()
    agent = calling(trace, "weather")
    async with open_books(agent) as books:
        await cap(books, **caps)
        if denied:
            with pytest.raises(ToolDenied, match="caps forbid the tool weather") as caught:
                await drive(books.run, streamed)
            assert caught.value.reason_code == "CAPS"
        else:
            await drive(books.run, streamed)
    assert trace.tools == ([] if denied else ["weather"])
    assert [line.name for line in books.refused] == (["weather"] if denied else [])


async def test_only_the_latest_grants_caps_count():
    """The operator lifts the ban while the run goes on."""
    trace = Trace()
    agent = calling(trace, "clock", "weather")

    async def lift() -> str:
        await cap(books)
        return "lifted"

    agent.tools[0] = trace.tool(lift, name_override="clock")
    async with open_books(agent) as books:
        await cap(books, tool_denylist=["weather"])
        await books.run("go")
    assert trace.tools == ["clock", "weather"]


# -- a soft landing


@both_ways
async def test_a_run_lands_softly_where_its_budget_says_so(streamed):
    """Free at first; once less than 70 % remains, shorter answers and no more of one tool."""
    trace = Trace()
    turns = [[call("weather", number)] for number in range(3)]
    agent = trace.agent("Triage agent", "quick", *turns, "Done.", tools=[trace.tool()])
    async with open_books(agent, llm_estimate=tokens(200)) as books:
        await books.ledger.set_budget(
            "tenant:acme",
            tokens(700),
            caps=Caps(max_tokens=5, tool_denylist=["weather"]),
            caps_below="70%",
        )
        with pytest.raises(ToolDenied, match="caps forbid the tool weather"):
            await drive(books.run, streamed)
    assert [line.charged for line in books.lines if line.kind == "llm.completion"] == [
        tokens(122),
        tokens(124),
        tokens(126),
    ]
    assert [attempt.settings.max_tokens for attempt in trace.attempts] == [None, None, 5]
    assert trace.tools == ["weather", "weather"]


# -- steps and pauses


@both_ways
@pytest.mark.parametrize(("steps", "ran"), [(1, 1), (2, 2), (3, 3)])
async def test_no_more_calls_begin_than_steps_remain(steps, ran, streamed):
    """Each call that follows a grant is a step, of whatever kind."""
    trace = Trace()
    calls = [call("weather", number) for number in range(3)]
    agent = trace.agent("Triage agent", "quick", calls, "Done.", tools=[trace.tool()],
                        model_settings=ModelSettings(parallel_tool_calls=False))  # fmt: skip
    async with open_books(agent) as books:
        await cap(books, max_steps_remaining=steps)
        with pytest.raises(CallDenied, match="max_steps_remaining") as caught:
            await drive(books.run, streamed)
    assert caught.value.reason_code == "CAPS"
    granted = [line for line in books.lines if line.reservation_id is not None]
    assert len(granted) == 1 + ran
    assert len(trace.attempts) == 1


async def test_enough_steps_do_not_disturb():
    trace = Trace()
    agent = calling(trace, "weather", "clock")
    async with open_books(agent) as books:
        await cap(books, max_steps_remaining=2)
        result = await books.run("go")
    assert result.final_output == "Done."


@both_ways
async def test_a_cool_down_delays_the_next_call(streamed):
    """A minute after the grant, and no longer; the calls themselves take no time here."""
    trace, times = Trace(), []

    async def look() -> str:
        times.append(asyncio.get_running_loop().time())
        return "sunny"

    agent = trace.agent("Triage agent", "quick", [call("weather")], "Done.",
                        tools=[trace.tool(look)])  # fmt: skip
    async with open_books(agent) as books:
        await cap(books, cooldown_ms=60_000)
        began = anyio.current_time()
        await drive(books.run, streamed)
        ended = anyio.current_time()
    assert times == [pytest.approx(began + 60, abs=1)]
    assert ended == pytest.approx(began + 60, abs=1)


async def test_a_cool_down_is_over_when_the_run_is_cancelled():
    """Nobody waits for it, and nothing was reserved for the call that waited."""
    trace = Trace()
    agent = calling(trace, "weather")
    async with open_books(agent) as books:
        await cap(books, cooldown_ms=3_600_000)
        began = anyio.current_time()

        async def cancel():
            await anyio.sleep(5)
            books.run.cancel("enough")

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            with pytest.raises(RunCancelled, match="enough"):
                await books.run("go")
    assert anyio.current_time() - began < 60
    assert trace.tools == []
    assert books.tools() == [("weather", "released", None)]
