"""A held lease: extended as the protocol's schedule says, for as long as its call runs.

Law 5: no heartbeat outlives its call. It is a time-out of the wait for the call's end, not a task;
an extension under way is cut off by the end, so that it cannot delay the settlement.
"""

import logging
import math
from collections.abc import Callable, Sequence

import anyio
from runcycles import ReservationCreateResponse, ReservationExtendRequest

from comptroller.core.heartbeat import ExtendAfter, Lease, Stop, failure_of
from comptroller.errors import ComptrollerError
from comptroller.runtime.call import Call, RunContext
from comptroller.runtime.portal import Condition

log = logging.getLogger("comptroller")


NOTICED_LATE_MS = 500
"""A time-out is noticed late on a busy loop; taken literally, it would leave no room to retry."""


class LeaseKeeper:
    """The lease of one reservation.

    Args:
        call, terms: whose, and by which rules.
        beaten: called when it was extended.

    Attributes:
        stopped: why it is no longer extended though the call goes on; None while it is.
    """

    def __init__(self, call: Call, terms: RunContext, beaten: Callable[[], None]) -> None:
        self._call, self._terms, self._beaten = call, terms, beaten
        policy = terms.policy
        most_ms = policy.heartbeat_max_age_ms
        self._lease = Lease.first(
            policy.ttl_ms,
            request_timeout_ms=terms.ledger.request_timeout * 1000 + NOTICED_LATE_MS,
            max_age=None if most_ms is None else most_ms / 1000,
            max_extensions=policy.heartbeat_max_extensions,
        )
        self._next: ExtendAfter | Stop = Stop("nothing is held")
        self._since = 0.0  # from when the next step's delay counts
        self._reservation_id = ""
        self._beats = 0
        self._beating: anyio.CancelScope | None = None
        self.stopped: str | None = None

    def granted(self, answer: ReservationCreateResponse, sent: float) -> None:
        """Begin the lease: the reserve, sent at `sent` (anyio's clock), was answered now."""
        self._reservation_id = answer.reservation_id or ""
        self._since = anyio.current_time()
        self._lease, self._next = self._lease.answered(answer, sent, self._since)

    async def keep(self, told: Condition, ended: Sequence[object]) -> None:
        """Extend it until `ended` has an entry, of which `told` notifies."""
        while not ended:
            pause = self._next.delay_seconds if isinstance(self._next, ExtendAfter) else math.inf
            with anyio.CancelScope(deadline=self._since + pause):
                await told.until(lambda: bool(ended))
            if not ended and isinstance(self._next, ExtendAfter):
                await self._beat(same_key=self._next.same_key)

    def cut(self) -> None:
        """Give up an extension under way: the end was told."""
        if self._beating is not None:
            self._beating.cancel("the call has ended")

    async def _beat(self, *, same_key: bool) -> None:
        self._beats += not same_key
        request = ReservationExtendRequest(
            idempotency_key=self._call.message_key(f"extend-{self._beats}"),
            extend_by_ms=self._terms.policy.ttl_ms,
        )
        with anyio.CancelScope() as self._beating:
            await self._extend(request)
        self._beating = None
        if isinstance(self._next, Stop):
            self.stopped = self._next.reason
            log.warning(
                "reservation %s is no longer extended: %s", self._reservation_id, self.stopped
            )

    async def _extend(self, request: ReservationExtendRequest) -> None:
        sent = anyio.current_time()
        try:
            answer = await self._terms.ledger.extend(
                self._reservation_id, request, tenant=self._call.tenant
            )
        except ComptrollerError as error:
            failure = failure_of(error)
            self._since = anyio.current_time()
            self._lease, self._next = self._lease.failed(failure, sent, self._since)
        except Exception as defect:
            log.exception("extending %s: a defect in its ledger", self._reservation_id)
            self._next = Stop(f"a defect: {defect!r}")  # the call goes on, and settles
        else:
            self._beaten()
            self._since = anyio.current_time()
            self._lease, self._next = self._lease.answered(answer, sent, self._since)
