"""Whatever befalls the file: a clear line; what was acknowledged is stored, and is not lost."""

import re
from contextlib import contextmanager

import anyio
import pytest

from comptroller.errors import ComptrollerError, LedgerRefused, LedgerUnreachable
from comptroller.ledger.sqlite import database_file, open_sqlite
from support import subprocesses
from support.requests import amount, asking, balance_of, committing, event, extending, releasing

pytestmark = pytest.mark.anyio

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@contextmanager
def full(ledger):
    """The file can grow no further."""
    connection = ledger._sql
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    try:
        yield
    finally:
        connection.execute("PRAGMA max_page_count = 1000000")


async def load(ledger, name, callers=5, requests=100):
    """What was acknowledged, and what was said of the rest."""
    acknowledged, told = set(), []

    async def caller(number):
        for count in range(requests):
            try:
                made = await ledger.reserve(asking(f"{name}-{number}-{count}", 1))
            except LedgerUnreachable as error:
                told.append(str(error))
            else:
                acknowledged.add(made.reservation_id)

    async with anyio.create_task_group() as callers_:
        for number in range(callers):
            callers_.start_soon(caller, number)
    return acknowledged, told


async def stored(ledger):
    """The reservations that are there, over all pages."""
    found, cursor = set(), None
    while True:
        page = await ledger.reservations(tenant="acme", limit=200, cursor=cursor)
        found |= {one.reservation_id for one in page.reservations}
        cursor = page.next_cursor
        if not page.has_more:
            return found


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_full_disk_refuses_what_it_cannot_hold_and_keeps_the_rest(path, synchronous):
    async with open_sqlite(path, synchronous=synchronous) as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))
        with full(ledger):
            acknowledged, told = await load(ledger, "full")
        assert acknowledged
        assert told
        assert all("make room on the disk" in text for text in told)
        assert await stored(ledger) == acknowledged
        more, told = await load(ledger, "room", requests=10)
        assert (len(more), told) == (50, [])
    async with open_sqlite(path) as ledger:
        assert await stored(ledger) == acknowledged | more
        assert (await ledger.verify()).differences == ()
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == len(acknowledged | more)


LIMITED = """
import resource, sys
import anyio
from support.processes import concurrent_writer

resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
anyio.run(concurrent_writer.main, *sys.argv[1:])
"""


async def test_a_process_whose_writes_fail_has_acknowledged_only_what_others_find(path):
    """The system itself refuses the write here, in the middle of a transaction's pages."""
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000_000))
    code, out, err = subprocesses.run(["-P", "-c", LIMITED, path, "limited", "1000", "5"])
    assert code
    assert re.search(r"LedgerUnreachable: .*ledger\.db ", err)
    acknowledged = {line.split()[0] for line in out.splitlines()}
    assert acknowledged
    async with open_sqlite(path) as ledger:
        assert acknowledged <= await stored(ledger)
        assert (await ledger.verify()).differences == ()
        await ledger.reserve(asking("next", 1))


async def test_a_file_that_cannot_be_written_any_more_says_so(path):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        made = await ledger.reserve(asking("k", 1))
        ledger._sql.execute("PRAGMA query_only = 1")
        with pytest.raises(LedgerUnreachable, match="cannot be used as a ledger: attempt to write"):
            await ledger.reserve(asking("other", 1))
        ledger._sql.execute("PRAGMA query_only = 0")
        assert await stored(ledger) == {made.reservation_id}


async def test_a_file_that_was_replaced_takes_nothing_more(path, tmp_path):
    """It would be written where nobody finds it; the new one is not touched."""
    async with open_sqlite(tmp_path / "other.db") as other:
        await other.set_budget("tenant:globex", amount(7))
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        await ledger.reserve(asking("k", 1))
        (tmp_path / "other.db").replace(path)
        content = path.read_bytes()
        with pytest.raises(LedgerUnreachable) as caught:
            await ledger.reserve(asking("later", 1))
        assert str(caught.value) == (
            f"{path} was replaced by another file while it was open: open the ledger again;"
            " nothing was recorded"
        )
        assert path.read_bytes() == content


@pytest.mark.parametrize("how", ["removed", "moved"])
async def test_a_file_that_is_gone_takes_nothing_more(path, how):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        if how == "removed":
            path.unlink()
        else:
            path.rename(path.with_name("elsewhere.db"))
        _, told = await load(ledger, "late", callers=3, requests=2)
        assert len(told) == 6
        assert [t for t in told if "was moved or removed while it was open" not in t] == []
        assert not path.exists()


async def test_a_clock_set_back_by_an_hour_loses_nothing(path, clock):
    """Leases made before last an hour longer; none is made shorter, and no period begins twice."""
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount(100), per="day")
        spent = await ledger.reserve(asking("spent", 10))
        await ledger.commit(spent.reservation_id, committing("c-spent", 10))
        clock.advance(DAY_MS - clock() % DAY_MS + 60_000)  # a minute after midnight
        before = await ledger.reserve(asking("before", 10))
        first = await ledger.record(event("e", 5))
        clock.advance(-HOUR_MS)
        assert (await balance_of(ledger, "tenant:acme"))["spent"] == 5
        again = await ledger.reserve(asking("before", 10))
        assert (again.reservation_id, again.expires_at_ms) == (
            before.reservation_id,
            before.expires_at_ms,
        )
        assert await ledger.record(event("e", 5)) == first
        during = await ledger.reserve(asking("during", 20))
        assert 0 < during.remaining_ttl_ms <= 60_000
        await ledger.extend(before.reservation_id, extending("x", 1000))
        await ledger.commit(before.reservation_id, committing("c", 10))
        clock.advance(70_000)
        with pytest.raises(LedgerRefused, match="has expired"):
            await ledger.release(during.reservation_id, releasing("l"))
        shown = await balance_of(ledger, "tenant:acme")
        assert (shown["spent"], shown["reserved"], shown["remaining"]) == (15, 0, 85)
        clock.advance(HOUR_MS)
        assert (await balance_of(ledger, "tenant:acme"))["spent"] == 15
        assert (await ledger.verify()).differences == ()


async def test_a_log_that_was_left_by_a_dead_process_is_read(path):
    """Nothing of it was in the file itself yet."""
    script = (
        "import anyio, os, sys\n"
        "from comptroller.ledger.sqlite import open_sqlite\n"
        "from support.requests import amount, asking\n"
        "async def main():\n"
        "    async with open_sqlite(sys.argv[1]) as ledger:\n"
        "        await ledger.set_budget('tenant:acme', amount(100))\n"
        "        print((await ledger.reserve(asking('k', 1))).reservation_id, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        "anyio.run(main)\n"
    )
    _, printed, _ = subprocesses.run(["-P", "-c", script, path])
    assert path.with_name("ledger.db-wal").stat().st_size
    async with open_sqlite(path) as ledger:
        assert await stored(ledger) == {printed.strip()}


async def test_an_error_of_a_batch_is_told_to_each_caller_as_its_own(path):
    """No two callers share one exception, whose traceback would grow with each of them."""
    errors = []
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        ledger._sql.execute("PRAGMA query_only = 1")

        async def ask(number):
            try:
                await ledger.reserve(asking(f"k{number}", 1))
            except ComptrollerError as error:
                errors.append(error)

        async with anyio.create_task_group() as callers:
            for number in range(3):
                callers.start_soon(ask, number)
    assert len({id(error) for error in errors}) == 3


@pytest.mark.parametrize("removed", [["-wal"], ["-shm"], ["-wal", "-shm"]])
async def test_a_log_removed_in_use_is_noticed_and_what_it_held_is_saved(path, removed):
    """Two processes with a log each would both answer, and one of them for nothing."""
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        made = await ledger.reserve(asking("k", 1))
        for suffix in removed:
            path.with_name(f"{path.name}{suffix}").unlink()
        with pytest.raises(LedgerUnreachable, match=r"removed while .* was open: open the ledger"):
            await ledger.reserve(asking("late", 1))
    async with open_sqlite(path) as ledger:
        assert await stored(ledger) == {made.reservation_id}


async def test_a_log_removed_in_use_is_saved_by_one_that_only_closes(path):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        made = await ledger.reserve(asking("k", 1))
        path.with_name("ledger.db-wal").unlink()
    async with open_sqlite(path) as ledger:
        assert await stored(ledger) == {made.reservation_id}


async def test_nobody_opens_a_ledger_whose_log_was_removed_in_use(path, monkeypatch):
    """It would not find what the other one was told."""
    monkeypatch.setattr(database_file, "_BUSY_TIMEOUT", 0.1)
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        for suffix in ("-wal", "-shm"):
            path.with_name(f"{path.name}{suffix}").unlink()
        with pytest.raises(ComptrollerError, match=r"removed while it was open: close it there"):
            async with open_sqlite(path):
                pass
    async with open_sqlite(path) as ledger:
        assert [one.scope for one in await ledger.budgets()] == ["tenant:acme"]


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_cut_short_in_use_takes_nothing_more(path, suffix):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1000))
        await ledger.reserve(asking("k", 1))
        path.with_name(f"{path.name}{suffix}").write_bytes(b"")
        with pytest.raises(LedgerUnreachable, match="cut short while"):
            await ledger.reserve(asking("late", 1))


async def test_a_file_that_sqlite_itself_has_shortened_is_used_on(path):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1000))
        await load(ledger, "k", requests=40)
        ledger._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await ledger.reserve(asking("next", 1))
        assert (await ledger.verify()).differences == ()
