"""What an embedded ledger keeps, and the `Store` that keeps it.

Records are values. A store hands them out and takes changed ones back; what was put is seen by
every later call, and a store that is durable writes it in one transaction.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

from pydantic import BaseModel
from runcycles import Caps, CommitOveragePolicy, ReservationStatus, Unit

from comptroller._frozen import frozen_record
from comptroller.core.accounts import Account, Accounts
from comptroller.errors import LedgerRefused
from comptroller.ledger.engine.denial_counter import DenialKey
from comptroller.ledger.models import LogEntry

LONG = 2**12
"""Characters of JSON from which on a request is long: what a caller adds to it has no bound of its
own, and what is not shown of it is not read. Without that it is hardly ever as long."""
Endpoint = Literal["reserve", "commit", "release", "extend", "decide", "record", "fund"]


@frozen_record
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
    act: tuple[str, str] | None = None
    """Kind and name of its action where `request` need not be read for them."""
    head: str | None = None
    """Its subject and action, as JSON, where `request` is long (`LONG`)."""

    @property
    def reservation_id(self) -> str:
        """The id that callers know."""
        return f"rsv_{self.row:x}_{self.token}"

    @property
    def ends_ms(self) -> int:
        """The last moment at which it can be settled."""
        return self.expires_ms + self.grace_ms

    @property
    def size(self) -> int:
        """How long what its caller wrote is, in characters of JSON."""
        return len(self.request) + len(self.settlement or "")

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
        """Return the reservation once it does not hold its estimate any more."""
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
            self.act,
            self.head,
        )


@frozen_record
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


@frozen_record
class StoredResponse:
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


@frozen_record
class CanonicalRequest:
    """A request with its canonical JSON, or with what is wrong with it.

    Writing a long request takes long, so a server does it in a thread, before the ledger's turn.
    What is wrong is raised in that turn, after what is checked before it.
    """

    request: BaseModel
    written: str | LedgerRefused

    def text(self) -> str:
        """Return the canonical JSON.

        Raises:
            LedgerRefused: the request cannot be written as JSON (INVALID_REQUEST).
        """
        if isinstance(self.written, LedgerRefused):
            raise self.written
        return self.written


ORDERS: Mapping[str, Callable[[Reservation], int | str]] = {
    "row": lambda one: one.row,
    "reservation_id": lambda one: one.reservation_id,
    "tenant": lambda one: one.tenant or "",
    "scope_path": lambda one: one.path,
    "status": lambda one: one.status.value,
    "reserved": lambda one: one.estimate,
    "created_at_ms": lambda one: one.created_ms,
    "expires_at_ms": lambda one: one.expires_ms,
}
"""What reservations can be sorted by; `row`, the order in which they were made, decides a tie."""

Bounds = tuple[int | None, int | None]
"""From and to, inclusive; None leaves a side open."""
DEFAULT_GRACE_MS = 5_000

ANY_TIME: Bounds = (None, None)


@frozen_record
class ReservationFilter:
    """Which reservations a listing wants, and in which order: at most `limit` that come `after`."""

    limit: int
    order: str = "row"
    """One of `ORDERS`."""
    ascending: bool = False
    after: tuple[int | str, int] | None = None
    """The last one of the page before: what it is sorted by, and its row."""
    tenant: str | None = None
    status: ReservationStatus | None = None
    key: str | None = None
    segments: tuple[str, ...] = ()
    """Segments their path must have, such as `agent:triage`."""
    created: Bounds = ANY_TIME
    expires: Bounds = ANY_TIME
    finalized: Bounds = ANY_TIME
    whole: bool = False
    """Whether what callers have added is wanted, too; else a long `request` may be left out."""

    def place(self, reservation: Reservation) -> tuple[int | str, int]:
        """Where `reservation` stands in the order."""
        return ORDERS[self.order](reservation), reservation.row

    def has(self, reservation: Reservation) -> bool:
        """Whether `reservation` is one of them, `limit` aside."""
        return (
            (self.tenant is None or self.tenant == reservation.tenant)
            and (self.status is None or self.status is reservation.status)
            and (self.key is None or self.key == reservation.key)
            and set(self.segments) <= set(reservation.path.split("/"))
            and _between(reservation.created_ms, self.created)
            and _between(reservation.expires_ms, self.expires)
            and _between(reservation.finalized_ms, self.finalized)
            and (self.after is None or self._follows(self.place(reservation), self.after))
        )

    def _follows(self, place: tuple[int | str, int], after: tuple[int | str, int]) -> bool:
        """Both sorted by the same, so by values of one type."""
        return place > after if self.ascending else place < after


def _between(moment_ms: int | None, bounds: Bounds) -> bool:
    """Whether a time is within bounds; one that there is not is within open ones only."""
    first, last = bounds
    if moment_ms is None:
        return bounds == ANY_TIME
    return (first is None or first <= moment_ms) and (last is None or moment_ms <= last)


class Store(Protocol):
    """Where a book keeps its records."""

    def at(self, scope: str) -> Mapping[Unit, Account]:
        """Return the accounts of one scope, by unit; empty where it has no budget."""

    def units_within(self, scope: str) -> Iterable[Unit]:
        """Return the units, in order, of all budgets below `scope`; its own do not count."""

    def save(self, account: Account) -> None:
        """Keep `account` in place of the one of its scope and unit."""

    def period(self, scope: str, unit: Unit, since_ms: int) -> Account | None:
        """Return the account of a period that is over, as it stands."""

    def keep_period(self, account: Account) -> None:
        """Keep the account of a period that is over, or its new state."""

    def log(self, entry: LogEntry) -> None:
        """Add an entry to the event log."""

    def deny(self, denied: DenialKey, requested: int, entry: LogEntry | None) -> None:
        """Count a denial, and log `entry`. Not a change that a refused request must not make."""

    def next_reservation(self) -> int:
        """Return the row of a reservation about to be added."""

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""

    def replace(self, reservation: Reservation) -> None:
        """Keep a reservation's new state."""

    def reservation(self, row: int) -> Reservation | None:
        """Return the reservation of that row."""

    def overdue(self, now_ms: int) -> Iterable[Reservation]:
        """Active reservations that can no longer be settled at `now_ms`; the rest the next time."""

    def next_event(self) -> int:
        """Return the row of an event about to be added."""

    def add_event(self, event: Event) -> None:
        """Keep an event."""

    def recall(self, endpoint: Endpoint, digest: bytes, row: int = 0) -> StoredResponse | None:
        """Return what the key was answered; `row` for keys of one reservation's own endpoints."""

    def remember(
        self, endpoint: Endpoint, digest: bytes, answer: StoredResponse, row: int = 0
    ) -> None:
        """Keep what a key was answered, after what was added or replaced for it."""
