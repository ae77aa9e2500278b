"""Long work, off the event loop: what one caller asks for is not what all others wait for.

A caller has one lane: a long answer, or reading a long body, is done after those before it of the
same caller, and beside those of others, of which few are at work at once. So who asks for much
waits for itself.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from anyio import to_thread

T = TypeVar("T")

LONG = 2**14
"""Bytes of a body from which on reading it is long work: below, a thread costs more than it."""
_AT_ONCE = 2
"""Threads that compete with the event loop for the interpreter."""


class Lanes:
    """The lanes of one server; there is one for each caller who is in it or waits for it."""

    def __init__(self) -> None:
        self._lanes: dict[str | None, anyio.CapacityLimiter] = {}
        self._threads: anyio.CapacityLimiter | None = None  # made where there is a loop

    @asynccontextmanager
    async def lane(self, caller: str | None) -> AsyncIterator[None]:
        """Be in the lane of `caller`, alone."""
        lane = self._lanes.setdefault(caller, anyio.CapacityLimiter(1))
        try:
            async with lane:
                yield
        finally:
            waiting = lane.statistics().tasks_waiting
            if not waiting and not lane.borrowed_tokens and self._lanes.get(caller) is lane:
                del self._lanes[caller]

    async def off_the_loop(self, work: Callable[..., T], *given: object) -> T:
        """Return what `work` makes of `given`, in a thread."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(_AT_ONCE)
        return await to_thread.run_sync(work, *given, limiter=self._threads)
