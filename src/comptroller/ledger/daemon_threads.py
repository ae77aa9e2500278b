"""Blocking work of ledgers, in threads that keep no process from its end.

`sys.exit` in a task leaves an asyncio loop at once, and nobody is left to tell anyio's worker
threads to stop: the interpreter would wait for them for ever. Trio's are daemons; so are these.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import current_token

T = TypeVar("T")
Args = TypeVarTuple("Args")


class _Job(threading.Thread):
    """A daemon for one job: what blocks takes longer than starting a thread.

    Attributes:
        loop: whose job it is; None when nobody waits for it any more. A thread outlives the news of
            its result for a moment, which a virtual clock is not to take for work.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> None:
        super().__init__(name="comptroller ledger", daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = loop
        self._work = work
        self.done: Future[Any] = Future()

    def run(self) -> None:
        """Do it."""
        if self.done.set_running_or_notify_cancel():
            try:
                result = self._work()
            except Exception as error:  # noqa: BLE001 - it is for whoever waits
                self.done.set_exception(error)
            else:
                self.done.set_result(result)
            finally:
                if not self.done.done():
                    self.done.set_exception(RuntimeError("its thread was ended"))


async def run_sync(
    function: Callable[[*Args], T], *args: *Args, limiter: CapacityLimiter | None = None
) -> T:
    """Call `function` in a thread, as `anyio.to_thread.run_sync`: what has begun is waited for."""
    if current_token().backend_class.__module__.endswith("_trio"):
        return await to_thread.run_sync(function, *args, limiter=limiter)
    await anyio.lowlevel.checkpoint()
    context = copy_context()
    async with limiter or to_thread.current_default_thread_limiter():
        job = _Job(asyncio.get_running_loop(), lambda: context.run(function, *args))
        with anyio.CancelScope(shield=True):
            job.start()
            try:
                result: T = await asyncio.wrap_future(job.done)
            finally:
                job.loop = None
    return result
