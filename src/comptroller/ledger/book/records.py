"""What an embedded ledger keeps, and the `Store` that keeps it.

Records are values. A store hands them out and takes changed ones back; what was put is seen by
every later call, and a store that is durable writes it in one transaction.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

import attrs
from runcycles import Caps, CommitOveragePolicy, ReservationStatus, Unit

from comptroller.decide.admission import Account, Accounts
from comptroller.ledger.book.denials import Denied
from comptroller.ledger.book.journal import Entry

Endpoint = Literal["reserve", "commit", "release", "extend", "decide", "record"]


@attrs.frozen
class Reservation:
    """One reservation. `row` is its place in the ledger, `token` the random part of its id."""

    row: int
    token: str
    tenant: str | None
    path: str
    held: tuple[str, ...]
    """The scopes whose accounts hold the estimate: those that had a budget when it was made."""
    unit: Unit
    estimate: int
    policy: CommitOveragePolicy
    created_ms: int
    expires_ms: int
    grace_ms: int
    key: str
    request: str
    """The create request, as JSON."""
    status: ReservationStatus = ReservationStatus.ACTIVE
    charged: int | None = None
    finalized_ms: int | None = None
    settlement: str | None = None
    """What the commit said besides its amount (metrics, metadata), as JSON."""
    since: tuple[int, ...] = ()
    """The period of each of `held` that it belongs to; empty: the first one of each."""

    @property
    def reservation_id(self) -> str:
        """The id that callers know."""
        return f"rsv_{self.row:x}_{self.token}"

    @property
    def ends_ms(self) -> int:
        """The last moment at which it can be settled."""
        return self.expires_ms + self.grace_ms

    @property
    def active(self) -> bool:
        """Whether it still holds its estimate."""
        return self.status is ReservationStatus.ACTIVE

    def ended(
        self,
        status: ReservationStatus,
        now_ms: int | None = None,
        *,
        charged: int | None = None,
        settlement: str | None = None,
    ) -> "Reservation":
        """The reservation once it does not hold its estimate any more."""
        return Reservation(
            self.row,
            self.token,
            self.tenant,
            self.path,
            self.held,
            self.unit,
            self.estimate,
            self.policy,
            self.created_ms,
            self.expires_ms,
            self.grace_ms,
            self.key,
            self.request,
            status,
            charged,
            now_ms,
            settlement,
            self.since,
        )


@attrs.frozen
class Event:
    """Spend that was recorded without a reservation."""

    row: int
    token: str
    tenant: str | None
    created_ms: int
    charged: int
    request: str
    path: str
    held: tuple[str, ...]
    """The scopes that were charged."""
    unit: Unit
    since: tuple[int, ...] = ()
    """The period of each of them; empty: the first one of each."""

    @property
    def event_id(self) -> str:
        """The id that callers know."""
        return f"evt_{self.row:x}_{self.token}"


@attrs.frozen
class Remembered:
    """What one key was answered: the parts that the same request does not bring along again."""

    fingerprint: bytes
    row: int = 0
    """The reservation or event made; 0 for none (a decision, a dry run)."""
    token: str = ""
    amount: int = 0
    """Charged or released, in the request's unit."""
    moment_ms: int = 0
    """The lease's end as it was answered."""
    reason: str | None = None
    caps: Caps | None = None
    accounts: Accounts = ()
    """The balances as they were answered."""


@attrs.frozen
class Wanted:
    """Which reservations a listing wants, newest first: at most `limit` of rows below `before`."""

    limit: int
    before: int | None = None
    tenant: str | None = None
    status: ReservationStatus | None = None
    key: str | None = None
    segments: tuple[str, ...] = ()
    """Segments their path must have, such as `agent:triage`."""

    def has(self, reservation: Reservation) -> bool:
        """Whether `reservation` is one of them, `limit` and `before` aside."""
        return (
            (self.tenant is None or self.tenant == reservation.tenant)
            and (self.status is None or self.status is reservation.status)
            and (self.key is None or self.key == reservation.key)
            and set(self.segments) <= set(reservation.path.split("/"))
        )


class Store(Protocol):
    """Where a book keeps its records."""

    def at(self, scope: str) -> Mapping[Unit, Account]:
        """The accounts of one scope, by unit; empty where it has no budget."""

    def accounts(self) -> Iterable[Account]:
        """Every account, ordered by scope and unit."""

    def save(self, account: Account) -> None:
        """Keep `account` in place of the one of its scope and unit."""

    def period(self, scope: str, unit: Unit, since_ms: int) -> Account | None:
        """The account of a period that is over, as it stands."""

    def keep_period(self, account: Account) -> None:
        """Keep the account of a period that is over, or its new state."""

    def log(self, entry: Entry) -> None:
        """Add an entry to the event log."""

    def deny(self, denied: Denied, requested: int, entry: Entry | None) -> None:
        """Count a denial, and log `entry`. Not a change that a refused request must not make."""

    def next_reservation(self) -> int:
        """The row of a reservation about to be added."""

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""

    def replace(self, reservation: Reservation) -> None:
        """Keep a reservation's new state."""

    def reservation(self, row: int) -> Reservation | None:
        """The reservation of that row."""

    def overdue(self, now_ms: int) -> Iterable[Reservation]:
        """The active reservations that can no longer be settled at `now_ms`."""

    def listed(self, wanted: Wanted) -> list[Reservation]:
        """The reservations wanted, newest first."""

    def next_event(self) -> int:
        """The row of an event about to be added."""

    def add_event(self, event: Event) -> None:
        """Keep an event."""

    def recall(self, endpoint: Endpoint, digest: bytes, row: int = 0) -> Remembered | None:
        """What the key was answered; `row` for keys of one reservation's own endpoints."""

    def remember(self, endpoint: Endpoint, digest: bytes, answer: Remembered, row: int = 0) -> None:
        """Keep what a key was answered, after what was added or replaced for it."""
