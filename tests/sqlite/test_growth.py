"""A ledger does not slow down as it grows: nothing on a caller's path reads a table through."""

import sqlite3
import time
from contextlib import closing

import anyio
import pytest

from comptroller.ledger.models import ACTS, LogQuery
from comptroller.ledger.sqlite import open_sqlite, store
from comptroller.ledger.sqlite.snapshot import open_snapshot
from support.requests import (
    amount,
    asking,
    balance_of,
    committing,
    deciding,
    event,
    extending,
    releasing,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def statements(connection):
    """What the connection is asked from here on, as it is called."""
    asked = []
    connection.set_trace_callback(asked.append)
    return asked


def scans(path, asked):
    """Those that look at every row of a table, with their plans."""
    found, verbs = {}, ("SELECT", "UPDATE", "DELETE")
    with closing(sqlite3.connect(path)) as explaining:
        for statement in {text for text in asked if text.startswith(verbs)}:
            plan = explaining.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            steps = [step for *_, step in plan if step.startswith("SCAN")]
            if steps and not steps[0].startswith("SCAN CONSTANT ROW"):
                found[statement] = steps
    return found


async def everything(ledger, clock, key):
    """Each request of a caller's path once, and each once more; a lease that ends."""
    for _ in range(2):
        made = await ledger.reserve(asking(f"r-{key}", 5, agent="a"))
        await ledger.extend(made.reservation_id, extending(f"x-{key}", 1000))
        await ledger.record(event(f"e-{key}", 1))
        await ledger.decide(deciding(f"d-{key}", 1))
    other = await ledger.reserve(asking(f"other-{key}", 5))
    for _ in range(2):
        await ledger.commit(made.reservation_id, committing(f"c-{key}", 4))
        await ledger.release(other.reservation_id, releasing(f"l-{key}"))
        await ledger.reservation(made.reservation_id)
    await ledger.reserve(asking(f"lapses-{key}", 5))
    clock.advance(70_000)
    await ledger.reserve(asking(f"later-{key}", 5))


async def test_no_request_reads_a_table_through(path, clock):
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000_000))
        asked = statements(ledger._sql)
        await everything(ledger, clock, "mine")
        async with open_sqlite(path, now=clock) as other:  # what was kept is read again
            await everything(other, clock, "theirs")
        await everything(ledger, clock, "again")
    assert scans(path, ["SELECT id FROM reservations WHERE token = 'x'"])  # it would be found
    ends = "SELECT coalesce(min(ends_ms)"  # the first entry of an index that holds active ones only
    found = {text: steps for text, steps in scans(path, asked).items() if not text.startswith(ends)}
    assert found == {}
    assert len(asked) > 100


async def test_what_operators_did_is_found_without_reading_the_requests_through(path, clock):
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(1))
        with open_snapshot(path) as records:
            asked = statements(records._sql)
            records.entries(LogQuery(kinds=ACTS, limit=50, newest=True))
            list(records.changes())
    steps = []
    with closing(sqlite3.connect(path)) as explaining:
        for statement in asked:
            steps += [step for *_, step in explaining.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert len(asked) == 2
    assert all("USING INDEX acts_of_log" in step for step in steps), steps


async def test_many_leases_that_end_at_once_are_dealt_with_in_turns(path, clock, monkeypatch):
    monkeypatch.setattr(store, "_EXPIRY_BATCH", 40)
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000))

        async def ask(number):
            await ledger.reserve(asking(f"k{number}", 10))

        async with anyio.create_task_group() as callers:
            for number in range(100):
                callers.start_soon(ask, number)
        clock.advance(70_000)
        seen = [(await balance_of(ledger, "tenant:acme"))["reserved"] for _ in range(4)]
        assert seen == [600, 200, 0, 0]
        await ledger.reserve(asking("next", 1_000))
        assert (await ledger.verify()).differences == ()


async def test_a_lease_that_was_extended_does_not_end_early(path, clock):
    """Nor late: when the first one ends is known, and known anew once it moved."""
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        held = await ledger.reserve(asking("k", 10, ttl_ms=10_000, grace_period_ms=0))
        await ledger.reserve(asking("short", 20, ttl_ms=12_000, grace_period_ms=0))
        await ledger.extend(held.reservation_id, extending("x", 10_000))
        expected = {10_001: 30, 12_001: 10, 20_000: 10, 20_001: 0}
        start = clock()
        for after, reserved in expected.items():
            clock.advance(start + after - clock())
            assert (await balance_of(ledger, "tenant:acme"))["reserved"] == reserved


async def test_opening_takes_no_longer_with_many_rows(path):
    """Generous: nothing that depends on their number is done."""
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000))
        made = await ledger.reserve(asking("k", 1))
        await ledger.commit(made.reservation_id, committing("c", 1))
    with closing(sqlite3.connect(path, isolation_level=None)) as filling:
        filling.execute("BEGIN")
        filling.execute("CREATE TEMP TABLE copy AS SELECT * FROM reservations")
        for row in range(2, 5_002):
            filling.execute("UPDATE copy SET id = ?", (row,))
            filling.execute("INSERT INTO reservations SELECT * FROM copy")
        filling.execute("COMMIT")
    instructions = []
    began = time.process_time()
    async with open_sqlite(path) as ledger:
        ledger._sql.set_progress_handler(lambda: instructions.append(1) and None, 1_000)
        await ledger.reserve(asking("next", 1))
        spent = time.process_time() - began
    assert len(instructions) < 10
    assert spent < 1
