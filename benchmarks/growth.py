"""Does a ledger slow down as it grows? Opening, and pairs a second, beside an empty file.

    python benchmarks/growth.py [--rows 1000000] [--repeats 5]

One file holds a million finished reservations with the answers that were given, as many months
would leave them; the other is new. They are measured in turns: ratios of medians are what counts.
"""

import argparse
import asyncio
import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from ledger_load import ACTION, ACTUAL, ESTIMATE, PLENTY, SCOPES, SUBJECT, UNIT
from rich.console import Console
from rich.table import Table
from runcycles import Action, Amount, CommitRequest, ReservationCreateRequest, Subject

from comptroller import open_ledger

FILL = """
WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
INSERT INTO reservations (id, token, tenant, path, held, unit, estimate, policy, created_ms,
    expires_ms, ends_ms, key, request, status, charged, finalized_ms, settlement, since, digest,
    fingerprint, leased_ms, caps, balances, end_digest, end_fingerprint, end_balances)
SELECT n, token, tenant, path, held, unit, estimate, policy, created_ms, expires_ms, ends_ms,
    key || n, request, status, charged, finalized_ms, settlement, since, randomblob(16),
    fingerprint, leased_ms, caps, balances, end_digest, end_fingerprint, end_balances
FROM numbers, reservations WHERE id = 1
"""
KEYS = "INSERT INTO keys (digest, reservation) SELECT digest, id FROM reservations WHERE id >= ?"
SLICE = 50_000


async def pairs(path: Path, count: int, name: str) -> tuple[float, float]:
    """(seconds to open the file, seconds a pair with one caller)."""
    began = time.perf_counter()
    async with open_ledger(path) as ledger:
        opened = time.perf_counter() - began
        for scope in SCOPES:
            await ledger.set_budget(scope, Amount(unit=UNIT, amount=PLENTY))
        began = time.perf_counter()
        for number in range(count):
            request = ReservationCreateRequest(
                idempotency_key=f"{name}-{number}",
                subject=Subject(**SUBJECT),
                action=Action(**ACTION),
                estimate=Amount(unit=UNIT, amount=ESTIMATE),
            )
            made = await ledger.reserve(request)
            settled = CommitRequest(
                idempotency_key=f"{name}-{number}", actual=Amount(unit=UNIT, amount=ACTUAL)
            )
            await ledger.commit(made.reservation_id, settled)
        return opened, (time.perf_counter() - began) / count


def fill(path: Path, rows: int) -> None:
    """As many copies of the reservation that is there."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (first,) = connection.execute("SELECT max(id) + 1 FROM reservations").fetchone()
        for begin in range(first, rows + 1, SLICE):
            last = min(rows, begin + SLICE - 1)
            connection.execute("BEGIN")
            connection.execute(FILL, {"first": begin, "last": last})
            connection.execute(KEYS, (begin,))
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def measure(directory: Path, rows: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    grown = directory / "grown.db"
    await pairs(grown, 1, "first")
    fill(grown, rows)
    found: dict[str, list[tuple[float, float]]] = {"new": [], f"{rows:,} finished": []}
    for turn in range(repeats):
        new = directory / f"new-{turn}.db"
        await pairs(new, 1, "first")
        for name, path in zip(found, (new, grown), strict=True):
            found[name].append(await pairs(path, 1_000, f"turn-{turn}"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with TemporaryDirectory(prefix="growth-") as directory:
        found = asyncio.run(measure(Path(directory), asked.rows, asked.repeats))
    table = Table(title="a ledger as it grows, one caller: medians")
    table.add_column("file")
    for heading in ("opening", "a pair", "ratio"):
        table.add_column(heading, justify="right")
    base = statistics.median(pair for _, pair in found["new"])
    for name, runs in found.items():
        opening, pair = (statistics.median(column) for column in zip(*runs, strict=True))
        table.add_row(name, f"{opening * 1e3:.1f} ms", f"{pair * 1e6:.0f} µs", f"{pair / base:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
