"""The records of the protocol engine in tables.

A batch is one transaction: `begin`, any number of acts on the store, `commit` (or `abandon`).
Accounts and active reservations are kept between batches for as long as no other process wrote to
the file; changes are buffered and written together, each account once, at the end of the batch.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from runcycles import Unit

from comptroller.decide.admission import Account
from comptroller.ledger.book.denials import Denied
from comptroller.ledger.book.journal import Entry
from comptroller.ledger.book.records import Event, Remembered, Reservation, Wanted
from comptroller.ledger.sqlite import rows, schema
from comptroller.ledger.sqlite.audit import Audit

_INSERT_ACCOUNT = f"INSERT INTO accounts ({rows.ACCOUNT}) VALUES ({rows.marks(rows.ACCOUNT)})"
_UPDATE_ACCOUNT = f"UPDATE accounts SET ({rows.STATE}) = ({rows.marks(rows.STATE)}) WHERE id = ?"
_INSERT_RESERVATION = (
    f"INSERT INTO reservations ({rows.RESERVATION}) VALUES ({rows.marks(rows.RESERVATION)})"
)
_UPDATE_RESERVATION = (
    "UPDATE reservations SET status = ?, expires_ms = ?, ends_ms = ?, charged = ?,"
    " finalized_ms = ?, settlement = ? WHERE id = ?"
)
_INSERT_EVENT = f"INSERT INTO events ({rows.EVENT}) VALUES ({rows.marks(rows.EVENT)})"
_ANSWER = "fingerprint, made, token, amount, moment_ms, reason, caps, balances"
_NEW_ANSWER = f"id, reservation, digest, made_ms, {_ANSWER}"
_INSERT_ANSWER = f"INSERT INTO answers ({_NEW_ANSWER}) VALUES ({rows.marks(_NEW_ANSWER)})"
_RECALL_SUBJECTS = (
    f"SELECT {_ANSWER} FROM answers WHERE id = (SELECT answer FROM keys WHERE digest = ?)"
)
_RECALL_RESERVATIONS = f"SELECT {_ANSWER} FROM answers WHERE reservation = ? AND digest = ?"
_KEPT = 10_000  # scopes, with and without a budget, that are kept in memory
_PRIMARY = 0xFF  # the part of an extended SQLite error code that names the kind
_OVERDUE = f"SELECT {rows.RESERVATION} FROM reservations WHERE status = 'ACTIVE' AND ends_ms < ?"


class SqliteStore:
    """A `Store` over one connection, which nothing else uses."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._sql = path, connection
        self._audit = Audit(connection)
        self._version, self._now_ms = -1, 0
        self.changes = 0
        """Grows with every change, so that it can be told whether an act made any."""
        self._forget()

    def _forget(self) -> None:
        """Drop what is kept between batches, and what is buffered."""
        self._accounts: dict[str, dict[Unit, Account]] = {}
        self._account_rows: dict[tuple[str, Unit], int] = {}
        self._reservations: dict[int, Reservation] = {}
        self._settled: set[int] = set()
        self._last: dict[str, int] = {}
        self._dirty: dict[tuple[str, Unit], Account] = {}
        self._added: dict[int, Reservation] = {}
        self._replaced: dict[int, Reservation] = {}
        self._events: list[Event] = []
        self._answers: dict[tuple[int, bytes], Remembered] = {}
        self._audit.forget()

    def begin(self, now_ms: int) -> bool:
        """Begin a batch; False where another program holds the file's write lock.

        What another process may have changed is not kept.

        Raises:
            ComptrollerError: that process was of a newer version, and changed the schema.
        """
        self._now_ms = now_ms
        if self._sql.in_transaction:  # left by an `abandon` that the disk did not allow
            self._sql.execute("ROLLBACK")
        try:
            self._sql.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY:
                raise
            return False
        (version,) = self._sql.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._accounts) > _KEPT:
            self._forget()
            schema.must_be_current(self._path, self._sql)
            self._version = version
        return True

    def commit(self) -> None:
        """Write the batch, for good."""
        self._flush()
        self._sql.execute("COMMIT")
        for row in self._settled:
            del self._reservations[row]
        self._settled = set()

    def abandon(self) -> None:
        """Undo the batch."""
        self._forget()
        with suppress(sqlite3.Error):  # the next `begin` tries again, and tells its callers
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")

    # Accounts

    def at(self, scope: str) -> Mapping[Unit, Account]:
        """The accounts of one scope, by unit."""
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

    def accounts(self) -> Iterable[Account]:
        """Every account, ordered by scope and unit."""
        self._flush()
        found = self._sql.execute(f"SELECT {rows.ACCOUNT} FROM accounts ORDER BY scope, unit")
        return map(rows.account, found)

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
        """The account of a period that is over."""
        return self._audit.period(scope, unit, since_ms)

    def keep_period(self, account: Account) -> None:
        """Keep the account of a period that is over, or its new state."""
        self.changes += 1
        self._audit.keep_period(account)

    def log(self, entry: Entry) -> None:
        """Add an entry to the event log."""
        self.changes += 1
        self._audit.log(entry)

    def deny(self, denied: Denied, requested: int, entry: Entry | None) -> None:
        """Count a denial, and log `entry`."""
        self._audit.deny(denied, requested, entry)

    # Reservations and events

    def next_reservation(self) -> int:
        """The row of a reservation about to be added."""
        return self._next("reservations")

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""
        self.changes += 1
        self._added[reservation.row] = self._reservations[reservation.row] = reservation
        self._last["reservations"] = reservation.row

    def replace(self, reservation: Reservation) -> None:
        """Keep a reservation's new state."""
        self.changes += 1
        self._reservations[reservation.row] = reservation
        if not reservation.active:
            self._settled.add(reservation.row)
        changed = self._added if reservation.row in self._added else self._replaced
        changed[reservation.row] = reservation

    def reservation(self, row: int) -> Reservation | None:
        """The reservation of that row."""
        known = self._reservations.get(row)
        if known is None:
            found = self._sql.execute(
                f"SELECT {rows.RESERVATION} FROM reservations WHERE id = ?", (row,)
            ).fetchone()
            known = rows.reservation(found) if found else None
        return known

    def overdue(self, now_ms: int) -> Iterable[Reservation]:
        """The active reservations that can no longer be settled at `now_ms`."""
        self._flush()
        return map(rows.reservation, self._sql.execute(_OVERDUE, (now_ms,)).fetchall())

    def listed(self, wanted: Wanted) -> list[Reservation]:
        """The reservations wanted, newest first."""
        self._flush()
        tests = ["id < :before"] if wanted.before is not None else []
        tests += [f"{name} = :{name}" for name in ("tenant", "key") if getattr(wanted, name)]
        if wanted.status is not None:
            tests.append(f"status = '{wanted.status.value}'")  # spelled out: its index has it so
        found = self._sql.execute(
            f"SELECT {rows.RESERVATION} FROM reservations WHERE {' AND '.join(tests) or 1}"
            " ORDER BY id DESC",
            {"before": wanted.before, "tenant": wanted.tenant, "key": wanted.key},
        )
        with closing(found):
            return list(islice(filter(wanted.has, map(rows.reservation, found)), wanted.limit))

    def next_event(self) -> int:
        """The row of an event about to be added."""
        return self._next("events")

    def add_event(self, event: Event) -> None:
        """Keep an event."""
        self.changes += 1
        self._events.append(event)
        self._last["events"] = event.row

    # Answers

    def recall(self, digest: bytes, row: int = 0) -> Remembered | None:
        """What the key was answered."""
        if (row, digest) in self._answers:
            return self._answers[row, digest]
        asked, given = (
            (_RECALL_RESERVATIONS, (row, digest)) if row else (_RECALL_SUBJECTS, (digest,))
        )
        found = self._sql.execute(asked, given).fetchone()
        if found is None:
            return None
        fingerprint, made, token, amount, moment_ms, reason, caps, balances = found
        return Remembered(
            fingerprint,
            row=made,
            token=token,
            amount=amount,
            moment_ms=moment_ms,
            reason=reason,
            caps=rows.to_caps(caps),
            accounts=rows.to_balances(balances, self._name_of),
        )

    def remember(self, digest: bytes, answer: Remembered, row: int = 0) -> None:
        """Keep what a key was answered."""
        self.changes += 1
        self._answers[row, digest] = answer

    # Buffers

    def _next(self, table: str) -> int:
        if table not in self._last:
            (last,) = self._sql.execute(f"SELECT max(id) FROM {table}").fetchone()
            self._last[table] = last or 0
        return self._last[table] + 1

    def _name_of(self, row: int) -> tuple[str, Unit]:
        scope, unit = self._sql.execute(
            "SELECT scope, unit FROM accounts WHERE id = ?", (row,)
        ).fetchone()
        return scope, Unit(unit)

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
            many(_INSERT_RESERVATION, map(rows.of_reservation, self._added.values()))
            self._added = {}
        if self._replaced:
            many(_UPDATE_RESERVATION, map(rows.of_settlement, self._replaced.values()))
            self._replaced = {}
        if self._events:
            many(_INSERT_EVENT, map(rows.of_event, self._events))
            self._events = []
        if self._answers:
            self._flush_answers()

    def _flush_answers(self) -> None:
        first = self._next("answers")
        numbered = list(enumerate(self._answers.items(), first))
        self._last["answers"] = first + len(numbered) - 1
        self._sql.executemany(
            _INSERT_ANSWER,
            [
                (number, row or None, digest, self._now_ms, *self._thin(answer))
                for number, ((row, digest), answer) in numbered
            ],
        )
        self._sql.executemany(
            "INSERT INTO keys (digest, answer) VALUES (?, ?)",
            [(digest, number) for number, ((row, digest), _) in numbered if not row],
        )
        self._answers = {}

    def _thin(self, answer: Remembered) -> tuple[Any, ...]:
        number = self._account_rows
        return (
            answer.fingerprint,
            answer.row,
            answer.token,
            answer.amount,
            answer.moment_ms,
            answer.reason,
            rows.of_caps(answer.caps),
            rows.of_balances((number[one.scope, one.unit], one) for one in answer.accounts),
        )
