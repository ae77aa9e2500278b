"""A ledger in memory: for tests, notebooks and demonstrations.

It passes the same contract suite as the durable ones. Everything is gone when it is closed. Any
thread and event loop of its process may use it.
"""

import heapq
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice

import anyio.lowlevel
from runcycles import Unit

from comptroller.decide.admission import Account
from comptroller.decide.scopes import within
from comptroller.ledger.book import settle
from comptroller.ledger.book.records import Book, Event, Remembered, Reservation, Wanted
from comptroller.ledger.book.refusals import MEMORY
from comptroller.ledger.embedded import Act, Embedded, T, wall_clock


class MemoryStore:
    """Records in dictionaries."""

    def __init__(self) -> None:
        self._accounts: dict[str, dict[Unit, Account]] = {}
        self._reservations: dict[int, Reservation] = {}
        self._events: dict[int, Event] = {}
        self._answers: dict[tuple[int, bytes], Remembered] = {}
        self._ends: list[tuple[int, int]] = []  # a heap of (ends_ms, row); outdated ones stay

    def at(self, scope: str) -> Mapping[Unit, Account]:
        """The accounts of one scope, by unit."""
        return self._accounts.get(scope, {})

    def accounts(self, tenant: str | None = None) -> Iterable[Account]:
        """Every account, or one tenant's, ordered by scope and unit."""
        every = (
            account
            for scope, units in self._accounts.items()
            if tenant is None or within(scope)[0] == f"tenant:{tenant}"
            for account in units.values()
        )
        return sorted(every, key=lambda account: (account.scope, account.unit.value))

    def save(self, account: Account) -> None:
        """Keep `account` in place of the one of its scope and unit."""
        self._accounts.setdefault(account.scope, {})[account.unit] = account

    def next_reservation(self) -> int:
        """The row of a reservation about to be added."""
        return len(self._reservations) + 1

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""
        self.replace(reservation)

    def replace(self, reservation: Reservation) -> None:
        """Keep a reservation's new state."""
        self._reservations[reservation.row] = reservation
        if reservation.active:
            heapq.heappush(self._ends, (reservation.ends_ms, reservation.row))

    def reservation(self, row: int) -> Reservation | None:
        """The reservation of that row."""
        return self._reservations.get(row)

    def overdue(self, now_ms: int) -> Iterable[Reservation]:
        """The active reservations that can no longer be settled at `now_ms`."""
        while self._ends and self._ends[0][0] < now_ms:
            ends_ms, row = heapq.heappop(self._ends)
            reservation = self._reservations[row]
            if reservation.active and reservation.ends_ms == ends_ms:
                yield reservation

    def listed(self, wanted: Wanted) -> list[Reservation]:
        """The reservations wanted, in the order wanted."""
        rows = sorted(self._reservations, reverse=not wanted.ascending)
        found = filter(wanted.has, (self._reservations[row] for row in rows))
        if wanted.order == "row":
            return list(islice(found, wanted.limit))
        return sorted(found, key=wanted.place, reverse=not wanted.ascending)[: wanted.limit]

    def next_event(self) -> int:
        """The row of an event about to be added."""
        return len(self._events) + 1

    def add_event(self, event: Event) -> None:
        """Keep an event."""
        self._events[event.row] = event

    def recall(self, digest: bytes, row: int = 0) -> Remembered | None:
        """What the key was answered."""
        return self._answers.get((row, digest))

    def remember(self, digest: bytes, answer: Remembered, row: int = 0) -> None:
        """Keep what a key was answered."""
        self._answers[row, digest] = answer


class MemoryLedger(Embedded):
    """An `EmbeddedLedger` of this process alone."""

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__(MEMORY, now)
        self._book, self._turn = Book(MemoryStore(), MEMORY), threading.Lock()

    async def _perform(self, act: Act[T], *, scans: bool = False) -> T:  # noqa: ARG002
        self._must_be_usable()
        # The one checkpoint comes first: a cancelled request has done nothing, and an answer
        # that was given cannot be lost.
        await anyio.lowlevel.checkpoint()
        with self._turn:
            now_ms = self._now()
            settle.sweep(self._book, now_ms)
            answer = act(self._book, now_ms)
        return answer()


@asynccontextmanager
async def open_memory(*, now: Callable[[], int] = wall_clock) -> AsyncGenerator[MemoryLedger]:
    """A ledger in memory, gone at the end of the block.

    `now` gives epoch milliseconds.
    """
    ledger = MemoryLedger(now)
    try:
        yield ledger
    finally:
        ledger.close()
