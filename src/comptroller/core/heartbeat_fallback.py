"""When to extend a lease whose remaining time the ledger does not say: the protocol's FALLBACK.

It is the non-normative part of the HEARTBEAT GUIDANCE (extendReservation), with the limits stated
there: whether a ledger caps what an extension grants or how far a lease may reach cannot be told
apart with certainty. Where in doubt it beats too often rather than let the lease lapse, and the
ledger's MAX_EXTENSIONS_EXCEEDED ends it.

Only expiries are compared with each other, and only local times with each other: both are
differences within one clock.
"""

from typing import Final

import attrs

from comptroller.core.heartbeat_types import (
    SHORTEST_BEAT_MS,
    ExtendAfter,
    Step,
    Stop,
    Throttled,
    Transient,
    elapsed_ms,
    why,
)

_MAX_HELD_MS: Final = 30_000


@attrs.frozen
class MeasuredGrants:
    """What successive answers without `remaining_ttl_ms` have shown of a lease.

    Attributes:
        ttl_ms: the lease that is asked for.
        expires_at_ms: the last expiry, by the ledger's clock.
        received: when the last answer came (monotonic seconds).
        began: when the first one came: lead_min starts there, at 0.
        grants_ms: the sum of the measured grants.
    """

    ttl_ms: int
    expires_at_ms: int | None
    received: float
    began: float
    grants_ms: int = 0

    @classmethod
    def first(
        cls, ttl_ms: int, expires_at_ms: int | None, received: float
    ) -> tuple["MeasuredGrants", ExtendAfter]:
        """After the first answer, which grants nothing that could be measured.

        The first extension comes early, since nothing bounds the first lease; and not at once,
        since a ledger that holds a maximum lead would add nothing, and short calls need none.
        """
        return cls(ttl_ms, expires_at_ms, received, received), ExtendAfter(SHORTEST_BEAT_MS / 1000)

    def extended(
        self, expires_at_ms: int | None, received: float
    ) -> tuple["MeasuredGrants", ExtendAfter]:
        """After a successful extension, seen at `received`."""
        known = expires_at_ms is not None and self.expires_at_ms is not None
        grant = (expires_at_ms or 0) - (self.expires_at_ms or 0) if known else 0
        grants = attrs.evolve(
            self,
            expires_at_ms=expires_at_ms,
            received=received,
            grants_ms=self.grants_ms + grant,
        )
        return grants, grants._cadence(grant, elapsed_ms(self.received, received))

    def failed(self, failure: Transient | Throttled) -> Step:
        """After a failed extension: the lead is not known, so it is tried again, unhurried."""
        if isinstance(failure, Transient):
            return ExtendAfter(max(SHORTEST_BEAT_MS, self._held_ms // 4) / 1000, same_key=True)
        wait = failure.retry_after_ms
        if wait is None or not 0 <= wait <= self.ttl_ms:
            return Stop(f"{why(failure)}, which the lease cannot wait for")
        return ExtendAfter(max(SHORTEST_BEAT_MS, wait) / 1000, same_key=True)

    @property
    def _held_ms(self) -> int:
        """The cadence that holds a lease of unknown size: min(requested ttl_ms / 2, 30 s)."""
        return max(SHORTEST_BEAT_MS, min(self.ttl_ms // 2, _MAX_HELD_MS))

    def _cadence(self, grant: int, elapsed: float) -> ExtendAfter:
        """Cadence heuristic: what a grant says, beside the time since the one before it."""
        normal = 10 * grant >= 9 * self.ttl_ms
        echo = grant <= 0 or 3 * elapsed <= 4 * grant <= 5 * elapsed  # elapsed, a quarter off
        if echo and not normal:  # maximum-lead clamping: the grant is the time since the last
            notice = "the ledger seems to hold a maximum lead: its extensions may run out"
            return ExtendAfter(self._held_ms / 1000, notice=notice)
        beat = max(SHORTEST_BEAT_MS, min(grant, self.ttl_ms) // 2)
        lead_min = max(0, self.grants_ms - elapsed_ms(self.began, self.received))
        # A beat is skipped while lead_min >= 1.5 grants: sleep to the first that is not.
        spare = int(max(0, 2 * lead_min - 3 * grant))
        beats = 1 + spare // (2 * beat)
        return ExtendAfter(beats * beat / 1000)
