"""Denials that are answered without asking the ledger again, for a short, growing time.

A loop that is denied asks again at once, and again. The first denials of a scope are the ledger's;
from then on the same answer is given here for a while, to whoever asks for at least as much.
Requests that were under way together count as one: tools that ask in parallel are no loop. What
may have changed it (a grant, budget that came back, funding, somebody who says "ask again") ends
that at once.

Whether a ledger that gave no answer is asked again (a circuit breaker).

A dead ledger must not cost every call its time-out: after a few requests in a row without an
answer, those that follow are told so at once. Now and then one goes through, to see whether the
ledger is back; the first answer of any kind closes the circuit. Requests that were under way
together count as one: a server that restarts drops all of its connections in the same moment.
"""

import math

import attrs
from runcycles import Subject, Unit

from comptroller.core.scopes import scopes_of

TOLERATED_DENIALS = 2
"""Denials in a row that the ledger is asked for."""

FIRST_DENIAL_BACKOFF, MAX_DENIAL_BACKOFF = 0.25, 10.0
"""Seconds for which a denial is repeated: at first, and at most. It doubles in between."""


@attrs.frozen
class DenialBackoff:
    """A scope that refused.

    Attributes:
        code: the protocol's reason.
        least: the smallest amount that was refused for it; a smaller one may fit.
        since: when it refused last, of those that count.
        times: how often in a row; what lies long back begins a new one.
        until: it is repeated before this moment.
    """

    code: str | None
    least: int
    since: float
    times: int = 1
    until: float = -math.inf

    def again(self, code: str | None, amount: int, sent: float, now: float) -> "DenialBackoff":
        """Note that what was sent at `sent` was refused once more."""
        if now > max(self.since, self.until) + MAX_DENIAL_BACKOFF:
            return DenialBackoff(code, amount, since=now)
        least = min(self.least, amount) if code == self.code else amount
        if sent < self.since:
            return attrs.evolve(self, code=code, least=least)
        times = self.times + 1
        pause = min(
            FIRST_DENIAL_BACKOFF * 2.0 ** min(times - TOLERATED_DENIALS, 16), MAX_DENIAL_BACKOFF
        )
        return DenialBackoff(code, least, now, times, now + pause)

    def holds(self, amount: int, now: float) -> bool:
        """Whether a request for `amount` is answered here."""
        fits = amount < self.least and self.code == "BUDGET_EXCEEDED"
        return self.times >= TOLERATED_DENIALS and now < self.until and not fits


def scopes(subject: Subject) -> tuple[str, ...]:
    """Return the scopes that a denial may come from; none for an impossible subject."""
    try:
        return scopes_of(subject)
    except ValueError:
        return ()


Where = tuple[str, Unit]
"""A scope (in lower case) and the unit in which its budget is kept."""


TOLERATED = 3
"""Requests in a row without an answer before the circuit opens."""

FIRST, MAX_COOLDOWN = 1.0, 30.0
"""Seconds that it stays open: at first, and at most. It doubles in between."""


@attrs.frozen
class CircuitBreaker:
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

    def sent(self, now: float) -> "CircuitBreaker":
        """Note that a request goes out.

        While the circuit is open it is the only one for a while.
        """
        return attrs.evolve(self, until=now + self._pause()) if self.open else self

    def unanswered(self, sent: float, now: float) -> "CircuitBreaker":
        """No answer came to what was sent at `sent`."""
        if sent < self.since:
            return self
        failed = CircuitBreaker(self.failures + 1, now)
        return attrs.evolve(failed, until=now + failed._pause()) if failed.open else failed

    def _pause(self) -> float:
        return min(FIRST * 2.0 ** min(self.failures - TOLERATED, 16), MAX_COOLDOWN)


CLOSED = CircuitBreaker()
"""Nothing speaks against asking."""
