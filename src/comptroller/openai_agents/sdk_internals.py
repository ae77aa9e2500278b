"""Everything that leans on the SDK's inside, in one place; tests fail loudly where it changes.

What is private there is looked up when a scope opens, not when this package is imported: where the
SDK has moved it, one sentence says what is missing, and which versions have it.
"""

import asyncio
import copy
import gc
import inspect
import sys
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import cache, wraps
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import agents
from agents import Agent, Model
from agents.memory import OpenAIResponsesCompactionSession
from agents.models.interface import ModelProvider
from agents.result import RunResultStreaming
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.run_config import RunConfig
from agents.run_state import RunState
from agents.tool_context import ToolContext
from agents.version import __version__ as sdk_version

from comptroller.errors import ComptrollerError

T = TypeVar("T")

SDK_CODE = str(Path(agents.__file__).parent)

__all__ = [
    "AgentRunner",
    "SdkTasks",
    "changed",
    "check_sdk",
    "close_owned_provider",
    "close_owned_provider_with",
    "close_stream",
    "codex_options",
    "codex_result",
    "compact_through",
    "get_default_agent_runner",
    "get_model",
    "is_paused",
    "normalized",
    "set_default_agent_runner",
    "show_configs",
    "speaker_of",
]

VERSIONS = "openai-agents>=0.24,<0.26"
"""Those that have what is used here, as pip is told."""

_COERCE = "agents.run_config:_coerce_run_config"
_CLOSE_PROVIDER = "agents.run_internal.model_provider_lifecycle:_close_runner_owned_model_provider"
_CLOSE_ITERATOR = "agents.run_internal.model_retry:_close_async_iterator_quietly"
_GET_MODEL = "agents.run_internal.turn_preparation:get_model"
_CLEANUP = "agents.result:RunResultStreaming._ensure_model_provider_cleanup_on_completion"
_CODEX = "agents.extensions.experimental.codex.codex_tool"
_PRIVATE = (_COERCE, _CLOSE_PROVIDER, _CLOSE_ITERATOR, _GET_MODEL, _CLEANUP)


@cache
def _private(place: str) -> Any:
    """Return what stands at `module:name` of the SDK.

    Raises:
        ComptrollerError: nothing does, in the version that is installed.
    """
    module, _, name = place.partition(":")
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ComptrollerError(
            f"openai-agents {sdk_version} has no {module}.{name}, on which Comptroller leans:"
            f' pip install "{VERSIONS}"'
        ) from error


def check_sdk() -> None:
    """Raise ComptrollerError where something private that is used here has moved."""
    for place in _PRIVATE:
        _private(place)


def get_model(agent: Agent[Any], config: RunConfig) -> Model:
    """Return the model of an agent under a run config, as the SDK resolves it."""
    return _private(_GET_MODEL)(agent, config)  # type: ignore[no-any-return]


def speaker_of(given: Any) -> Agent[Any] | None:
    """Return the agent that goes on in a state of a run; None for any other input."""
    return given._current_agent if isinstance(given, RunState) else None


def normalized(given: RunConfig | dict[str, Any] | None) -> tuple[RunConfig, bool]:
    """Return the run config as the SDK reads it, and whether it would own its provider."""
    owned = given is None or (isinstance(given, dict) and "model_provider" not in given)
    return RunConfig() if given is None else _private(_COERCE)(given), owned


def changed(given: T, **fields: Any) -> T:
    """Copy a run config or settings with other `fields`: all else of it stays as it is.

    Not `dataclasses.replace`: that makes it anew by its constructor, so a subclass loses what is no
    argument there.
    """
    copied = copy.copy(given)
    for name, value in fields.items():
        object.__setattr__(copied, name, value)
    return copied


class _SeenConfig:
    """`ToolContext.run_config` where users see the config that they gave: a data descriptor."""

    def __init__(self, as_given: Callable[[RunConfig], RunConfig]) -> None:
        self._as_given = as_given

    def __get__(self, context: Any, owner: object = None) -> RunConfig | None:
        return None if context is None else context.__dict__.get("run_config")

    def __set__(self, context: Any, config: RunConfig | None) -> None:
        context.__dict__["run_config"] = None if config is None else self._as_given(config)


def show_configs(as_given: Callable[[RunConfig], RunConfig]) -> None:
    """From now on a tool's context has `as_given(config)` for the run config that the SDK puts in.

    The contexts of tools are the one place where the SDK shows the config to tools, guardrails and
    hooks, and some of these come before any hook of ours.
    """
    if not isinstance(vars(ToolContext).get("run_config"), _SeenConfig):
        setattr(ToolContext, "run_config", _SeenConfig(as_given))  # noqa: B010 - it is no field's value


def compact_through(view: Callable[[Any], Any]) -> None:
    """From now on, a session that is compacted by hand is compacted through `view(session)`."""
    compact = OpenAIResponsesCompactionSession.run_compaction
    if hasattr(compact, "__wrapped__"):
        return

    @wraps(compact)
    async def run_compaction(self: Any, *args: Any, **options: Any) -> None:
        await compact(view(self), *args, **options)

    setattr(OpenAIResponsesCompactionSession, "run_compaction", run_compaction)  # noqa: B010


async def close_owned_provider(provider: ModelProvider) -> None:
    """Close a provider as the SDK closes its own: to the end, whoever cancels meanwhile."""
    await _private(_CLOSE_PROVIDER)(provider)


def close_owned_provider_with(stream: RunResultStreaming, provider: ModelProvider) -> None:
    """Close it for a streamed run, when its task has ended."""
    stream._ensure_model_provider_cleanup_on_completion(lambda: close_owned_provider(provider))


def is_paused(model: Any, response: Any) -> bool:
    """Whether the provider goes on with this response when it is given the outputs of its calls.

    The hosted multi-agent model hands out such pauses without a usage, and the sum at the end.
    """
    active = getattr(model, "_active_response", None)
    name = getattr(response, "response_id", None) or getattr(response, "id", None)
    return name is not None and getattr(active, "response_id", None) == name


def codex_result(tool: Any, result: Any) -> tuple[bool, Any]:
    """Whether `tool` runs Codex, and what Codex has told; None where it has not.

    The SDK's extension is experimental, and nothing of it is imported for this.
    """
    loaded = sys.modules.get(_CODEX)
    if isinstance(result, getattr(loaded, "CodexToolResult", ())):
        return True, result
    return getattr(tool, "_is_codex_tool", False) is True, None


def codex_options(tool: Any) -> tuple[Any, Any]:
    """Return the options of a Codex tool's threads and of its Codex; None where unknown.

    The SDK keeps both in the closure of the function that it invokes.
    """
    invoke = getattr(getattr(tool, "on_invoke_tool", None), "_invoke_tool_impl", None)
    kept = inspect.getclosurevars(invoke).nonlocals if inspect.isfunction(invoke) else {}
    options = kept.get("resolved_options")
    of_client = getattr(getattr(options, "codex", None), "_options", None)
    return (
        kept.get("resolved_thread_options"),
        of_client or getattr(options, "codex_options", None),
    )


async def close_stream(stream: Any) -> None:
    """Close a model's stream as the SDK does: by what it has for that, whatever comes of it."""
    await _private(_CLOSE_ITERATOR)(stream)


class SdkTasks:
    """The tasks that the SDK itself started, told apart by what `variable` is in their contexts.

    A user's tool may start tasks of its own: those are the user's, and nobody waits for them.
    """

    def __init__(self, variable: ContextVar[Any]) -> None:
        self._variable = variable
        self._asked: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[object, Callable[[], object]]
        ] = WeakKeyDictionary()

    def after(self, value: object, then: Callable[[], object]) -> None:
        """Call `then` soon, when none of those where the variable is `value` is left.

        To find them takes a look at every task of the loop: all that ask in one turn of it share
        one, such as a thousand runs that are cancelled together.
        """
        loop = asyncio.get_running_loop()
        asked = self._asked.setdefault(loop, {})
        if not asked:
            loop.call_soon(self._look, loop)
        asked[value] = then

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = self._asked.pop(loop)
        found: dict[object, set[asyncio.Task[Any]]] = {value: set() for value in asked}
        for task in asyncio.all_tasks(loop):
            context = _context(task)
            value = None if context is None else context.get(self._variable)
            if value in found and _is_sdk_code(task):
                found[value].add(task)
        for value, then in asked.items():
            _after(found[value], then)


def _after(tasks: set["asyncio.Task[Any]"], then: Callable[[], object]) -> None:
    """Call `then` when all of them are done."""
    left: set[object] = set(tasks)

    def done(task: object = None) -> None:
        left.discard(task)
        if not left:
            then()

    for task in tasks:
        task.add_done_callback(done)
    if not tasks:
        then()


def _context(task: "asyncio.Task[Any]") -> Context | None:
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
    if get_context is not None:  # Python 3.12
        return get_context()
    return next((held for held in gc.get_referents(task) if isinstance(held, Context)), None)


def _is_sdk_code(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and str(code.co_filename).startswith(SDK_CODE)
