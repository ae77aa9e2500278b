"""What is finished is forgotten after its time, with its keys, and the balances stay true."""

import itertools
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from comptroller.errors import BudgetExceeded, ComptrollerError, LedgerRefused
from comptroller.ledger.factory import open_ledger
from comptroller.ledger.models import RequestOrigin, request_origin
from comptroller.ledger.sqlite import open_sqlite, retention, schema
from comptroller.ledger.sqlite.file_guard import OpenedFiles, connect
from comptroller.ledger.sqlite.maintenance import Maintenance
from comptroller.ledger.sqlite.retention import Retention
from support.requests import (
    OVERDRAFT,
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

DAY_MS = 86_400_000


def passed(path, now_ms, finished=timedelta(days=30)):
    """One pass over the file, without pauses; how many rows went at a time."""
    steps, one = [], Retention(finished)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        while (due := one.look(connection, now_ms)) is not None:
            if due.rows:
                due.forget(connection)
                steps.append(len(due.rows))
    return steps


def count(path, table):
    with closing(sqlite3.connect(path)) as looking:
        return looking.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path, clock, monkeypatch):
    """Its own thread removes nothing: on a busy machine its first pass would come at any time."""
    monkeypatch.setattr(Maintenance, "_work", lambda _: 3600.0)
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))
        await ledger.set_budget("tenant:acme/agent:a", amount(10_000))
        yield ledger


async def settled(ledger, key, spent=4):
    made = await ledger.reserve(asking(key, 5, agent="a"))
    await ledger.extend(made.reservation_id, extending(f"x-{key}", 5))
    await ledger.commit(made.reservation_id, committing(f"c-{key}", spent))
    return made.reservation_id


async def test_what_was_finished_30_days_ago_is_gone_and_the_balances_are_as_before(
    ledger, path, clock
):
    old = await settled(ledger, "old")
    released = await ledger.reserve(asking("released", 5))
    await ledger.release(released.reservation_id, releasing("l"))
    await ledger.reserve(asking("expired", 5))
    await ledger.record(event("e", 3))
    clock.advance(30 * DAY_MS)
    young = await settled(ledger, "young")
    await ledger.record(event("f", 2))
    before = await ledger.budgets()
    assert passed(path, clock()) == []
    clock.advance(120_000)
    assert passed(path, clock()) == [3, 1, 1]
    assert await ledger.budgets() == before
    verified = await ledger.verify()
    assert verified.differences == ()
    with pytest.raises(LedgerRefused, match="no reservation"):
        await ledger.reservation(old)
    assert (await ledger.reservation(young)).committed.amount == 4
    assert count(path, "keys") == 2
    assert count(path, "answers") == 2  # an extension, an event


async def test_what_still_holds_its_estimate_stays_whatever_its_age(ledger, path, clock):
    held = await ledger.reserve(asking("k", 5, ttl_ms=DAY_MS))
    for day in range(40):
        clock.advance(DAY_MS - 1000)
        await ledger.extend(held.reservation_id, extending(f"x{day}", DAY_MS))
    await settled(ledger, "later")
    passed(path, clock())
    await ledger.commit(held.reservation_id, committing("c", 5))
    assert (await balance_of(ledger, "tenant:acme"))["spent"] == 9


async def test_an_answer_is_kept_as_long_as_its_request_may_come_again(ledger, path, clock):
    """Decisions and dry runs for the longest lease, the others as long as what they made."""
    granted = await ledger.reserve(asking("k", 5, agent="a"))
    await ledger.commit(granted.reservation_id, committing("c", 5))
    charged = await ledger.record(event("e", 3))
    await ledger.decide(deciding("d", 1))
    await ledger.reserve(asking("dry", 1, dry_run=True))
    await ledger.decide(deciding("newest", 1))
    clock.advance(DAY_MS + 60_000)
    assert passed(path, clock()) == []
    clock.advance(1)
    assert passed(path, clock()) == [2]
    again = await ledger.reserve(asking("k", 5, agent="a"))
    assert again.reservation_id == granted.reservation_id
    assert await ledger.record(event("e", 3)) == charged
    assert (await balance_of(ledger, "tenant:acme"))["spent"] == 8


async def test_a_number_is_never_given_twice(ledger, path, clock):
    """Nothing of a reservation that was forgotten is taken for another one's."""
    ids = [await settled(ledger, f"k{number}") for number in range(3)]
    clock.advance(31 * DAY_MS)
    assert passed(path, clock()) == [2]
    ids.append(await settled(ledger, "next"))
    rows = [int(one.split("_")[1], 16) for one in ids]
    assert rows == sorted(set(rows))


async def test_a_pass_goes_in_small_steps(ledger, path, clock, monkeypatch):
    monkeypatch.setattr(retention, "_AT_ONCE", 10)
    for number in range(35):
        await settled(ledger, f"k{number}")
    clock.advance(31 * DAY_MS)
    assert passed(path, clock()) == [10, 10, 10, 4]
    assert (await ledger.verify()).differences == ()
    assert (await balance_of(ledger, "tenant:acme"))["spent"] == 140


async def test_what_two_processes_have_looked_at_is_added_up_once(ledger, path, clock):
    for number in range(3):
        await settled(ledger, f"k{number}")
        await ledger.record(event(f"e{number}", 2))
    clock.advance(31 * DAY_MS)
    passes = [Retention(timedelta(days=30)) for _ in range(2)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        while due := [found for one in passes if (found := one.look(connection, clock()))]:
            for one in due:
                one.forget(connection)
    assert (await ledger.verify()).differences == ()
    assert count(path, "reservations") == count(path, "events") == 1


async def test_a_clock_that_was_set_back_costs_nothing_but_time(ledger, path, clock):
    """Rows are then not quite in the order of their age: what is missed goes with a later pass."""
    await settled(ledger, "first")
    clock.advance(-3_600_000)
    await settled(ledger, "earlier")
    await settled(ledger, "newest")
    clock.advance(30 * DAY_MS + 1)
    assert passed(path, clock()) in ([], [1])
    clock.advance(3_600_000)
    passed(path, clock())
    assert count(path, "reservations") == 1
    assert (await ledger.verify()).differences == ()


async def test_rows_of_a_clock_that_was_ahead_keep_no_others(ledger, path, clock, monkeypatch):
    """They stand first for years; what follows them is due all the same."""
    monkeypatch.setattr(retention, "_AT_ONCE", 2)
    clock.advance(70 * 365 * DAY_MS)
    for number in range(4):
        await settled(ledger, f"ahead{number}")
    clock.advance(-70 * 365 * DAY_MS)
    for number in range(4):
        await settled(ledger, f"k{number}")
    clock.advance(31 * DAY_MS)
    passed(path, clock())
    assert count(path, "reservations") == 4 + 1
    assert (await ledger.verify()).differences == ()


async def test_an_open_ledger_forgets_by_itself_while_its_callers_go_on(path, clock):
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))
        await ledger.set_budget("tenant:acme/agent:a", amount(10_000))
        for number in range(250):
            await settled(ledger, f"k{number}")
    clock.advance(31 * DAY_MS)
    async with open_sqlite(path, now=clock) as ledger:
        with anyio.fail_after(60):
            for number in itertools.count():
                await settled(ledger, f"while-{number}")
                if count(path, "reservations") == number + 1:
                    break
        assert (await ledger.verify()).differences == ()
    assert not [one for one in threading.enumerate() if "upkeep" in one.name]


async def test_nothing_goes_from_a_file_that_a_newer_version_has_taken_over(path, clock):
    """What it makes of a row is not known here."""
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        for number in range(3):
            await settled(ledger, f"k{number}")
    clock.advance(31 * DAY_MS)
    upkeep = Maintenance(path, Retention(timedelta(days=30)), clock)
    upkeep._files, upkeep._sql = OpenedFiles(path), connect(path, 0)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.newest() + 1}")
    with pytest.raises(ComptrollerError, match="by another comptroller"):
        upkeep._work()
    upkeep._sql.close()
    assert count(path, "reservations") == 3


async def test_how_long_is_a_setting(path, clock):
    async with open_sqlite(path, now=clock, retention=timedelta(days=2)) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        await settled(ledger, "k")
        await settled(ledger, "newest")
    clock.advance(2 * DAY_MS + 1)
    assert passed(path, clock(), timedelta(days=2)) == [1]


@pytest.mark.parametrize("wrong", [timedelta(days=1), timedelta(0), timedelta(days=-1)])
async def test_it_is_never_shorter_than_the_longest_lease(path, wrong):
    with pytest.raises(ValueError, match="at least as long"):
        async with open_ledger(path, retention=wrong):
            pass


async def test_it_is_a_timedelta_and_no_server_takes_it(path):
    with pytest.raises(TypeError, match="timedelta"):
        async with open_ledger(path, retention=30):
            pass
    with pytest.raises(ValueError, match="retention are for its operator"):
        async with open_ledger("http://127.0.0.1:1", retention=timedelta(days=30)):
            pass


async def test_a_report_outlives_its_reservations_and_the_log_keeps_what_is_nobodys_request(
    ledger, path, clock
):
    before = request_origin.set(RequestOrigin("key 7", "req_1", "a" * 32))
    await settled(ledger, "old")
    await ledger.fund("tenant:acme", amount(1))
    request_origin.reset(before)
    report = await ledger.usage(by="agent,model,day")
    kinds = [entry.kind for entry in await ledger.events()]
    assert kinds == ["set", "set", "reserve", "extend", "commit", "fund"]
    clock.advance(31 * DAY_MS)
    await settled(ledger, "young")
    await ledger.freeze("tenant:acme")
    passed(path, clock())
    assert count(path, "reservations") == 1
    kept = await ledger.events()
    assert [entry.kind for entry in kept] == ["set", "set", "fund", "freeze"]
    assert await ledger.usage(by="agent,model,day", until=report_end(clock)) == report
    assert (await ledger.verify()).differences == ()


async def test_denials_and_debts_go_with_the_requests_that_made_them(ledger, path, clock):
    """What a request leaves in the log is no operator's act, whatever its kind."""
    await ledger.set_budget("tenant:owing", amount(5), overdraft_limit=50)
    await ledger.record(event("owed", 9, tenant="owing", policy=OVERDRAFT))
    with pytest.raises(BudgetExceeded):
        await ledger.reserve(asking("denied", 10_001))
    clock.advance(31 * DAY_MS)
    await ledger.fund("tenant:owing", amount(3))
    before = await ledger.budgets()
    passed(path, clock())
    assert [entry.kind for entry in await ledger.events()] == ["set", "set", "set", "fund"]
    assert await ledger.budgets() == before
    assert (await ledger.verify()).differences == ()


async def test_what_an_operator_did_cannot_be_removed(ledger, path):
    with (
        closing(sqlite3.connect(path)) as other,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        other.execute("DELETE FROM log")


class TestWhoSaysHowLong:
    """A command that looks at a ledger must not remove what its server keeps."""

    async def test_what_was_named_once_holds_for_whoever_opens_the_file(self, path, clock):
        async with open_sqlite(path, now=clock, retention=timedelta(days=365)) as ledger:
            await ledger.set_budget("tenant:acme", amount(100))
            await settled(ledger, "old")
            await settled(ledger, "newest")
        clock.advance(31 * DAY_MS)
        async with open_sqlite(path, now=clock):
            assert passed(path, clock()) == []
        clock.advance(365 * DAY_MS)
        assert passed(path, clock()) == [1]

    async def test_another_one_takes_its_place_also_where_the_file_is_open(self, path, clock):
        async with open_sqlite(path, now=clock, retention=timedelta(days=365)) as ledger:
            await ledger.set_budget("tenant:acme", amount(100))
            await settled(ledger, "old")
            await settled(ledger, "newest")
            clock.advance(3 * DAY_MS)
            async with open_sqlite(path, now=clock, retention=timedelta(days=2)):
                pass
            assert passed(path, clock()) in ([], [1])  # the first one's thread may have been here
            assert count(path, "reservations") == 1


def report_end(clock):
    return datetime.fromtimestamp(clock() / 1000, UTC) - timedelta(days=1)
