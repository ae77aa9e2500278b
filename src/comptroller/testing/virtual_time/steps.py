"""The turns of an event loop, counted: moments at which a test may interfere."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class DidNotEnd(AssertionError):
    """Raised out of the loop itself: nothing less stops a program that ignores its cancellation."""


class StepCounter:
    """Counts, and calls what was asked for at its turn.

    Attributes:
        count: how many turns there were.
        soon: how the loop calls something soon; set by whoever counts.
        wake: how another thread wakes the loop; set likewise.
    """

    def __init__(self) -> None:
        self.count = 0
        self.soon: Callable[[Callable[[], object]], object] = lambda then: then()
        self.wake: Callable[[], object] = lambda: None
        self._due: dict[int, Callable[[], object]] = {}
        self._over: str | None = None

    def at(self, turns: Iterable[int], then: Callable[[], object]) -> None:
        """Call `then` at these turns from now on, 1 being the next one."""
        self._due = {self.count + turn: then for turn in turns}

    def turn(self) -> None:
        """One more."""
        self.count += 1
        if then := self._due.pop(self.count, None):
            self.soon(then)

    @contextmanager
    def bounded(self, patience: float) -> Iterator[None]:
        """In the block, the loop has `patience` real seconds; then `check` raises."""
        over = threading.Timer(patience, self._end, [patience])
        over.daemon = True
        over.start()
        try:
            yield
        finally:
            over.cancel()
            over.join()

    def _end(self, patience: float) -> None:
        self._over = f"it did not end in {patience:g} s of real time, whatever cancelled it"
        self.wake()

    def check(self) -> None:
        """Raise DidNotEnd when time is up. Called where it comes out of the loop."""
        if self._over is not None:
            raise DidNotEnd(self._over)
