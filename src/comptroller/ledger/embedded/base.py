"""What the embedded ledgers share: the interface, performed by the protocol engine (`book`).

An implementation says how one act gets its turn (`_perform`) and how all records are read as they
stand at one moment (`_read`); everything else is here.
"""

import getpass
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Protocol, TypeVar, Unpack

import attrs
from attrs.validators import optional
from runcycles import (
    Amount,
    Balance,
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
    Unit,
)
from runcycles.models import BalanceResponse

from comptroller.core.accounts import Account
from comptroller.core.budgets import BudgetTerms, Funding, Terms, shares
from comptroller.core.identifiers import normalize_filter
from comptroller.core.periods import zone_of
from comptroller.errors import ComptrollerError
from comptroller.ledger import daemon_threads
from comptroller.ledger.embedded.alerts import AlertDispatcher, OnAlert
from comptroller.ledger.engine import admin, commit, queries, reserve, responses, verify
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.idempotency import canonical_request
from comptroller.ledger.engine.records import LONG, Reservation
from comptroller.ledger.engine.responses import ResponseFactory
from comptroller.ledger.engine.usage_report import UsageQuery, UsageRow, asked, milliseconds, report
from comptroller.ledger.interface import BalanceQuery, ReservationQuery, check_seconds
from comptroller.ledger.models import (
    LogEntry,
    LogQuery,
    RequestOrigin,
    Statistics,
    Usage,
    VerificationReport,
    request_origin,
)

T = TypeVar("T")
Answer_co = TypeVar("Answer_co", covariant=True)


class Act(Protocol[Answer_co]):
    """A request to the engine, performed in the ledger's turn."""

    def __call__(self, book: Engine, /, *, now_ms: int) -> ResponseFactory[Answer_co]:
        """Perform it at `now_ms`, and return what makes its answer."""


class LedgerSnapshot(queries.Records, verify.Records, Protocol):
    """All records, as they stand at one moment, for listings, reports and audits."""

    def accounts(self, tenant: str | None = None) -> Iterable[Account]:
        """Every account, or one tenant's, ordered by scope and unit."""

    def entries(self, sought: LogQuery) -> list[LogEntry]:
        """Return the entries of the log that are sought, oldest first."""

    def statistics(self, now_ms: int, *, by_tenant: bool) -> Statistics:
        """How the ledger stands."""

    def spending(self, query: UsageQuery) -> Iterable[UsageRow]:
        """Return what calls and denials come to, added up as far as this store does it."""


def _terms(given: Amount | BudgetTerms | None) -> BudgetTerms | None:
    return given if given is None or isinstance(given, BudgetTerms) else BudgetTerms(given)


MAX_LEASE = timedelta(days=1, minutes=1)
"""A reservation's longest time to live and grace (protocol, createReservation)."""
RETENTION = timedelta(days=30)
"""How long what is finished is kept, where neither the operator nor the file says."""


def _long_enough(_: object, __: object, given: timedelta) -> None:
    if not isinstance(given, timedelta):
        raise TypeError(f"retention={given!r}: give a timedelta, such as timedelta(days=30)")
    if given < MAX_LEASE:
        raise ValueError(
            f"retention={given!r}: requests about a reservation may come for {MAX_LEASE},"
            " so keep what is finished at least as long"
        )


@attrs.frozen
class EmbeddedOptions:
    """How an embedded ledger is opened.

    Attributes:
        default_budget: what a tenant gets that is seen for the first time.
        on_alert: is told of each alert of a budget that this process has set off.
        retention: how long finished reservations and events are kept, with what was answered;
            None: as the file says, else `RETENTION`.
    """

    default_budget: BudgetTerms | None = attrs.field(default=None, converter=_terms)
    on_alert: OnAlert | None = None
    retention: timedelta | None = attrs.field(default=None, validator=optional(_long_enough))


@cache
def _user() -> str:
    """Who runs this process, as the event log names operators."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user has no name here
        return f"user {os.getuid()}"


def wall_clock() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


class EmbeddedLedgerBase(ABC):
    """An `EmbeddedLedger` over a book. All methods raise the errors of the interface."""

    def __init__(self, name: str, now: Callable[[], int], settings: EmbeddedOptions) -> None:
        self._name, self._now, self._settings = name, now, settings
        self._process, self._closed = os.getpid(), False
        self._teller = AlertDispatcher(settings.on_alert, name) if settings.on_alert else None

    @property
    def name(self) -> str:
        """`memory:` or the path of the file."""
        return self._name

    @property
    def request_timeout(self) -> float:
        """Seconds after which a request that got no turn is refused as unanswered."""
        return 5.0

    @property
    def remote(self) -> bool:
        """No answer gets lost on the way, and budgets are set here."""
        return False

    @property
    def durable(self) -> bool:
        """It is in a file."""
        return True

    async def drain(self, timeout: float = 5.0) -> int:
        """Nothing is ever left to send: what was charged is in here."""
        check_seconds(timeout)
        self._must_be_usable()
        return 0

    @abstractmethod
    async def _perform(self, act: Act[T]) -> T:
        """Perform `act` in this ledger's turn, which is short for it, and return its answer."""

    @abstractmethod
    async def _read(self, work: Callable[[LedgerSnapshot], T]) -> T:
        """Return what `work` makes of all records as of one moment; nobody waits for it."""

    async def _swept(self) -> int:
        """Return the time, once it is recorded which leases have ended by then."""
        return await self._perform(lambda _, now_ms: lambda: now_ms)

    async def _ask(self, act: Act[T]) -> T:
        """Perform a request, for whom this context says."""
        if (origin := request_origin.get()) is None:
            return await self._perform(act)
        written = canonical_request.get()
        return await self._perform(
            lambda book, now_ms: act(book.asked_by(origin, written), now_ms=now_ms)
        )

    async def _operate(self, act: Act[T]) -> T:
        """Perform what an operator asks, who is known."""
        origin = request_origin.get() or RequestOrigin(_user())
        return await self._perform(lambda book, now_ms: act(book.asked_by(origin), now_ms=now_ms))

    def close(self) -> None:
        """End of use: every later request is refused. Called by the open functions."""
        self._closed = True

    def _tell(self, alerts: list[LogEntry]) -> None:
        """Tell the callback of the alerts that what was kept has set off."""
        if alerts and self._teller is not None:
            self._teller.tell(alerts)

    def _told(self) -> None:
        """At the end of use: the callback has been called, or takes too long. Blocks."""
        if self._teller is not None:
            self._teller.end()

    def _must_be_usable(self) -> None:
        if os.getpid() != self._process:
            raise ComptrollerError(
                f"{self._name} was opened by another process (this one was forked from it):"
                " open the ledger again in this process"
            )
        if self._closed:
            raise ComptrollerError(f"{self._name} is closed: use it inside its `async with`")

    async def reserve(
        self, request: ReservationCreateRequest, *, tenant: str | None = None
    ) -> ReservationCreateResponse:
        """Lock the estimate in every budgeted scope of the subject, or raise the refusal."""
        return await self._ask(partial(reserve.reserve, request=request, tenant=tenant))

    async def commit(
        self, reservation_id: str, request: CommitRequest, *, tenant: str | None = None
    ) -> CommitResponse:
        """Charge the actual, give back the rest."""
        return await self._ask(
            partial(commit.commit, reservation_id=reservation_id, request=request, tenant=tenant)
        )

    async def release(
        self, reservation_id: str, request: ReleaseRequest, *, tenant: str | None = None
    ) -> ReleaseResponse:
        """Give everything back."""
        return await self._ask(
            partial(commit.release, reservation_id=reservation_id, request=request, tenant=tenant)
        )

    async def extend(
        self, reservation_id: str, request: ReservationExtendRequest, *, tenant: str | None = None
    ) -> ReservationExtendResponse:
        """Move the lease's end outward."""
        return await self._ask(
            partial(commit.extend, reservation_id=reservation_id, request=request, tenant=tenant)
        )

    async def decide(
        self, request: DecisionRequest, *, tenant: str | None = None
    ) -> DecisionResponse:
        """Return what a reserve would answer now; nothing is locked."""
        return await self._ask(partial(reserve.decide, request=request, tenant=tenant))

    async def record(
        self, request: EventCreateRequest, *, tenant: str | None = None
    ) -> EventCreateResponse:
        """Charge spend that has no reservation (an event)."""
        return await self._ask(partial(reserve.record, request=request, tenant=tenant))

    async def balances(
        self, *, tenant: str | None = None, **query: Unpack[BalanceQuery]
    ) -> BalanceResponse:
        """Return the balances of the scopes that have the given subject fields."""
        return await self._read(queries.balances(await self._swept(), tenant=tenant, **query))

    async def reservations(
        self, *, tenant: str | None = None, **query: Unpack[ReservationQuery]
    ) -> ReservationListResponse:
        """One page of reservations (50, unless `limit` says 1 to 200)."""
        page = queries.reservations(tenant=tenant, **query)
        await self._swept()
        return await self._read(page)

    async def reservation(
        self, reservation_id: str, *, tenant: str | None = None
    ) -> ReservationDetail:
        """One reservation, whole."""

        def found(book: Engine, **_: int) -> ResponseFactory[Reservation]:
            one = queries.reservation(book, reservation_id, tenant=tenant)
            return lambda: one

        one = await self._ask(found)
        if one.size > LONG:
            return await daemon_threads.run_sync(responses.detail, one)
        return responses.detail(one)

    async def set_budget(self, scope: str, allocated: Amount, **terms: Unpack[Terms]) -> Balance:
        """Set what `scope` may spend in all, or per day or month of a time zone."""
        if "alerts" in terms:  # once: it may be an iterator
            terms["alerts"] = shares(terms["alerts"])
        return await self._operate(
            lambda book, now_ms: admin.set_budget(book, scope, allocated, terms, now_ms)
        )

    async def fund(
        self,
        scope: str,
        credit: Amount,
        *,
        operation: Funding = Funding.CREDIT,
        idempotency_key: str | None = None,
    ) -> Balance:
        """Add to a budget: debt is repaid first, an over-limit scope is open again."""
        return await self._operate(
            lambda book, now_ms: admin.fund(
                book, scope, credit, now_ms, operation=operation, idempotency_key=idempotency_key
            )
        )

    async def freeze(self, scope: str, unit: Unit | None = None) -> None:
        """Refuse new spend at `scope` until `unfreeze`; what is reserved settles as ever.

        Without a unit, all budgets of the scope are frozen; with one, that budget alone.
        """
        await self._operate(
            lambda book, now_ms: admin.freeze(book, scope, unit, now_ms, frozen=True)
        )

    async def unfreeze(self, scope: str, unit: Unit | None = None) -> None:
        """End `freeze`, of all budgets of the scope or of the one in `unit`."""
        await self._operate(
            lambda book, now_ms: admin.freeze(book, scope, unit, now_ms, frozen=False)
        )

    async def close_budget(self, scope: str) -> None:
        """Grant nothing more at `scope`; what is reserved settles as ever, its history stays."""
        await self._operate(lambda book, now_ms: admin.close(book, scope, now_ms))

    async def budgets(self) -> list[Balance]:
        """Every budget of every tenant."""
        now_ms = await self._swept()
        return await self._read(lambda records: queries.budgets(records, now_ms))

    async def usage(
        self,
        *,
        by: str | Iterable[str] = ("tenant",),
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str | None = None,
        zone: str = "UTC",
    ) -> list[Usage]:
        """Return what was charged, reserved, abandoned and denied."""
        query = asked(by, since, until, tenant, zone_of(zone))
        return await self._read(lambda records: report(records.spending(query), query))

    async def events(
        self,
        *,
        after: int = 0,
        limit: int | None = None,
        kinds: Iterable[str] = (),
        tenant: str | None = None,
        since: datetime | None = None,
        newest: bool = False,
    ) -> list[LogEntry]:
        """Entries of the event log, oldest first."""
        sought = LogQuery(
            after=after,
            limit=limit,
            kinds=tuple(kinds),
            tenant=normalize_filter("tenant", tenant),
            since_ms=None if since is None else milliseconds("since", since),
            newest=newest,
        )
        return await self._read(lambda records: records.entries(sought))

    async def verify(self) -> VerificationReport:
        """Every balance, recomputed from the log and the reservations."""
        return await self._read(verify.verified)

    async def statistics(self, *, by_tenant: bool = False) -> Statistics:
        """How the ledger stands, for monitoring."""
        return await self._read(
            lambda records: records.statistics(self._now(), by_tenant=by_tenant)
        )
