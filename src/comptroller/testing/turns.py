"""The turns of an event loop, counted: moments at which a test may interfere."""

from collections.abc import Callable, Iterable


class Turns:
    """Counts, and calls what was asked for at its turn.

    Attributes:
        count: how many turns there were.
        soon: how the loop calls something soon; set by whoever counts.
    """

    def __init__(self) -> None:
        self.count = 0
        self.soon: Callable[[Callable[[], object]], object] = lambda then: then()
        self._due: dict[int, Callable[[], object]] = {}

    def at(self, turns: Iterable[int], then: Callable[[], object]) -> None:
        """Call `then` at these turns from now on, 1 being the next one."""
        self._due = {self.count + turn: then for turn in turns}

    def turn(self) -> None:
        """One more."""
        self.count += 1
        if then := self._due.pop(self.count, None):
            self.soon(then)
