"""Denials that are answered without asking the ledger again, for a short, growing time.

A loop that is denied asks again at once, and again. The first denials of a scope are the ledger's;
from then on the same answer is given here for a while, to whoever asks for at least as much.
Requests that were under way together count as one: tools that ask in parallel are no loop. What
may have changed it (a grant, budget that came back, funding, somebody who says "ask again") ends
that at once.
"""

import math

import attrs
from runcycles import Subject, Unit

from comptroller.decide.scopes import scopes_of

TOLERATED = 2
"""Denials in a row that the ledger is asked for."""

FIRST, MOST = 0.25, 10.0
"""Seconds for which a denial is repeated: at first, and at most. It doubles in between."""


@attrs.frozen
class Denied:
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

    def again(self, code: str | None, amount: int, sent: float, now: float) -> "Denied":
        """It has refused once more what was sent at `sent`."""
        if now > max(self.since, self.until) + MOST:
            return Denied(code, amount, since=now)
        least = min(self.least, amount) if code == self.code else amount
        if sent < self.since:
            return attrs.evolve(self, code=code, least=least)
        times = self.times + 1
        pause = min(FIRST * 2.0 ** min(times - TOLERATED, 16), MOST)
        return Denied(code, least, now, times, now + pause)

    def holds(self, amount: int, now: float) -> bool:
        """Whether a request for `amount` is answered here."""
        fits = amount < self.least and self.code == "BUDGET_EXCEEDED"
        return self.times >= TOLERATED and now < self.until and not fits


def scopes(subject: Subject) -> tuple[str, ...]:
    """The scopes that a denial may come from; none for a subject that the ledger will refuse."""
    try:
        return scopes_of(subject)
    except ValueError:
        return ()


Where = tuple[str, Unit]
"""A scope (in lower case) and the unit in which its budget is kept."""
