"""The SDK's default runner, delegated: inert outside a governed scope, an episode inside one.

`set_default_agent_runner` is documented as experimental; it is the one call by which every
top-level and nested `run`, `run_streamed` and `run_sync` is seen.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from agents import Agent
from agents.result import RunResult, RunResultStreaming

from comptroller.runtime.run import Run

from .active import ACTIVE
from .compat import (
    close_owned_provider,
    close_owned_provider_with,
    get_default_agent_runner,
    set_default_agent_runner,
)
from .episode import EPISODE, Episode
from .usage import described


class DelegatingRunner:
    """Stands in for the SDK's runner. Not a subclass: the class is the SDK's own business."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def run(self, agent: Agent[Any], given: Any, **options: Any) -> RunResult:
        """`Runner.run`."""
        run = ACTIVE.get()
        if run is None:
            result: RunResult = await self.inner.run(agent, given, **options)
            return result
        return await self._episode(run, True, agent, given, **options)

    def run_sync(self, agent: Agent[Any], given: Any, **options: Any) -> RunResult:
        """`Runner.run_sync`: the SDK's own calls its own `run`, so a copy of it calls ours."""
        run = ACTIVE.get()
        if run is None:
            result: RunResult = self.inner.run_sync(agent, given, **options)
            return result
        twin = copy.copy(self.inner)
        twin.run = partial(self._episode, run, False)
        result = twin.run_sync(agent, given, **options)
        return result  # noqa: RET504 - the name carries the type

    def run_streamed(self, agent: Agent[Any], given: Any, **options: Any) -> RunResultStreaming:
        """`Runner.run_streamed`."""
        run = ACTIVE.get()
        if run is None:
            result: RunResultStreaming = self.inner.run_streamed(agent, given, **options)
            return result
        episode = Episode(run, agent, given, options)
        token = EPISODE.set(episode)
        try:
            result = self.inner.run_streamed(agent, given, **episode.options)
        except BaseException:
            episode.close("it never started", clean=True)
            raise
        finally:
            EPISODE.reset(token)
        _follow(episode, result)
        return result

    async def _episode(
        self, run: Run, pending: bool, agent: Agent[Any], given: Any, **options: Any
    ) -> RunResult:
        """One governed `Runner.run`. What ended the run is what its callers see."""
        episode = Episode(run, agent, given, options)
        episode.pending = pending  # a synchronous run's loop does not go on after it
        token = EPISODE.set(episode)
        why = "the run was stopped"
        clean = False
        try:
            # One native cancel, as the SDK expects, never delivered again; `expired()` tells ours
            # from a cancellation from outside, which is never translated and wins.
            async with asyncio.timeout(None) as timer:
                episode.stops_by(lambda: timer.reschedule(0))
                result: RunResult = await self.inner.run(agent, given, **episode.options)
            run.check()
            clean, why = True, "the episode ended"
            return result
        except Exception as error:
            why = described(error)
            if run.ended is not None and error is not run.ended:
                raise run.ended from (None if timer.expired() else error)
            raise
        finally:
            EPISODE.reset(token)
            episode.close(why, clean=clean)
            if episode.provider is not None:
                await close_owned_provider(episode.provider)


def _follow(episode: Episode, result: RunResultStreaming) -> None:
    """Watch a streamed run: how to stop it, when it is over, and that a cut one says so."""
    task: asyncio.Task[Any] = result.run_loop_task  # type: ignore[assignment] # it has begun
    if episode.provider is not None:
        close_owned_provider_with(result, episode.provider)
    episode.stops_by(result.cancel)

    def over(task: "asyncio.Task[Any]") -> None:
        clean = not task.cancelled() and task.exception() is None
        episode.close("the stream ended", clean=clean)

    task.add_done_callback(over)
    events: Callable[[], Any] = result.stream_events
    result.stream_events = lambda: _Events(events(), episode.run)  # type: ignore[method-assign]


class _Events:
    """A stream's events. One that we cut must not look complete.

    No generator around the SDK's own: a loop that ends closes every generator at once, and could
    not close one that another is just closing.
    """

    def __init__(self, source: AsyncGenerator[Any, None], run: Run) -> None:
        self._source, self._run = source, run

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            self._run.check()
            raise

    async def aclose(self) -> None:
        await self._source.aclose()


def install() -> None:
    """Put the delegating runner in place, once per process."""
    if not isinstance(get_default_agent_runner(), DelegatingRunner):
        set_default_agent_runner(DelegatingRunner(get_default_agent_runner()))  # type: ignore[arg-type]
