"""Everything that leans on the SDK's inside, in one place; tests fail loudly where it changes."""

import asyncio
import gc
from collections.abc import Callable
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any

import agents
from agents.models.interface import ModelProvider
from agents.result import RunResultStreaming
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.run_config import RunConfig, _coerce_run_config
from agents.run_internal.model_provider_lifecycle import _close_runner_owned_model_provider
from agents.run_internal.turn_preparation import get_model

SDK_CODE = str(Path(agents.__file__).parent)

__all__ = [
    "AgentRunner",
    "close_owned_provider",
    "close_owned_provider_with",
    "get_default_agent_runner",
    "get_model",
    "normalized",
    "sdk_tasks",
    "set_default_agent_runner",
]


def normalized(given: RunConfig | dict[str, Any] | None) -> tuple[RunConfig, bool]:
    """The run config as the SDK reads it, and whether it would own (and close) its provider."""
    owned = given is None or (isinstance(given, dict) and "model_provider" not in given)
    return RunConfig() if given is None else _coerce_run_config(given), owned


async def close_owned_provider(provider: ModelProvider) -> None:
    """Close a provider as the SDK closes its own: to the end, whoever cancels meanwhile."""
    await _close_runner_owned_model_provider(provider)


def close_owned_provider_with(stream: RunResultStreaming, provider: ModelProvider) -> None:
    """The same for a streamed run, when its task has ended."""
    stream._ensure_model_provider_cleanup_on_completion(lambda: close_owned_provider(provider))


def sdk_tasks(variable: ContextVar[Any], value: object) -> set["asyncio.Task[Any]"]:
    """The living tasks that the SDK itself started in a context where `variable` is `value`.

    A user's tool may start tasks of its own: those are the user's, and nobody waits for them.
    """
    here = asyncio.current_task()
    return {
        task
        for task in asyncio.all_tasks()
        if task is not here
        and (context := _context(task)) is not None
        and context.get(variable) is value
        and _is_sdk_code(task)
    }


def _context(task: "asyncio.Task[Any]") -> Context | None:
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
    if get_context is not None:  # Python 3.12
        return get_context()
    return next((held for held in gc.get_referents(task) if isinstance(held, Context)), None)


def _is_sdk_code(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and str(code.co_filename).startswith(SDK_CODE)
