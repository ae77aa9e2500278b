"""Hooks that bring a governed run along, and what the runner and a callback find of it.

A `Runner.run` that is given `GoverningHooks` runs inside the run that they carry. Hooks that are
called in another way, by hooks of the user's own that hand on to them, begin it at their first
callback: then it is followed here until the `Runner.run` around it has ended.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import attrs
from agents import RunConfig, RunHooks, TContext

from comptroller.runtime.home import raise_unless_known
from comptroller.runtime.run import Run

from .active import ACTIVE


class Carriage(AbstractAsyncContextManager[Run], Protocol):
    """A run that lives in no frame. It has begun; `async with` makes it govern the body."""

    run: Run

    def end(self, why: str) -> None:
        """Close it soon, from synchronous code in its loop."""

    async def ended(self) -> BaseException | None:
        """Wait until it is closed (bounded); returns a native cancellation that came meanwhile."""


class GoverningHooks(RunHooks[TContext], ABC):
    """Hooks that govern the runs that they are given to."""

    @abstractmethod
    def carry(self, run_id: str | None = None) -> Carriage:
        """Begin a run, in the running asyncio loop. Raises ValueError: its id is in use."""


@attrs.define
class Followed:
    """An ungoverned `Runner.run`, and what hooks have begun inside it.

    Attributes:
        config: its run config as the caller gave it.
    """

    config: RunConfig | dict[str, Any] | None
    carriages: list[Carriage] = attrs.Factory(list)


FOLLOWED: ContextVar[Followed | None] = ContextVar("comptroller_followed", default=None)


def governing_run() -> Run | None:
    """The run that governs this context: its scope's, or one that hooks have begun around it."""
    run, followed = ACTIVE.get(), FOLLOWED.get()
    if run is None and followed is not None and followed.carriages:
        return followed.carriages[0].run
    return run


@contextmanager
def followed_by(followed: Followed) -> Iterator[None]:
    """What callbacks of this context begin is noted in `followed`."""
    before = FOLLOWED.get()
    FOLLOWED.set(followed)
    try:
        yield
    finally:
        FOLLOWED.set(before)


@asynccontextmanager
async def following(config: RunConfig | dict[str, Any] | None) -> AsyncIterator[None]:
    """The body is one ungoverned `Runner.run`: what hooks have begun in it ends with it."""
    followed, error = Followed(config), None
    try:
        with followed_by(followed):
            yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        for carriage in followed.carriages:
            carriage.end("the run of its hooks has ended")
        waits = [await carriage.ended() for carriage in followed.carriages]
        raise_unless_known(next(filter(None, waits), None), error)
