"""What every kind of ledger tells: entries of the log, lines of reports, budgets, rows of listings.

The interface and its implementations share these types; nothing here knows how a ledger works.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Literal, get_args

import attrs
from pydantic import SerializeAsAny
from runcycles import (
    Amount,
    Balance,
    Caps,
    ReservationDetail,
    ReservationListResponse,
    ReservationSummary,
    Unit,
)

from comptroller._frozen import frozen_record
from comptroller.core.accounts import Account
from comptroller.core.periods import Period
from comptroller.money import formatted, show

Kind = Literal[
    "set", "fund", "debit", "repay", "freeze", "unfreeze", "close",  # what operators do
    "renewed", "carried",  # a period began; a debt of one that was over weighs on the present one
    "debt", "alert", "denied",
    "reserve", "commit", "release", "extend", "record",  # requests that came with ids
]  # fmt: skip
"""What an entry tells of."""
REQUESTS = ("reserve", "extend", "commit", "release", "record")
"""The requests that came with ids of their own: rows without end, which say who asked."""
FORGOTTEN = (*REQUESTS, "denied", "debt")
"""Those that requests make: kept only as long as the reservations and events."""
OPERATORS = ("set", "fund", "debit", "repay", "freeze", "unfreeze", "close")
"""What operators do: kept for good."""
ACTS = tuple(kind for kind in get_args(Kind) if kind not in REQUESTS)
"""Everything but the requests: what a person who looks at the log looks for."""


@frozen_record
class RequestOrigin:
    """On whose behalf a request came, and the ids by which its sender will ask for it."""

    who: str | None = None
    request_id: str | None = None
    trace_id: str | None = None


request_origin: ContextVar[RequestOrigin | None] = ContextVar("asked_by", default=None)
"""The origin of the requests of this context; whoever serves others sets it."""


@frozen_record
class LogEntry:
    """One entry. What `amount` and `debt` are is its kind's: see `verify`, which adds them up."""

    at_ms: int
    kind: Kind
    scope: str
    unit: Unit | None = None
    amount: int = 0
    debt: int = 0
    since_ms: int = 0
    """When the period began to which it belongs."""
    about: str | None = None
    """The reservation or event."""
    origin: RequestOrigin = RequestOrigin()
    details: Mapping[str, Any] = attrs.field(factory=dict)
    number: int = 0
    """Its place in the log; given by the store."""


@frozen_record
class LogQuery:
    """Which entries are sought, oldest first: at most `limit` numbered above `after`."""

    after: int = 0
    limit: int | None = None
    kinds: tuple[str, ...] = ()
    tenant: str | None = None
    since_ms: int | None = None
    newest: bool = False
    """The newest `limit` of them, in place of the oldest."""

    def has(self, entry: LogEntry) -> bool:
        """Whether `entry` is one of them, `limit` aside."""
        within = f"tenant:{self.tenant}/"
        return (
            entry.number > self.after
            and (not self.kinds or entry.kind in self.kinds)
            and (self.since_ms is None or entry.at_ms >= self.since_ms)
            and (self.tenant is None or f"{entry.scope}/".startswith(within))
        )


@attrs.frozen
class UnitStatistics:
    """How a ledger stands in one unit. Amounts are whole numbers of it.

    Attributes:
        unit: the unit.
        calls: how many calls were charged since counting began; so are the next three counted.
        charged: what they were charged, each once, however many scopes paid it.
        expired: leases that ran out, unsettled.
        denied: requests that a budget refused, by the reason's code.
        active: reservations that hold their estimate now.
        reserved: what they hold, each once.
        budgets: how many budgets there are.
        full: those of which `FULL_PERCENT` or more is spent or owed.
        in_debt: those that owe something.
        debt: what they owe in all; a call's debt is owed by every scope that it was charged to.
    """

    unit: Unit
    calls: int = 0
    charged: int = 0
    expired: int = 0
    denied: Mapping[str, int] = attrs.field(factory=dict)
    active: int = 0
    reserved: int = 0
    budgets: int = 0
    full: int = 0
    in_debt: int = 0
    debt: int = 0


@attrs.frozen
class Statistics:
    """How a ledger stands.

    Attributes:
        units: in each unit that it knows.
        tenants: the budgets of tenants as a whole, where they were asked for.
        oldest_alert_ms: when the oldest alert was made that a webhook has not taken; None: all are.
        failing_webhooks: those whose last delivery failed.
        file_bytes: the sizes of the file (`ledger`) and of the log beside it (`wal`).
    """

    units: tuple[UnitStatistics, ...] = ()
    tenants: tuple[Account, ...] = ()
    oldest_alert_ms: int | None = None
    failing_webhooks: int = 0
    file_bytes: Mapping[str, int] = attrs.field(factory=dict)


@attrs.frozen
class Usage:
    """One line of a report. Amounts are whole numbers of `unit`.

    Attributes:
        by: what the line is about: `{"tenant": "acme", "agent": "triage"}`; "" where a call names
            none.
        calls: those that were charged or still hold their reservation.
        charged: what they were charged, the abandoned ones included.
        estimated: the part of `charged` that nobody measured: estimates, and what was counted of a
            stream that was cut. Known where the commit's metadata names its `actual_source`.
        reserved: what is still held by those that are not settled.
        abandoned: the part of `charged` that belongs to calls given up before their end.
        denied: how many requests a budget refused; `refused` is what they asked for.
        refused: see `denied`.
        tokens_input, tokens_output: as the models reported them.
    """

    by: dict[str, str]
    unit: Unit
    calls: int = 0
    charged: int = 0
    estimated: int = 0
    reserved: int = 0
    abandoned: int = 0
    denied: int = 0
    refused: int = 0
    tokens_input: int = 0
    tokens_output: int = 0

    def __str__(self) -> str:
        about = ", ".join(f"{name} {given or '-'}" for name, given in self.by.items())
        calls = f"{self.calls:,} call{'' if self.calls == 1 else 's'}"
        return f"{about}: {formatted(self.unit, self.charged)} charged, {calls}"


@attrs.frozen
class BalanceMismatch:
    """A balance that is not what it should be: the account says `found`, its history `expected`."""

    scope: str
    unit: Unit
    since_ms: int
    balance: str
    found: int
    expected: int


@attrs.frozen
class VerificationReport:
    """What was looked at, and every difference; none: the ledger is as its history says."""

    accounts: int
    periods: int
    differences: tuple[BalanceMismatch, ...]


class Budget(Balance):
    """A balance as its operator sees it, with what the protocol does not show.

    `per`: the period of `zone` in which it begins anew, or None; `renews_at_ms`: when next, and
    `renews_with` how much.
    `caps` bind always, or below the share `caps_below` of what was allocated; `alerts` are told
    when that share is spent. Shares are in percent.
    """

    frozen: bool = False
    closed: bool = False
    per: Period | None = None
    zone: str | None = None
    renews_at_ms: int | None = None
    renews_with: Amount | None = None
    caps: Caps | None = None
    caps_below: int | None = None
    alerts: list[int] | None = None

    def __str__(self) -> str:
        of = f" of {show(self.allocated)}" if self.allocated else ""
        each = f" each {self.per} ({self.zone})" if self.per else ""
        return f"{self.scope_path}: {show(self.remaining)} left{of}{each}"


class ReservationRow(ReservationSummary):
    """A row of a listing, with what the protocol has added to it since."""

    committed: Amount | None = None
    finalized_at_ms: int | None = None
    metadata: dict[str, Any] | None = None
    committed_metadata: dict[str, Any] | None = None


class ReservationPage(ReservationListResponse):
    """A page of reservations."""

    reservations: list[SerializeAsAny[ReservationSummary]]


class DetailedReservation(ReservationDetail):
    """One reservation, with what the protocol has added to it since."""

    committed_metadata: dict[str, Any] | None = None
