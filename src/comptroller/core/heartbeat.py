"""When to extend a reservation's lease: the protocol's HEARTBEAT GUIDANCE (extendReservation).

A `Lease` is told what happened, in monotonic seconds, and answers with the next step: `ExtendAfter`
(sleep, then extend by `ttl_ms`) or `Stop`. Two paths, chosen by each answer for itself:

- PRIMARY ALGORITHM, normative: the answer carries `remaining_ttl_ms`, and alone decides.
- FALLBACK: it does not. Leads are guessed from measured grants; its limits are the protocol's.

Laws of this module:
- On the primary path a positive delay leaves room for one failed attempt, one retry and a margin.
- A retry has the key of the attempt it repeats, and happens only while a whole attempt fits.
- Time that is not known is never taken for time that did not pass: it is infinite.
- Milliseconds are whole: spent time, budgets and margins rounded up, leads and delays down.
- No loop without delay: it waits or stops, unless the ledger itself says `Retry-After: 0`.
"""

from math import ceil, inf, isnan, nan
from typing import Final

import attrs

from comptroller.core.heartbeat_fallback import MeasuredGrants
from comptroller.core.heartbeat_types import (
    SHORTEST_BEAT_MS,
    ExtendAfter,
    Failure,
    LeaseResponse,
    Permanent,
    Step,
    Stop,
    Throttled,
    Transient,
    elapsed_ms,
    failure_of,
    why,
)

__all__ = [
    "ExtendAfter",
    "Failure",
    "Lease",
    "LeaseResponse",
    "Permanent",
    "Step",
    "Stop",
    "Throttled",
    "Transient",
    "failure_of",
]

_FLOOR_MS: Final = 1_000
"""The least attempt_budget, and the least safety_margin."""

_MAX_RETRY_MS: Final = 30_000
_MAX_MS: Final = 2**63 - 1


@attrs.frozen
class Lease:
    """A reservation's lease as its heartbeat sees it. Made by `Lease.first`.

    Attributes:
        ttl_ms: the lease that was asked for.
        timeout_ms: the longest that one extend attempt may take (request_timeout_budget).
        max_age: the cap on its age, in seconds.
        max_extensions: the cap on its extensions.
        extensions: how many have succeeded.
        created: when the create was answered (monotonic seconds).
        longest_rtt_ms: the maximum observed rtt.
        lead_floor_ms: what was certainly left of the lease at `received`.
        received: when the last success came.
        quick: how many successes in a row have left no delay.
        retry_window_ms: what the last failure left for a retry; infinite since the last success.
        measured: what the fallback knows; None while answers carry `remaining_ttl_ms`.
    """

    ttl_ms: int
    timeout_ms: float
    max_age: float | None
    max_extensions: int | None
    extensions: int = 0
    created: float | None = None
    longest_rtt_ms: float = 0
    lead_floor_ms: float = 0
    received: float = nan
    quick: int = 0
    retry_window_ms: float = inf
    measured: MeasuredGrants | None = None

    @classmethod
    def first(
        cls,
        ttl_ms: int,
        request_timeout_ms: float | None,
        *,
        max_age: float | None = None,
        max_extensions: int | None = None,
    ) -> "Lease":
        """Return a lease before its create is answered.

        Args:
            ttl_ms: the lease that was asked for, and by which each beat extends.
            request_timeout_ms: the enforced bound of one whole extend attempt, failure detection
                included; None: there is none, which leaves no safe delay. Give half a second
                more than the client's time-out: a time-out is noticed late, and one that is
                noticed a millisecond after the bound leaves no room for the retry. It should
                be below (lead - margin) / 2: less than 29 500 for the default 60 000.
            max_age: no beat later than this many seconds after the create; None: no limit.
            max_extensions: no more extensions than this; None: no limit.

        Raises:
            ValueError: a lease or a timeout that is not positive.
        """
        timeout = inf if request_timeout_ms is None else request_timeout_ms
        if isnan(timeout) or timeout <= 0 or ttl_ms <= 0:
            raise ValueError(f"a lease of {ttl_ms} ms, a timeout of {timeout} ms: give more than 0")
        return cls(ttl_ms, timeout if timeout == inf else ceil(timeout), max_age, max_extensions)

    @property
    def attempt_budget_ms(self) -> float:
        """How long one attempt may take: `attempt_budget`."""
        return max(self.timeout_ms, _FLOOR_MS, 2 * self.longest_rtt_ms)

    @property
    def safety_margin_ms(self) -> float:
        """Room for scheduling and the network: `safety_margin`."""
        return max(_FLOOR_MS, 2 * self.longest_rtt_ms)

    @property
    def retry_reserve_ms(self) -> float:
        """One failed attempt, one same-key retry and the margin: `retry_reserve`."""
        return 2 * self.attempt_budget_ms + self.safety_margin_ms

    def answered(
        self, answer: LeaseResponse, sent: float | None, received: float | None
    ) -> tuple["Lease", Step]:
        """After a schema-valid success of the create (the first one) or of an extend.

        Args:
            answer: the success.
            sent: monotonic seconds right before the attempt that was answered, not an earlier
                one of its key; None: not known.
            received: the same, after the whole answer had arrived.
        """
        start, end = nan if sent is None else sent, nan if received is None else received
        rtt = elapsed_ms(start, end)
        lease = attrs.evolve(
            self,
            created=end if self.created is None else self.created,
            extensions=self.extensions + (self.created is not None),
            longest_rtt_ms=self.longest_rtt_ms if rtt == inf else max(self.longest_rtt_ms, rtt),
            received=end,
            retry_window_ms=inf,
        )
        if answer.remaining_ttl_ms is None:
            lease, step = lease._measure(answer.expires_at_ms, end)
        else:
            lease, step = lease._schedule(answer.remaining_ttl_ms, rtt)
        return lease, lease._within_caps(step, end)

    def failed(
        self, failure: Failure, sent: float | None, now: float | None
    ) -> tuple["Lease", Step]:
        """After an extend that was no success.

        Args:
            failure: see `failure_of`.
            sent: monotonic seconds right before the attempt; None: not known.
            now: the same, when the attempt was known to have failed.
        """
        start, end = nan if sent is None else sent, nan if now is None else now
        if isinstance(failure, Permanent):
            return self, Stop(failure.reason)
        lease, took = self, elapsed_ms(start, end)
        if took < inf:  # an attempt that outlasts its bound has shown what the bound really is
            lease = attrs.evolve(self, timeout_ms=max(self.timeout_ms, took))
        if self.measured is not None:
            step = self.measured.failed(failure)
        else:
            lease, step = lease._retry(failure, end)
        return lease, lease._within_caps(step, end)

    def _schedule(self, remaining_ms: int, rtt_ms: float) -> tuple["Lease", Step]:
        """PRIMARY ALGORITHM: the next extension from this answer alone."""
        lead_floor = max(0, min(remaining_ms, _MAX_MS) - rtt_ms)
        delay = max(0, lead_floor - self.retry_reserve_ms)
        # The zero-delay guard: one immediate fresh extension, for the ledgers that add to a
        # lease, and if that brings no delay either, stop. A delay of a millisecond would be
        # such a loop at another speed, so it counts from the shortest sensible beat down.
        quick = self.quick + 1 if delay < SHORTEST_BEAT_MS else 0
        lease = attrs.evolve(self, lead_floor_ms=lead_floor, quick=quick, measured=None)
        if quick > 1:
            return lease, Stop(
                f"a lease of {lead_floor} ms has no time to spare beside the"
                f" {self.retry_reserve_ms} ms that a safe retry needs:"
                " use a longer ttl_ms or a shorter request timeout"
            )
        return lease, ExtendAfter(delay / 1000)

    def _retry(self, failure: Transient | Throttled, now: float) -> tuple["Lease", Step]:
        """PRIMARY ALGORITHM, transient failures: the same key, while a whole attempt fits."""
        # current_lead_estimate
        lead = max(0, self.lead_floor_ms - elapsed_ms(self.received, now))
        window = lead - self.attempt_budget_ms - self.safety_margin_ms  # not clamped: < 0 stops
        lease = attrs.evolve(self, retry_window_ms=window)
        # Progress guard: a window that did not shrink is a clock that did not advance. It also
        # ends a recovery at retry_window = 0 after the one immediate retry.
        if window < 0 or window >= self.retry_window_ms:
            return lease, Stop(f"{why(failure)}, and no other attempt fits into the lease")
        if isinstance(failure, Transient):
            return lease, ExtendAfter(min(_MAX_RETRY_MS, lead // 4, window) / 1000, same_key=True)
        wait = failure.retry_after_ms
        if wait is None or not 0 <= wait <= window:
            return lease, Stop(f"{why(failure)}, which the lease cannot wait for")
        return lease, ExtendAfter(wait / 1000, same_key=True)

    def _measure(self, expires_at_ms: int | None, received: float) -> tuple["Lease", Step]:
        """FALLBACK: the next extension from what the last one was seen to grant."""
        if self.measured is None:
            grants, beat = MeasuredGrants.first(self.ttl_ms, expires_at_ms, received)
        else:
            grants, beat = self.measured.extended(expires_at_ms, received)
        return attrs.evolve(self, quick=0, measured=grants), beat

    def _within_caps(self, step: Step, now: float) -> Step:
        """`step`, unless it would pass a cap of this client's own."""
        if isinstance(step, Stop) or self.created is None:
            return step
        most, oldest = self.max_extensions, self.max_age
        if most is not None and self.extensions >= most:
            return Stop(f"the lease was extended {most} times, the most allowed (max_extensions)")
        if (
            oldest is not None
            and elapsed_ms(self.created, now) / 1000 + step.delay_seconds > oldest
        ):
            return Stop(f"the lease is kept for {oldest} seconds at most (max_age)")
        return step
