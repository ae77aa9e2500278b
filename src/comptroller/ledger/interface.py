"""What every ledger answers, typed by the values of the Cycles protocol.

Answers are returned, refusals raised as the typed errors of `comptroller.errors`. The rules are
those of the protocol (reserve, commit, release, extend, decide, events, balances): atomic across
all scopes of a subject, idempotent per (tenant, endpoint, key) with verbatim replay.

`tenant` is the protocol's effective tenant: whose key is used, whose reservation it must be. Left
out, a reserve, decide or record takes its subject's, and the others trust the caller.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol, TypedDict, Unpack

import attrs
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

from comptroller.core.budgets import Funding, Terms
from comptroller.core.settlement import SettlementAction
from comptroller.errors import ComptrollerError, LedgerRefused
from comptroller.ledger.models import LogEntry, Statistics, Usage, VerificationReport


def check_seconds(timeout: float) -> None:
    """Raise a ValueError unless it is a time to wait for."""
    if not isinstance(timeout, int | float) or not timeout >= 0:  # nor nan
        raise ValueError(f"timeout={timeout!r}: a number of seconds is wanted, at least 0")


class SubjectFilter(TypedDict, total=False):
    """The fields of a subject that a request may filter by, its tenant aside."""

    workspace: str | None
    app: str | None
    workflow: str | None
    agent: str | None
    toolset: str | None


class BalanceQuery(SubjectFilter, total=False):
    """Which balances: all that match, or pages of `limit` (1 to 200), each from its cursor on."""

    limit: int | None
    cursor: str | None


class ReservationQuery(SubjectFilter, total=False):
    """Which reservations, in which order (protocol, listReservations).

    The newest come first, unless `sort_by` or `sort_dir` says otherwise. Bounds of times are epoch
    milliseconds and inclusive; a reservation that was never settled has no time of its end.
    `include` names what else a row shows: `metadata`, `committed_metadata`. A cursor continues
    the same query in the same order; only `limit` and `include` may change on the way.
    """

    status: str | None
    idempotency_key: str | None
    created_from_ms: int | None
    created_to_ms: int | None
    expires_from_ms: int | None
    expires_to_ms: int | None
    finalized_from_ms: int | None
    finalized_to_ms: int | None
    sort_by: str | None
    sort_dir: str | None
    include: tuple[str, ...]
    limit: int
    cursor: str | None


class Ledger(Protocol):
    """A budget ledger: one of `open_ledger`, or one of your own that has these members."""

    @property
    def name(self) -> str:
        """How messages name it: a path, `memory:` or an address."""

    @property
    def request_timeout(self) -> float:
        """Seconds that one request may take before it counts as unanswered."""

    @property
    def remote(self) -> bool:
        """Whether an operator elsewhere funds it, and answers can get lost on the way."""

    @property
    def durable(self) -> bool:
        """Whether it outlives the process: what that leaves reserved can be settled afterwards."""

    async def drain(self, timeout: float = 5.0) -> int:
        """Wait until the charges that were decided are accepted, at most `timeout` seconds.

        How many are left is returned: they stay on disk, and are sent again. An embedded ledger
        owes nothing to anybody, and answers 0 at once.

        Raises:
            ValueError: `timeout` is no number of seconds.
        """

    async def reserve(
        self, request: ReservationCreateRequest, *, tenant: str | None = None
    ) -> ReservationCreateResponse:
        """Lock the estimate in every budgeted scope of the subject, or raise the refusal."""

    async def commit(
        self, reservation_id: str, request: CommitRequest, *, tenant: str | None = None
    ) -> CommitResponse:
        """Charge the actual, give back the rest."""

    async def release(
        self, reservation_id: str, request: ReleaseRequest, *, tenant: str | None = None
    ) -> ReleaseResponse:
        """Give everything back."""

    async def extend(
        self, reservation_id: str, request: ReservationExtendRequest, *, tenant: str | None = None
    ) -> ReservationExtendResponse:
        """Move the lease's end outward."""

    async def decide(
        self, request: DecisionRequest, *, tenant: str | None = None
    ) -> DecisionResponse:
        """Return what a reserve would answer now; nothing is locked. A denial is an answer here."""

    async def record(
        self, request: EventCreateRequest, *, tenant: str | None = None
    ) -> EventCreateResponse:
        """Charge spend that has no reservation (an event)."""

    async def balances(
        self, *, tenant: str | None = None, **query: Unpack[BalanceQuery]
    ) -> BalanceResponse:
        """Return the balances of the scopes that have the given subject fields."""

    async def reservations(
        self, *, tenant: str | None = None, **query: Unpack[ReservationQuery]
    ) -> ReservationListResponse:
        """One page of reservations (50, unless `limit` says 1 to 200)."""

    async def reservation(
        self, reservation_id: str, *, tenant: str | None = None
    ) -> ReservationDetail:
        """One reservation, whole."""


MEMBERS = tuple(name for name in vars(Ledger) if not name.startswith("_"))
"""The names that every ledger has."""


class EmbeddedLedger(Ledger, Protocol):
    """A ledger that is its own operator: budgets are set and funded here.

    `scope` is a path such as `tenant:acme/agent:triage`.
    """

    async def set_budget(self, scope: str, allocated: Amount, **terms: Unpack[Terms]) -> Balance:
        """Set what `scope` may spend: in all, or with `per` in every day or month of `zone`.

        What it has spent and reserved stays, and so does every term that is not named: see `Terms`
        for how one ends. `caps` bind every grant of the scope, or with `caps_below="20%"` those
        made while less than that share of it remains: a soft landing. `alerts=("80%", "100%")`:
        once in a period for each share, when so much is spent, the event log has an `alert`. What
        is reserved in one period and committed in the next is charged to the period of its
        reservation. The answer has the terms that hold now.

        Raises:
            TypeError, ValueError: no such scope, amount, share, period or time zone.
        """

    async def fund(
        self,
        scope: str,
        credit: Amount,
        *,
        operation: Funding = Funding.CREDIT,
        idempotency_key: str | None = None,
    ) -> Balance:
        """Add to a budget: debt is repaid first, an over-limit scope is open again.

        `operation` moves money in another way. What is sent again under one key moves it once.
        """

    async def freeze(self, scope: str, unit: Unit | None = None) -> None:
        """Refuse new spend at `scope` until `unfreeze`; what is reserved settles as ever.

        Without a unit, all budgets of the scope are frozen; with one, that budget alone.
        """

    async def unfreeze(self, scope: str, unit: Unit | None = None) -> None:
        """End `freeze`, of all budgets of the scope or of the one in `unit`."""

    async def close_budget(self, scope: str) -> None:
        """Grant nothing more at `scope`, for good: `tenant:acme` is a customer that has gone.

        Denials say `TENANT_CLOSED`, or `BUDGET_CLOSED` at a scope within a tenant. What is reserved
        settles as ever, all that was spent stays in reports, and no default budget begins it anew.
        `set_budget` opens it again.

        Raises:
            BudgetNotFound: neither `scope` nor one within it has a budget.
        """

    async def budgets(self) -> list[Balance]:
        """Every budget of every tenant."""

    async def usage(
        self,
        *,
        by: str | Iterable[str] = ("tenant",),
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str | None = None,
        zone: str = "UTC",
    ) -> list[Usage]:
        """Return what was charged, reserved, abandoned and denied, and the tokens: a report.

        One line for each unit and each combination of what it is `by`: any of tenant, workspace,
        app, workflow, agent, tool, model, day (of `zone`), run, and of labels that runs were given
        (`dimension:user` for `dimensions={"user": "42"}`; denials have none). `since` and `until`
        are times of reservations; a call belongs to the day of its reservation.

        Raises:
            ValueError: it is by something else, or a time has no zone.
        """

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
        """Entries of the event log, oldest first: what operators did, what budgets did.

        At most `limit` of those numbered above `after`; with `newest` the last ones of them.
        """

    async def verify(self) -> VerificationReport:
        """Every balance, recomputed from the event log and the reservations: the differences."""

    async def statistics(self, *, by_tenant: bool = False) -> Statistics:
        """How the ledger stands, for monitoring: read as often as wanted, it holds nobody up.

        `by_tenant`: with the budgets of each tenant, by name.
        """


@attrs.frozen(kw_only=True)
class PendingCharge:
    """A charge that was decided and that the ledger has not accepted.

    Attributes:
        key: names it: the reservation's id, or the call's key where there was none.
        reservation_id: whose charge it is; None where policy let the call through without one.
        commit: to be sent first; None where no reservation lives (any more).
        event: what records it in place of the commit, under the same idempotency key.
        retry_after_ms: how long the ledger has asked to wait.
    """

    key: str
    reservation_id: str | None
    commit: CommitRequest | None
    event: EventCreateRequest
    retry_after_ms: int | None = None


class Outbox(Protocol):
    """Remembers charges from before they are first sent until the ledger has understood.

    Law 3: work that ran is never released. No back-off runs in a call's owner, and a run does not
    wait for a ledger that is away: what its owner could not deliver, the outbox sends again. All
    of it is called in the loop in which the ledger was opened.
    """

    @property
    def attempts(self) -> int:
        """How often a call's owner sends a charge before it hands it over; at least 1."""

    async def write_ahead(self, owed: PendingCharge) -> None:
        """Before `owed` is sent, in this form, for the first time. It raises nothing."""

    def keep(self, owed: PendingCharge) -> None:
        """Take over a charge. Whatever it raises, the charge was not taken."""

    def settled(self, key: str) -> None:
        """Forget a charge: the ledger has accepted it."""

    def rejected(self, key: str, why: str) -> None:
        """Set a charge aside: the ledger will never accept it."""


# -- what has become of a reservation that takes no commit any more

RELEASED_MEANWHILE = "its reservation was released while it ran: its cost is recorded"


class Tells(Protocol):
    """The part of a ledger that is asked."""

    async def reservation(
        self, reservation_id: str, *, tenant: str | None = None
    ) -> ReservationDetail:
        """As `Ledger.reservation`."""


async def after_finalized(
    ledger: Tells, reservation_id: str, tenant: str | None
) -> SettlementAction:
    """Find out who has caused RESERVATION_FINALIZED: an earlier attempt, or an operator.

    An operator may release the reservation of a call that runs. What ran is charged all the same
    (law 3), as an event. A ledger that does not answer is asked again; one that shows no
    reservations has settled it, as far as anybody can tell.
    """
    try:
        found = await ledger.reservation(reservation_id, tenant=tenant)
    except LedgerRefused:
        return SettlementAction.SETTLED
    except ComptrollerError:
        return SettlementAction.RETRY
    return SettlementAction.RECORD if found.is_released() else SettlementAction.SETTLED
