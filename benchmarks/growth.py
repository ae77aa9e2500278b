"""Does a ledger slow down as it grows? Opening, pairs a second, reports, and a server's memory.

    python benchmarks/growth.py [--rows 1000000] [--repeats 5]

One file holds a million finished reservations with the answers that were given, as many months
would leave them; the other is new. They are measured in turns: ratios of medians are what counts.
A report is by tenant, agent and model, over thirty days of twenty agents; memory is the most that
`comptroller serve` held while 100 callers asked it for a second.
"""

import argparse
import asyncio
import re
import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from ledger_load import ACTION, ACTUAL, ESTIMATE, PLENTY, SCOPES, SUBJECT, UNIT, Load
from rich.console import Console
from rich.table import Table
from runcycles import Action, Amount, CommitRequest, ReservationCreateRequest, Subject

from comptroller import open_ledger
from ledger import run, served

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
SUMS = """
WITH RECURSIVE quarters(q) AS (SELECT 1 UNION ALL SELECT q + 1 FROM quarters WHERE q < 96 * 30),
    agents(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM agents WHERE a < 20)
INSERT INTO usage (quarter_ms, path, unit, kind, name, calls, charged, abandoned, tokens_input,
    tokens_output)
SELECT quarter_ms - q * 900000, path || '-' || a, unit, kind, name, :rows / (96 * 30 * 20), charged,
    abandoned, tokens_input, tokens_output
FROM quarters, agents, usage
"""
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
        connection.execute(SUMS, {"rows": rows})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def reporting(path: Path) -> float:
    """Seconds of a report."""
    async with open_ledger(path) as ledger:
        began = time.perf_counter()
        assert await ledger.usage(by="tenant,agent,model")
        return time.perf_counter() - began


def serving(path: Path) -> float:
    """The most memory that a server of the file held, in MB."""
    with served(str(path), "NORMAL") as (address, pid):
        run(Load(address, callers=100, seconds=1), 1)
        said = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert peak is not None
    return int(peak[1]) / 1000


@attrs.frozen
class Found:
    """What was measured of one file: seconds, and MB of memory."""

    opening: list[float] = attrs.field(factory=list)
    pair: list[float] = attrs.field(factory=list)
    report: list[float] = attrs.field(factory=list)
    memory: list[float] = attrs.field(factory=list)


def measure(directory: Path, rows: int, repeats: int) -> dict[str, Found]:
    grown = directory / "grown.db"
    asyncio.run(pairs(grown, 1, "first"))
    fill(grown, rows)
    found = {"new": Found(), f"{rows:,} finished": Found()}
    for turn in range(repeats):
        new = directory / f"new-{turn}.db"
        asyncio.run(pairs(new, 1, "first"))
        for one, path in zip(found.values(), (new, grown), strict=True):
            opening, pair = asyncio.run(pairs(path, 1_000, f"turn-{turn}"))
            one.opening.append(opening)
            one.pair.append(pair)
            one.report.append(asyncio.run(reporting(path)))
            one.memory.append(serving(path))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with TemporaryDirectory(prefix="growth-") as directory:
        found = measure(Path(directory), asked.rows, asked.repeats)
    table = Table(title="a ledger as it grows, one caller: medians")
    table.add_column("file")
    for heading in ("opening", "a pair", "ratio", "report", "memory served"):
        table.add_column(heading, justify="right")
    base = statistics.median(found["new"].pair)
    for name, one in found.items():
        opening, pair, report, memory = map(statistics.median, attrs.astuple(one, recurse=False))
        table.add_row(
            name,
            f"{opening * 1e3:.1f} ms",
            f"{pair * 1e6:.0f} µs",
            f"{pair / base:.2f}",
            f"{report * 1e3:.1f} ms",
            f"{memory:.0f} MB",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
