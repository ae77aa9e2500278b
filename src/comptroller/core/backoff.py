"""When a charge that the ledger did not accept is sent again."""

FIRST, MAX_BACKOFF = 0.5, 60.0
"""Seconds: the pause before the second attempt, and the longest one."""

MAX_FLOOR = 3600.0
"""Seconds that a server's `Retry-After` is honoured for: a mangled one must not park spend."""

UNTIL_MENDED = 60.0
"""Seconds between attempts where somebody has to mend something first, such as a key."""


def pause(attempt: int, chance: float) -> float:
    """Seconds to wait after the `attempt`-th failure (1, 2, ...), doubling each time.

    `chance`, between 0 and 1, spreads them over the upper half, so that those who failed together
    do not come back together.
    """
    doubled = FIRST * 2.0 ** min(attempt - 1, 16)
    return min(doubled, MAX_BACKOFF) * (0.5 + chance / 2)


def honoured(wait_ms: int) -> int:
    """As much of a server's `Retry-After` as is waited for, in milliseconds."""
    return min(max(wait_ms, 0), int(MAX_FLOOR * 1000))


def floor(not_before_ms: int | None, now_ms: int) -> float:
    """Seconds until the ledger wants to be asked again; 0 where it did not say, or it is past."""
    return 0.0 if not_before_ms is None else honoured(not_before_ms - now_ms) / 1000
