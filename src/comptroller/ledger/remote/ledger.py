"""A remote Cycles server: answers returned, refusals raised as typed errors.

Laws kept here (settlement, "From the ledger's answer to the next step"):

- What an answer means is read in `verdicts`, strictly.
- A reserve or decide whose answer is lost or ambiguous is asked for once more, at once, under the
  same key. Every other request is one attempt: who retries, and when, is the caller's decision.
- Nothing proceeds unreserved: a grant without an id, or without time left, is no grant.
- A request ends within `request_timeout`, with its wait for a place among those in flight.
- A server that gives no answer, or has just denied the same, is not asked each time (`caution`).
"""

import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack
from urllib.parse import quote

import anyio
import httpx
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

from comptroller._ownership import Ownership
from comptroller.errors import (
    BudgetExceeded,
    LedgerMisbehaved,
    LedgerUnreachable,
)
from comptroller.ledger.interface import BalanceQuery, ReservationQuery, check_seconds
from comptroller.ledger.models import DetailedReservation
from comptroller.ledger.protocol import query_params
from comptroller.ledger.protocol.codec import Page
from comptroller.ledger.remote.connections import (
    ASYNCIO_IN_FLIGHT,
    TRIO_IN_FLIGHT,
    ApiKeys,
    ClientProvider,
    Connections,
    HttpxSender,
    NoAnswer,
    checked_address,
    on_asyncio,
    pool,
)
from comptroller.ledger.remote.outbox import (
    DiskOutbox,
    OutboxDirectory,
    default_directory,
    directory,
)
from comptroller.ledger.remote.request_guard import RequestGuard
from comptroller.ledger.remote.response_validation import (
    CREATED,
    OK,
    Answer,
    ProtocolRequest,
    ambiguous,
    check_grant,
    parse_response,
)

_PAGE, _DEFAULT_LIMIT = 200, 50
_NEVER_HELD_BACK = ("extend",)
"""A lease is at stake, and nobody waits for its extension."""


class CyclesLedger:
    """The `Ledger` of a Cycles server. Opened with `open_cycles`.

    Args:
        connections: who holds the clients.

    Attributes:
        name: the server's address.
        remote: an operator elsewhere funds it.
        durable: it outlives this process.
        request_timeout: seconds one request may take; a reserve or decide may be two.
        outbox: where charges are until they are accepted; None: whoever settles sends them again.
    """

    remote = durable = True
    outbox: DiskOutbox | None = None

    def __init__(
        self, connections: ClientProvider, *, request_timeout: float, in_flight: int
    ) -> None:
        self.name, self.request_timeout = connections.address, request_timeout
        self._connections, self._gate = connections, anyio.CapacityLimiter(in_flight)
        self._caution = RequestGuard(self.name)
        self._belonging = Ownership(self.name)

    async def reserve(
        self, request: ReservationCreateRequest, *, tenant: str | None = None
    ) -> ReservationCreateResponse:
        """As `Ledger.reserve`. A denial in a 200 answer is a `BudgetExceeded` too, but dry."""
        question = ProtocolRequest(
            "reserve",
            ReservationCreateResponse,
            lambda client: client.create_reservation(request),
            tenant or request.subject.tenant,
            amount=request.estimate,
            subject=request.subject,
        )
        if request.dry_run:
            return await self._ask_again_if_lost(question)
        self._caution.check_asking(request.subject, request.estimate)
        sent = anyio.current_time()
        try:
            granted = await self._ask_again_if_lost(question)
            check_grant(granted, request, self.name)
        except BudgetExceeded as denial:
            self._caution.denied(request.subject, request.estimate, denial, sent)
            raise
        self._caution.granted(granted.affected_scopes)
        return granted

    async def decide(
        self, request: DecisionRequest, *, tenant: str | None = None
    ) -> DecisionResponse:
        """As `Ledger.decide`."""
        question = ProtocolRequest(
            "decide",
            DecisionResponse,
            lambda client: client.decide(request),
            tenant or request.subject.tenant,
            amount=request.estimate,
            subject=request.subject,
        )
        return await self._ask_again_if_lost(question)

    async def commit(
        self, reservation_id: str, request: CommitRequest, *, tenant: str | None = None
    ) -> CommitResponse:
        """As `Ledger.commit`, one attempt."""
        question = ProtocolRequest(
            "commit",
            CommitResponse,
            lambda client: client.commit_reservation(_path(reservation_id), request),
            tenant,
            amount=request.actual,
        )
        answer = await self._ask(question)
        if answer.released is not None and answer.released.amount:
            self._caution.came_back(tenant)
        return answer

    async def release(
        self, reservation_id: str, request: ReleaseRequest, *, tenant: str | None = None
    ) -> ReleaseResponse:
        """As `Ledger.release`, one attempt."""
        question = ProtocolRequest(
            "release",
            ReleaseResponse,
            lambda client: client.release_reservation(_path(reservation_id), request),
            tenant,
        )
        answer = await self._ask(question)
        self._caution.came_back(tenant)
        return answer

    async def extend(
        self, reservation_id: str, request: ReservationExtendRequest, *, tenant: str | None = None
    ) -> ReservationExtendResponse:
        """As `Ledger.extend`, one attempt."""
        question = ProtocolRequest(
            "extend",
            ReservationExtendResponse,
            lambda client: client.extend_reservation(_path(reservation_id), request),
            tenant,
        )
        return await self._ask(question)

    async def record(
        self, request: EventCreateRequest, *, tenant: str | None = None
    ) -> EventCreateResponse:
        """As `Ledger.record`, one attempt."""
        question = ProtocolRequest(
            "record",
            EventCreateResponse,
            lambda client: client.create_event(request),
            tenant or request.subject.tenant,
            status=CREATED,
            amount=request.actual,
            subject=request.subject,
        )
        return await self._ask(question)

    async def balances(
        self, *, tenant: str | None = None, **query: Unpack[BalanceQuery]
    ) -> BalanceResponse:
        """As `Ledger.balances`; the first 200 of them, where no limit is given.

        Raises:
            ValueError: no filter was given (protocol, getBalances).
        """
        filters = query_params.parameters(tenant=tenant, **{"limit": _PAGE, **query})
        question = ProtocolRequest(
            "balances",
            BalanceResponse,
            lambda client: client.get_balances(**filters),
            tenant,
        )
        return await self._ask(question)

    async def reservations(
        self, *, tenant: str | None = None, **query: Unpack[ReservationQuery]
    ) -> ReservationListResponse:
        """As `Ledger.reservations`.

        Raises:
            LedgerMisbehaved: a page that comes after itself, too: reading on would never end.
        """
        filters = query_params.parameters(tenant=tenant, **{"limit": _DEFAULT_LIMIT, **query})
        question = ProtocolRequest(
            "reservations",
            Page,
            lambda client: client.list_reservations(**filters),
            tenant,
        )
        page = await self._ask(question)
        if page.has_more and page.next_cursor and page.next_cursor == query.get("cursor"):
            raise LedgerMisbehaved(
                f"{self.name}: reservations: the next page is the one that was asked for", status=OK
            )
        return page

    async def reservation(
        self, reservation_id: str, *, tenant: str | None = None
    ) -> ReservationDetail:
        """As `Ledger.reservation`."""
        question = ProtocolRequest(
            "reservation",
            DetailedReservation,
            lambda client: client.get_reservation(_path(reservation_id)),
            tenant,
        )
        return await self._ask(question)

    async def drain(self, timeout: float = 5.0) -> int:
        """As `Ledger.drain`: what is in the outbox is sent now, and waited for."""
        check_seconds(timeout)
        self._belonging.check()
        return 0 if self.outbox is None else await self.outbox.drain(timeout)

    def ask_again(self, scope: str | None = None) -> None:
        """Send the next request, also where the server has just denied the same, or was silent.

        A budget that its operator has funded is seen within seconds by itself; this is for those
        who know of it. `scope`: there and within it, such as `tenant:acme`; None: everywhere.
        """
        self.try_now()
        self._caution.ask_again(scope)

    @property
    def rest(self) -> float:
        """Seconds for which nothing is sent, since the last requests had no answer; 0: send."""
        return self._caution.rest

    def try_now(self) -> None:
        """Send the next request, even if the last ones had no answer."""
        self._caution.try_now()

    async def aclose(self) -> None:
        """Close the connections; `open_cycles` does. Requests after it are an error."""
        self._belonging.closed = True
        if not self._belonging.in_fork:  # a fork's sockets are still its parent's
            await self._connections.aclose()

    async def _ask_again_if_lost(self, question: ProtocolRequest[Answer]) -> Answer:
        try:
            return await self._ask(question)
        except (LedgerUnreachable, LedgerMisbehaved) as error:
            if not ambiguous(error.status) or self._caution.rest:
                raise
        return await self._ask(question)

    async def _ask(self, question: ProtocolRequest[Answer]) -> Answer:
        """One attempt, within `request_timeout` in all."""
        self._belonging.check()
        held_back = question.verb not in _NEVER_HELD_BACK
        if held_back:
            self._caution.check(question.verb)
        missing, sent = "no API key", None
        with anyio.move_on_after(self.request_timeout):
            client = await self._connections.client(question.tenant)
            missing = f"no place among {self._gate.total_tokens:g} requests in flight"
            async with self._gate:
                if held_back:  # not before: who has no key, or waits for a place, sends nothing
                    self._caution.check_sending(question.verb)
                missing, sent = "no answer", anyio.current_time()
                try:
                    answer = await question.send(client)
                except NoAnswer as error:
                    self._caution.unanswered(sent)
                    raise self._unreachable(question, f"no answer: {error}") from error
            if self._caution.answered() and self.outbox is not None:
                self.outbox.hasten()
            return parse_response(answer, question, self.name)
        if sent is not None:  # else it was never asked
            self._caution.unanswered(sent)
        raise self._unreachable(question, f"{missing} within {self.request_timeout:g} s")

    def _unreachable(self, question: ProtocolRequest[Any], problem: str) -> LedgerUnreachable:
        return LedgerUnreachable(f"{self.name}: {question.verb}: {problem}", status=-1)


def connected(
    url: str,
    *,
    api_key: ApiKeys | None = None,
    request_timeout: float = 5.0,
    connect_timeout: float = 2.0,
    in_flight: int | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> CyclesLedger:
    """Return the ledger of the Cycles server at `url`, for the running event loop. `aclose` it.

    Args:
        url: the server's address, such as `https://cycles.example.com`.
        api_key: one key, a mapping tenant -> key, or an async callable tenant -> key. The callable
            is asked before each request, so that a rotated key is taken up at once: let it answer
            from memory. A tenant without a key is an error when it is first asked for.
        request_timeout: seconds one request may take in all. Whatever takes longer counts as
            unanswered.
        connect_timeout: seconds of these that connecting may take.
        in_flight: requests under way at once; more wait. 100 on asyncio, 16 on trio.
        transport: what carries the requests, in place of a pool of connections (for tests).

    Raises:
        ValueError: an address that is none, or a setting that makes no sense.
    """
    address = checked_address(url)
    for name, value in (("request_timeout", request_timeout), ("connect_timeout", connect_timeout)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r}: give a number of seconds above 0")
    if in_flight is None:
        in_flight = ASYNCIO_IN_FLIGHT if on_asyncio() else TRIO_IN_FLIGHT
    if in_flight < 1:
        raise ValueError(f"in_flight={in_flight!r}: at least 1 request has to be in flight")
    connections = Connections(
        address,
        api_key,
        HttpxSender(transport, connect_timeout)
        if transport is not None
        else pool(address, in_flight, connect_timeout),
    )
    return CyclesLedger(connections, request_timeout=request_timeout, in_flight=in_flight)


@asynccontextmanager
async def open_cycles(
    url: str,
    *,
    outbox: str | os.PathLike[str] | bool = True,
    drain_timeout: float = 5.0,
    **settings: Any,
) -> AsyncIterator[CyclesLedger]:
    """As `connected`, with an outbox; drained and closed at the end of the block.

    Args:
        url: the server's address.
        outbox: the directory of the outbox; True: the one of the user; False: there is none.
        drain_timeout: seconds that closing waits for charges which were not accepted yet.
        settings: those of `connected`.
    """
    ledger = connected(url, **settings)
    try:
        if outbox is False:
            yield ledger
            return
        root = default_directory() if outbox is True else directory(outbox)
        shelf = OutboxDirectory(root, ledger.name)
        async with DiskOutbox(ledger, shelf, patience=drain_timeout) as ledger.outbox:
            yield ledger
    finally:
        await ledger.aclose()


def _path(reservation_id: str) -> str:
    """Return an id as one segment of a path."""
    return quote(reservation_id, safe="")
