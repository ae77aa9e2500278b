"""What is finished is forgotten after a while, a little at a time.

Rows are numbered in the order in which they were made, so what is old stands first: a pass looks at
a hundred rows at a time, from the first on, and ends where they are too new. It is read without a
turn; only what is to go is removed in one, in a transaction of a few milliseconds. What was charged
and owed is added up before it is forgotten, in the same transaction, so balances can still be
recomputed: charges and debts are sums, and a sum does not ask in which order it was made.

The newest row of a table always stays: a number is never given twice.
"""

import sqlite3
from collections import Counter
from datetime import timedelta
from itertools import repeat

import attrs

from comptroller.ledger.embedded.base import MAX_LEASE
from comptroller.ledger.models import FORGOTTEN
from comptroller.ledger.sqlite import rows

_AT_ONCE = 100
_DAY_MS = 86_400_000

_RESERVATIONS = """
SELECT id, created_ms,
    CASE status WHEN 'ACTIVE' THEN NULL ELSE coalesce(finalized_ms, ends_ms) END,
    digest, path, held, since, unit, charged
FROM reservations WHERE id > ? AND id < (SELECT max(id) FROM reservations) ORDER BY id LIMIT ?
"""
_EVENTS = """
SELECT id, created_ms, created_ms, NULL, path, held, since, unit, charged
FROM events WHERE id > ? AND id < (SELECT max(id) FROM events) ORDER BY id LIMIT ?
"""
_ANSWERS = """
SELECT id, made_ms, made_ms, digest, made FROM answers
WHERE id > ? AND id < (SELECT max(id) FROM answers) AND reservation IS NULL ORDER BY id LIMIT ?
"""
_LOG = f"""
SELECT id, at_ms, CASE WHEN kind IN {FORGOTTEN} THEN at_ms END, NULL, TRUE,
    kind, scope, unit, since_ms, debt FROM log
WHERE id > ? AND id < (SELECT max(id) FROM log) ORDER BY id LIMIT ?
"""
_FORGET_KEY = "DELETE FROM keys WHERE digest = ?"
_ARCHIVE = (
    "INSERT INTO archived (scope, unit, since_ms, charged, debt) VALUES (?,?,?,?,?)"
    " ON CONFLICT DO UPDATE SET charged = charged + excluded.charged, debt = debt + excluded.debt"
)


@attrs.frozen
class RetentionTable:
    """A table that is thinned, and the query that looks at its oldest rows."""

    name: str
    look: str
    archived: bool = True


_TABLES = (
    RetentionTable("reservations", _RESERVATIONS),
    RetentionTable("events", _EVENTS),
    RetentionTable("answers", _ANSWERS, archived=False),
    RetentionTable("log", _LOG, archived=False),
)


@attrs.frozen
class ExpiredRows:
    """Rows whose time is over; often none."""

    table: RetentionTable
    rows: list[rows.Row]

    def forget(self, connection: sqlite3.Connection) -> None:
        """Remove them, and what leads to them, in the transaction that `connection` is in.

        Another process may have done so since they were looked at: what is gone is left alone.
        """
        forget = f"DELETE FROM {self.table.name} WHERE id = ?"
        ours = [row for row in self.rows if connection.execute(forget, row[:1]).rowcount]
        connection.executemany(_FORGET_KEY, [(row[3],) for row in ours if row[3] is not None])
        if self.table.name == "reservations":  # and its extensions
            numbers = [row[:1] for row in ours]
            connection.executemany("DELETE FROM answers WHERE reservation = ?", numbers)
        if self.table.name == "log":
            connection.executemany(_ARCHIVE, _owed(ours))
        elif self.table.archived:
            connection.executemany(_ARCHIVE, _charged(ours))


def named(connection: sqlite3.Connection) -> timedelta | None:
    """Return the retention that the file names, if any: it holds for whoever opens it."""
    found = connection.execute("SELECT value FROM settings WHERE name = 'retention_ms'").fetchone()
    return timedelta(milliseconds=found[0]) if found else None


def name(connection: sqlite3.Connection, finished: timedelta) -> None:
    """Keep the retention in the file, in the transaction that `connection` is in."""
    connection.execute("REPLACE INTO settings VALUES ('retention_ms', ?)", (_ms(finished),))


def _ms(span: timedelta) -> int:
    return round(span / timedelta(milliseconds=1))


class Retention:
    """Passes over one file. Used by one thread.

    Args:
        finished: how long rows are kept where the file does not say.
    """

    def __init__(self, finished: timedelta) -> None:
        self._default_ms = self._finished_ms = _ms(finished)
        self._answers_ms = _ms(MAX_LEASE)
        self._left = list(_TABLES)
        self._after = 0

    def look(self, connection: sqlite3.Connection, now_ms: int) -> ExpiredRows | None:
        """Return what is due of the rows that come next; None where the pass is over."""
        if not self._left:
            self._left = list(_TABLES)
            return None
        table = self._left[0]
        if table is _TABLES[0] and not self._after:  # a pass begins
            says = named(connection)
            self._finished_ms = self._default_ms if says is None else _ms(says)
        looked = connection.execute(table.look, (self._after, _AT_ONCE)).fetchall()
        youngest_ms = now_ms - (self._finished_ms if table.archived else self._answers_ms)
        # What a clock made that was ahead keeps its place among rows that are due.
        if looked and not youngest_ms <= looked[-1][1] <= now_ms + _DAY_MS:
            self._after = looked[-1][0]
        else:
            del self._left[0]
            self._after = 0
        return ExpiredRows(table, [row for row in looked if self._is_due(table, row, now_ms)])

    def _is_due(self, table: RetentionTable, row: rows.Row, now_ms: int) -> bool:
        finished_ms = row[2]
        tells_of_nothing = not table.archived and not row[4]  # a decision, or a dry run
        kept_ms = self._answers_ms if tells_of_nothing else self._finished_ms
        return finished_ms is not None and finished_ms < now_ms - kept_ms


def _owed(due: list[rows.Row]) -> list[rows.Row]:
    """Return what these entries of the log made of debt, by scope, unit and period."""
    sums: Counter[tuple[str, str, int]] = Counter()
    for *_, kind, scope, unit, since_ms, debt in due:
        if kind == "debt":
            sums[scope, unit, since_ms] += debt
    return [(*key, 0, debt) for key, debt in sums.items()]


def _charged(due: list[rows.Row]) -> list[rows.Row]:
    """Return what the rows were charged, by scope, unit and period."""
    sums: Counter[tuple[str, str, int]] = Counter()
    for _, _, _, _, path, held, since, unit, charged in due:
        periods = rows.to_since(since) or repeat(0)
        for scope, since_ms in zip(rows.to_held(path, held), periods, strict=False):
            sums[scope, unit, since_ms] += charged or 0
    return [(*key, charged, 0) for key, charged in sums.items() if charged]
