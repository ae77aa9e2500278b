"""What leans on the SDK's inside: each point fails here, loudly, when the SDK changes it."""

import asyncio
import copy
import dataclasses
import importlib
import inspect
import re
import tomllib
from functools import partial
from pathlib import Path

import agents
import pytest
from agents import Model, MultiProvider, RunConfig, Runner
from agents.lifecycle import RunHooksBase
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.tool_context import ToolContext

from comptroller import ComptrollerError
from comptroller.openai_agents import sdk_internals
from comptroller.openai_agents.hooks import InvocationHooks, ToolCallHooks
from comptroller.openai_agents.invocation import current_invocation
from comptroller.openai_agents.model import GovernedModel
from comptroller.openai_agents.runner import DelegatingRunner, install
from support.recording_models import Trace, call
from support.scope_fixture import open_books


def test_the_sdk_has_a_default_runner_that_can_be_set():
    install()
    before = get_default_agent_runner()
    assert isinstance(before, DelegatingRunner)
    install()
    assert get_default_agent_runner() is before
    assert isinstance(before.inner, AgentRunner)
    try:
        set_default_agent_runner(before.inner)
        assert get_default_agent_runner() is before.inner
    finally:
        set_default_agent_runner(before)


def test_the_runner_answers_every_way_of_running():
    """`Runner` calls these and no others; their options go by keyword."""
    ways = {name for name in vars(Runner) if name.startswith("run")}
    assert ways == {"run", "run_sync", "run_streamed"}
    for name in ways:
        inner = list(inspect.signature(getattr(AgentRunner, name)).parameters.values())
        assert [p.name for p in inner[:3]] == ["self", "starting_agent", "input"]
        assert inner[3].kind is inspect.Parameter.VAR_KEYWORD


def test_every_callback_of_the_sdk_is_handed_on():
    """A callback that the SDK adds is ours to hand on, too."""
    offered = {name for name in dir(RunHooksBase) if name.startswith("on_")}
    ours = {**vars(ToolCallHooks), **vars(InvocationHooks)}
    assert offered == {name for name in ours if name.startswith("on_")}
    for name in offered:
        theirs = inspect.signature(getattr(RunHooksBase, name)).parameters
        assert list(theirs) == list(inspect.signature(getattr(InvocationHooks, name)).parameters)


def test_everything_the_sdk_asks_of_a_model_is_forwarded():
    """What `Model` defines is found there first, so the dispatcher has to define it, too."""
    asked = {name for name in vars(Model) if not name.startswith(("__", "_abc_"))}
    assert asked <= set(vars(GovernedModel))


def test_the_sdk_has_the_parts_that_the_seam_uses():
    assert sdk_internals.normalized(None)[1]
    assert sdk_internals.normalized({})[1]
    assert not sdk_internals.normalized(RunConfig())[1]
    assert not sdk_internals.normalized({"model_provider": MultiProvider()})[1]
    result = inspect.signature(agents.result.RunResultStreaming).parameters
    assert "run_loop_task" in result or hasattr(agents.result.RunResultStreaming, "run_loop_task")
    assert callable(agents.result.RunResultStreaming._ensure_model_provider_cleanup_on_completion)
    assert "_current_agent" in inspect.signature(agents.run_state.RunState).parameters or hasattr(
        agents.run_state.RunState, "_current_agent"
    )


@pytest.mark.parametrize("place", sdk_internals._PRIVATE)
def test_what_the_sdk_has_moved_is_named_where_a_scope_opens(place, monkeypatch):
    """In one sentence, with the versions that have it; importing the package raises nothing."""
    module, _, name = place.partition(":")
    *within, last = name.split(".")
    owner = importlib.import_module(module)
    for part in within:
        owner = getattr(owner, part)
    monkeypatch.delattr(owner, last)
    sdk_internals._private.cache_clear()
    with pytest.raises(ComptrollerError) as raised:
        install()
    assert str(raised.value) == (
        f"openai-agents {agents.__version__} has no {module}.{name}, on which Comptroller leans:"
        ' pip install "openai-agents>=0.24,<0.26"'
    )
    monkeypatch.undo()
    install()


def test_the_versions_it_names_are_those_that_are_installed_with_it():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert sdk_internals.VERSIONS in project["project"]["dependencies"]


def test_what_is_private_in_the_sdk_is_used_in_one_module():
    """Names that begin with an underscore, and all that its internal package holds."""
    private = re.compile(r"from agents[\w.]* import [^#\n]*\b_[a-z]|agents\.run_internal|agents\._")
    sources = Path(sdk_internals.__file__).parents[1].rglob("*.py")
    found = {path.name for path in sources if private.search(path.read_text("utf-8"))}
    assert found == {"sdk_internals.py"}


def test_a_tools_context_has_a_run_config_that_can_be_shown_otherwise():
    """The SDK sets it as an attribute of each context, after the fields of its base."""
    install()
    assert isinstance(vars(ToolContext)["run_config"], sdk_internals._SeenConfig)
    assert "run_config" in {field.name for field in dataclasses.fields(ToolContext)}
    given, call = RunConfig(), {"tool_name": "t", "tool_call_id": "c", "tool_arguments": ""}
    context = ToolContext(None, run_config=given, **call)
    assert context.run_config is given
    assert copy.copy(context).run_config is given
    assert ToolContext(None, **call).run_config is None
    assert ToolContext.run_config is None


ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


@pytest.mark.anyio
@ON_ASYNCIO
async def test_the_sdks_tasks_of_an_episode_are_waited_for():
    """Found by the context they carry; a user's own tasks in the same context are not theirs."""
    trace, users, log = Trace(), [], []
    never = asyncio.Event()

    async def look() -> str:
        users.append(asyncio.ensure_future(never.wait()))
        sdk_internals.SdkTasks(current_invocation).after(
            current_invocation.get(), lambda: log.append("over")
        )
        await asyncio.sleep(0.01)
        log.append("worked")
        return "done"

    agent = trace.agent("Triage agent", "quick", [call("weather")], "Sunny.",
                        tools=[trace.tool(look)])  # fmt: skip
    async with open_books(agent) as books:
        await books.run("go")
        assert not users[0].done()
        users[0].cancel()
    assert log == ["worked", "over"]


@pytest.mark.anyio
@ON_ASYNCIO
async def test_episodes_that_end_together_share_one_look_at_the_tasks(monkeypatch):
    looks, over = [], []
    real = asyncio.all_tasks
    monkeypatch.setattr(asyncio, "all_tasks", lambda loop=None: looks.append(loop) or real(loop))
    tasks = sdk_internals.SdkTasks(current_invocation)
    for turn in (1, 2):
        for number in range(100):
            tasks.after(object(), partial(over.append, number))
        await asyncio.sleep(0)
        assert over == [*range(100)] * turn
    assert len(looks) == 2
