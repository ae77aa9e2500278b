"""One `Runner.run` inside a run, nested or not: its hooks, its model, and how it is stopped."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from agents import Agent
from agents.lifecycle import RunHooksBase

from comptroller.errors import ComptrollerError, without_traceback
from comptroller.openai_agents.compaction import governed_session
from comptroller.openai_agents.hooks import InvocationHooks
from comptroller.openai_agents.model import GovernedModel, callers_own
from comptroller.openai_agents.sdk_internals import SdkTasks, normalized, speaker_of
from comptroller.runtime.run import Run

current_invocation: ContextVar["Invocation | None"] = ContextVar(
    "comptroller_episode", default=None
)

_SDK_TASKS = SdkTasks(current_invocation)


class Invocation:
    """What the SDK is given in place of the caller's own, and what is known of its progress.

    Attributes:
        id: e.g. `1`, or `1.2` for the second one inside it.
        agent: the name of the agent that it was started with.
        options: the keyword arguments for the SDK.
        provider: the model provider that the SDK would own and close, if it would.
        pending: whether SDK tasks of it may be left in a loop that goes on after it.
    """

    def __init__(self, run: Run, agent: Agent[Any], given: Any, options: dict[str, Any]) -> None:
        around = current_invocation.get()
        self.run = run
        parent = around.id if around is not None and around.run is run else None
        self.id: str = run.episode_id(parent)
        self.agent: str = agent.name
        self.options = dict(options)
        self.pending = True
        config, owned = normalized(options.get("run_config"))
        config = callers_own(config)
        self.provider = config.model_provider if owned else None
        dispatcher = GovernedModel(run, self.id, config, speaker_of(given) or agent)
        self._hooks = self._governing(dispatcher, options.get("hooks"))
        self.options["run_config"] = dispatcher.handed
        if options.get("session") is not None:
            self.options["session"] = governed_session(run, self.id, agent.name, options["session"])
        self._interrupt: Callable[[], None] = _nothing
        self._closed = self._interrupted = False
        self._cut: ComptrollerError | None = None
        run.enter(self)

    def _governing(self, dispatcher: GovernedModel, own: Any) -> InvocationHooks:
        own = own.own if isinstance(own, InvocationHooks) else own
        hooks = InvocationHooks(self.run, self.id, dispatcher, own)
        if own is None or isinstance(own, RunHooksBase):
            self.options["hooks"] = hooks  # anything else gets the SDK's own error
        return hooks

    # -- stopping

    def stop(self) -> None:
        """Ask the SDK, which may be in another loop, to end. Called at the run's home."""
        self._interrupt()

    def stops_by(self, interrupt: Callable[[], object]) -> None:
        """`interrupt()`, run in this loop, asks the SDK to end. At most once takes effect."""
        loop = asyncio.get_running_loop()

        def once() -> None:
            if not self._closed and not self._interrupted:
                self._interrupted = True
                interrupt()

        def from_home() -> None:
            try:
                loop.call_soon_threadsafe(once)
            except RuntimeError:  # the loop is closed: the episode is over, whatever it was at
                self.run.leave(self)

        self._interrupt = from_home
        if self.run.ended is not None:
            from_home()

    # -- ending

    def check(self) -> None:
        """Raise what has cut it off, if anything did before the SDK was done with it."""
        cut = self._cut if self._closed else self.run.ended
        if cut is not None:
            raise without_traceback(cut)

    def close(self, why: str, *, clean: bool) -> None:
        """End it: the SDK handed back control.

        After an unclean end its tasks may still be tidying up (seen: tools that outlived
        `Runner.run` by 0.7 s): the episode is over when they are.
        """
        self._closed, self._cut = True, self.run.ended
        if not clean:
            why = str(self._cut or why)
        hooks = self._hooks

        def over() -> None:
            hooks.close(why, clean=clean)
            self.run.leave(self)

        if clean or not self.pending:
            over()
        else:
            _SDK_TASKS.after(self, over)
        # Timers and background tasks carry this context for as long as they like: it must not
        # keep the agent alive, which the hooks, the run config and a stream's `cancel` know.
        self.options.clear()
        self._interrupt = _nothing
        del self._hooks


def _nothing() -> None:
    """There is nothing to stop."""
