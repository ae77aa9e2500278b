"""What the SDK and the user find unchanged: providers, probes, errors, callbacks, lifetimes."""

import asyncio
import contextvars
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import agents
import anyio
import pytest
from agents import (
    Agent,
    AgentHooks,
    Model,
    ModelProvider,
    MultiProvider,
    OutputGuardrail,
    RunConfig,
    RunHooks,
    Runner,
    UserError,
)
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel

from comptroller import tokens
from comptroller.openai_agents.runner import DelegatingRunner, install
from openai_agents.scenarios.agents import own_loop
from openai_agents.scenarios.models import retrying, status_error
from support.governed_vs_plain import Play, Way, governed, ungoverned
from support.recording_models import Trace, Turn, Voice, call
from support.scope_fixture import open_books

pytestmark = pytest.mark.anyio
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


# -- models and their providers


class Fresh(ModelProvider):
    """Gives a new model object each time, as the SDK's own providers do."""

    def __init__(self, voice):
        self.voice, self.given = voice, []

    def get_model(self, model_name):
        self.given.append(Delegate(self.voice, len(self.given)))
        return self.given[-1]


class Delegate(Model):
    def __init__(self, voice, number):
        self.voice, self.number, self.log = voice, number, []
        self.model = voice.model

    async def get_response(self, *args, **kwargs):
        self.log.append("asked")
        return await self.voice.get_response(*args, **kwargs)

    async def stream_response(self, *args, **kwargs):
        self.log.append("asked")
        async for event in self.voice.stream_response(*args, **kwargs):
            yield event

    def get_retry_advice(self, request):
        self.log.append("advised")

    async def _cleanup_on_run_end(self, owner):
        self.log.append("cleaned up")
        raise ValueError("the SDK logs that and goes on")


@asyncio_only
@both_ways
async def test_a_provider_gives_as_many_models_as_without_us(streamed):
    """One for each turn; its retries, their advice and the clean-up reach that very object."""
    logs = []

    def scenario(trace):
        busy = Turn(error=status_error(429), refused=True)
        voice = Voice(trace, "quick", [call("weather")], busy, "Sunny.")
        provider = Fresh(voice)
        logs.append(provider.given)
        agent = trace.agent("Triage agent", "quick", tools=[trace.tool()],
                            model_settings=retrying())  # fmt: skip
        return Play(agent, options={"run_config": RunConfig(model_provider=provider)})

    way = Way(streamed=streamed)
    await ungoverned(scenario, way)
    await governed(scenario, way)
    alone, other = ([model.log for model in given] for given in logs)
    assert alone == [["asked", "cleaned up"], ["asked", "advised", "asked", "cleaned up"]]
    assert other == alone


class ByName(Delegate):
    """Knows what it is asked by name where the SDK names it, and by place where it does not."""

    async def get_response(self, **asked):
        return await self.voice.get_response(**asked)

    async def stream_response(self, system, items, settings, hands, schema, others, trace, **named):
        async for event in self.voice.stream_response(
            system, items, settings, hands, schema, others, trace, **named
        ):
            yield event


@asyncio_only
@both_ways
async def test_a_model_is_asked_by_place_and_name_as_the_sdk_asks_it(streamed):
    """Its parameters may have other names, or none but names."""

    def scenario(trace):
        voice = Voice(trace, "quick", [call("weather")], "Sunny.")
        agent = trace.agent("Triage agent", "quick", tools=[trace.tool()])
        return Play(agent, options={"run_config": RunConfig(model=ByName(voice, 0))})

    way = Way(streamed=streamed)
    alone = await ungoverned(scenario, way)
    assert (await governed(scenario, way)).outcome.said == alone.said


def consulting(trace, voice, **fields):
    """A tool that runs an agent of its own, without a run config."""
    inner = trace.agent("Inner", "inner")

    async def consult() -> str:
        return (await Runner.run(inner, "?")).final_output

    return trace.agent("Outer", "outer", tools=[trace.tool(consult)], **fields)


@asyncio_only
@both_ways
@pytest.mark.parametrize("config", [None, {}, RunConfig(), {"workflow_name": "w"}])
async def test_a_provider_is_closed_exactly_when_the_sdk_closes_its_own(
    config, streamed, monkeypatch
):
    """It closes the providers it made itself: with no run config, or one without a provider."""
    closed, voices = [], {}

    async def aclose(self):
        closed.append(len(closed))

    monkeypatch.setattr(MultiProvider, "aclose", aclose)
    monkeypatch.setattr(MultiProvider, "get_model", lambda self, name: voices[name])

    def scenario(trace):
        voices["outer"] = Voice(trace, "quick", [call("weather")], "Sunny.")
        voices["inner"] = Voice(trace, "clever", "Hm.")
        return Play(consulting(trace, voices), options={"run_config": config})

    counts = []
    for perform in (ungoverned, governed):
        closed.clear()
        await perform(scenario, Way(streamed=streamed))
        counts.append(len(closed))
    assert counts == ([1, 1] if isinstance(config, RunConfig) else [2, 2])


@asyncio_only
@pytest.mark.parametrize("config", [None, RunConfig()])
async def test_a_synchronous_runs_provider_is_closed_as_the_sdk_does(config, monkeypatch):
    trace = Trace()
    voice, closed = Voice(trace, "quick", "Sunny.", "Sunny."), []

    async def aclose(self):
        closed.append(self)

    monkeypatch.setattr(MultiProvider, "aclose", aclose)
    monkeypatch.setattr(MultiProvider, "get_model", lambda self, name: voice)
    agent = trace.agent("Triage agent", "quick")

    def run():
        with own_loop():
            return Runner.run_sync(agent, "go", run_config=config).final_output

    assert await asyncio.to_thread(run) == "Sunny."
    alone = len(closed)
    async with open_books(agent) as books:
        assert await asyncio.to_thread(run) == "Sunny."
    assert books.outcomes() == [("Triage agent", "committed")]
    assert len(closed) - alone == alone == (config is None)


async def test_a_synchronous_run_is_governed():
    """Whole: hooks, tools, its agent tools, in a thread that inherits the scope."""
    trace = Trace()
    inner = trace.agent("Inner", "clever", "Hm.")
    turns = ([call("ask", input="?")], "Sunny.")
    agent = trace.agent("Triage agent", "quick", *turns, tools=[inner.as_tool("ask", "asks")])

    def run():
        with own_loop():
            return Runner.run_sync(agent, "go", hooks=trace.hooks())

    async with open_books(agent) as books:
        result = await anyio.to_thread.run_sync(run)
    assert result.final_output == "Sunny."
    assert result.last_agent is agent
    assert books.outcomes() == [("Triage agent", "committed"), ("Inner", "committed"),
                                ("Triage agent", "committed")]  # fmt: skip
    assert books.tools() == [("ask", "committed", 2)]
    assert ("on_tool_end", "Triage agent", "ask") in trace.heard


class Chat(OpenAIChatCompletionsModel):
    """A Chat Completions model that needs no server."""

    def __init__(self, voice):
        super().__init__("chat-model", openai_client=SimpleNamespace(base_url="http://127.0.0.1"))
        self.voice = voice

    async def get_response(self, *args, **kwargs):
        return await self.voice.get_response(*args, **kwargs)


@asyncio_only
async def test_the_sdk_still_tells_chat_completions_from_others():
    """Output guardrails with a server's conversation are refused, but for Chat Completions."""

    async def judged(context, agent, output):
        return agents.GuardrailFunctionOutput(None, tripwire_triggered=False)

    def scenario(chat):
        def build(trace):
            voice = Voice(trace, "quick", "Sunny.")
            agent = trace.agent("Triage agent", Chat(voice) if chat else voice,
                                output_guardrails=[OutputGuardrail(judged)])  # fmt: skip
            return Play(agent, options={"previous_response_id": "r-0"})

        return build

    for chat in (True, False):
        alone = await ungoverned(scenario(chat), Way())
        other = await governed(scenario(chat), Way())
        assert other.outcome.said == alone.said
        assert isinstance(alone.result, UserError) is not chat


# -- errors and callbacks


@both_ways
async def test_wrong_hooks_get_the_sdks_own_error(streamed):
    """Agent hooks handed to `Runner.run` are the caller's mistake, in the SDK's words."""

    def scenario(trace):
        agent = trace.agent("Triage agent", "quick", "never")
        return Play(agent, options={"hooks": AgentHooks()})

    way = Way(streamed=streamed)
    alone, other = await ungoverned(scenario, way), await governed(scenario, way)
    assert alone.said[0] is TypeError
    assert "AgentHooks" in alone.said[1]
    assert other.outcome.said == alone.said
    assert other.receipt.calls == ()


async def test_the_users_run_hooks_are_heard_in_their_order_and_by_their_own_context():
    """Every callback reaches the caller's own object, with the arguments of the SDK."""
    seen = []

    class Own(RunHooks):
        async def on_llm_start(self, context, agent, system_prompt, input_items):
            seen.append(("llm", context.context, agent is triage, system_prompt, input_items))

        async def on_tool_end(self, context, agent, tool, result):
            seen.append((tool is weather, context.tool_arguments, result))

        async def on_handoff(self, context, from_agent, to_agent):
            seen.append((from_agent is triage, to_agent is second))

    trace = Trace()
    second = trace.agent("Second", "clever", "Sunny.")
    weather = trace.tool()
    turns = ([call("weather")], [call("transfer_to_second")])
    triage = trace.agent("Triage", "quick", *turns, tools=[weather], handoffs=[second],
                         instructions="Be brief.")  # fmt: skip
    async with open_books(triage) as books:
        await books.run("go", hooks=Own(), context="mine")
    assert seen[0] == ("llm", "mine", True, "Be brief.", [{"content": "go", "role": "user"}])
    assert seen[1] == (True, "{}", "done")
    assert seen[3] == (True, True)


async def test_a_raising_hook_of_the_users_ends_the_run_as_without_us():
    """The tool had been granted and did not begin: it is released."""

    class Raising(RunHooks):
        async def on_tool_start(self, context, agent, tool):
            raise ValueError("not today")

    def scenario(trace):
        agent = trace.agent("Triage agent", "quick", [call("weather")], tools=[trace.tool()])
        return Play(agent, options={"hooks": Raising()})

    alone, other = await ungoverned(scenario, Way()), await governed(scenario, Way())
    assert other.outcome.said == alone.said
    assert [(line.name, line.outcome) for line in other.receipt.calls[1:]] == [
        ("weather", "released")
    ]


@both_ways
async def test_a_response_without_a_usage_attribute_is_charged_its_estimate(streamed):
    """Usage unknown, never zero; the line says where the amount came from."""

    class Bare(Voice):
        async def get_response(self, *args, **kwargs):
            response = await super().get_response(*args, **kwargs)
            return SimpleNamespace(**{
                name: value for name, value in vars(response).items() if name != "usage"
            })  # fmt: skip

        async def stream_response(self, *args, **kwargs):
            async for event in super().stream_response(*args, **kwargs):
                if event.type == "response.completed":
                    del event.response.usage
                yield event

    def scenario(trace):
        return Play(trace.agent("Triage agent", Bare(trace, "quick", "Sunny.")))

    way = Way(streamed=streamed)
    alone, other = await ungoverned(scenario, way), await governed(scenario, way)
    assert other.outcome.said == alone.said
    [line] = other.receipt.calls
    assert (line.charged, line.actual_source) == (tokens(40_000), "estimate")


# -- what is left of an agent


@pytest.mark.parametrize("by", ["run", "stream", "tool", "thread", "failed"])
async def test_an_agent_is_collectable_once_its_episode_has_ended(by):
    """While the run goes on: it keeps names, not agents."""
    trace = Trace()
    outer = trace.agent("Outer", "quick", [call("weather")], "Done.", "Still here.",
                        tools=[trace.tool(lambda: "placeholder")])  # fmt: skip
    references = []

    def passing():
        error = [ValueError("x")] if by == "failed" else ["Hm."]
        agent = Agent("Passing", model=Voice(Trace(), "clever", *error))
        references.append(weakref.ref(agent))
        return agent

    async def consult() -> str:
        if by == "thread":
            await asyncio.to_thread(lambda: asyncio.run(Runner.run(passing(), "?")))
        elif by == "stream":
            async for _ in Runner.run_streamed(passing(), "?").stream_events():
                pass
        elif by == "failed":
            with pytest.raises(ValueError, match="x"):
                await Runner.run(passing(), "?")
        else:
            await Runner.run(passing(), "?")
        return "done"

    outer.tools[:] = [trace.tool(consult)]
    async with open_books(outer) as books:
        await books.run("go")
        await anyio.lowlevel.checkpoint()
        gc.collect()
        assert [reference() for reference in references] == [None]
        await books.run("go on")


# -- outside a scope


async def test_outside_a_scope_the_sdk_is_alone():
    """Before, after, and in a task that was started before: no ledger hears of it."""
    trace = Trace()
    agent = trace.agent("Triage agent", "quick", *["Sunny."] * 4)
    opened, closed = anyio.Event(), anyio.Event()

    def run():
        with own_loop():
            return Runner.run_sync(agent, "go").final_output

    async def started_before():
        await opened.wait()
        assert await anyio.to_thread.run_sync(run) == "Sunny."
        closed.set()

    async with anyio.create_task_group() as group:
        group.start_soon(started_before)
        async with open_books(agent) as books:
            opened.set()
            await closed.wait()
            await books.run("go")
    assert await anyio.to_thread.run_sync(run) == "Sunny."
    assert books.outcomes() == [("Triage agent", "committed")]


@asyncio_only
async def test_outside_a_scope_the_sdks_runner_gets_what_it_would_have_got():
    """The very objects, through `run`, `run_streamed` and `run_sync`."""
    install()
    heard = []

    class Inner:
        default = "the SDK's"

        def __getattr__(self, name):
            return lambda *args, **options: heard.append((name, args, options))

        async def run(self, *args, **options):
            heard.append(("run", args, options))

    runner, agent, hooks = DelegatingRunner(Inner()), Agent("A"), RunHooks()
    await runner.run(agent, "in", hooks=hooks, run_config=None)
    runner.run_streamed(agent, "in", hooks=hooks)
    runner.run_sync(agent, "in", hooks=hooks)
    assert [name for name, *_ in heard] == ["run", "run_streamed", "run_sync"]
    assert all(args == (agent, "in") and options["hooks"] is hooks for _, args, options in heard)
    assert runner.default == "the SDK's"


@asyncio_only
@pytest.mark.parametrize(
    ("carry", "calls"),
    [(lambda: contextvars.copy_context().run, 1), (lambda: lambda work: work(), 0)],
    ids=["with the context", "without"],
)
async def test_an_executors_thread_is_governed_where_it_is_given_the_context(carry, calls):
    """Python hands it none: README, "What is not governed"."""
    trace = Trace()
    agent = trace.agent("A", "quick", "Done.")

    def work():
        with own_loop():
            return Runner.run_sync(agent, "go").final_output

    async with open_books(None) as books:
        with ThreadPoolExecutor() as executor:
            assert await asyncio.wrap_future(executor.submit(carry(), work)) == "Done."
    assert len(books.lines) == calls


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_under_trio_the_sdks_own_run_is_carried():
    """Awaited as if it were trio's, it says how."""
    import trio_asyncio

    trace = Trace()
    agent = trace.agent("A", "quick", "Done.")
    async with open_books(agent) as books:
        with pytest.raises(RuntimeError, match=r"Under trio: await run\(\.\.\.\), or carry it"):
            await Runner.run(agent, "go")
        assert books.lines == ()
        result = await trio_asyncio.aio_as_trio(Runner.run)(agent, "go")
    assert result.final_output == "Done."
    assert books.outcomes() == [("A", "committed")]
