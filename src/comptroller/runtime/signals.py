"""SIGTERM and Ctrl-C, where a supervisor is to handle them: runs settle before the process ends.

Ctrl-C is the loop's: asyncio cancels its main task, trio raises in its own, and scopes that are
left settle. SIGTERM would end the process on the spot. Signals are heard in the main thread alone,
and a handler of the program itself is never replaced.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import anyio

from comptroller.runtime.registry import RunRegistry

_TERMINATED = "interrupted by SIGTERM"
_TOGETHER = 30.0
"""Seconds that a supervisor which has settled waits for others to do so."""

STUCK = 1.0
"""Seconds in which a loop turns; a key that bounces is not two."""

_OF_LOOPS = ("asyncio.runners", "trio._core._ki")
"""The modules of the handlers by which loops hear SIGINT. Without one, as in a notebook's kernel,
each Ctrl-C is raised on the spot, and the second does not wait anyway."""


class Signals:
    """What one supervisor, while it is open, makes of signals.

    The first SIGTERM cancels its runs and its body. When they are settled the process ends as it
    was asked to: by a SystemExit, so that what stands around the supervisor is left, too. A second
    SIGTERM ends the process at once. So does a second Ctrl-C while the supervisor is left, or where
    the loop has not turned since the first one: some tool computes, and lets nothing else happen.

    Attributes:
        body: the scope of the body.
        leaving: the body has ended.
        terminated: it was asked to end.
    """

    _hub: RunRegistry

    def __init__(self) -> None:
        self.leaving = self.terminated = False

    def begin(self, hub: RunRegistry) -> None:
        """Begin to listen, for the runs of `hub`: the body begins."""
        self._hub, self.body = hub, anyio.CancelScope()
        self._task = anyio.get_current_task()
        self.body.__enter__()
        if threading.current_thread() is threading.main_thread():
            _HANDLERS.add(self)

    def leave_body(self, *error: Any) -> bool | None:
        """Leave the body's scope. Its task alone can: in another one it is let go."""
        if anyio.get_current_task() != self._task:
            return None
        return self.body.__exit__(*error)

    async def end(self) -> None:
        """All is settled. Raises SystemExit if that is what was asked for.

        The last supervisor raises it, for asyncio ends its loop on the spot then; the others wait
        for the cancellation that it brings: not for ever, as one may stand in another, shielded.
        """
        _HANDLERS.discard(self)
        if self.terminated:
            if _HANDLERS.terminating():
                await anyio.sleep(_TOGETHER)
            raise SystemExit(128 + signal.SIGTERM)

    def terminate(self) -> bool:
        """In a signal handler: whether there is still a loop to cancel anything in."""
        self.terminated = True
        return self.soon(self._stop)

    def alive(self) -> bool:
        """Whether its loop is still there. It is not where an error has ended the loop itself."""
        return self.soon(bool)

    def soon(self, then: Callable[[], object]) -> bool:
        """Call `then` in its loop; whether that is still there."""
        return self._hub.home.soon(then)

    def _stop(self) -> None:
        self._hub.stop_all(_TERMINATED)
        if self._task in anyio.get_running_tasks():  # else it is a fixture's, which has ended
            self.body.cancel(_TERMINATED)


class _Handlers:
    """The handlers of this process, while its main thread has supervisors open."""

    def __init__(self) -> None:
        self._open: list[Signals] = []
        self._before: dict[int, Any] = {}
        self._interrupted: float | None = None  # when, the last time
        self._turned = False  # since then, a loop has

    def add(self, one: Signals) -> None:
        for other in [other for other in self._open if not other.alive()]:
            self.discard(other)
        if not self._open:
            self._interrupted = None
            self._hear(signal.SIGTERM, self._terminate, lambda now: now is signal.SIG_DFL)
            self._hear(signal.SIGINT, self._interrupt, _of_a_loop)
        self._open.append(one)

    def discard(self, one: Signals) -> None:
        if one in self._open:
            self._open.remove(one)
            if not self._open:
                self.restore()

    def terminating(self) -> bool:
        """Whether a supervisor settles because it was asked to end."""
        return any(one.terminated and one.alive() for one in self._open)

    def restore(self) -> None:
        """Nobody is open. Handlers that were replaced meanwhile stay so."""
        self._open.clear()
        while self._before:
            number, before = self._before.popitem()
            if getattr(signal.getsignal(number), "__self__", None) is self:
                signal.signal(number, before)

    def _hear(
        self, number: int, handler: Callable[..., object], free: Callable[[Any], bool]
    ) -> None:
        before = signal.getsignal(number)
        if free(before):
            self._before[number] = before
            signal.signal(number, handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        told = [one.terminate() for one in self._open]
        if not any(told):
            os.kill(os.getpid(), number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Leave Ctrl-C to the loop, unless somebody insists."""
        before, now = self._interrupted, time.monotonic()
        if before is not None and (self._settling() or self._stuck(now - before)):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._interrupted, self._turned = now, False
        for one in self._open:
            one.soon(self._turn)
        self._before[number](number, frame)

    def _settling(self) -> bool:
        return any(one.leaving and one.alive() for one in self._open)

    def _stuck(self, seconds: float) -> bool:
        return not self._turned and seconds >= STUCK

    def _turn(self) -> None:
        self._turned = True


def _of_a_loop(handler: Any) -> bool:
    function = getattr(handler, "func", handler)  # asyncio binds its main task
    return getattr(function, "__module__", None) in _OF_LOOPS


_HANDLERS = _Handlers()
if hasattr(os, "register_at_fork"):  # not on Windows. A fork has none of the loops
    os.register_at_fork(after_in_child=_HANDLERS.restore)
