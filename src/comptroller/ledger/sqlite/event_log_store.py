"""The event log, periods that are over, usage, denials and totals added up, in tables.

Entries and sums are made of a batch, and written with it: a hundred commits of one agent are one
row of usage, changed once.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator
from operator import add as add_numbers
from operator import attrgetter
from typing import Any

from runcycles import Unit

from comptroller.core.accounts import Account
from comptroller.ledger.engine.denial_counter import DenialKey
from comptroller.ledger.engine.records import Event, Reservation
from comptroller.ledger.engine.statistics import DENIED, Totals, add
from comptroller.ledger.engine.usage_report import EVERYTHING, of_event, of_reservation
from comptroller.ledger.models import LogEntry, RequestOrigin
from comptroller.ledger.sqlite import rows
from comptroller.money import MAX_AMOUNT

ENTRY = (
    "at_ms, kind, scope, unit, amount, debt, since_ms, about, who, request_id, trace_id, details"
)
_LOG = f"INSERT INTO log ({ENTRY}) VALUES ({rows.marks(ENTRY)})"
_PERIOD = f"SELECT {rows.ACCOUNT} FROM periods WHERE scope = ? AND unit = ? AND since_ms = ?"
_KEEP = f"REPLACE INTO periods ({rows.ACCOUNT}) VALUES ({rows.marks(rows.ACCOUNT)})"


def _adding(table: str, columns: str, sums: str) -> str:
    """Return the statement that adds `sums` to the row of `table` that agrees in `columns`.

    Callers say what they ask for and how many tokens they used, however much: a sum ends at what a
    column holds.
    """
    added = [f"{one} = min({one} + excluded.{one}, {MAX_AMOUNT})" for one in sums.split(", ")]
    return (
        f"INSERT INTO {table} ({columns}, {sums}) VALUES ({rows.marks(f'{columns}, {sums}')})"
        f" ON CONFLICT DO UPDATE SET {', '.join(added)}"
    )


_USAGE = ("calls", "charged", "estimated", "abandoned", "tokens_input", "tokens_output")
_NOTHING = [0] * len(_USAGE)
_counts = attrgetter(*_USAGE)
_DENY = _adding("denials", "quarter_ms, path, unit, code, kind, name, run", "count, requested")
_USE = _adding(
    "usage",
    "quarter_ms, path, unit, kind, name",
    ", ".join(_USAGE),
)
_COUNT = _adding("totals", "what, unit", "count")


class EventLogTables:
    """What a store writes of these, over its connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        self.forget()

    def forget(self) -> None:
        """Drop what is buffered."""
        self._entries: list[LogEntry] = []
        self._denied: dict[DenialKey, tuple[int, int]] = {}

    def period(self, scope: str, unit: Unit, since_ms: int) -> Account | None:
        """Return the account of a period that is over."""
        found = self._sql.execute(_PERIOD, (scope, unit.value, since_ms)).fetchone()
        return rows.account(found) if found else None

    def keep_period(self, account: Account) -> None:
        """Write the account of a period that is over: there are few."""
        self._sql.execute(_KEEP, (account.scope, account.unit.value, *rows.of_state(account)))

    def log(self, entry: LogEntry) -> None:
        """Add an entry."""
        self._entries.append(entry)

    def deny(self, denied: DenialKey, requested: int, entry: LogEntry | None) -> None:
        """Count a denial."""
        count, before = self._denied.get(denied, (0, 0))
        self._denied[denied] = count + 1, before + requested
        if entry is not None:
            self._entries.append(entry)

    def use(self, settled: Collection[Reservation], events: Collection[Event]) -> None:
        """Write what these came to into the transaction."""
        sums: dict[tuple[Any, ...], list[int]] = {}
        spent = [of_reservation(one, EVERYTHING) for one in settled if not one.active]
        spent += [of_event(one, EVERYTHING) for one in events if one.charged]
        for one in filter(None, spent):
            key = (one.quarter_ms, one.path, one.unit._value_, one.kind, one.name)
            sums[key] = [*map(add_numbers, sums.get(key, _NOTHING), _counts(one))]
        if sums:
            self._sql.executemany(_USE, [(*key, *_held(*counted)) for key, counted in sums.items()])
        totals = Totals()
        add(totals, settled, events)
        self._count(totals)

    def _count(self, totals: Totals) -> None:
        if totals:
            self._sql.executemany(
                _COUNT,
                [(what, unit._value_, *_held(count)) for (what, unit), count in totals.items()],
            )

    def flush(self) -> None:
        """Write what is buffered into the transaction."""
        if self._entries:
            self._sql.executemany(_LOG, map(_of_entry, self._entries))
            self._entries = []
        if self._denied:
            self._sql.executemany(
                _DENY,
                [
                    (one.quarter_ms, one.path, one.unit.value, one.code, one.kind, one.name,
                     one.run, *_held(count, requested))
                    for one, (count, requested) in self._denied.items()
                ],
            )  # fmt: skip
            totals = Totals()
            for one, (count, _) in self._denied.items():
                totals[DENIED + one.code, one.unit] += count
            self._count(totals)
            self._denied = {}


def _held(*sums: int) -> Iterator[int]:
    """Return what columns hold of them."""
    return (min(one, MAX_AMOUNT) for one in sums)


def _of_entry(entry: LogEntry) -> rows.Row:
    """`ENTRY`'s columns."""
    origin = entry.origin
    return (
        entry.at_ms,
        entry.kind,
        entry.scope,
        entry.unit.value if entry.unit else None,
        entry.amount,
        entry.debt,
        entry.since_ms,
        entry.about,
        origin.who,
        origin.request_id,
        origin.trace_id,
        json.dumps(entry.details, separators=(",", ":")) if entry.details else None,
    )


def entry(row: tuple[Any, ...]) -> LogEntry:
    """Return the entry of a row of `id` and `ENTRY`."""
    number, at_ms, kind, scope, unit, amount, debt, since_ms, about, *origin, details = row
    return LogEntry(
        at_ms,
        kind,
        scope,
        Unit(unit) if unit else None,
        amount,
        debt,
        since_ms,
        about,
        RequestOrigin(*origin),
        json.loads(details) if details else {},
        number,
    )
