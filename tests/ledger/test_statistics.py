"""How a ledger stands, in few numbers, which are read in no longer than they are few."""

import sqlite3
from contextlib import closing

import pytest
from runcycles import CommitOveragePolicy, Unit

from comptroller.errors import BudgetExceeded
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.models import UnitStatistics
from comptroller.ledger.sqlite import open_sqlite
from support.requests import amount, asking, committing, event, releasing

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000


@pytest.fixture(params=["memory", "file"])
async def ledger(request, tmp_path, clock):
    opened = (
        open_memory(now=clock)
        if request.param == "memory"
        else open_sqlite(tmp_path / "ledger.db", now=clock)
    )
    async with opened as ledger:
        yield ledger


async def test_a_ledger_that_is_new_has_nothing_to_say(ledger):
    assert (await ledger.statistics()).units == ()


async def test_each_call_is_counted_once_however_many_scopes_pay_it(ledger, clock):
    await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=50)
    await ledger.set_budget("tenant:acme/agent:a", amount(50), overdraft_limit=50)
    await ledger.set_budget("tenant:globex", amount(1), per="day")
    paid = await ledger.reserve(asking("paid", 30, agent="a"))
    for _ in range(2):  # sent again, it is counted once
        await ledger.commit(paid.reservation_id, committing("c", 20))
    for_nothing = await ledger.reserve(asking("released", 5, agent="a"))
    await ledger.release(for_nothing.reservation_id, releasing("l"))
    await ledger.reserve(asking("lapses", 5, agent="a"))
    clock.advance(70_000)
    await ledger.record(event("e", 25, agent="a"))
    await ledger.reserve(asking("held", 3, agent="a"))
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(asking("denied", 30, agent="a"))
    found = await ledger.statistics()
    assert found.tenants == ()
    assert found.units == (
        UnitStatistics(
            Unit.USD_MICROCENTS,
            calls=2,
            charged=45,
            expired=1,
            denied={"BUDGET_EXCEEDED": 1},
            active=1,
            reserved=3,
            budgets=3,
            full=1,  # the agent's, with 45 of 50
        ),
    )


async def test_debts_and_budgets_that_are_nearly_spent(ledger, clock):
    await ledger.set_budget("tenant:acme", amount(10), overdraft_limit=50, per="day")
    await ledger.set_budget("tenant:edge", amount(35))
    await ledger.set_budget("tenant:nothing", amount(0))
    owing = CommitOveragePolicy.ALLOW_WITH_OVERDRAFT
    await ledger.record(event("edge", 28, tenant="edge"))  # 80 % to the unit
    await ledger.record(event("e", 30, policy=owing))
    [unit] = (await ledger.statistics()).units
    assert (unit.budgets, unit.full, unit.in_debt) == (3, 2, 1)
    [owed] = [one.debt.amount for one in await ledger.budgets() if one.debt and one.debt.amount]
    assert unit.debt == owed
    clock.advance(DAY_MS)
    [unit] = (await ledger.statistics()).units
    assert unit.full == 1  # what was spent yesterday fills nothing today


async def test_tenants_are_named_where_they_are_asked_for(ledger):
    for scope in ("tenant:globex", "tenant:acme", "tenant:acme/agent:a"):
        await ledger.set_budget(scope, amount(10))
    found = await ledger.statistics(by_tenant=True)
    assert [account.scope for account in found.tenants] == ["tenant:acme", "tenant:globex"]


async def test_counts_go_on_where_another_process_left_them(tmp_path, clock):
    for key in "ab":
        async with open_sqlite(tmp_path / "ledger.db", now=clock) as ledger:
            await ledger.set_budget("tenant:acme", amount(100))
            await ledger.record(event(key, 5))
            [unit] = (await ledger.statistics()).units
    assert (unit.calls, unit.charged) == (2, 10)


async def test_alerts_that_nobody_has_taken_and_how_large_the_file_is(tmp_path, clock):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(100), alerts=["50%", "60%"])
        await ledger.record(event("e", 55))
        first_ms = clock()
        clock.advance(1_000)
        await ledger.record(event("f", 10))
        assert (await ledger.statistics()).oldest_alert_ms is None  # nobody is to take one
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            columns = "INSERT INTO webhooks (url, secret, created_ms, told, failures) VALUES"
            other.execute(f"{columns} ('http://a', 's', 0, 0, 3)")
            other.execute(f"{columns} ('http://b', 's', 0, 2, 0)")
        found = await ledger.statistics()
        assert (found.oldest_alert_ms, found.failing_webhooks) == (first_ms, 1)
        assert found.file_bytes["ledger"] == path.stat().st_size > 0
        assert found.file_bytes["wal"] == path.with_name("ledger.db-wal").stat().st_size > 0


async def test_no_question_reads_reservations_or_the_log_through(tmp_path, clock):
    """A million of them are kept: each statement looks at few rows, whatever their number."""
    path = tmp_path / "ledger.db"
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        from comptroller.ledger.sqlite import statistics

        statements = (statistics._HELD, statistics._OLDEST_ALERT)
        with closing(sqlite3.connect(path)) as looking:
            plans = [
                step
                for statement in statements
                for *_, step in looking.execute(f"EXPLAIN QUERY PLAN {statement}")
            ]
    scans = [step for step in plans if step.startswith("SCAN") and "active_reserv" not in step]
    assert scans == ["SCAN webhooks"]
    assert any("active_reservations" in step for step in plans)
