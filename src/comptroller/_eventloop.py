"""The host's flavour. The SDK is asyncio code; under trio it is carried by trio-asyncio.

trio-asyncio is imported only there: importing it changes the event loop policy.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

import anyio
import attrs
from anyio import TaskInfo
from anyio.lowlevel import current_token

from comptroller.errors import ComptrollerError, RunCancelled

T = TypeVar("T")
AsyncFunction = Callable[..., Awaitable[Any]]


@attrs.frozen
class EventLoopBackend:
    """How asyncio code is run from here.

    Attributes:
        aio: makes an asyncio function awaitable from the host.
        carries: whether the host is not asyncio itself.
    """

    aio: Callable[[AsyncFunction], AsyncFunction]
    carries: bool


def under_trio() -> bool:
    """Whether the caller is trio code."""
    return current_token().backend_class.__module__.endswith("_trio")


@asynccontextmanager
async def open_host() -> AsyncIterator[EventLoopBackend]:
    """Open the host of the running loop: under trio, an asyncio loop if none is open.

    Raises:
        ComptrollerError: under trio, and trio-asyncio is not installed.
    """
    if not under_trio():
        yield EventLoopBackend(lambda function: function, carries=False)
        return
    try:
        from comptroller._trio_loop import carry, carrying
    except ModuleNotFoundError:
        raise ComptrollerError(
            'under trio the SDK needs trio-asyncio: pip install "comptroller[trio]"'
        ) from None
    async with carrying():
        yield EventLoopBackend(carry, carries=True)


class FrameScope(Generic[T]):
    """A scope that stands in its user's frame, but does not see how that frame is left.

    The body's exception never passes through a task group: it goes on by itself, unchanged.
    """

    def __init__(self, scope: AbstractAsyncContextManager[T]) -> None:
        self._scope = scope
        self._entered: TaskInfo | None = None

    async def open(self) -> T:
        """Enter the scope. Raises what entering it raised."""
        self._entered = anyio.get_current_task()
        return await self._scope.__aenter__()

    async def close(self) -> BaseException | None:
        """Leave it as if nothing had happened. Raises what leaving it raised.

        Raises:
            RuntimeError: another task entered it. It is left all the same, as far as can be.
        """
        try:
            await self._scope.__aexit__(None, None, None)
        except RuntimeError as error:
            if anyio.get_current_task() == self._entered:
                raise
            raise RuntimeError(
                "this scope was left by another task than the one that entered it: what ran in it"
                " is settled, but it holds a task group. Enter and leave it in one task: in a test,"
                " in a fixture of pytest-trio or anyio, or in one cell of a notebook"
            ) from error
        return None


class TaskScope(FrameScope[T]):
    """A scope held open by nobody's frame, so that it may be left in another task than entered.

    Frameworks finalise an async generator in another task than the one that ran it (a streaming
    response whose client left), where a task group in that frame would raise. So a task of its own
    enters and leaves the scope: the one detached task of this package on asyncio, awaited by
    `close`. Under trio the frame does it, as trio has it.
    """

    def __init__(self, scope: AbstractAsyncContextManager[T]) -> None:
        super().__init__(scope)
        self._value: list[T] = []  # when it has opened
        self._failure: Exception | None = None
        self._opened, self._closing = anyio.Event(), anyio.Event()

    def begin(self, lost: Callable[[], object] | None = None) -> None:
        """Start the task, from synchronous code: the scope opens soon.

        `lost` is called where it never does: a task that is cancelled before its first step never
        takes it.
        """
        # An empty context: what it starts must not inherit the caller's governed run.
        self._task = asyncio.create_task(
            self._keep(), name="comptroller keeper", context=contextvars.Context()
        )

        def over(_: object) -> None:
            if not self._value and lost is not None:
                lost()
            self._opened.set()

        self._task.add_done_callback(over)

    async def open(self) -> T:
        """Enter the scope. Raises what entering it raised."""
        self.begin()
        try:
            await self._opened.wait()
        except BaseException:
            await self.close()
            raise
        if not self._value:
            raise self._failure or RunCancelled("its event loop has ended")
        return self._value[0]

    def end(self) -> None:
        """Leave the scope soon, from synchronous code."""
        self._closing.set()

    async def close(self) -> BaseException | None:
        """Leave the scope; returns a native cancellation that came meanwhile.

        Raises what leaving it raised.
        """
        self.end()
        interrupted: BaseException | None = None
        with anyio.CancelScope(shield=True):
            while not self._task.done():
                try:
                    await asyncio.wait([self._task])
                except asyncio.CancelledError as cancelled:  # native: ignores the shield
                    interrupted = cancelled
        if self._value and self._failure is not None:
            raise self._failure
        return interrupted

    async def _keep(self) -> None:
        try:
            async with self._scope as value:
                self._value.append(value)
                self._opened.set()
                await self._closing.wait()
        except Exception as error:  # noqa: BLE001 - `open` or `close` raise it
            self._failure = error


def detachable(scope: AbstractAsyncContextManager[T]) -> FrameScope[T]:
    """`scope`, to be opened here and closed in whatever task the running flavour allows."""
    return FrameScope(scope) if under_trio() else TaskScope(scope)
