"""Hooks that bring a governed run along, and what the runner and a callback find of it.

A `Runner.run` that is given `GoverningHooks` runs inside the run that they carry. Hooks that are
called in another way, by hooks of the user's own that hand on to them, begin it at their first
callback: then it is followed here until the `Runner.run` around it has ended.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import attrs
from agents import RunConfig, RunHooks, TContext

from comptroller.errors import ComptrollerError, without_traceback
from comptroller.openai_agents.context import current_run, is_elsewhere
from comptroller.runtime.portal import reraise_cancellation
from comptroller.runtime.run import Run


class HookRun(AbstractAsyncContextManager[Run], Protocol):
    """A run that lives in no frame. It has begun; `async with` makes it govern the body."""

    run: Run

    @property
    def refusal(self) -> ComptrollerError | None:
        """What has ended the run before its regular end, if anything did."""

    def end(self, why: str) -> None:
        """Close it soon, from synchronous code in its loop."""

    async def ended(self) -> BaseException | None:
        """Wait until it is closed (bounded); returns a native cancellation that came meanwhile."""


class GoverningHooks(RunHooks[TContext], ABC):
    """Hooks that govern the runs that they are given to."""

    @abstractmethod
    def carry(self, run_id: str | None = None) -> HookRun:
        """Begin a run, in the running asyncio loop. Raises ValueError: its id is in use."""

    def join(self, run: Run | None) -> bool:
        """Whether `run` governs what these hooks are given to: a scope's does, and their own.

        Not one that other hooks carry: who is given these means their budget.
        """
        return run is not None and run.carrier in (None, self)


async def end_all(
    carriages: Sequence[HookRun], why: str, error: BaseException | None = None
) -> None:
    """End them and wait. Raises a native cancellation that came meanwhile, unless `error` is."""
    for carriage in carriages:
        carriage.end(why)
    waits = [await carriage.ended() for carriage in carriages]
    reraise_cancellation(next(filter(None, waits), None), error)


@attrs.define
class UngovernedInvocation:
    """An ungoverned `Runner.run`, and what hooks have begun inside it.

    Attributes:
        config: its run config as the caller gave it.
        over: it has ended: contexts may hold it for longer.
    """

    config: RunConfig | dict[str, Any] | None
    carriages: list[HookRun] = attrs.Factory(list)
    over: bool = False

    def end(self) -> None:
        """Note that it has ended."""
        self.over = True

    def check(self) -> None:
        """Raise what refused a call of it: the SDK may have made a text of that for a model."""
        for carriage in self.carriages:
            if carriage.refusal is not None:
                raise without_traceback(carriage.refusal)


_FOLLOWED: ContextVar[UngovernedInvocation | None] = ContextVar(
    "comptroller_followed", default=None
)


def followed() -> UngovernedInvocation | None:
    """Return the ungoverned `Runner.run` around this context, while it goes on."""
    found = _FOLLOWED.get()
    return None if found is None or found.over else found


def governing_run() -> Run | None:
    """Return the run that governs this context: its scope's, or one that hooks have brought along.

    A scope's run stays it when it is closed, and refuses; one of hooks is then gone. One whose
    scope stands in a generator does not govern what reads that.
    """
    run = current_run.get()
    while run is not None and ((run.carrier is not None and run.closed) or is_elsewhere(run)):
        run = run.outer
    around = followed()
    if run is None and around is not None and around.carriages:
        return around.carriages[0].run
    return run


@contextmanager
def followed_by(around: UngovernedInvocation) -> Iterator[None]:
    """Note in `around` what callbacks of this context begin."""
    before = _FOLLOWED.get()
    _FOLLOWED.set(around)
    try:
        yield
    finally:
        _FOLLOWED.set(before)


@asynccontextmanager
async def following(config: RunConfig | dict[str, Any] | None) -> AsyncIterator[None]:
    """Follow one ungoverned `Runner.run`, the body: what hooks have begun in it ends with it.

    Raises what refused a call of theirs, wherever in the tree that fell.
    """
    around = UngovernedInvocation(config)
    error: BaseException | None = None
    try:
        with followed_by(around):
            yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        around.end()
        await end_all(around.carriages, "the run of its hooks has ended", error)
        if error is None or isinstance(error, Exception):
            around.check()
        del error
