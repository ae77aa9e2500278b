"""Blocking work of ledgers, in threads that keep no process from its end.

`sys.exit` in a task leaves an asyncio loop at once, and nobody is left to tell the worker threads of
anyio to stop: the interpreter would wait for them for ever. Trio's are daemons; so are these.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import ParamSpec, TypeVar, TypeVarTuple

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import current_token

T = TypeVar("T")
P = ParamSpec("P")
Args = TypeVarTuple("Args")


class _DaemonThreads(Executor):
    """A daemon thread for each job: what blocks takes longer than starting one."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = Future[T]()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is whoever waits that gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=work, name="comptroller ledger", daemon=True).start()
        return future


_DAEMON_THREADS = _DaemonThreads()


async def run_sync(
    function: Callable[[*Args], T], *args: *Args, limiter: CapacityLimiter | None = None
) -> T:
    """Call `function` in a thread, as `anyio.to_thread.run_sync`: what has begun is waited for."""
    if current_token().backend_class.__module__.endswith("_trio"):
        return await to_thread.run_sync(function, *args, limiter=limiter)
    await anyio.lowlevel.checkpoint()
    async with limiter or to_thread.current_default_thread_limiter():
        with anyio.CancelScope(shield=True):
            return await asyncio.get_running_loop().run_in_executor(
                _DAEMON_THREADS, copy_context().run, function, *args
            )
