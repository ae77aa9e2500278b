"""The ledger in an SQLite file: requests that wait are performed together, in one transaction.

The laws kept here:

- An answer is given only after the transaction that holds it was committed.
- A request that was refused changed nothing, and does not disturb the others of its batch; a fault
  of the file undoes the batch, and every one of its callers is told.
- A cancelled request was either not begun, and never will be, or is performed whole. asyncio's own
  cancellation passes every shield, so the requests belong to whoever performs them, not to the task
  that began it, and nobody else performs until that has ended.
- The event loop never waits for another process: a batch is performed at once where the turn is
  free, else in a worker thread. With `synchronous="FULL"` always there: it waits for the disk.

Nobody runs a task here: whoever asks waits one step, so that others can ask too, and the first to
go on performs everything that was asked.
"""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Literal

import anyio
import anyio.lowlevel
from runcycles import Amount

from comptroller._validation import expand_path
from comptroller.core.budgets import BudgetTerms
from comptroller.errors import ComptrollerError, refusal
from comptroller.ledger import daemon_threads
from comptroller.ledger.embedded.alerts import OnAlert
from comptroller.ledger.embedded.base import (
    RETENTION,
    Act,
    EmbeddedLedgerBase,
    EmbeddedOptions,
    LedgerSnapshot,
    T,
    wall_clock,
)
from comptroller.ledger.engine import commit
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.responses import ResponseFactory
from comptroller.ledger.sqlite import database_file
from comptroller.ledger.sqlite.file_guard import OpenedFiles, opening
from comptroller.ledger.sqlite.file_lock import FileLock, retry_until
from comptroller.ledger.sqlite.maintenance import Maintenance
from comptroller.ledger.sqlite.retention import Retention
from comptroller.ledger.sqlite.snapshot import open_snapshot
from comptroller.ledger.sqlite.store import SqliteStore
from comptroller.ledger.sqlite.webhooks import WebhookSender

_MAX_BATCH = 256
"""Requests in one batch: about as many as an event loop may be kept from its other work for."""


_PATIENCE_AT_THE_END = 0.5
"""Seconds for a turn while the file is closed."""


class _Request(Generic[T]):
    """One caller's act, and what came of it."""

    def __init__(self, act: Act[T]) -> None:
        self._act, self.asked = act, time.perf_counter()
        self.done = False
        self._answer: ResponseFactory[T]
        self._error: Exception | None = None

    def perform(self, book: Engine, store: SqliteStore, now_ms: int) -> None:
        """Perform the act. What fails before it changed anything fails alone."""
        before = store.changes
        try:
            self._answer = self._act(book, now_ms=now_ms)
        except sqlite3.Error:
            raise
        except Exception as error:
            if store.changes != before:
                raise
            self._error = error

    def fail(self, error: Exception) -> None:
        """Note that the batch was undone."""
        self._error, self.done = error, True

    def outcome(self) -> T:
        """Return the answer, or raise the refusal."""
        if self._error is not None:
            raise self._error
        return self._answer()


class SqliteLedger(EmbeddedLedgerBase):
    """An `EmbeddedLedger` in a file. Made by `open_sqlite`."""

    def __init__(
        self,
        path: Path,
        synchronous: str,
        now: Callable[[], int],
        settings: EmbeddedOptions,
        name: str,
    ) -> None:
        super().__init__(name, now, settings)
        self._path, self._full = path, synchronous == "FULL"
        self._loop, self._thread_of_loop = anyio.lowlevel.current_token(), threading.get_ident()
        self._waiting: deque[_Request[Any]] = deque()
        self._performing: anyio.Event | None = None  # set when the worker thread's batch ends
        self._thread = anyio.CapacityLimiter(1)
        self._in_use = threading.Lock()  # the connection and the turn, by who performs
        self._upkeep = Maintenance(path, Retention(RETENTION), now)
        self._courier = WebhookSender(path)
        self.on_wait: Callable[[float], object] | None = None
        """Is told how many seconds each request has waited to be performed."""

    @property
    def path(self) -> Path:
        """Its file."""
        return self._path

    def open(self, synchronous: str) -> None:
        """Open the file. Blocks.

        Raises:
            ComptrollerError: it cannot be used as a ledger; the text says why and what to do.
        """
        with opening():
            database_file.must_be_usable(self._path)
        try:
            self._turns = FileLock(self._path)
        except OSError as error:
            raise ComptrollerError(database_file.explained(self._path, error)) from None
        try:
            if not self._turns.take(time.monotonic() + self.request_timeout):
                raise self._held()
            with opening():
                self._sql = database_file.connected(
                    self._path, synchronous, self._settings.retention
                )
                self._files = OpenedFiles(self._path)
            self._upkeep.begin(self._files)
        except BaseException:
            self._turns.close()
            raise
        self._turns.pass_on()
        self._store = SqliteStore(self._path, self._sql)
        self._book = Engine(self._store, self.name, self._settings.default_budget)
        self._courier.begin(self._sql)

    async def shut(self) -> None:
        """End of use, once the batch that is being performed has ended. A fork has none."""
        if os.getpid() != self._process:
            return
        self.close()
        while self._performing is not None:
            await self._performing.wait()
        await daemon_threads.run_sync(self._shut)

    def _shut(self) -> None:
        self._upkeep.end()
        self._told()
        self._courier.end()
        with self._in_use:
            in_turn = self._turns.take(time.monotonic() + _PATIENCE_AT_THE_END)
            self._files.close(self._sql, in_turn=in_turn)
            self._turns.close()

    def _must_be_usable(self) -> None:
        super()._must_be_usable()
        if anyio.lowlevel.current_token() != self._loop:
            raise self._elsewhere()

    def _elsewhere(self) -> ComptrollerError:
        return ComptrollerError(
            f"{self._name} was opened in another event loop: open it in each of them;"
            " they share the file"
        )

    async def _perform(self, act: Act[T]) -> T:
        if self._closed or os.getpid() != self._process:
            self._must_be_usable()
        if threading.get_ident() != self._thread_of_loop:  # the loop itself takes longer to ask for
            raise self._elsewhere()
        request = _Request(act)
        self._waiting.append(request)
        try:
            await anyio.lowlevel.checkpoint()
            while not request.done:
                if self._closed or anyio.lowlevel.current_token() != self._loop:  # meanwhile
                    self._must_be_usable()
                if self._performing is None:
                    await self._batch()
                else:
                    await self._performing.wait()
        except BaseException:
            with suppress(ValueError):  # it is being performed
                self._waiting.remove(request)
            raise
        return request.outcome()

    async def _read(self, work: Callable[[LedgerSnapshot], T]) -> T:
        self._must_be_usable()
        return await daemon_threads.run_sync(self._read_now, work)

    def _read_now(self, work: Callable[[LedgerSnapshot], T]) -> T:
        """Blocks, as long as `work` does."""
        self._files.must_still_be()
        try:
            with open_snapshot(self._path) as records:
                return work(records)
        except (sqlite3.Error, TypeError, ValueError) as error:  # rows that no ledger has written
            raise ComptrollerError(database_file.explained(self._path, error)) from error

    async def _batch(self) -> None:
        """Perform requests that wait, those that came first."""
        if not self._full and self._at_once():
            return
        self._performing = anyio.Event()
        try:
            # Shielded: a batch that has begun ends, within `request_timeout` and its own work.
            with anyio.CancelScope(shield=True):
                await daemon_threads.run_sync(self._in_turn, limiter=self._thread)
        finally:
            self._performing.set()
            self._performing = None

    def _at_once(self) -> bool:
        """Perform a batch if nobody else has the connection, the turn or the file's lock."""
        if not self._in_use.acquire(blocking=False):
            return False
        try:
            return self._turns.take_now() and self._performed()
        finally:
            self._turns.pass_on()
            self._in_use.release()

    def _in_turn(self) -> None:
        """Perform a batch when it is our turn. Blocks."""
        deadline = time.monotonic() + self.request_timeout
        with self._in_use:
            if self._closed:
                return
            try:
                performed = self._turns.take(deadline, self._given_up) and retry_until(
                    self._performed, deadline, self._given_up
                )
            finally:
                self._turns.pass_on()
        if not performed:
            for request in self._taken():
                request.fail(self._held())

    def _given_up(self) -> bool:
        """Whoever closes the ledger does not wait for a turn that others hold."""
        return self._closed

    def _taken(self) -> list[_Request[Any]]:
        """Take the requests of one batch: from here on they are performed, or told why not."""
        batch: list[_Request[Any]] = []
        while self._waiting and len(batch) < _MAX_BATCH:
            batch.append(self._waiting.popleft())
        if self.on_wait is not None:
            now = time.perf_counter()
            for request in batch:
                self.on_wait(now - request.asked)
        return batch

    def _performed(self) -> bool:
        """Perform a batch in one transaction, in our turn; False where another's is under way."""
        batch: list[_Request[Any]] = []
        try:
            self._files.must_be_whole(self._sql)
            now_ms = self._now()
            if not self._store.begin(now_ms):
                return False
            self._turns.pass_on()
            batch = self._taken()
            commit.sweep(self._book, now_ms)
            for request in batch:
                request.perform(self._book, self._store, now_ms)
            self._store.commit()
        except BaseException as error:
            # Whatever it is, all who wait must be told; what no caller could handle goes on.
            self._store.abandon()
            self._book.alerts.clear()
            for request in batch or self._taken():
                request.fail(self._broken(error))
            if not isinstance(error, Exception):
                raise
        else:
            for request in batch:
                request.done = True
            self._upkeep.note(len(batch))
            if self._book.alerts:
                self._tell(self._book.taken_alerts())
                self._courier.notify()
        return True

    def _held(self) -> ComptrollerError:
        return refusal(
            f"{self._name}: another process has held it for {self.request_timeout:g} seconds;"
            " nothing was recorded",
            status=-1,
            error_code=None,
            asks_for_budget=False,
        )

    def _broken(self, error: BaseException) -> ComptrollerError:
        if isinstance(error, ComptrollerError):
            said = f"{error}; nothing was recorded"
        elif isinstance(error, sqlite3.Error):
            said = database_file.explained(self._path, error)
        elif isinstance(error, Exception):
            said = f"{self._name}: {error!r} undid the batch; nothing of it was recorded"
        else:
            said = f"{self._name}: interrupted; whether the batch was recorded is unknown"
        broken = refusal(said, status=500, error_code="INTERNAL_ERROR", asks_for_budget=False)
        broken.__cause__ = error
        return broken


@asynccontextmanager
async def open_sqlite(
    path: str | os.PathLike[str],
    *,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    now: Callable[[], int] = wall_clock,
    default_budget: Amount | BudgetTerms | None = None,
    on_alert: OnAlert | None = None,
    retention: timedelta | None = None,
    name: str | None = None,
) -> AsyncGenerator[SqliteLedger]:
    """Open the ledger in the file at `path`, made where there is none.

    `synchronous="NORMAL"` survives the death of a process at any moment; "FULL" a power cut too, at
    the price of waiting for the disk with every batch. `now` gives epoch milliseconds;
    `default_budget`, `on_alert` and `retention` are as `open_ledger` says. `name` is how people
    write the path: as it is here unless said.

    Raises:
        ComptrollerError: the file cannot be used; the text says why and what to do.
        ValueError: another `synchronous`.
    """
    if synchronous not in ("NORMAL", "FULL"):
        raise ValueError(f'synchronous={synchronous!r}: use "NORMAL" or "FULL"')
    settings = EmbeddedOptions(default_budget, on_alert, retention)
    ledger = SqliteLedger(
        expand_path(path, "names no ledger"), synchronous, now, settings, name or os.fspath(path)
    )
    await daemon_threads.run_sync(ledger.open, synchronous)
    try:
        yield ledger
    finally:
        with anyio.CancelScope(shield=True):
            await ledger.shut()
