"""What is finished is forgotten after a while, a little at a time.

Rows are numbered in the order in which they were made, so what is old stands first: a pass looks at
a hundred rows at a time, from the first on, and ends where they are too new. It is read without a
turn; only what is to go is removed in one, in a transaction of a few milliseconds. What was charged
is added up before it is forgotten, so balances can still be recomputed.

The newest row of a table always stays: a number is never given twice.
"""

import sqlite3
from collections import Counter
from datetime import timedelta
from itertools import repeat

import attrs

from comptroller.ledger.book.journal import REQUESTS
from comptroller.ledger.embedded import LONGEST_LEASE
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
SELECT id, at_ms, CASE WHEN kind IN {REQUESTS} THEN at_ms END, NULL, TRUE FROM log
WHERE id > ? AND id < (SELECT max(id) FROM log) ORDER BY id LIMIT ?
"""
_FORGET_KEY = "DELETE FROM keys WHERE digest = ?"
_ARCHIVE = (
    "INSERT INTO archived (scope, unit, since_ms, charged) VALUES (?,?,?,?)"
    " ON CONFLICT DO UPDATE SET charged = charged + excluded.charged"
)


@attrs.frozen
class _Table:
    name: str
    look: str
    archived: bool = True


_TABLES = (
    _Table("reservations", _RESERVATIONS),
    _Table("events", _EVENTS),
    _Table("answers", _ANSWERS, archived=False),
    _Table("log", _LOG, archived=False),
)


@attrs.frozen
class Due:
    """Rows whose time is over; often none."""

    table: _Table
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
        if self.table.archived:
            connection.executemany(_ARCHIVE, _archived(ours))


class Retention:
    """Passes over one file. Used by one thread."""

    def __init__(self, finished: timedelta) -> None:
        self._finished_ms = round(finished / timedelta(milliseconds=1))
        self._answers_ms = round(LONGEST_LEASE / timedelta(milliseconds=1))
        self._left = list(_TABLES)
        self._after = 0

    def look(self, connection: sqlite3.Connection, now_ms: int) -> Due | None:
        """What is due of the rows that come next; None where the pass is over."""
        if not self._left:
            self._left = list(_TABLES)
            return None
        table = self._left[0]
        looked = connection.execute(table.look, (self._after, _AT_ONCE)).fetchall()
        youngest_ms = now_ms - (self._finished_ms if table.archived else self._answers_ms)
        # What a clock made that was ahead keeps its place among rows that are due.
        if looked and not youngest_ms <= looked[-1][1] <= now_ms + _DAY_MS:
            self._after = looked[-1][0]
        else:
            del self._left[0]
            self._after = 0
        return Due(table, [row for row in looked if self._is_due(table, row, now_ms)])

    def _is_due(self, table: _Table, row: rows.Row, now_ms: int) -> bool:
        finished_ms = row[2]
        tells_of_nothing = not table.archived and not row[4]  # a decision, or a dry run
        kept_ms = self._answers_ms if tells_of_nothing else self._finished_ms
        return finished_ms is not None and finished_ms < now_ms - kept_ms


def _archived(due: list[rows.Row]) -> list[rows.Row]:
    """What the rows were charged, by scope, unit and period."""
    sums: Counter[tuple[str, str, int]] = Counter()
    for _, _, _, _, path, held, since, unit, charged in due:
        periods = rows.to_since(since) or repeat(0)
        for scope, since_ms in zip(rows.to_held(path, held), periods, strict=False):
            sums[scope, unit, since_ms] += charged or 0
    return [(*key, charged) for key, charged in sums.items() if charged]
