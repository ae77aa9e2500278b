"""How a ledger's file stands, for monitoring: read from small tables and by indexes alone.

Sums are SQLite's `total`, a float: it does not end where an integer does.
"""

import sqlite3
from pathlib import Path

from runcycles import Unit

from comptroller.ledger.engine.statistics import FULL_PERCENT, of_units
from comptroller.ledger.models import Statistics, UnitStatistics
from comptroller.ledger.sqlite import rows

# the index holds none but the active ones
_HELD = """
SELECT unit, count(*), total(estimate) FROM reservations INDEXED BY active_reservations
WHERE status = 'ACTIVE' GROUP BY unit
"""
# a period that is over has spent nothing of the one that its next call begins
_BUDGETS = f"""
SELECT unit, count(*),
    sum(allocated > 0 AND coalesce(renews_ms, :now + 1) > :now
        AND 100.0 * (spent + debt) >= {FULL_PERCENT}.0 * allocated),
    sum(debt > 0), total(debt)
FROM accounts GROUP BY unit
"""
_TENANTS = f"SELECT {rows.ACCOUNT} FROM accounts WHERE instr(scope, '/') = 0 ORDER BY scope, unit"
_OLDEST_ALERT = """
SELECT min((SELECT at_ms FROM log WHERE kind = 'alert' AND id > webhooks.told ORDER BY id LIMIT 1)),
    coalesce(sum(failures > 0), 0)
FROM webhooks
"""


def statistics(sql: sqlite3.Connection, path: Path, now_ms: int, *, by_tenant: bool) -> Statistics:
    """Read how the ledger at `path` stands over `sql`, a connection to it."""
    oldest_ms, failing = sql.execute(_OLDEST_ALERT).fetchone()
    return Statistics(
        _units(sql, now_ms),
        tuple(map(rows.account, sql.execute(_TENANTS))) if by_tenant else (),
        oldest_ms,
        failing,
        {"ledger": _size(path), "wal": _size(path.with_name(f"{path.name}-wal"))},
    )


def _units(sql: sqlite3.Connection, now_ms: int) -> tuple[UnitStatistics, ...]:
    totals = {
        (what, Unit(unit)): count
        for what, unit, count in sql.execute("SELECT what, unit, count FROM totals")
    }
    budgets = {
        Unit(unit): {"budgets": budgets, "full": full, "in_debt": in_debt, "debt": int(debt)}
        for unit, budgets, full, in_debt, debt in sql.execute(_BUDGETS, {"now": now_ms})
    }
    held = {Unit(unit): (count, int(held)) for unit, count, held in sql.execute(_HELD)}
    return of_units(totals, budgets, held)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
