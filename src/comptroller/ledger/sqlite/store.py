"""The records of the protocol engine in tables.

A batch is one transaction: `begin`, any number of acts on the store, `commit` (or `abandon`).
Accounts and active reservations are kept between batches for as long as no other process wrote to
the file; changes are buffered and written together, each account once, at the end of the batch.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from runcycles import Unit

from comptroller.core.accounts import Account
from comptroller.ledger.engine.denial_counter import DenialKey
from comptroller.ledger.engine.records import LONG, Endpoint, Event, Reservation, StoredResponse
from comptroller.ledger.models import LogEntry
from comptroller.ledger.sqlite import idempotency_store, rows, schema
from comptroller.ledger.sqlite.event_log_store import EventLogTables
from comptroller.ledger.sqlite.file_lock import try_begin
from comptroller.ledger.sqlite.idempotency_store import ResponseTable

_INSERT_ACCOUNT = f"INSERT INTO accounts ({rows.ACCOUNT}) VALUES ({rows.marks(rows.ACCOUNT)})"
_UPDATE_ACCOUNT = f"UPDATE accounts SET ({rows.STATE}) = ({rows.marks(rows.STATE)}) WHERE id = ?"
_NEW_RESERVATION = f"{rows.RESERVATION}, {idempotency_store.GRANT}"
_INSERT_RESERVATION = (
    f"INSERT INTO reservations ({_NEW_RESERVATION}) VALUES ({rows.marks(_NEW_RESERVATION)})"
)
_CHANGED = f"{rows.CHANGED}, {idempotency_store.END}"
_UPDATE_RESERVATION = (
    f"UPDATE reservations SET ({_CHANGED}) = ({rows.marks(_CHANGED)}) WHERE id = ?"
)
_INSERT_EVENT = f"INSERT INTO events ({rows.EVENT}) VALUES ({rows.marks(rows.EVENT)})"
_CACHE_SIZE = 10_000  # scopes, with and without a budget, that are kept in memory
_FIRST_END = f"SELECT coalesce(min(ends_ms), {2**63 - 1}) FROM reservations WHERE status = 'ACTIVE'"
_OVERDUE = (
    f"SELECT {rows.RESERVATION} FROM reservations WHERE status = 'ACTIVE' AND ends_ms < ?"
    " ORDER BY ends_ms LIMIT ?"
)
_EXPIRY_BATCH = 1_000
"""Leases whose end is dealt with in one batch: after a night in which thousands were left behind,
the first callers do not wait for all of them."""


class SqliteStore:
    """A `Store` over one connection, which nothing else uses."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._sql = path, connection
        self._answers, self._audit = ResponseTable(connection), EventLogTables(connection)
        self._version, self._now_ms = -1, 0
        self.changes = 0
        """Grows with every change, so that it can be told whether an act made any."""
        self._forget()

    def _forget(self) -> None:
        """Drop what is kept between batches, and what is buffered."""
        self._accounts: dict[str, dict[Unit, Account]] = {}
        self._account_rows: dict[tuple[str, Unit], int] = {}
        self._reservations: dict[int, Reservation] = {}
        self._passing: set[int] = set()
        self._last: dict[str, int] = {}
        self._dirty: dict[tuple[str, Unit], Account] = {}
        self._added: dict[int, Reservation] = {}
        self._replaced: dict[int, Reservation] = {}
        self._events: list[Event] = []
        self._ends_ms: int | None = None
        self._answers.forget()
        self._audit.forget()

    def begin(self, now_ms: int) -> bool:
        """Begin a batch; False where the transaction of another has not ended.

        What another process may have changed is not kept.

        Raises:
            ComptrollerError: that process was of a newer version, and changed the schema.
        """
        self._now_ms = now_ms
        if self._sql.in_transaction:  # left by an `abandon` that the disk did not allow
            self._sql.execute("ROLLBACK")
        if not try_begin(self._sql):
            return False
        (version,) = self._sql.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._accounts) > _CACHE_SIZE:
            self._forget()
            schema.must_be_current(self._path, self._sql)
            self._version = version
        return True

    def commit(self) -> None:
        """Write the batch, for good."""
        self._flush()
        self._sql.execute("COMMIT")
        for row in self._passing:
            del self._reservations[row]
        self._passing = set()

    def abandon(self) -> None:
        """Undo the batch."""
        self._forget()
        with suppress(sqlite3.Error):  # the next `begin` tries again, and tells its callers
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")

    # Accounts

    def at(self, scope: str) -> Mapping[Unit, Account]:
        """Return the accounts of one scope, by unit."""
        known = self._accounts.get(scope)
        if known is None:
            known = self._accounts[scope] = {}
            found = self._sql.execute(
                f"SELECT id, {rows.ACCOUNT} FROM accounts WHERE scope = ? ORDER BY id", (scope,)
            )
            for number, *row in found:
                account = rows.account(tuple(row))
                known[account.unit] = account
                self._account_rows[scope, account.unit] = number
        return known

    def units_within(self, scope: str) -> Iterable[Unit]:
        """Return the units of all budgets of scopes within `scope`."""
        found = self._sql.execute(
            "SELECT DISTINCT unit FROM accounts WHERE scope > ? AND scope < ? ORDER BY unit",
            (f"{scope}/", f"{scope}0"),  # "0" is what follows "/"
        )
        return [Unit(unit) for (unit,) in found]

    def save(self, account: Account) -> None:
        """Keep `account` in place of the one of its scope and unit."""
        self.changes += 1
        name = (account.scope, account.unit)
        if account.unit not in self.at(account.scope):
            row = (account.scope, account.unit.value, *rows.of_state(account))
            self._account_rows[name] = self._sql.execute(_INSERT_ACCOUNT, row).lastrowid or 0
        else:
            self._dirty[name] = account
        self._accounts[account.scope][account.unit] = account

    def period(self, scope: str, unit: Unit, since_ms: int) -> Account | None:
        """Return the account of a period that is over."""
        return self._audit.period(scope, unit, since_ms)

    def keep_period(self, account: Account) -> None:
        """Keep the account of a period that is over, or its new state."""
        self.changes += 1
        self._audit.keep_period(account)

    def log(self, entry: LogEntry) -> None:
        """Add an entry to the event log."""
        self.changes += 1
        self._audit.log(entry)

    def deny(self, denied: DenialKey, requested: int, entry: LogEntry | None) -> None:
        """Count a denial, and log `entry`."""
        self._audit.deny(denied, requested, entry)

    # Reservations and events

    def next_reservation(self) -> int:
        """Return the row of a reservation about to be added."""
        return self._next("reservations")

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""
        self.changes += 1
        self._added[reservation.row] = reservation
        self._keep(reservation)
        self._last["reservations"] = reservation.row
        if self._ends_ms is not None:
            self._ends_ms = min(self._ends_ms, reservation.ends_ms)

    def replace(self, reservation: Reservation) -> None:
        """Keep a reservation's new state."""
        self.changes += 1
        self._replaced[reservation.row] = reservation
        self._keep(reservation)

    def _keep(self, reservation: Reservation) -> None:
        """Keep it in memory: for this batch, or while it is active and not long."""
        self._reservations[reservation.row] = reservation
        if not reservation.active or reservation.size > LONG:
            self._passing.add(reservation.row)

    def reservation(self, row: int) -> Reservation | None:
        """Return the reservation of that row."""
        known = self._reservations.get(row)
        if known is None:
            found = self._sql.execute(
                f"SELECT {rows.RESERVATION} FROM reservations WHERE id = ?", (row,)
            ).fetchone()
            known = rows.reservation(found) if found else None
        return known

    def overdue(self, now_ms: int) -> Iterable[Reservation]:
        """Return active reservations that can no longer be settled at `now_ms`: so many at a time.

        When the first of them ends is kept, and may be too early where a lease was extended.
        """
        if self._ends_ms is None:
            (self._ends_ms,) = self._sql.execute(_FIRST_END).fetchone()
        if self._ends_ms >= now_ms:
            return ()
        self._flush()
        self._ends_ms = None
        return map(
            rows.reservation, self._sql.execute(_OVERDUE, (now_ms, _EXPIRY_BATCH)).fetchall()
        )

    def next_event(self) -> int:
        """Return the row of an event about to be added."""
        return self._next("events")

    def add_event(self, event: Event) -> None:
        """Keep an event."""
        self.changes += 1
        self._events.append(event)
        self._last["events"] = event.row

    # Answers

    def recall(self, endpoint: Endpoint, digest: bytes, row: int = 0) -> StoredResponse | None:
        """Return what the key was answered."""
        return self._answers.recall(endpoint, digest, row)

    def remember(
        self, endpoint: Endpoint, digest: bytes, answer: StoredResponse, row: int = 0
    ) -> None:
        """Keep what a key was answered."""
        self.changes += 1
        self._answers.remember(endpoint, digest, answer, row)

    # Buffers

    def _next(self, table: str) -> int:
        if table not in self._last:
            (last,) = self._sql.execute(f"SELECT max(id) FROM {table}").fetchone()
            self._last[table] = last or 0
        return self._last[table] + 1

    def _flush(self) -> None:
        """Write what is buffered into the transaction."""
        self._audit.flush()
        self._audit.use((*self._added.values(), *self._replaced.values()), self._events)
        many = self._sql.executemany
        if self._dirty:
            states = self._dirty.items()
            number = self._account_rows
            many(_UPDATE_ACCOUNT, [(*rows.of_state(one), number[name]) for name, one in states])
            self._dirty = {}
        if self._added:
            grant = self._answers.grant
            many(
                _INSERT_RESERVATION,
                [
                    (*rows.of_reservation(one), *grant(row, self._account_rows))
                    for row, one in self._added.items()
                ],
            )
            self._added = {}
        if self._replaced:
            end = self._answers.end
            many(
                _UPDATE_RESERVATION,
                [
                    (*rows.of_changed(one), *end(row, self._account_rows), row)
                    for row, one in self._replaced.items()
                ],
            )
            self._replaced = {}
        if self._events:
            many(_INSERT_EVENT, map(rows.of_event, self._events))
            self._events = []
        self._answers.flush(self._now_ms, self._account_rows, self._next_answer)

    def _next_answer(self, count: int) -> int:
        first = self._next("answers")
        self._last["answers"] = first + count - 1
        return first
