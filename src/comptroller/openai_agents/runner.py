"""The SDK's default runner, delegated: inert outside a governed scope, an episode inside one.

`set_default_agent_runner` is documented as experimental; it is the one call by which every
top-level and nested `run`, `run_streamed` and `run_sync` is seen.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

from agents import Agent
from agents.result import RunResult, RunResultStreaming

from comptroller.errors import without_traceback
from comptroller.openai_agents.compaction import governed_session
from comptroller.openai_agents.context import run_scope
from comptroller.openai_agents.hook_runs import (
    GoverningHooks,
    HookRun,
    UngovernedInvocation,
    end_all,
    followed_by,
    following,
    governing_run,
)
from comptroller.openai_agents.invocation import Invocation, current_invocation
from comptroller.openai_agents.model import callers_own
from comptroller.openai_agents.request_failures import describe_error
from comptroller.openai_agents.sdk_internals import (
    check_sdk,
    close_owned_provider,
    close_owned_provider_with,
    compact_through,
    get_default_agent_runner,
    set_default_agent_runner,
    show_configs,
)
from comptroller.runtime.run import Run


class DelegatingRunner:
    """Stands in for the SDK's runner. Not a subclass: the class is the SDK's own business."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def run(self, agent: Agent[Any], given: Any, **options: Any) -> RunResult:
        """`Runner.run`."""
        return await self._run(True, agent, given, **options)

    def run_sync(self, agent: Agent[Any], given: Any, **options: Any) -> RunResult:
        """`Runner.run_sync`: the SDK's own calls its own `run`, so a copy of it calls ours."""
        inner, run = self.inner, governing_run()
        if run is not None or options.get("hooks") is not None:
            inner = copy.copy(inner)
            inner.run = partial(self._run, False)
        with run_scope(run):
            result: RunResult = inner.run_sync(agent, given, **options)
        return result

    def run_streamed(self, agent: Agent[Any], given: Any, **options: Any) -> RunResultStreaming:
        """`Runner.run_streamed`."""
        run, hooks = governing_run(), options.get("hooks")
        with run_scope(run):
            if isinstance(hooks, GoverningHooks) and not hooks.join(run):
                carriage = hooks.carry()
                return carried_stream(
                    carriage, lambda: self._streamed(carriage.run, agent, given, options)
                )
            if run is not None:
                return self._streamed(run, agent, given, options)
            if hooks is not None:
                return self._followed(agent, given, options)
            result: RunResultStreaming = self.inner.run_streamed(agent, given, **options)
            return result

    async def _run(self, pending: bool, agent: Agent[Any], given: Any, **options: Any) -> RunResult:
        """`pending`: whether the loop goes on after it."""
        run, hooks = governing_run(), options.get("hooks")
        with run_scope(run):
            if isinstance(hooks, GoverningHooks) and not hooks.join(run):
                async with hooks.carry() as run:
                    return await self._episode(run, pending, agent, given, **options)
            if run is not None:
                return await self._episode(run, pending, agent, given, **options)
            if hooks is None:
                result: RunResult = await self.inner.run(agent, given, **options)
                return result
            async with following(options.get("run_config")):
                return await self.inner.run(agent, given, **options)  # type: ignore[no-any-return]

    def _streamed(
        self, run: Run, agent: Agent[Any], given: Any, options: dict[str, Any]
    ) -> RunResultStreaming:
        """One governed `Runner.run_streamed`."""
        episode = Invocation(run, agent, given, options)
        token = current_invocation.set(episode)
        try:
            result: RunResultStreaming = self.inner.run_streamed(agent, given, **episode.options)
        except BaseException:
            episode.close("it never started", clean=True)
            raise
        finally:
            current_invocation.reset(token)
        _follow(episode, result)
        return result

    def _followed(
        self, agent: Agent[Any], given: Any, options: dict[str, Any]
    ) -> RunResultStreaming:
        """Run an ungoverned stream: what hooks begin in it ends with its task."""
        around = UngovernedInvocation(options.get("run_config"))
        with followed_by(around):
            result: RunResultStreaming = self.inner.run_streamed(agent, given, **options)
        if isinstance(result, RunResultStreaming):  # the runner underneath may be anybody's
            _ends_with(result, around.carriages, around.end)
            _watch(result, around.check, around.carriages)
        return result

    async def _episode(
        self, run: Run, pending: bool, agent: Agent[Any], given: Any, **options: Any
    ) -> RunResult:
        """One governed `Runner.run`. What ended the run is what its callers see."""
        run.terms.home.check_process()  # a fork has no loop, either
        if not _in_a_task():
            raise RuntimeError(
                "Runner.run is asyncio code. Under trio: await run(...), or carry it,"
                " trio_asyncio.aio_as_trio(Runner.run)(agent, ...)"
            )
        episode = Invocation(run, agent, given, options)
        episode.pending = pending  # a synchronous run's loop does not go on after it
        token = current_invocation.set(episode)
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
            why = describe_error(error)
            if run.ended is not None and error is not run.ended:
                raise without_traceback(run.ended) from (None if timer.expired() else error)
            raise
        finally:
            current_invocation.reset(token)
            episode.close(why, clean=clean)
            if episode.provider is not None:
                await close_owned_provider(episode.provider)


def _in_a_task() -> bool:
    """Whether asyncio runs this; trio code that awaits it would hear of unknown yield messages."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop
        return False


def _follow(episode: Invocation, result: RunResultStreaming) -> None:
    """Watch a streamed run: how to stop it, when it is over, and that a cut one says so."""
    task: asyncio.Task[Any] = result.run_loop_task  # type: ignore[assignment] # it has begun
    if episode.provider is not None:
        close_owned_provider_with(result, episode.provider)
    episode.stops_by(result.cancel)

    def over(task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        why = "the stream ended" if error is None else describe_error(error)
        episode.close(why, clean=error is None and not task.cancelled())

    task.add_done_callback(over)
    _watch(result, episode.check)


def _watch(
    result: RunResultStreaming, check: Callable[[], None], carriages: Sequence[HookRun] = ()
) -> None:
    """Its events are read through `_GovernedStream`."""
    events: Callable[[], Any] = result.stream_events
    result.stream_events = lambda: _GovernedStream(  # type: ignore[method-assign]
        events(), check, carriages
    )


class _GovernedStream:
    """A stream's events. A cut stream must not look complete; what it brought along is settled.

    No generator around the SDK's own: a loop that ends closes every generator at once, and could
    not close one that another is just closing.
    """

    def __init__(
        self,
        source: AsyncGenerator[Any, None],
        check: Callable[[], None],
        carriages: Sequence[HookRun],
    ) -> None:
        self._source, self._check, self._carriages = source, check, carriages

    def __aiter__(self) -> "_GovernedStream":
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            await end_all(self._carriages, "its stream was read to the end")
            self._check()
            raise
        except Exception as error:
            await end_all(self._carriages, describe_error(error), error)
            raise

    async def aclose(self) -> None:
        await self._source.aclose()
        await end_all(self._carriages, "its stream was closed")


def carried_stream(
    carriage: HookRun, start: Callable[[], RunResultStreaming]
) -> RunResultStreaming:
    """`start()`, a stream that brings its run along: the run ends with the stream's task."""
    try:
        with run_scope(carriage.run):
            result = start()
    except BaseException:
        carriage.end("it never started")
        raise
    _ends_with(result, [carriage])
    _watch(result, _nothing, [carriage])
    return result


def _ends_with(
    result: RunResultStreaming,
    carriages: Sequence[HookRun],
    over: Callable[[], None] | None = None,
) -> None:
    """End what they carry with the stream's task."""

    def ended(_: object) -> None:
        if over is not None:
            over()
        for carriage in carriages:
            carriage.end("the stream of its hooks has ended")

    result.run_loop_task.add_done_callback(ended)  # type: ignore[union-attr] # it has begun


def _nothing() -> None:
    """Check nothing: the episode's own events have done it."""


def _compacted_by_hand(session: Any) -> Any:
    """Return the session as the run sees it that governs this context, if one does."""
    run = governing_run()
    if run is None:
        return session
    around = current_invocation.get()
    if around is not None and around.run is run:
        return governed_session(run, around.id, around.agent, session)
    return governed_session(run, run.episode_id(None), "compaction", session)


def install() -> None:
    """Put the delegating runner in place, once per process.

    Raises:
        ComptrollerError: the SDK has moved something that is needed.
    """
    check_sdk()
    show_configs(callers_own)
    compact_through(_compacted_by_hand)
    if not isinstance(get_default_agent_runner(), DelegatingRunner):
        set_default_agent_runner(DelegatingRunner(get_default_agent_runner()))  # type: ignore[arg-type]
