"""A ledger that hands every request on to another one and remembers it."""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar, Unpack

import attrs
from runcycles import (
    CommitRequest,
    CommitResponse,
    DecisionRequest,
    DecisionResponse,
    EventCreateRequest,
    EventCreateResponse,
    ReleaseRequest,
    ReleaseResponse,
    ReservationCreateRequest,
    ReservationCreateResponse,
    ReservationDetail,
    ReservationExtendRequest,
    ReservationExtendResponse,
    ReservationListResponse,
)
from runcycles.models import BalanceResponse

from comptroller.ledger.interface import BalanceQuery, Ledger, ReservationQuery

VERBS = (
    "reserve",
    "commit",
    "release",
    "extend",
    "decide",
    "record",
    "balances",
    "reservations",
    "reservation",
)

Answer = TypeVar("Answer")


@attrs.frozen
class Request:
    """One request as it came in.

    Attributes:
        verb: the ledger's method, one of `VERBS`.
        body: the protocol's request value; None where a verb only asks.
        reservation_id: whose lease it is about, where the verb names one.
        tenant: the effective tenant that was given.
    """

    verb: str
    body: Any = None
    reservation_id: str | None = None
    tenant: str | None = None

    @property
    def key(self) -> str | None:
        """The idempotency key, where the verb has one."""
        return getattr(self.body, "idempotency_key", None)


def checked_verbs(verbs: Iterable[str]) -> frozenset[str]:
    """`verbs` as a set. Raises ValueError for one that no ledger has."""
    given = frozenset([verbs] if isinstance(verbs, str) else verbs)
    if unknown := sorted(given - set(VERBS)):
        raise ValueError(f"{unknown[0]!r} is no verb of a ledger: {', '.join(VERBS)}")
    return given


class RecordingLedger:
    """Hands everything on to `inner`, and keeps what it was asked in `requests`, in order.

    What is not a verb of `Ledger` (budgets, closing) goes to `inner` unseen.

    Args:
        inner: the ledger that does the work.
        remote: what to answer as `remote`; None: what `inner` answers.
        request_timeout: the same for `request_timeout`, in seconds.
    """

    def __init__(
        self, inner: Ledger, *, remote: bool | None = None, request_timeout: float | None = None
    ) -> None:
        self.inner = inner
        self.requests: list[Request] = []
        self._remote = remote
        self._request_timeout = request_timeout

    def asked(self, verb: str) -> list[Request]:
        """Return the requests of one verb, in order."""
        checked_verbs(verb)
        return [request for request in self.requests if request.verb == verb]

    async def _handle(self, request: Request, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        """Handle a request; `forward` has the inner ledger do it."""
        del request
        return await forward()

    async def _take(self, request: Request, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        self.requests.append(request)
        return await self._handle(request, forward)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # a copy that is not filled in yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def name(self) -> str:
        """The inner ledger's name."""
        return self.inner.name

    @property
    def request_timeout(self) -> float:
        """Seconds that one request may take."""
        given = self._request_timeout
        return self.inner.request_timeout if given is None else given

    @property
    def remote(self) -> bool:
        """Whether an operator elsewhere funds it."""
        return self.inner.remote if self._remote is None else self._remote

    @property
    def durable(self) -> bool:
        """Whether the inner ledger outlives its process."""
        return self.inner.durable

    async def drain(self, timeout: float = 5.0) -> int:
        """See `Ledger.drain`; no verb, so it is not kept."""
        return await self.inner.drain(timeout)

    async def reserve(
        self, request: ReservationCreateRequest, *, tenant: str | None = None
    ) -> ReservationCreateResponse:
        """See `Ledger.reserve`."""
        forward = partial(self.inner.reserve, request, tenant=tenant)
        return await self._take(Request("reserve", request, None, tenant), forward)

    async def commit(
        self, reservation_id: str, request: CommitRequest, *, tenant: str | None = None
    ) -> CommitResponse:
        """See `Ledger.commit`."""
        forward = partial(self.inner.commit, reservation_id, request, tenant=tenant)
        return await self._take(Request("commit", request, reservation_id, tenant), forward)

    async def release(
        self, reservation_id: str, request: ReleaseRequest, *, tenant: str | None = None
    ) -> ReleaseResponse:
        """See `Ledger.release`."""
        forward = partial(self.inner.release, reservation_id, request, tenant=tenant)
        return await self._take(Request("release", request, reservation_id, tenant), forward)

    async def extend(
        self, reservation_id: str, request: ReservationExtendRequest, *, tenant: str | None = None
    ) -> ReservationExtendResponse:
        """See `Ledger.extend`."""
        forward = partial(self.inner.extend, reservation_id, request, tenant=tenant)
        return await self._take(Request("extend", request, reservation_id, tenant), forward)

    async def decide(
        self, request: DecisionRequest, *, tenant: str | None = None
    ) -> DecisionResponse:
        """See `Ledger.decide`."""
        forward = partial(self.inner.decide, request, tenant=tenant)
        return await self._take(Request("decide", request, None, tenant), forward)

    async def record(
        self, request: EventCreateRequest, *, tenant: str | None = None
    ) -> EventCreateResponse:
        """See `Ledger.record`."""
        forward = partial(self.inner.record, request, tenant=tenant)
        return await self._take(Request("record", request, None, tenant), forward)

    async def balances(
        self, *, tenant: str | None = None, **query: Unpack[BalanceQuery]
    ) -> BalanceResponse:
        """See `Ledger.balances`."""
        forward = partial(self.inner.balances, tenant=tenant, **query)
        return await self._take(Request("balances", None, None, tenant), forward)

    async def reservations(
        self, *, tenant: str | None = None, **query: Unpack[ReservationQuery]
    ) -> ReservationListResponse:
        """See `Ledger.reservations`."""
        forward = partial(self.inner.reservations, tenant=tenant, **query)
        return await self._take(Request("reservations", None, None, tenant), forward)

    async def reservation(
        self, reservation_id: str, *, tenant: str | None = None
    ) -> ReservationDetail:
        """See `Ledger.reservation`."""
        forward = partial(self.inner.reservation, reservation_id, tenant=tenant)
        return await self._take(Request("reservation", None, reservation_id, tenant), forward)
