"""What every ledger answers, typed by the values of the Cycles protocol.

Answers are returned, refusals raised as the typed errors of `comptroller.errors`. The rules are
those of the protocol (reserve, commit, release, extend, decide, events, balances): atomic across
all scopes of a subject, idempotent per (tenant, endpoint, key) with verbatim replay.

`tenant` is the protocol's effective tenant: whose key is used, whose reservation it must be. Left
out, a reserve, decide or record takes its subject's, and the others trust the caller.
"""

from typing import Literal, Protocol

import attrs
from runcycles import (
    Amount,
    Balance,
    Caps,
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


class Ledger(Protocol):
    """A budget ledger."""

    @property
    def name(self) -> str:
        """How messages name it: a path, `memory:` or an address."""

    @property
    def request_timeout(self) -> float:
        """Seconds that one request may take before it counts as unanswered."""

    @property
    def remote(self) -> bool:
        """Whether an operator elsewhere funds it, and answers can get lost on the way."""

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
        """What a reserve would answer now; nothing is locked. A denial is an answer here."""

    async def record(
        self, request: EventCreateRequest, *, tenant: str | None = None
    ) -> EventCreateResponse:
        """Charge spend that has no reservation (an event)."""

    async def balances(
        self,
        *,
        tenant: str | None = None,
        workspace: str | None = None,
        app: str | None = None,
        workflow: str | None = None,
        agent: str | None = None,
        toolset: str | None = None,
    ) -> BalanceResponse:
        """The balances of the scopes that have the given subject fields."""

    async def reservations(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        idempotency_key: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ReservationListResponse:
        """One page of reservations, newest first (at most 200 a page)."""

    async def reservation(
        self, reservation_id: str, *, tenant: str | None = None
    ) -> ReservationDetail:
        """One reservation, whole."""


class EmbeddedLedger(Ledger, Protocol):
    """A ledger that is its own operator: budgets are set and funded here.

    `scope` is a path such as `tenant:acme/agent:triage`.
    """

    async def set_budget(
        self,
        scope: str,
        allocated: Amount,
        *,
        overdraft_limit: int = 0,
        caps: Caps | None = None,
        per: Literal["day", "month"] | None = None,
    ) -> Balance:
        """Set what `scope` may spend: in all, or with `per` in every day or month (UTC).

        What it has spent and reserved stays. `caps` bind every grant of the scope.
        """

    async def fund(self, scope: str, credit: Amount) -> Balance:
        """Add to a budget: debt is repaid first, an over-limit scope is open again."""

    async def freeze(self, scope: str) -> None:
        """Refuse new spend at `scope` until `unfreeze`; what is reserved settles as ever."""

    async def unfreeze(self, scope: str) -> None:
        """End `freeze`."""

    async def budgets(self) -> list[Balance]:
        """Every budget of every tenant."""


@attrs.frozen(kw_only=True)
class Owed:
    """A charge that was decided and that the ledger has not accepted.

    Attributes:
        key: names it: the reservation's id, or the call's key where there was none.
        commit: to be sent first; None where no reservation lives (any more).
        event: what records it in place of the commit, under the same idempotency key.
        retry_after_ms: how long the ledger has asked to wait.
    """

    key: str
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

    async def write_ahead(self, owed: Owed) -> None:
        """Before `owed` is sent, in this form, for the first time. It raises nothing."""

    def keep(self, owed: Owed) -> None:
        """Take over a charge. Whatever it raises, the charge was not taken."""

    def settled(self, key: str) -> None:
        """The ledger has accepted it: it is forgotten."""

    def rejected(self, key: str, why: str) -> None:
        """The ledger will never accept it: it is not sent again."""
