"""Charges on their way, and whose turn it is."""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator

import anyio
import attrs

from comptroller.core import backoff
from comptroller.ledger.remote.outbox.entries import Entry, now_ms


@attrs.define(eq=False)
class QueuedCharge:
    """A charge on its way.

    Attributes:
        entry: as it is on disk, or was to be.
        due: when it is sent next, on the loop's clock; None while its call's owner sends it.
        failures: how often sending it was in vain.
        safe: whether it is on disk.
        in_hand: it is being sent.
        allowed: when the ledger wants to be asked, on the loop's clock: however that of the wall is
            set meanwhile.
    """

    entry: Entry
    due: float | None = None
    failures: int = 0
    safe: bool = False
    in_hand: bool = False
    allowed: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.allowed = _allowed(self.entry)

    def becomes(self, entry: Entry) -> None:
        """Send it as `entry` from now on, which is not on disk yet."""
        self.entry, self.safe, self.allowed = entry, False, _allowed(entry)


def _allowed(entry: Entry) -> float:
    return anyio.current_time() + backoff.floor(entry.not_before_ms, now_ms())


class Condition:
    """Wakes those who wait for a change."""

    def __init__(self) -> None:
        self._waiters: set[anyio.Event] = set()

    def notify(self) -> None:
        """Wake them."""
        for event in tuple(self._waiters):
            event.set()

    async def wait(self) -> None:
        """Until the next change."""
        event = anyio.Event()
        self._waiters.add(event)
        try:
            await event.wait()
        finally:
            self._waiters.discard(event)

    async def until(self, done: Callable[[], bool]) -> None:
        """Until `done()`, which is asked after each change."""
        while not done():
            await self.wait()


class RetryQueue:
    """All of an outbox, by their keys.

    Attributes:
        changed: notified when one is settled, or put off.
    """

    def __init__(self) -> None:
        self.changed = Condition()
        self._all: dict[str, QueuedCharge] = {}
        self._turns: list[
            tuple[float, int, QueuedCharge]
        ] = []  # a heap; those out of date are skipped
        self._number = itertools.count()
        self._turn = Condition()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[QueuedCharge]:
        return iter(self._all.values())

    def __contains__(self, key: str) -> bool:
        return key in self._all

    def get(self, key: str) -> QueuedCharge | None:
        """Return the parcel of this key."""
        return self._all.get(key)

    def add(self, parcel: QueuedCharge) -> QueuedCharge:
        """One more, or another one of the same key."""
        self._all[parcel.entry.key] = parcel
        return parcel

    def remove(self, key: str) -> QueuedCharge | None:
        """Remove a charge that is settled or rejected, and return it."""
        parcel = self._all.pop(key, None)
        self.changed.notify()
        return parcel

    def put_off(self, parcel: QueuedCharge, due: float) -> None:
        """Send it at `due`."""
        parcel.due = due
        heapq.heappush(self._turns, (due, next(self._number), parcel))
        self._turn.notify()
        self.changed.notify()

    async def next(self) -> QueuedCharge:
        """Wait for the one that is due first, and take it in hand."""
        while True:
            due = self._first()
            if due <= anyio.current_time():
                parcel = heapq.heappop(self._turns)[2]
                parcel.in_hand = True
                return parcel
            with anyio.CancelScope(deadline=due):
                await self._turn.wait()

    def _first(self) -> float:
        """When the next one is due."""
        while self._turns:
            due, _, parcel = self._turns[0]
            if parcel.due == due and not parcel.in_hand and self.get(parcel.entry.key) is parcel:
                return due
            heapq.heappop(self._turns)
        return math.inf
