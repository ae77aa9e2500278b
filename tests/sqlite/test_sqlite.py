"""What the ledger in a file promises beyond the contract: it lasts, and it waits for nobody."""

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from comptroller.errors import BudgetExceeded, ComptrollerError, LedgerUnreachable
from comptroller.ledger.sqlite import open_sqlite
from comptroller.ledger.sqlite.file_lock import FileLock, retry_until, try_begin
from support import subprocesses
from support.requests import amount, asking, balance_of, committing, event, extending, releasing
from support.subprocesses import Python

pytestmark = pytest.mark.anyio


async def test_what_was_acknowledged_is_there_when_opened_again(reopened, clock):
    async with reopened() as ledger:
        await ledger.set_budget("tenant:acme", amount(100), overdraft_limit=5, per="month")
        await ledger.freeze("tenant:acme")
        await ledger.unfreeze("tenant:acme")
        done = await ledger.reserve(asking("k1", 10, metadata={"a": 1}))
        first = await ledger.commit(done.reservation_id, committing("c1", 4))
        held = await ledger.reserve(asking("k2", 20))
        later = await ledger.extend(held.reservation_id, extending("x", 5))
        spent = await ledger.record(event("e", 7))
        before = await ledger.budgets()
    async with reopened() as ledger:
        assert await ledger.budgets() == before
        assert await ledger.commit(done.reservation_id, committing("c1", 4)) == first
        assert await ledger.extend(held.reservation_id, extending("x", 5)) == later
        assert await ledger.record(event("e", 7)) == spent
        assert (await ledger.reserve(asking("k2", 20))).reservation_id == held.reservation_id
        assert (await ledger.reservation(done.reservation_id)).metadata == {"a": 1}
        await ledger.release(held.reservation_id, releasing("l"))
        assert (await balance_of(ledger, "tenant:acme"))["remaining"] == 89


async def test_two_ledgers_on_one_file_see_each_other(tmp_path, clock):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path, now=clock) as one, open_sqlite(path, now=clock) as other:
        await one.set_budget("tenant:acme", amount(100))
        for number in range(5):
            made = await one.reserve(asking(f"a{number}", 10))
            await other.reserve(asking(f"b{number}", 10))
            await other.release(made.reservation_id, releasing(f"l{number}"))
        assert (await balance_of(one, "tenant:acme"))["reserved"] == 50
        assert (await balance_of(other, "tenant:acme"))["reserved"] == 50


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_many_callers_share_a_transaction_and_each_gets_its_own_answer(tmp_path, synchronous):
    answers = {}
    async with open_sqlite(tmp_path / "ledger.db", synchronous=synchronous) as ledger:
        await ledger.set_budget("tenant:acme", amount(50_000))

        async def ask(number):
            answers[number] = await ledger.reserve(asking(f"k{number}", number))

        async with anyio.create_task_group() as callers:
            for number in range(300):
                callers.start_soon(ask, number)
    assert {number: one.reserved.amount for number, one in answers.items()} == {
        number: number for number in range(300)
    }


async def test_a_refused_request_does_not_disturb_its_batch(tmp_path):
    outcomes = []
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        await ledger.set_budget("tenant:acme", amount(10))

        async def ask(count):
            try:
                await ledger.reserve(asking(f"k{count}", count))
            except BudgetExceeded:
                outcomes.append((count, False))
            else:
                outcomes.append((count, True))

        async with anyio.create_task_group() as callers:
            for count in (4, 100, 5, 1000, 1):
                callers.start_soon(ask, count)
    assert sorted(outcomes) == [(1, True), (4, True), (5, True), (100, False), (1000, False)]


async def test_a_fault_of_the_file_undoes_the_batch_and_every_caller_is_told(tmp_path):
    """And the next batch finds what was there before."""
    told = []
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as vandal:
            vandal.execute(
                "CREATE TRIGGER t BEFORE INSERT ON reservations"
                " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )

        async def ask(number):
            with pytest.raises(LedgerUnreachable, match="make room on the disk"):
                await ledger.reserve(asking(f"k{number}", 1))
            told.append(number)

        async with anyio.create_task_group() as callers:
            for number in range(5):
                callers.start_soon(ask, number)
        assert sorted(told) == [0, 1, 2, 3, 4]
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as vandal:
            vandal.execute("DROP TRIGGER t")
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 0
        await ledger.reserve(asking("k0", 1))


@contextmanager
def another_process_has_the_turn(path):
    turns = FileLock(path)
    try:
        assert turns.take_now()
        yield turns
    finally:
        turns.close()


async def test_who_waits_for_a_transaction_to_end_comes_before_the_one_who_ended_it(tmp_path):
    path = tmp_path / "ledger.db"
    with closing(FileLock(path)) as first, closing(FileLock(path)) as second:
        with closing(sqlite3.connect(path)) as ours, closing(sqlite3.connect(path)) as theirs:
            ours.execute("PRAGMA journal_mode = WAL")
            theirs.execute("PRAGMA busy_timeout = 0")
            assert first.begin(ours, time.monotonic())
            assert second.take_now()
            assert not try_begin(theirs)
            ours.execute("COMMIT")
            assert not first.take_now()
            assert try_begin(theirs)
            second.pass_on()
            assert first.take_now()
            ours.execute("PRAGMA busy_timeout = 0")
            assert not try_begin(ours)


def test_who_waits_tries_again_soon_and_then_less_often(monkeypatch):
    """Most transactions are shorter than the time in which a thread is woken."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert retry_until(lambda: len(pauses) == 6, time.monotonic() + 60)
    assert pauses == pytest.approx([0.00005, 0.0001, 0.0002, 0.0004, 0.0005, 0.0005])


async def test_while_another_process_has_the_turn_the_loop_goes_on(tmp_path):
    path, answered = tmp_path / "ledger.db", anyio.Event()
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))

        async def ask():
            await ledger.reserve(asking("k", 1))
            answered.set()

        async with anyio.create_task_group() as callers:
            with another_process_has_the_turn(path) as turns:
                callers.start_soon(ask)
                for _ in range(100):
                    await anyio.lowlevel.checkpoint()
                assert not answered.is_set()
                turns.pass_on()
                await answered.wait()


async def test_a_turn_that_never_comes_is_an_unanswered_request(tmp_path, monkeypatch):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        monkeypatch.setattr(type(ledger), "request_timeout", 0.01)
        with another_process_has_the_turn(path):
            with pytest.raises(LedgerUnreachable, match="another process has held it") as caught:
                await ledger.reserve(asking("k", 1))
        assert caught.value.status == -1
        await ledger.reserve(asking("k", 1))
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 1


async def test_a_lock_of_another_program_is_waited_for_too(tmp_path, monkeypatch):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        monkeypatch.setattr(type(ledger), "request_timeout", 0.01)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnreachable, match="another process has held it"):
                await ledger.reserve(asking("k", 1))
            other.execute("ROLLBACK")
        await ledger.reserve(asking("k", 1))


async def test_callers_cancelled_while_a_batch_waits_break_nothing(tmp_path):
    """The batch that has begun ends; who is not cancelled is answered."""
    path, answered = tmp_path / "ledger.db", []
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))

        async def ask(number):
            await ledger.reserve(asking(f"k{number}", 1))
            answered.append(number)

        with another_process_has_the_turn(path) as turns:
            async with anyio.create_task_group() as callers:
                async with anyio.create_task_group() as doomed:
                    for number in range(10):
                        (doomed if number % 2 else callers).start_soon(ask, number)
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()
                    doomed.cancel_scope.cancel()
                    turns.pass_on()
        assert set(answered) >= {0, 2, 4, 6, 8}
        assert len(answered) <= (await balance_of(ledger, "tenant:acme"))["reserved"] <= 10


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("steps", range(8))
async def test_asyncios_own_cancellation_leaves_a_batch_to_those_who_were_not_cancelled(
    tmp_path, steps
):
    """It passes every shield, so it strikes at any step, also while a thread performs the batch."""
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))
        with another_process_has_the_turn(path) as turns:
            doomed = asyncio.create_task(ledger.reserve(asking("doomed", 1)))
            others = [asyncio.create_task(ledger.reserve(asking(f"k{n}", 1))) for n in range(5)]
            for _ in range(steps):
                await asyncio.sleep(0)
            doomed.cancel()
            await asyncio.wait([doomed])
            turns.pass_on()
            made = [*await asyncio.gather(*others), await ledger.reserve(asking("later", 1))]
        rows = (await ledger.reservations(tenant="acme")).reservations
        assert {one.reservation_id for one in made} <= {row.reservation_id for row in rows}
        assert 6 <= len(rows) == (await balance_of(ledger, "tenant:acme"))["reserved"]


async def test_the_log_does_not_grow_without_bound(tmp_path, monkeypatch):
    from comptroller.ledger.sqlite import maintenance

    monkeypatch.setattr(maintenance, "_CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(maintenance, "_TOO_LONG", 0)
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))
        for number in range(500):
            await ledger.reserve(asking(f"k{number}", 1))
        log = path.with_name("ledger.db-wal")
        assert log.stat().st_size < 500 * 4 * 4096


# Bad files


async def refusal_to_open(path):
    with pytest.raises(ComptrollerError) as caught:
        async with open_sqlite(path):
            pass
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text or str(path.parent) in text
    return text


async def test_a_directory_is_no_ledger(tmp_path):
    assert "is a directory: name a file in it" in await refusal_to_open(tmp_path)


async def test_a_missing_directory_is_named_with_the_command_that_makes_it(tmp_path):
    assert f"mkdir -p {tmp_path / 'no'}" in await refusal_to_open(tmp_path / "no" / "ledger.db")


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
async def test_a_damaged_file_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    assert re.search(r"damaged|cannot be used", await refusal_to_open(path))
    assert path.read_bytes() == content
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ledger.db"]


async def test_a_file_damaged_in_the_middle_says_so_when_it_is_met(tmp_path):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))
    with closing(sqlite3.connect(path)) as looking:
        pages = looking.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'accounts'")
        damaged = [page for (page,) in pages]
    with path.open("r+b") as file:
        for page in damaged:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
    async with open_sqlite(path) as ledger:
        with pytest.raises(LedgerUnreachable, match=r"damaged.*\.recover"):
            await ledger.reserve(asking("k", 1))


async def test_another_programs_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE accounts (id)")
    content = path.read_bytes()
    assert "another program" in await refusal_to_open(path)
    assert path.read_bytes() == content


async def test_a_newer_schema_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path):
        pass
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    assert "schema 99" in await refusal_to_open(path)


@contextmanager
def without_privileges(path):
    """As somebody whom file modes bind: root is bound by none."""
    if os.geteuid():
        yield
        return
    passed = [one for one in path.parents if one.stat().st_uid == 0 and one.name]
    modes = {one: one.stat().st_mode for one in passed}
    os.chown(path, 65534, -1)
    for one in path.iterdir():
        os.chown(one, 65534, -1)
    for one, mode in modes.items():
        one.chmod(mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for one, mode in modes.items():
            one.chmod(mode)


async def test_a_read_only_file_says_how_to_allow_writing(tmp_path):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1))
    path.chmod(0o444)
    with without_privileges(tmp_path):
        assert f"chmod u+w {path}" in await refusal_to_open(path)


async def test_a_read_only_directory_says_how_to_allow_writing(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    with without_privileges(home):
        try:
            assert f"chmod u+wx {home}" in await refusal_to_open(home / "ledger.db")
        finally:
            home.chmod(0o755)


async def test_a_file_that_may_not_be_read_says_how_to_allow_it(tmp_path):
    path = tmp_path / "ledger.db"
    async with open_sqlite(path):
        pass
    with without_privileges(tmp_path):
        path.chmod(0o222)
        assert f"chmod u+r {path}" in await refusal_to_open(path)


async def test_a_file_in_a_directory_that_may_not_be_entered_cannot_be_reached(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with without_privileges(home):
        home.chmod(0o000)
        try:
            text = await refusal_to_open(home / "ledger.db")
        finally:
            home.chmod(0o755)
    assert "cannot be reached (Permission denied)" in text


async def test_a_name_that_no_file_can_have_cannot_be_reached(tmp_path):
    assert "cannot be reached" in await refusal_to_open(tmp_path / ("x" * 300))


async def test_a_link_that_leads_nowhere_is_not_blamed_on_its_directory(tmp_path):
    (tmp_path / "ledger.db").symlink_to(tmp_path / "no" / "ledger.db")
    assert "chmod" not in await refusal_to_open(tmp_path / "ledger.db")


@pytest.mark.parametrize("wrong", ["OFF", "full", None])
async def test_synchronous_is_normal_or_full(tmp_path, wrong):
    with pytest.raises(ValueError, match="NORMAL"):
        async with open_sqlite(tmp_path / "ledger.db", synchronous=wrong):
            pass


# Use where it cannot be used


async def test_a_closed_ledger_says_so(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:
        pass
    with pytest.raises(ComptrollerError, match="is closed"):
        await ledger.budgets()
    assert not [one for one in threading.enumerate() if "upkeep" in one.name]


async def test_closing_does_not_wait_for_a_turn_that_somebody_else_holds(tmp_path):
    path, told = tmp_path / "ledger.db", []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        async with anyio.create_task_group() as tasks:

            async def ask():
                with pytest.raises(ComptrollerError, match="is closed") as caught:
                    await ledger.set_budget("tenant:acme", amount(1))
                told.append(caught.value)

            async with open_sqlite(path) as ledger:
                somebody.execute("BEGIN IMMEDIATE")
                tasks.start_soon(ask)
                while ledger._performing is None:
                    await anyio.lowlevel.checkpoint()
                began = time.monotonic()
            assert time.monotonic() - began < ledger.request_timeout / 2
    assert told


async def test_another_event_loop_is_told_to_open_the_ledger_itself(tmp_path):
    async with open_sqlite(tmp_path / "ledger.db") as ledger:

        def elsewhere():
            with pytest.raises(ComptrollerError, match="opened in another event loop"):
                anyio.run(ledger.budgets)

        await anyio.to_thread.run_sync(elsewhere)
        assert await ledger.budgets() == []


def test_so_is_another_event_loop_of_the_same_thread(tmp_path):
    async def opened():
        opening = open_sqlite(tmp_path / "ledger.db")
        return opening, await opening.__aenter__()

    with asyncio.Runner() as here:
        opening, ledger = here.run(opened())
        with (
            asyncio.Runner() as elsewhere,
            pytest.raises(ComptrollerError, match="opened in another event loop"),
        ):
            elsewhere.run(ledger.budgets())
        here.run(opening.__aexit__(None, None, None))


FORKED = """
import anyio, os, sys
from comptroller.errors import ComptrollerError
from comptroller.ledger.sqlite import open_sqlite
from comptroller.ledger.embedded.memory import open_memory

async def main():
    async with open_sqlite(sys.argv[1]) as ledger, open_memory() as memory:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            print("child", os.waitstatus_to_exitcode(status), flush=True)
            await ledger.budgets()
            return
        for one in (ledger, memory):
            try:
                await one.budgets()
            except ComptrollerError as error:
                print(error, flush=True)
        os._exit(0)

anyio.run(main)
"""


ORPHANED = """
import os, signal, sys
from pathlib import Path
from comptroller.ledger.sqlite.file_lock import FileLock

turns = FileLock(Path(sys.argv[1]))
assert turns.take_now()
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def test_a_turn_ends_with_its_process_whatever_forks_it_leaves(tmp_path):
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-W", "ignore", "-c", ORPHANED, str(path)]
    with Python(command, stdin=subprocess.PIPE) as killed:  # its fork reads on
        assert killed.wait(60) < 0
        turns = FileLock(path)
        try:
            assert turns.take(time.monotonic() + 5)
        finally:
            turns.close()


def test_a_forked_child_is_told_to_open_the_ledger_again(tmp_path):
    words = ["-W", "ignore", "-c", FORKED, str(tmp_path / "ledger.db")]
    code, out, err = subprocesses.run(words)
    assert code == 0, err
    told = out.splitlines()
    assert [line.endswith("open the ledger again in this process") for line in told] == [
        True,
        True,
        False,
    ]
    assert told[-1] == "child 0"
