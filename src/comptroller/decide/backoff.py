"""When a charge that the ledger did not accept is sent again."""

FIRST, MOST = 0.5, 60.0
"""Seconds: the pause before the second attempt, and the longest one."""

LONGEST_FLOOR = 3600.0
"""Seconds that a server's `Retry-After` is honoured for: a mangled one must not park spend."""

UNTIL_MENDED = 60.0
"""Seconds between attempts where somebody has to mend something first, such as a key."""


def pause(attempt: int, chance: float) -> float:
    """Seconds to wait after the `attempt`-th failure (1, 2, ...), doubling each time.

    `chance`, between 0 and 1, spreads them over the upper half, so that those who failed together
    do not come back together.
    """
    doubled = FIRST * 2.0 ** min(attempt - 1, 16)
    return min(doubled, MOST) * (0.5 + chance / 2)


def floor(not_before_ms: int | None, now_ms: float) -> float:
    """Seconds until the ledger wants to be asked again; 0 where it did not say, or it is past."""
    if not_before_ms is None:
        return 0.0
    latest = now_ms + LONGEST_FLOOR * 1000  # compared first: it may be too large for a float
    return (min(max(not_before_ms, now_ms), latest) - now_ms) / 1000
