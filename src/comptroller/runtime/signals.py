"""SIGTERM: the runs of a supervisor settle before the process ends, which it would on the spot.

Ctrl-C is the loop's: asyncio cancels its main task, trio raises in its own, and scopes that are
left settle. Signals are heard in the main thread alone, and nobody else's handler is replaced.
"""

import os
import signal
import threading
from types import FrameType

import anyio

from .hub import Hub

_TERMINATED = "interrupted by SIGTERM"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Termination:
    """The first SIGTERM, while a supervisor is open and nobody else handles it.

    It cancels the runs and the supervisor's body. When they are settled the process ends as it was
    asked to: by a SystemExit, so that what stands around the supervisor is left, too. A second one
    ends it at once.

    Attributes:
        body: the scope of the body.
    """

    def __init__(self, hub: Hub) -> None:
        self.body = anyio.CancelScope()
        self._hub, self._process, self._came = hub, os.getpid(), False

    def begin(self) -> None:
        """The body begins."""
        self.body.__enter__()
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._heard)

    def end(self) -> None:
        """All is settled. Raises SystemExit if that is what was asked for."""
        if signal.getsignal(signal.SIGTERM) == self._heard:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._came:
            raise SystemExit(128 + signal.SIGTERM)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != self._process:  # a fork has inherited the handler, and has nothing here
            os.kill(os.getpid(), number)
            return
        self._came = True
        self._hub.home.soon(self._stop)

    def _stop(self) -> None:
        self._hub.stop_all(_TERMINATED)
        self.body.cancel(_TERMINATED)
