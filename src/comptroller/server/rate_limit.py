"""How often a tenant may ask: a bucket that fills by so many requests a second.

It holds one second's worth, so a tenant may ask in bursts, but not for long above its rate.
"""

import math
import time
from collections.abc import Callable

import attrs


@attrs.frozen
class RateDecision:
    """Whether a request may pass, what is left of the rate, and when to come back (seconds)."""

    allowed: bool
    remaining: int
    wait: float


class RateLimiter:
    """One bucket for each who asks; there are as many as keys were made for.

    Raises:
        ValueError: a rate that is none.
    """

    def __init__(self, per_second: float, now: Callable[[], float] = time.monotonic) -> None:
        if not 0 < per_second < math.inf:
            raise ValueError(f"{per_second:g} requests a second: give a number above 0")
        self._rate, self._now = per_second, now
        self._most = max(1.0, per_second)
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, who: str) -> RateDecision:
        """Ask for one more request of `who`."""
        now = self._now()
        held, since = self._buckets.get(who, (self._most, now))
        held = min(self._most, held + (now - since) * self._rate)
        allowed = held >= 1
        held -= allowed
        self._buckets[who] = (held, now)
        return RateDecision(allowed, int(held), max(0.0, (1 - held) / self._rate))
