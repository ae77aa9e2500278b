"""The run config and the settings are the user's: what they hold, and what user code sees of them.

- User code that looks at the run config (in the context of a tool, a hook, a guardrail) finds the
  very object that it gave, never one of ours.
- A copy of it with changes, given to a nested run, keeps them.
- What the SDK and the models are handed keeps the user's classes, with their fields and attributes.
"""

import dataclasses

import pytest
from agents import (
    Agent,
    AgentHooks,
    ModelSettings,
    RunConfig,
    RunHooks,
    Runner,
    ToolGuardrailFunctionOutput,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.models.interface import ModelProvider
from agents.testing import function_call
from agents.tool_context import ToolContext
from runcycles import Caps

from comptroller.openai_agents.model import _capped as model_under_caps
from comptroller.testing import CountingModel
from support.scope_fixture import open_books

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class HouseConfig(RunConfig):
    """With a field of its own, and one that its constructor does not take."""

    tenant: str = "acme"
    serial: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass
class HouseSettings(ModelSettings):
    effort: str | None = None
    serial: int = dataclasses.field(default=0, init=False)


class Provider(ModelProvider):
    """Gives one model, and notes by which names."""

    def __init__(self, model, names):
        self.model, self.names = model, names

    def get_model(self, model_name):
        self.names.append(model_name)
        return self.model


class Settled(CountingModel):
    """Keeps the settings that it is asked with."""

    def __init__(self, *turns):
        super().__init__(*turns)
        self.settings = []

    async def get_response(self, *places, **names):
        self.settings.append(names["model_settings"])
        return await super().get_response(*places, **names)


class Looking:
    """Notes the run config wherever user code is given a context with one."""

    def __init__(self):
        self.seen = {}

    def look(self, place, context):
        assert isinstance(context, ToolContext)
        self.seen.setdefault(place, []).append(context.run_config)

    def agent(self, tool):
        look = self.look

        class Own(AgentHooks):
            async def on_tool_start(self, context, agent, tool):
                look("agent hooks, start", context)

            async def on_tool_end(self, context, agent, tool, result):
                look("agent hooks, end", context)

        @tool_input_guardrail
        def before(data):
            look("guardrail, input", data.context)
            return ToolGuardrailFunctionOutput.allow()

        @tool_output_guardrail
        def after(data):
            look("guardrail, output", data.context)
            return ToolGuardrailFunctionOutput.allow()

        tool.tool_input_guardrails, tool.tool_output_guardrails = [before], [after]
        model = CountingModel([function_call(tool.name, {"input": "go"}, call_id="c")], "done")
        return Agent("Outer", model=model, tools=[tool], hooks=Own())

    def hooks(self):
        look = self.look

        class Own(RunHooks):
            async def on_tool_start(self, context, agent, tool):
                look("hooks, start", context)

            async def on_tool_end(self, context, agent, tool, result):
                look("hooks, end", context)

        return Own()


def looking_tool(looking):
    @function_tool
    async def work(context: ToolContext) -> str:
        looking.look("tool", context)
        return "done"

    return work


PLACES = {
    "tool", "hooks, start", "hooks, end", "agent hooks, start", "agent hooks, end",
    "guardrail, input", "guardrail, output",
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_user_code_sees_the_run_config_that_it_gave(streamed):
    looking, config = Looking(), HouseConfig(workflow_name="w")
    config.serial, config.note = 7, "an attribute that is no field"
    agent = looking.agent(looking_tool(looking))
    async with open_books(agent) as books:
        options = {"run_config": config, "hooks": looking.hooks()}
        if streamed:
            async for _ in books.run.stream("go", **options):
                pass
        else:
            await books.run("go", **options)
    assert looking.seen.keys() == PLACES
    assert all(seen == [config] and seen[0] is config for seen in looking.seen.values())
    assert (config.model, config.serial, config.note) == (None, 7, config.note)


@pytest.mark.parametrize("given", [None, {"workflow_name": "w"}], ids=["none", "a dict"])
async def test_a_run_config_that_was_not_given_whole_is_seen_as_the_sdk_reads_it(given):
    looking = Looking()
    agent = looking.agent(looking_tool(looking))
    async with open_books(agent) as books:
        await books.run("go", **({} if given is None else {"run_config": given}))
    (seen,) = looking.seen["tool"]
    assert type(seen) is RunConfig
    assert seen.model is None
    assert seen.workflow_name == (given or {}).get("workflow_name", "Agent workflow")


async def test_inside_an_agent_that_is_a_tool_it_is_the_callers_too():
    looking, config = Looking(), RunConfig(workflow_name="w")
    inner = looking.agent(looking_tool(looking))
    model = CountingModel([function_call("ask", {"input": "go"}, call_id="o")], "done")
    outer = Agent("Chief", model=model, tools=[inner.as_tool("ask", "knows")])
    async with open_books(outer) as books:
        await books.run("go", run_config=config)
    assert all(each is config for seen in looking.seen.values() for each in seen)
    assert "tool" in looking.seen


ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def alone_and_governed(build):
    """What is seen alone and governed: `build()` gives an agent, a run config, what they see."""
    agent, config, alone = build()
    await Runner.run(agent, "go", run_config=config)
    agent, config, other = build()
    async with open_books(agent) as books:
        await books.run("go", run_config=config)
    return alone, other


@ON_ASYNCIO
@pytest.mark.parametrize(
    "changes",
    [
        {"model_settings": ModelSettings(temperature=0.9)},
        {"call_model_input_filter": lambda data: data.model_data},
        {"workflow_name": "another"},
        {"model": "other"},
        {"model": None, "tenant": "globex"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_changed_copy_given_to_a_nested_run_keeps_its_changes(changes):
    def build():
        seen, looking = [], Looking()
        asked = Settled([function_call("work", {}, call_id="i")], "deep")
        provider = Provider(asked, seen)

        @function_tool(failure_error_function=None)
        async def ask(context: ToolContext) -> str:
            copy = dataclasses.replace(context.run_config, **changes)
            agent = Agent("Inner", tools=[looking_tool(looking)])
            result = await Runner.run(agent, "deeper", run_config=copy)
            (found,) = looking.seen["tool"]
            assert found is copy
            seen.extend([dataclasses.replace(found, model_provider=None), *asked.settings])
            return result.final_output

        model = CountingModel([function_call("ask", {}, call_id="o")], "done")
        agent = Agent("Outer", model=model, tools=[ask])
        return agent, HouseConfig(model_provider=provider, workflow_name="w"), seen

    alone, other = await alone_and_governed(build)
    assert alone == other
    assert len(alone) == 5  # two turns' names and settings, and the config


@ON_ASYNCIO
@pytest.mark.parametrize("model_settings", [None, ModelSettings(temperature=0.5)])
async def test_settings_of_a_class_of_the_users_reach_the_model_as_such(model_settings):
    def build():
        model = Settled("done")
        given = HouseSettings(effort="deep", extra_args={"one": 1})
        given.note = "an attribute that is no field"
        config = RunConfig(model_settings=model_settings)
        return Agent("A", model=model, model_settings=given), config, model.settings

    (alone,), (other,) = await alone_and_governed(build)
    assert (type(other), vars(other)) == (type(alone), vars(alone))
    assert type(other) is HouseSettings


async def test_a_cap_on_a_call_changes_nothing_else_of_its_settings():
    given = HouseSettings(effort="deep", max_tokens=500)
    given.serial, given.note = 7, "an attribute that is no field"
    capped = model_under_caps(given, Caps(max_tokens=100))
    assert (capped.max_tokens, given.max_tokens) == (100, 500)
    assert vars(capped) == {**vars(given), "max_tokens": 100}
    assert type(capped) is HouseSettings


async def test_hooks_that_count_as_false_are_called():
    """Whether something was given is whether it is None, never its truth."""
    heard = []

    class Journal(RunHooks):
        def __len__(self):
            return len(heard)

        async def on_agent_start(self, context, agent):
            heard.append(agent.name)

    async with open_books(Agent("A", model=CountingModel("done"))) as books:
        await books.run("go", hooks=Journal())
    assert heard == ["A"]


@pytest.mark.parametrize("place", ["agent", "config"])
async def test_a_model_that_counts_as_false_is_asked(place):
    class Empty(CountingModel):
        def __bool__(self):
            raise ValueError("ambiguous")

    model = Empty("done")
    agent = Agent("A", model=model if place == "agent" else "gpt-4.1")
    config = RunConfig(model=model if place == "config" else None)
    async with open_books(agent) as books:
        assert (await books.run("go", run_config=config)).final_output == "done"
