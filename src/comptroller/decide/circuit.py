"""Whether a ledger that gave no answer is asked again (a circuit breaker).

A dead ledger must not cost every call its time-out: after a few requests in a row without an
answer, those that follow are told so at once. Now and then one goes through, to see whether the
ledger is back; the first answer of any kind closes the circuit. Requests that were under way
together count as one: a server that restarts drops all of its connections in the same moment.
"""

import math

import attrs

TOLERATED = 3
"""Requests in a row without an answer before the circuit opens."""

FIRST, MOST = 1.0, 30.0
"""Seconds that it stays open: at first, and at most. It doubles in between."""


@attrs.frozen
class Circuit:
    """What is known about a ledger's answers.

    Attributes:
        failures: requests without an answer since the last one with, each sent after the one
            before had failed.
        since: when the last of them failed.
        until: nothing is sent before this moment (of whatever clock the caller uses, in seconds).
    """

    failures: int = 0
    since: float = -math.inf
    until: float = -math.inf

    @property
    def open(self) -> bool:
        """Whether requests are held back, but for one now and then."""
        return self.failures >= TOLERATED

    def rest(self, now: float) -> float:
        """Seconds for which nothing is to be sent; 0: send."""
        return max(0.0, self.until - now) if self.open else 0.0

    def sent(self, now: float) -> "Circuit":
        """A request goes out. While the circuit is open it is the only one for a while."""
        return attrs.evolve(self, until=now + self._pause()) if self.open else self

    def unanswered(self, sent: float, now: float) -> "Circuit":
        """No answer came to what was sent at `sent`."""
        if sent < self.since:
            return self
        failed = Circuit(self.failures + 1, now)
        return attrs.evolve(failed, until=now + failed._pause()) if failed.open else failed

    def _pause(self) -> float:
        return min(FIRST * 2.0 ** min(self.failures - TOLERATED, 16), MOST)


CLOSED = Circuit()
"""Nothing speaks against asking."""
