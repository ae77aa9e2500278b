"""Where actors live: one loop of one flavour (asyncio or trio). All others are guests, and send.

The SDK's side may be the same loop, an asyncio loop carried by trio, or a loop of its own in a
tool's thread. One door serves all of them: what is sent from home runs at once, what a guest sends
is queued and run by a task at home. An actor started on a guest's loop would die with that loop,
and an event made by a guest has the guest's flavour: so both are made here only.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

from comptroller._interrupts import uninterrupted
from comptroller.errors import ComptrollerError

Message = tuple[Callable[..., object], tuple[Any, ...]]


class PortalClosed(Exception):
    """Nobody lives here any more: the supervisor's scope has ended."""


class LoopPortal:
    """The door, and the task group behind it.

    Use as an async context manager. Its body's exception never passes through the group (it would
    come out as an `ExceptionGroup`): leaving it cancels what is left inside and waits for that.

    It may be sent to before it is entered, by synchronous code that cannot wait for that: what
    comes is kept, and runs in its order when it opens.
    """

    def __init__(self) -> None:
        self._token, self._process = current_token(), os.getpid()
        native: Any = self._token.native_token
        self._later: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or (
            native.run_sync_soon
        )
        self._clock: Callable[[], float] = getattr(native, "time", None) or anyio.current_time
        self._inbox: deque[Message] = deque()
        self._arrived = Condition()
        self._sending = threading.Lock()  # nothing is sent by a guest once the door has closed
        self._opened = self._closed = self._serving = False
        self._tasks: TaskGroup

    async def __aenter__(self) -> "LoopPortal":
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._opened = True
        self._drain()
        self._tasks.start_soon(self._serve)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._close()
        self._tasks.cancel_scope.cancel("the scope at home has exited")
        await self._tasks.__aexit__(None, None, None)

    def lose(self) -> None:
        """Never open: hand what was sent on to those who turn it away."""
        with self._sending:
            self._closed, self._serving = True, False
        self._drain()

    def is_here(self) -> bool:
        """Whether the caller runs on this very loop, in this flavour.

        The same thread is not enough: asyncio code carried by trio shares the thread.
        """
        try:
            return current_token() == self._token
        except RuntimeError:  # a thread without a loop, a loop's bare callback, or a carried loop
            return False  # (anyio does not find that one if it was imported before trio-asyncio)

    def check_here(self, what: str) -> None:
        """Raise a RuntimeError that says `what` is done at home only, unless we are there."""
        if not self.is_here():
            raise RuntimeError(
                f"{what} in the loop that opened its supervisor: this is another one"
            )

    def now(self) -> float:
        """Seconds on this loop's clock. Only at home, but in bare callbacks, too."""
        return self._clock()

    def check_process(self) -> None:
        """Raise a ComptrollerError in a fork: the tasks of the home are its parent's."""
        if os.getpid() != self._process:
            raise ComptrollerError(
                f"this scope was opened in process {self._process} and cannot be used in its fork"
                f" {os.getpid()}: open a scope, and a ledger, in each process"
            )

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run `function(*args)` at home: at once if we are there, else soon and in order.

        `function` is synchronous and must not raise.

        Raises:
            PortalClosed: it will never run.
            ComptrollerError: this process is a fork.
        """
        self.check_process()
        if self.is_here():
            if self._opened or self._closed:
                function(*args)
            else:
                self._inbox.append((function, args))
            return
        with self._sending:
            if self._closed:
                raise PortalClosed
            try:
                self._later(self._arrive, (function, args))
            except RuntimeError as gone:  # also trio.RunFinishedError: the loop itself has ended
                raise PortalClosed from gone

    def soon(self, function: Callable[..., object], *args: Any) -> bool:
        """As `call`, but never at once, and without a lock: what a signal handler may do.

        Returns whether it will run: not where the loop itself has ended.
        """
        try:
            self._later(self._arrive, (function, args))
        except RuntimeError:
            return False
        return True

    def start(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> None:
        """Start a task at home, of a function that is `uninterrupted`. Only from home."""
        self.check_process()
        if self._opened:
            self._tasks.start_soon(function, *args, name=name)
        else:
            self._inbox.append((partial(self.start, function, name=name), args))

    @uninterrupted
    async def _serve(self) -> None:
        """Run guests' messages in a task.

        Shielded: while a cancelled scope is being left, the SDK still reports. It ends when the
        door has closed and everything that came in was handed on; or when an asyncio loop ends,
        which cancels every task natively: what comes in then is run as it comes.
        """
        self._serving = not self._closed
        try:
            with anyio.CancelScope(shield=True):
                while self._serving:
                    await self._arrived.until(lambda: bool(self._inbox) or not self._serving)
                    self._drain()
        finally:
            self._serving = False
            self._drain()

    def _arrive(self, message: Message) -> None:
        """In a bare callback of the home's loop."""
        self._inbox.append(message)
        if self._serving:
            self._arrived.notify()
        elif self._opened or self._closed:
            self._drain()

    def _drain(self) -> None:
        while self._inbox:
            function, args = self._inbox.popleft()
            function(*args)

    def _close(self) -> None:
        with self._sending:
            self._closed, self._serving = True, False
        self._arrived.notify()


class Condition:
    """Something that waiters at home are woken for. Each waiter makes its own event, at home."""

    def __init__(self) -> None:
        self._waiters: set[anyio.Event] = set()

    def notify(self) -> None:
        """Wake every waiter. Only from home."""
        for event in tuple(self._waiters):
            event.set()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until `done()`."""
        while not done():
            event = anyio.Event()
            self._waiters.add(event)
            try:
                await event.wait()
            finally:
                self._waiters.discard(event)


async def wait_shielded(
    change: Condition, done: Callable[[], bool], seconds: float
) -> BaseException | None:
    """Wait for `done()` at most `seconds`, whoever cancels meanwhile.

    Shielded against scopes; a native `task.cancel()` of asyncio ignores shields, and so does the
    Ctrl-C that trio raises where its main task waits. They are caught, remembered, and returned
    for the caller to raise when it has finished.
    """
    interrupted: BaseException | None = None
    try:
        with anyio.move_on_after(seconds, shield=True) as scope:
            while not done():
                try:
                    await change.until(done)
                except anyio.get_cancelled_exc_class() as cancelled:
                    if scope.cancel_called:
                        raise  # time is up
                    interrupted = cancelled
                except KeyboardInterrupt as pressed:
                    interrupted = pressed
    except anyio.get_cancelled_exc_class() as cancelled:  # a native one, at that very moment
        interrupted = interrupted or cancelled
    return interrupted


def reraise_cancellation(interrupted: BaseException | None, error: BaseException | None) -> None:
    """Raise the native cancellation, or Ctrl-C, that came while a scope was left: now it has been.

    Not where the body's own `error` is one: that goes on by itself.
    """
    if interrupted is not None and not isinstance(error, type(interrupted)):
        raise interrupted
