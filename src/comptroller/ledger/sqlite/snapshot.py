"""All records of a ledger file as they stand at one moment, for reports and audits.

Read on a connection of their own, which waits for no turn and keeps nobody from writing: a report
stalls no caller. It reads what was added up as calls were settled, and the reservations that are
still held; only by run are reservations read one by one, from the first that is new enough: they
are numbered in the order in which they were made.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runcycles import Unit

from comptroller.core.accounts import Account
from comptroller.core.periods import period_start
from comptroller.ledger.engine import usage_report, verify
from comptroller.ledger.engine.records import Reservation, ReservationFilter
from comptroller.ledger.models import REQUESTS, LogEntry, LogQuery, Statistics
from comptroller.ledger.sqlite import event_log_store, rows, statistics
from comptroller.ledger.sqlite import rows as listing

_SUMS = """
SELECT path, held, since, unit, sum(charged),
    sum(CASE status WHEN 'ACTIVE' THEN estimate ELSE 0 END)
FROM reservations WHERE status IN ('ACTIVE', 'COMMITTED') GROUP BY path, held, since, unit
UNION ALL
SELECT path, held, since, unit, sum(charged), 0 FROM events GROUP BY path, held, since, unit
"""


@contextmanager
def open_snapshot(path: Path) -> Iterator["SqliteSnapshot"]:
    """Open the records of the file at `path`, for the length of the block. Blocks.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.isolation_level = None
        connection.execute("BEGIN")
        yield SqliteSnapshot(path, connection)
    finally:
        connection.close()


class SqliteSnapshot:
    """What a ledger file holds."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._sql = path, connection

    def accounts(self, tenant: str | None = None) -> Iterable[Account]:
        """Every account, or one tenant's, ordered by scope and unit."""
        test, given = listing.scopes_of(tenant)
        found = self._sql.execute(
            f"SELECT {rows.ACCOUNT} FROM accounts WHERE {test} ORDER BY scope, unit", given
        )
        return map(rows.account, found)

    def listed(self, wanted: ReservationFilter) -> Iterable[Reservation]:
        """Yield the reservations wanted, in the order wanted, read one by one."""
        one = listing.WHOLE if wanted.whole else listing.BARE
        for number in self._sql.execute(*listing.statement(wanted)).fetchall():
            *row, head = self._sql.execute(one, number).fetchone()
            yield rows.reservation(tuple(row), head)

    def periods(self) -> Iterable[Account]:
        """Return the accounts of the periods that are over."""
        return map(rows.account, self._sql.execute(f"SELECT {rows.ACCOUNT} FROM periods"))

    def changes(self) -> Iterable[LogEntry]:
        """Return the entries of the log that change a balance, oldest first."""
        return self.entries(LogQuery(kinds=verify.KINDS))

    def sums(self) -> Iterable[verify.ChargedTotal]:
        """Yield what all reservations and events come to, archived ones included."""
        for path, held, since, unit, charged, reserved in self._sql.execute(_SUMS):
            scopes = rows.to_held(path, held)
            periods = rows.to_since(since)
            yield verify.ChargedTotal(scopes, periods, Unit(unit), charged or 0, reserved)
        archived = self._sql.execute("SELECT scope, since_ms, unit, charged, debt FROM archived")
        for scope, since_ms, unit, charged, debt in archived:
            yield verify.ChargedTotal((scope,), (since_ms,), Unit(unit), charged, debt=debt)

    def entries(self, sought: LogQuery) -> list[LogEntry]:
        """Return the entries of the log that are sought, oldest first."""
        tests: list[str] = ["id > ?"]
        given: list[int | str] = [sought.after]
        if sought.kinds:
            tests.append(f"kind IN ({','.join('?' * len(sought.kinds))})")
            given += sought.kinds
            if not set(sought.kinds) & set(REQUESTS):
                tests.append(f"kind NOT IN {REQUESTS}")  # said so, the index of the others serves
        if sought.since_ms is not None:
            tests.append("at_ms >= ?")
            given.append(sought.since_ms)
        if sought.tenant is not None:
            tests.append("(scope = ? OR substr(scope, 1, ?) = ?)")
            scope = f"tenant:{sought.tenant}"
            given += [scope, len(scope) + 1, f"{scope}/"]
        found = self._sql.execute(
            f"SELECT id, {event_log_store.ENTRY} FROM log WHERE {' AND '.join(tests)}"
            f" ORDER BY id {'DESC' if sought.newest else 'ASC'} LIMIT ?",
            (*given, -1 if sought.limit is None else sought.limit),
        )
        entries = [event_log_store.entry(row) for row in found]
        return entries[::-1] if sought.newest else entries

    def statistics(self, now_ms: int, *, by_tenant: bool) -> Statistics:
        """How the ledger stands."""
        return statistics.statistics(self._sql, self._path, now_ms, by_tenant=by_tenant)

    def spending(self, asked: usage_report.UsageQuery) -> Iterable[usage_report.UsageRow]:
        """Yield what calls and denials come to, by what the report tells apart."""
        if asked.one_by_one:
            yield from self._one_by_one(asked)
        else:
            yield from self._added_up(asked)
            yield from self._calls("status = 'ACTIVE'", asked)
        yield from self._denied(asked)

    def _added_up(self, asked: usage_report.UsageQuery) -> Iterable[usage_report.UsageRow]:
        """Return what was added up as calls were settled."""
        sums = "calls, charged, estimated, 0, abandoned, 0, 0, tokens_input, tokens_output"
        return self._grouped("usage", sums, asked)

    def _denied(self, asked: usage_report.UsageQuery) -> Iterable[usage_report.UsageRow]:
        return self._grouped("denials", "0, 0, 0, 0, 0, count, requested, 0, 0", asked)

    def _grouped(
        self, table: str, sums: str, asked: usage_report.UsageQuery
    ) -> Iterable[usage_report.UsageRow]:
        """Yield the sums of `table` by what the report tells apart, and by nothing else.

        Each is made of two, of which neither can be more than SQLite adds up.
        """
        acts = asked.wants("tool") or asked.wants("model")
        columns = {
            "kind": "kind" if acts else None,
            "name": "name" if acts else None,
            "run": "run" if asked.wants("run") else None,
            "day": "day_of(quarter_ms)" if asked.wants("day") else None,
        }
        told = [column for column in columns.values() if column]
        shown = [column or ("0" if name == "day" else "''") for name, column in columns.items()]
        self._sql.create_function(
            "day_of", 1, lambda at_ms: period_start("day", asked.zone, at_ms), deterministic=True
        )
        halves = [f"sum({one} >> 32), sum({one} & {2**32 - 1})" for one in sums.split(", ")]
        found = self._sql.execute(
            f"SELECT path, unit, {', '.join([*shown, *halves])} FROM {table}"
            f" WHERE quarter_ms >= :since AND quarter_ms < :until{_of_tenant(asked)}"
            f" GROUP BY {', '.join(['path', 'unit', *told])}",
            _given(asked),
        )
        for path, unit, kind, name, run, day, *added in found:
            pairs = zip(added[::2], added[1::2], strict=True)
            counts = ((high << 32) + low for high, low in pairs)
            yield usage_report.UsageRow(path, Unit(unit), kind, name, run, day, *counts)

    def _one_by_one(self, asked: usage_report.UsageQuery) -> Iterable[usage_report.UsageRow]:
        """Yield the reservations and events that are kept, each by itself."""
        settled = "status IN ('ACTIVE', 'COMMITTED') AND id >= :first"
        yield from self._calls(settled, asked, first=self._first("reservations", asked.since_ms))
        events = self._sql.execute(
            f"SELECT {rows.EVENT} FROM events WHERE id >= :first AND {_made(asked)}",
            _given(asked, first=self._first("events", asked.since_ms)),
        )
        for row in events:
            yield usage_report.of_event(rows.event(row), asked)

    def _calls(
        self, which: str, asked: usage_report.UsageQuery, **more: int
    ) -> Iterable[usage_report.UsageRow]:
        found = self._sql.execute(
            "SELECT path, unit, created_ms, request, settlement, coalesce(charged, 0),"
            " CASE status WHEN 'ACTIVE' THEN estimate ELSE 0 END"
            f" FROM reservations WHERE {which} AND {_made(asked)}",
            _given(asked, **more),
        )
        for path, unit, created_ms, request, settlement, charged, held in found:
            yield usage_report.of_call(
                path, Unit(unit), created_ms, request, settlement, charged, held, asked
            )

    def _first(self, table: str, since_ms: int) -> int:
        """Return the number of the first row that can be as new as `since_ms`, by halving.

        Where a clock was set back, rows are not quite in the order of their times; a margin of an
        hour covers that.
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


def _made(asked: usage_report.UsageQuery) -> str:
    return f"created_ms >= :since AND created_ms < :until{_of_tenant(asked)}"


def _of_tenant(asked: usage_report.UsageQuery) -> str:
    if asked.tenant is None:
        return ""
    return " AND (path = :scope OR substr(path, 1, length(:scope) + 1) = :scope || '/')"


def _given(asked: usage_report.UsageQuery, **more: int) -> dict[str, int | str]:
    """Return what the conditions above ask for."""
    scope = f"tenant:{asked.tenant}"
    return {"since": asked.since_ms, "until": asked.until_ms, "scope": scope, **more}


_MARGIN_MS = 3_600_000
