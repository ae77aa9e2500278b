"""The outbox of a remote ledger: when each charge is sent, and what an answer does to it.

The laws kept here (settlement, "Durability"):

- A charge is on disk before the first request for it leaves the process.
- It is forgotten on a success that validates, and set aside on a rejection that is understood;
  else it is sent again, under the same key, when the ledger wants to be asked. While a ledger that
  gives no answer is not asked, nothing is taken in hand: however much there is, it costs nothing.
- That a lease is over is on disk before the event is sent in place of the commit.
- What other processes left behind is found when a ledger is opened. Several may send the same
  entry at once: they have one key, and it is charged once.
- Nothing is called empty that has not been looked through: what was not read yet, or cannot be
  read, counts as left.
"""

import logging
import random
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import attrs
from anyio.abc import TaskGroup
from runcycles import CommitRequest, EventCreateRequest

from comptroller._interrupts import uninterrupted
from comptroller.core import backoff
from comptroller.core.settlement import SettlementAction, next_action
from comptroller.errors import ComptrollerError, LedgerError
from comptroller.ledger import daemon_threads
from comptroller.ledger.interface import PendingCharge, Tells, after_finalized
from comptroller.ledger.remote.outbox.entries import Entry
from comptroller.ledger.remote.outbox.retry_queue import Condition, QueuedCharge, RetryQueue
from comptroller.ledger.remote.outbox.storage import OutboxDirectory
from comptroller.ledger.remote.outbox.writer import FileWriter

log = logging.getLogger("comptroller.ledger")

LANES = 4
"""Charges that are sent again at once: enough to catch up, few enough to leave room for runs."""

_AT_ONCE = 200
"""Files that are read in one go."""

_LOOKING = 5.0
"""Seconds that a search for what others left behind may keep those who wait for it."""


class ChargeSink(Tells, Protocol):
    """The part of a ledger that charges are sent to."""

    async def commit(
        self, reservation_id: str, request: CommitRequest, *, tenant: str | None = None
    ) -> Any:
        """As `Ledger.commit`."""

    async def record(self, request: EventCreateRequest, *, tenant: str | None = None) -> Any:
        """As `Ledger.record`."""

    @property
    def rest(self) -> float:
        """Seconds for which nothing is sent, since the last requests had no answer; 0: send."""

    def try_now(self) -> None:
        """Send the next charge even if the last requests had no answer."""


class DiskOutbox:
    """An `Outbox`, and an async context manager: while it is open, charges are sent again.

    Leaving it waits for what can be delivered within `patience` seconds; the rest stays on disk.
    Its body's exception does not pass through its tasks. `drain` and `left` may be asked any time.
    """

    attempts = 1

    def __init__(
        self, ledger: ChargeSink, shelf: OutboxDirectory, *, patience: float = 5.0
    ) -> None:
        self._ledger, self._shelf, self._patience = ledger, shelf, patience
        self._clerk = FileWriter()
        self._parcels = RetryQueue()
        self._loaded = False
        self._unread: int | None = None  # files that may be owed; None: how many is not known
        self._hidden_by: OSError | None = None
        self._looking = anyio.Lock()
        self._hastened = Condition()
        self._over: set[str] = set()  # the keys of what ended while somebody looks
        self._life = anyio.CancelScope(shield=True)
        self._home: TaskGroup

    # -- what those who settle ask for

    async def write_ahead(self, owed: PendingCharge) -> None:
        """As `Outbox.write_ahead`. What the disk does not take is sent all the same, and told."""
        await self._write(self._parcels.add(QueuedCharge(Entry.of(owed, self._shelf.address))))

    def keep(self, owed: PendingCharge) -> None:
        """As `Outbox.keep`: on disk when it returns, if the disk takes it."""
        entry = Entry.of(owed, self._shelf.address)
        parcel = self._parcels.get(owed.key) or self._parcels.add(QueuedCharge(entry))
        if entry.not_before_ms is not None or not parcel.safe:
            parcel.becomes(attrs.evolve(entry, recorded_at_ms=parcel.entry.recorded_at_ms))
            try:
                self._shelf.put(parcel.entry)
            except OSError as error:
                _not_on_disk(parcel.entry, error)
            else:
                parcel.safe = True
        self._put_off(parcel)

    def settled(self, key: str) -> None:
        """As `Outbox.settled`."""
        if (parcel := self._forget(key)) is not None:
            self._clerk.later(partial(self._shelf.remove, parcel.entry))

    def rejected(self, key: str, why: str) -> None:
        """As `Outbox.rejected`: it stays beside the others for a person to look at."""
        if (parcel := self._forget(key)) is not None:
            log.error("the ledger will never accept what %s cost: %s", key, why)
            self._clerk.later(partial(self._shelf.set_aside, parcel.entry))

    # -- what its ledger asks for

    @property
    def left(self) -> list[Entry]:
        """What the ledger has not accepted yet."""
        return [parcel.entry for parcel in self._parcels]

    def hasten(self) -> None:
        """Everything is due now, but what the ledger has asked to wait for."""
        for parcel in self._parcels:
            if parcel.due is not None and not parcel.in_hand:
                parcel.failures = 0
                if parcel.allowed < parcel.due:
                    self._parcels.put_off(parcel, parcel.allowed)
        self._hastened.notify()

    @property
    def unread(self) -> bool:
        """Whether something may be owed that is not in `left`: it could not be read."""
        return self._unread != 0

    async def look(self) -> None:
        """Find what was left behind, by this process or another one; a ledger's opening does so.

        What died since then is found by another look. Takes as long as the disk does.
        """
        async with self._looking:
            self._over.clear()
            await self._clerk.do(_nothing)  # the files of what ended before this are gone then
            try:
                names, hidden = await daemon_threads.run_sync(self._shelf.names)
            except OSError as error:
                log.error("the outbox %s: %s", self._shelf.root, error)
                self._unread, self._hidden_by = None, error
                return
            self._unread, self._hidden_by = len(names) + hidden, None
            for first in range(0, len(names), _AT_ONCE):
                some = names[first : first + _AT_ONCE]
                found, read = await daemon_threads.run_sync(self._read, some)
                self._unread -= read
                self._take_up(found)

    def _read(self, names: list[Path]) -> tuple[list[Entry], int]:
        """Return the entries in these files, and how many of the files could be read. Blocks."""
        found, read = [], 0
        for path in names:
            with suppress(OSError):  # told, and found another time
                if (entry := self._shelf.entry(path)) is not None:
                    found.append(entry)
                read += 1
        return found, read

    def _take_up(self, found: list[Entry]) -> None:
        for entry in found:  # but what its owner is sending, or has just sent
            if entry.key not in self._parcels and entry.key not in self._over:
                parcel = self._parcels.add(QueuedCharge(entry, safe=True))
                self._parcels.put_off(parcel, parcel.allowed)

    async def found(self) -> None:
        """Wait until everything was looked through that lay there at the opening."""
        await self._parcels.changed.until(lambda: self._loaded)

    async def drain(self, timeout: float) -> int:
        """Send everything now, and wait until it is accepted, at most `timeout` seconds.

        Where the ledger has asked for more time than that, it is not waited for. How many are
        left, on disk, is returned; what was not looked at yet, or cannot be read, is among them.

        Raises:
            ComptrollerError: how many are left is not known.
        """
        with anyio.move_on_after(_LOOKING):
            await self.found()
        deadline = anyio.current_time() + timeout
        with anyio.CancelScope(deadline=deadline):
            self._ledger.try_now()
            self.hasten()
            await self._parcels.changed.until(lambda: self._is_drained(deadline))
        if self._unread is None:
            why = self._hidden_by or f"it takes more than {_LOOKING + timeout:g} seconds to list"
            raise ComptrollerError(
                f"the outbox {self._shelf.root} cannot be looked through ({why}):"
                " what is owed is not known"
            )
        return len(self._parcels) + self._unread

    async def __aenter__(self) -> "DiskOutbox":
        self._home = anyio.create_task_group()
        await self._home.__aenter__()
        self._home.start_soon(self._live, name="comptroller outbox")
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            with anyio.CancelScope(shield=True):
                left = await self.drain(self._patience)
                lost = [each for each in tuple(self._parcels) if not await self._is_safe(each)]
            for parcel in lost:
                entry = parcel.entry
                log.error("what %s cost is lost: %s", entry.key, entry.record().to_json())
            if left > len(lost):
                log.warning("%d charges stay in the outbox %s", left - len(lost), self._shelf.root)
        except ComptrollerError as error:
            log.error("%s", error)
        finally:
            self._life.cancel("the ledger is closed")
            await self._home.__aexit__(None, None, None)

    # -- its tasks

    @uninterrupted
    async def _live(self) -> None:
        """Shielded: a ledger that is left by a cancellation still sends what it can."""
        with self._life:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._clerk.serve, name="comptroller outbox files")
                tasks.start_soon(self._find, name="comptroller outbox search")
                for lane in range(LANES):
                    tasks.start_soon(self._send, name=f"comptroller outbox lane {lane}")

    @uninterrupted
    async def _find(self) -> None:
        await self.look()
        self._loaded = True
        self._parcels.changed.notify()

    @uninterrupted
    async def _send(self) -> None:
        while True:
            await self._until_asked()
            parcel = await self._parcels.next()
            try:
                due = await self._attempt(parcel)
            finally:
                parcel.in_hand = False
            if due is not None:
                self._parcels.put_off(parcel, due)

    async def _until_asked(self) -> None:
        """Wait while the ledger is left alone; one of the requests after that is let through."""
        while (rest := self._ledger.rest) > 0:
            with anyio.move_on_after(rest):
                await self._hastened.wait()

    async def _attempt(self, parcel: QueuedCharge) -> float | None:
        """When it is to be sent again; None where that is over."""
        entry = parcel.entry
        try:
            if entry.commit is not None:
                await self._ledger.commit(entry.key, entry.commit, tenant=entry.tenant)
            elif entry.event is not None:
                await self._ledger.record(entry.event, tenant=entry.tenant)
        except ComptrollerError as error:
            return await self._refused(parcel, error)
        except Exception:
            log.exception("sending what %s cost: a defect in its ledger", entry.key)
            return _later(parcel, at_least=backoff.UNTIL_MENDED)
        self.settled(entry.key)
        return None

    async def _refused(self, parcel: QueuedCharge, error: ComptrollerError) -> float | None:
        entry, due, then = parcel.entry, None, next_action(error)
        if then is SettlementAction.SETTLED and entry.commit is not None:
            then = await after_finalized(self._ledger, entry.key, entry.tenant)
        if then is SettlementAction.SETTLED:
            self.settled(entry.key)
        elif then is SettlementAction.STOP:
            self.rejected(entry.key, str(error))
        elif (
            then is SettlementAction.RECORD and entry.commit is not None and entry.event is not None
        ):
            parcel.becomes(entry.as_event())
            due = parcel.allowed
        elif then is SettlementAction.RETRY:
            if isinstance(error, LedgerError) and error.retry_after_ms is not None:
                parcel.becomes(entry.put_off(error.retry_after_ms))
            due = _later(parcel)
        else:
            log.error("what %s cost is kept in the outbox: %s", entry.key, error)
            due = _later(parcel, at_least=backoff.UNTIL_MENDED)
        if due is not None and not parcel.safe:
            await self._write(parcel)
        return due

    # -- bookkeeping

    def _is_drained(self, deadline: float) -> bool:
        """Whether nothing can be found or accepted any more before `deadline`."""
        asked = anyio.current_time() + self._ledger.rest
        return self._loaded and not any(_can(each, asked, deadline) for each in self._parcels)

    def _forget(self, key: str) -> QueuedCharge | None:
        if self._looking.locked():
            self._over.add(key)
        return self._parcels.remove(key)

    async def _write(self, parcel: QueuedCharge) -> None:
        try:
            await self._clerk.do(partial(self._shelf.put, parcel.entry))
        except OSError as error:
            _not_on_disk(parcel.entry, error)
        else:
            parcel.safe = True

    async def _is_safe(self, parcel: QueuedCharge) -> bool:
        """Whether it outlives this process: there may be room on the disk by now."""
        if not parcel.safe:
            await self._write(parcel)
        return parcel.safe

    def _put_off(self, parcel: QueuedCharge) -> None:
        self._parcels.put_off(parcel, _later(parcel))


def _nothing() -> None:
    """Done when all that the clerk was given before is."""


def _can(parcel: QueuedCharge, asked: float, deadline: float) -> bool:
    """Whether it may still be accepted before `deadline` by a ledger that is asked from `asked`."""
    return parcel.in_hand or parcel.due is None or max(parcel.due, asked) < deadline


def _later(parcel: QueuedCharge, at_least: float = 0.0) -> float:
    """When it is sent again, after one more failure."""
    parcel.failures += 1
    pause = max(at_least, backoff.pause(parcel.failures, random.random()))  # noqa: S311 - it spreads
    return max(anyio.current_time() + pause, parcel.allowed)


def _not_on_disk(entry: Entry, error: OSError) -> None:
    log.error(
        "what %s cost is not on disk, and lost if this process dies before it is accepted: %s",
        entry.key, error,
    )  # fmt: skip
