"""A ledger in memory: for tests, notebooks and demonstrations.

It passes the same contract suite as the durable ones. Everything is gone when it is closed. Any
thread and event loop of its process may use it.
"""

import heapq
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice

import anyio
import anyio.lowlevel
import attrs
from runcycles import Amount, Unit

from comptroller.core.accounts import Account
from comptroller.core.budgets import BudgetTerms
from comptroller.core.scopes import ancestor_scopes
from comptroller.ledger import daemon_threads
from comptroller.ledger.embedded.alerts import OnAlert
from comptroller.ledger.embedded.base import (
    Act,
    EmbeddedLedgerBase,
    EmbeddedOptions,
    LedgerSnapshot,
    T,
    wall_clock,
)
from comptroller.ledger.engine import commit, statistics, usage_report, verify
from comptroller.ledger.engine.denial_counter import DenialKey
from comptroller.ledger.engine.denial_errors import MEMORY
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.records import (
    Endpoint,
    Event,
    Reservation,
    ReservationFilter,
    StoredResponse,
)
from comptroller.ledger.models import LogEntry, LogQuery, Statistics

_AT_ONCE = 2**18
"""Of records of this size (some thousand plain ones) a reader makes an answer at once: they are
neither copied nor looked through in a thread of their own."""


class MemoryStore:
    """Records in dictionaries."""

    def __init__(self) -> None:
        self._accounts: dict[str, dict[Unit, Account]] = {}
        self._reservations: dict[int, Reservation] = {}
        self._events: dict[int, Event] = {}
        self._answers: dict[tuple[int, bytes], StoredResponse] = {}
        self._ends: list[tuple[int, int]] = []  # a heap of (ends_ms, row); outdated ones stay
        self._periods: dict[tuple[str, Unit, int], Account] = {}
        self._log: list[LogEntry] = []
        self._denied: dict[DenialKey, list[int]] = {}
        self._active: dict[int, Reservation] = {}
        self._totals = statistics.Totals()
        self.size = 0
        """How long what its callers wrote is, in characters of JSON."""

    def copied(self) -> "MemoryStore":
        """Return the records as they stand now: a copy does not change with them."""
        copy = MemoryStore()
        copy._accounts = {scope: dict(units) for scope, units in self._accounts.items()}
        copy._reservations, copy._events = dict(self._reservations), dict(self._events)
        copy._periods, copy._log = dict(self._periods), list(self._log)
        copy._denied = {denied: list(count) for denied, count in self._denied.items()}
        return copy

    def at(self, scope: str) -> Mapping[Unit, Account]:
        """Return the accounts of one scope, by unit."""
        return self._accounts.get(scope, {})

    def accounts(self, tenant: str | None = None) -> Iterable[Account]:
        """Every account, or one tenant's, ordered by scope and unit."""
        every = (
            account
            for scope, units in self._accounts.items()
            if tenant is None or ancestor_scopes(scope)[0] == f"tenant:{tenant}"
            for account in units.values()
        )
        return sorted(every, key=lambda account: (account.scope, account.unit.value))

    def units_within(self, scope: str) -> Iterable[Unit]:
        """Return the units of all budgets of scopes within `scope`."""
        inner = (units for at, units in self._accounts.items() if at.startswith(f"{scope}/"))
        return sorted(set[Unit]().union(*inner), key=lambda unit: unit.value)

    def save(self, account: Account) -> None:
        """Keep `account` in place of the one of its scope and unit."""
        self._accounts.setdefault(account.scope, {})[account.unit] = account

    def period(self, scope: str, unit: Unit, since_ms: int) -> Account | None:
        """Return the account of a period that is over."""
        return self._periods.get((scope, unit, since_ms))

    def keep_period(self, account: Account) -> None:
        """Keep the account of a period that is over, or its new state."""
        self._periods[account.scope, account.unit, account.since_ms] = account

    def log(self, entry: LogEntry) -> None:
        """Add an entry to the event log."""
        self._log.append(attrs.evolve(entry, number=len(self._log) + 1))

    def deny(self, denied: DenialKey, requested: int, entry: LogEntry | None) -> None:
        """Count a denial, and log `entry`."""
        count = self._denied.setdefault(denied, [0, 0])
        count[0] += 1
        count[1] += requested
        self._totals[statistics.DENIED + denied.code, denied.unit] += 1
        if entry is not None:
            self.log(entry)

    def next_reservation(self) -> int:
        """Return the row of a reservation about to be added."""
        return len(self._reservations) + 1

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""
        self.size += reservation.size
        self.replace(reservation)

    def replace(self, reservation: Reservation) -> None:
        """Keep a reservation's new state."""
        self._reservations[reservation.row] = reservation
        if reservation.active:
            self._active[reservation.row] = reservation
            heapq.heappush(self._ends, (reservation.ends_ms, reservation.row))
        elif self._active.pop(reservation.row, None):
            statistics.add(self._totals, [reservation])

    def reservation(self, row: int) -> Reservation | None:
        """Return the reservation of that row."""
        return self._reservations.get(row)

    def overdue(self, now_ms: int) -> Iterable[Reservation]:
        """Yield the active reservations that can no longer be settled at `now_ms`."""
        while self._ends and self._ends[0][0] < now_ms:
            ends_ms, row = heapq.heappop(self._ends)
            reservation = self._reservations[row]
            if reservation.active and reservation.ends_ms == ends_ms:
                yield reservation

    def listed(self, wanted: ReservationFilter) -> Iterable[Reservation]:
        """Return the reservations wanted, in the order wanted."""
        rows = sorted(self._reservations, reverse=not wanted.ascending)
        found = filter(wanted.has, (self._reservations[row] for row in rows))
        if wanted.order == "row":
            return islice(found, wanted.limit)
        return sorted(found, key=wanted.place, reverse=not wanted.ascending)[: wanted.limit]

    def next_event(self) -> int:
        """Return the row of an event about to be added."""
        return len(self._events) + 1

    def add_event(self, event: Event) -> None:
        """Keep an event."""
        self.size += len(event.request)
        self._events[event.row] = event
        statistics.add(self._totals, [], [event])

    def recall(
        self,
        endpoint: Endpoint,  # noqa: ARG002
        digest: bytes,
        row: int = 0,
    ) -> StoredResponse | None:
        """Return what the key was answered."""
        return self._answers.get((row, digest))

    def remember(
        self,
        endpoint: Endpoint,  # noqa: ARG002
        digest: bytes,
        answer: StoredResponse,
        row: int = 0,
    ) -> None:
        """Keep what a key was answered."""
        self._answers[row, digest] = answer

    # What reports and audits read

    def periods(self) -> Iterable[Account]:
        """Return the accounts of the periods that are over."""
        return self._periods.values()

    def changes(self) -> Iterable[LogEntry]:
        """Return the entries of the log that change a balance, oldest first."""
        return [entry for entry in self._log if entry.kind in verify.KINDS]

    def sums(self) -> Iterable[verify.ChargedTotal]:
        """Yield what each reservation and event comes to."""
        for one in self._reservations.values():
            held = one.estimate if one.active else 0
            yield verify.ChargedTotal(one.held, one.since, one.unit, one.charged or 0, held)
        for event in self._events.values():
            yield verify.ChargedTotal(event.held, event.since, event.unit, event.charged)

    def statistics(self, now_ms: int, *, by_tenant: bool) -> Statistics:
        """How the ledger stands."""
        budgets: dict[Unit, Counter[str]] = {}
        tenants = []
        for account in self.accounts():
            counts = budgets.setdefault(account.unit, Counter())
            counts["budgets"] += 1
            counts["full"] += statistics.is_full(account, now_ms)
            counts["in_debt"] += account.debt > 0
            counts["debt"] += account.debt
            if by_tenant and "/" not in account.scope:
                tenants.append(account)
        held: dict[Unit, tuple[int, int]] = {}
        for one in self._active.values():
            active, reserved = held.get(one.unit, (0, 0))
            held[one.unit] = active + 1, reserved + one.estimate
        units = statistics.of_units(self._totals, budgets, held)
        return Statistics(units, tuple(tenants))

    def spending(self, asked: usage_report.UsageQuery) -> Iterable[usage_report.UsageRow]:
        """Yield what each reservation, event and count of denials comes to."""
        for one in self._reservations.values():
            spent = usage_report.of_reservation(one, asked)
            if spent is not None and asked.concerns(one.path, one.created_ms):
                yield spent
        for event in self._events.values():
            if asked.concerns(event.path, event.created_ms):
                yield usage_report.of_event(event, asked)
        for denied, (count, requested) in self._denied.items():
            if asked.concerns(denied.path, denied.quarter_ms):
                yield usage_report.of_denials(denied, count, requested, asked)

    def entries(self, sought: LogQuery) -> list[LogEntry]:
        """Return the entries of the log that are sought, oldest first."""
        found = [entry for entry in self._log if sought.has(entry)]
        if sought.limit is None:
            return found
        return found[-sought.limit :] if sought.newest else found[: sought.limit]


class MemoryLedger(EmbeddedLedgerBase):
    """An `EmbeddedLedger` of this process alone."""

    durable = False

    def __init__(self, now: Callable[[], int], settings: EmbeddedOptions | None = None) -> None:
        settings = settings or EmbeddedOptions()
        super().__init__(MEMORY, now, settings)
        self._store, self._turn = MemoryStore(), threading.Lock()
        self._book = Engine(self._store, MEMORY, settings.default_budget)

    async def _perform(self, act: Act[T]) -> T:
        self._must_be_usable()
        # The one checkpoint comes first: a cancelled request has done nothing, and an answer
        # that was given cannot be lost.
        await anyio.lowlevel.checkpoint()
        with self._turn:
            now_ms = self._now()
            commit.sweep(self._book, now_ms)
            answer = act(self._book, now_ms=now_ms)
            alerts = self._book.taken_alerts()
        self._tell(alerts)
        return answer()

    async def shut(self) -> None:
        """End of use, once the callback for alerts has been called."""
        self.close()
        if self._teller is not None:
            with anyio.CancelScope(shield=True):
                await daemon_threads.run_sync(self._told)

    async def _read(self, work: Callable[[LedgerSnapshot], T]) -> T:
        self._must_be_usable()
        await anyio.lowlevel.checkpoint()
        with self._turn:
            if self._store.size <= _AT_ONCE:
                return work(self._store)
            records = self._store.copied()
        return await daemon_threads.run_sync(work, records)


@asynccontextmanager
async def open_memory(
    *,
    now: Callable[[], int] = wall_clock,
    default_budget: Amount | BudgetTerms | None = None,
    on_alert: OnAlert | None = None,
) -> AsyncGenerator[MemoryLedger]:
    """Open a ledger in memory, gone at the end of the block.

    `now` gives epoch milliseconds. `default_budget` and `on_alert` as `open_ledger` says.
    """
    ledger = MemoryLedger(now, EmbeddedOptions(default_budget, on_alert))
    try:
        yield ledger
    finally:
        await ledger.shut()
