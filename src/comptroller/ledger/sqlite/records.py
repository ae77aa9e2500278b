"""All records of a ledger file as they stand at one moment, for reports and audits.

Read on a connection of their own, which waits for no turn and keeps nobody from writing: a report
over a million reservations stalls no caller. Sums are made by SQLite itself; reservations are
numbered in the order in which they were made, so what is older than a report is not even looked at.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runcycles import Unit

from comptroller.decide.admission import Account
from comptroller.ledger.book import usage, verify
from comptroller.ledger.book.denials import QUARTER_MS
from comptroller.ledger.book.journal import Entry, Sought
from comptroller.ledger.sqlite import audit, rows

_SUMS = """
SELECT path, held, since, unit, sum(charged),
    sum(CASE status WHEN 'ACTIVE' THEN estimate ELSE 0 END)
FROM reservations WHERE status IN ('ACTIVE', 'COMMITTED') GROUP BY path, held, since, unit
UNION ALL
SELECT path, held, since, unit, sum(charged), 0 FROM events GROUP BY path, held, since, unit
"""
_WHAT = """
count(*) FILTER (WHERE {counts}), sum(charged), sum({reserved}),
sum(CASE WHEN json_extract({said}, '$.metadata.abandoned') IS NULL THEN 0 ELSE charged END), 0, 0,
sum(json_extract({said}, '$.metrics.tokens_input')),
sum(json_extract({said}, '$.metrics.tokens_output'))
"""
_OF_RESERVATIONS = _WHAT.format(
    counts="TRUE",
    said="settlement",
    reserved="CASE status WHEN 'ACTIVE' THEN estimate ELSE 0 END",
)
_OF_EVENTS = _WHAT.format(counts="charged > 0", said="request", reserved="0")


@contextmanager
def reading(path: Path) -> Iterator["SqliteRecords"]:
    """The records of the file at `path`, for the length of the block. Blocks.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.isolation_level = None
        connection.execute("BEGIN")
        yield SqliteRecords(connection)
    finally:
        connection.close()


class SqliteRecords:
    """What a ledger file holds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def accounts(self) -> Iterable[Account]:
        """The accounts."""
        found = self._sql.execute(f"SELECT {rows.ACCOUNT} FROM accounts ORDER BY scope, unit")
        return map(rows.account, found)

    def periods(self) -> Iterable[Account]:
        """The accounts of the periods that are over."""
        return map(rows.account, self._sql.execute(f"SELECT {rows.ACCOUNT} FROM periods"))

    def changes(self) -> Iterable[Entry]:
        """The entries of the log that change a balance, oldest first."""
        return self.entries(Sought(kinds=verify.KINDS))

    def sums(self) -> Iterable[verify.Sum]:
        """What all reservations and events come to, those included that are no longer kept."""
        for path, held, since, unit, charged, reserved in self._sql.execute(_SUMS):
            scopes = rows.to_held(path, held)
            periods = rows.to_since(since)
            yield verify.Sum(scopes, periods, Unit(unit), charged or 0, reserved)
        archived = self._sql.execute("SELECT scope, since_ms, unit, charged FROM archived")
        for scope, since_ms, unit, charged in archived:
            yield verify.Sum((scope,), (since_ms,), Unit(unit), charged)

    def entries(self, sought: Sought) -> list[Entry]:
        """The entries of the log that are sought, oldest first."""
        tests: list[str] = ["id > ?"]
        given: list[int | str] = [sought.after]
        if sought.kinds:
            tests.append(f"kind IN ({','.join('?' * len(sought.kinds))})")
            given += sought.kinds
        if sought.since_ms is not None:
            tests.append("at_ms >= ?")
            given.append(sought.since_ms)
        if sought.tenant is not None:
            tests.append("(scope = ? OR substr(scope, 1, ?) = ?)")
            scope = f"tenant:{sought.tenant}"
            given += [scope, len(scope) + 1, f"{scope}/"]
        found = self._sql.execute(
            f"SELECT id, {audit.ENTRY} FROM log WHERE {' AND '.join(tests)}"
            f" ORDER BY id {'DESC' if sought.newest else 'ASC'} LIMIT ?",
            (*given, -1 if sought.limit is None else sought.limit),
        )
        entries = [audit.entry(row) for row in found]
        return entries[::-1] if sought.newest else entries

    def spending(self, asked: usage.Asked) -> Iterable[usage.Spending]:
        """What calls and denials come to, by what the report tells apart."""
        yield from self._spent("reservations", _OF_RESERVATIONS, asked)
        yield from self._spent("events", _OF_EVENTS, asked)
        acts = asked.wants("tool") or asked.wants("model")
        what = f"{'kind, name' if acts else _NONE}, {'run' if asked.wants('run') else _NOTHING}"
        quarter = "quarter_ms" if asked.wants("day") else "0"
        yield from self._grouped(
            f"SELECT path, unit, {what}, {quarter}, 0, 0, 0, 0, sum(count), sum(requested), 0, 0"
            " FROM denials WHERE quarter_ms >= :since AND quarter_ms < :until"
            f"{_of_tenant(asked)} GROUP BY 1, 2, 3, 4, 5, 6",
            asked,
        )

    def _spent(self, table: str, sums: str, asked: usage.Asked) -> Iterable[usage.Spending]:
        acts = asked.wants("tool") or asked.wants("model")
        kind, name, run = (
            f"coalesce(json_extract(request, '$.{where}'), '')" if wanted else _NOTHING
            for where, wanted in (
                ("action.kind", acts),
                ("action.name", acts),
                ("metadata.run", asked.wants("run")),
            )
        )
        quarter = f"created_ms / {QUARTER_MS} * {QUARTER_MS}" if asked.wants("day") else "0"
        kept = " AND status IN ('ACTIVE', 'COMMITTED')" if table == "reservations" else ""
        yield from self._grouped(
            f"SELECT path, unit, {kind}, {name}, {run}, {quarter}, {sums} FROM {table}"
            " WHERE id >= :first AND created_ms >= :since AND created_ms < :until"
            f"{kept}{_of_tenant(asked)} GROUP BY 1, 2, 3, 4, 5, 6",
            asked,
            first=self._first(table, asked.since_ms),
        )

    def _grouped(self, statement: str, asked: usage.Asked, **more: int) -> Iterable[usage.Spending]:
        given = {
            "since": asked.since_ms,
            "until": asked.until_ms,
            "scope": f"tenant:{asked.tenant}",
            "under": f"tenant:{asked.tenant}/",
            **more,
        }
        for path, unit, kind, name, run, quarter_ms, *counted in self._sql.execute(
            statement, given
        ):
            counts = (count or 0 for count in counted)
            yield usage.Spending(path, Unit(unit), kind, name, str(run), quarter_ms, *counts)

    def _first(self, table: str, since_ms: int) -> int:
        """The number of the first row that can be as new as `since_ms`, by halving.

        Rows are numbered as they were made. Where a clock was set back they are not quite in the
        order of their times; a margin of an hour covers that.
        """
        found = self._sql.execute(f"SELECT min(id), max(id) FROM {table}").fetchone()
        first, last = (number or 0 for number in found)
        at = f"SELECT created_ms FROM {table} WHERE id >= ? ORDER BY id LIMIT 1"
        while first < last:
            middle = (first + last) // 2
            (created_ms,) = self._sql.execute(at, (middle,)).fetchone()
            if created_ms < since_ms - _MARGIN_MS:
                first = middle + 1
            else:
                last = middle
        return first


_NOTHING = "''"
_NONE = "'', ''"
_MARGIN_MS = 3_600_000


def _of_tenant(asked: usage.Asked) -> str:
    if asked.tenant is None:
        return ""
    return " AND (path = :scope OR substr(path, 1, length(:under)) = :under)"
