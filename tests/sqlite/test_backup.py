"""A backup is whole, as of one moment, and the file of that name always is; a restored one is too.

What must not happen: a copy that lacks what was written last and says nothing of it; a log of one
file that is read into another one.
"""

import logging
import shutil
import sqlite3
import stat
from contextlib import closing

import anyio
import pytest
from anyio import to_thread

from comptroller.errors import ComptrollerError
from comptroller.ledger.api_keys import create_api_key
from comptroller.ledger.factory import open_keys, open_webhooks
from comptroller.ledger.sqlite import backup, open_sqlite, schema
from comptroller.ledger.sqlite.backup import back_up
from comptroller.ledger.webhooks import Webhook
from support.requests import amount, asking, balance_of, committing, event

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + "c2Vj" * 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "copy.db"


async def begun(path, spent=0):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000))
        if spent:
            await ledger.record(event("begun", spent))


def beside(path):
    return sorted(file.name for file in path.parent.iterdir())


async def spent_in(path):
    async with open_sqlite(path) as ledger:
        assert (await ledger.verify()).differences == ()
        return (await balance_of(ledger, "tenant:acme"))["spent"]


async def test_what_stands_in_the_log_beside_the_file_is_in_it(path, copy):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1_000))
        await ledger.record(event("e", 42))
        shutil.copy(path, copy.with_name("cp.db"))
        found = back_up(path, copy)
        assert found.size == copy.stat().st_size
        assert (found.verified.accounts, found.verified.differences) == (1, ())
        await ledger.record(event("later", 1))
    assert await spent_in(copy) == 42
    with closing(sqlite3.connect(copy.with_name("cp.db"))) as torn:
        assert torn.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


async def test_it_is_as_of_one_moment_whoever_writes_meanwhile(path, copy, monkeypatch):
    """Each call is charged to two scopes: in every copy both have paid the same."""
    monkeypatch.setattr(backup, "_PAGES", 1)
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(10_000))
        await ledger.set_budget("tenant:acme/agent:a", amount(10_000))
        over = anyio.Event()

        async def spend():
            number = 0
            while not over.is_set():
                held = await ledger.reserve(asking(f"k{number}", 2, agent="a"))
                await ledger.commit(held.reservation_id, committing(f"c{number}", 1))
                number += 1

        async with anyio.create_task_group() as spenders:
            spenders.start_soon(spend)
            for number in range(5):
                made = await to_thread.run_sync(back_up, path, copy.with_name(f"{number}.db"))
                assert made.verified.differences == ()
            over.set()


async def test_it_holds_keys_and_where_alerts_are_sent(path, copy):
    text, key = create_api_key("acme", 1, "")
    async with open_sqlite(path) as ledger:
        with open_keys(ledger) as keys, open_webhooks(ledger) as webhooks:
            keys.add(key)
            webhooks.add(Webhook("https://example.com/alerts", SECRET, 1))
        back_up(path, copy)
    async with open_sqlite(copy) as restored:
        with open_keys(restored) as keys, open_webhooks(restored) as webhooks:
            assert keys.all() == [key]
            assert [one.secret for one in webhooks.all()] == [SECRET]
    assert text


async def test_only_its_owner_may_read_it(path, copy):
    await begun(path)
    path.chmod(0o644)
    back_up(path, copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    back_up(path, copy, replace=True)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


async def test_nothing_is_beside_it(path, copy):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(1))
        back_up(path, copy)
    assert beside(copy) == ["copy.db"]


async def test_one_that_is_there_is_replaced_only_if_that_is_wanted(path, copy):
    await begun(path)
    copy.write_bytes(b"of great worth")
    with pytest.raises(ComptrollerError, match="--force"):
        back_up(path, copy)
    assert copy.read_bytes() == b"of great worth"
    back_up(path, copy, replace=True)
    assert await spent_in(copy) == 0


async def test_one_that_another_has_made_meanwhile_stays(path, copy, monkeypatch):
    await begun(path)
    monkeypatch.setattr(backup, "_on_disk", lambda _: copy.write_bytes(b"theirs"))
    with pytest.raises(ComptrollerError, match="is there already"):
        back_up(path, copy)
    assert (copy.read_bytes(), beside(copy)) == (b"theirs", ["copy.db"])


@pytest.mark.parametrize("step", ["_copy", "_checked", "_on_disk", "_named"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
async def test_what_breaks_it_off_leaves_what_was_there(path, copy, monkeypatch, step, fault):
    await begun(path)
    copy.write_bytes(b"the last one")

    def broken(*_, **__):
        raise fault

    monkeypatch.setattr(backup, step, broken)
    with pytest.raises((KeyboardInterrupt, ComptrollerError)):
        back_up(path, copy, replace=True)
    assert (copy.read_bytes(), beside(copy)) == (b"the last one", ["copy.db"])


async def test_a_damaged_ledger_makes_no_backup(path, copy):
    await begun(path, 5)
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(ComptrollerError, match="damaged"):
        back_up(path, copy)
    assert beside(copy) == []


async def test_an_empty_file_is_no_ledger(path, copy):
    path.touch()
    with pytest.raises(ComptrollerError, match="no ledger yet"):
        back_up(path, copy)
    assert beside(copy) == []


async def test_a_balance_that_differs_is_told_and_the_copy_is_made(path, copy):
    await begun(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE accounts SET spent = 7")
        other.commit()
    assert len(back_up(path, copy).verified.differences) == 1
    assert copy.exists()


async def test_a_file_of_an_older_schema_is_copied_as_it_is(path, copy, monkeypatch):
    """Before an upgrade is when one wants a backup: it changes nothing."""
    await begun(path)
    ours = schema.migrations()
    more = schema.Migration(len(ours) + 1, "more", "CREATE TABLE more (id);")
    monkeypatch.setattr(schema, "migrations", lambda: (*ours, more))
    content = path.read_bytes()
    assert back_up(path, copy).verified is None
    assert path.read_bytes() == content
    with closing(sqlite3.connect(copy)) as looking:
        assert schema.version(looking) == len(ours)


class TestWhere:
    @pytest.mark.parametrize("end", ["", "-wal", "-shm", "-next"])
    async def test_no_file_of_the_ledger_itself_is_replaced(self, path, end):
        await begun(path)
        with pytest.raises(ComptrollerError, match="belongs to the ledger"):
            back_up(path, path.with_name(path.name + end), replace=True)

    @pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
    async def test_nor_under_another_name(self, path, copy, link):
        await begun(path)
        getattr(copy, link)(path)
        with pytest.raises(ComptrollerError, match="belongs to the ledger"):
            back_up(path, copy, replace=True)

    async def test_a_directory_a_missing_one_and_a_device_say_what_to_do(self, path, tmp_path):
        await begun(path)
        with pytest.raises(ComptrollerError, match="name a file in it"):
            back_up(path, tmp_path)
        with pytest.raises(ComptrollerError, match="mkdir -p"):
            back_up(path, tmp_path / "none" / "copy.db")
        with pytest.raises(ComptrollerError, match="no regular file"):
            back_up(path, type(path)("/dev/null"), replace=True)


class TestRestoring:
    async def test_a_backup_in_the_place_of_the_ledger_is_the_ledger(self, path, copy):
        await begun(path, 5)
        back_up(path, copy)
        async with open_sqlite(path) as ledger:
            await ledger.record(event("later", 7))
        shutil.copy(copy, path)
        assert await spent_in(path) == 5

    async def test_the_log_of_the_file_before_is_not_read_into_it(self, path, copy, tmp_path):
        """A process was killed: its log stays beside the file that is put there."""
        await begun(path, 5)
        back_up(path, copy)
        async with open_sqlite(path) as ledger:
            await ledger.record(event("later", 7))
            left = tmp_path / "left"
            shutil.copy(path.with_name("ledger.db-wal"), left)
        shutil.copy(copy, path)
        shutil.copy(left, path.with_name("ledger.db-wal"))
        content = path.read_bytes()
        for use in (spent_in, begun):
            with pytest.raises(ComptrollerError, match=r"rm .*ledger\.db-wal .*ledger\.db-shm"):
                await use(path)
        with pytest.raises(ComptrollerError, match=r"rm .*ledger\.db-wal"):
            back_up(path, copy, replace=True)
        assert path.read_bytes() == content
        path.with_name("ledger.db-wal").unlink()
        assert await spent_in(path) == 5

    async def test_a_plain_copy_of_a_ledger_in_use_is_told_when_it_is_opened(
        self, path, copy, caplog
    ):
        """It lacks what stood in the log; its balances are right, of an earlier moment."""
        async with open_sqlite(path) as ledger:
            await ledger.set_budget("tenant:acme", amount(1_000))
            with closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await ledger.record(event("e", 42))
            shutil.copy(path, copy)
        with caplog.at_level(logging.WARNING, "comptroller.ledger"):
            assert await spent_in(copy) == 0
        [said] = caplog.messages
        assert "copy.db-wal is not beside it" in said
        assert "comptroller backup FILE" in said

    async def test_a_ledger_that_was_closed_is_whole_however_it_is_copied(self, path, copy, caplog):
        async with open_sqlite(path) as one, open_sqlite(path) as other:
            await one.set_budget("tenant:acme", amount(1_000))
            await other.record(event("e", 42))
            back_up(path, copy)
        shutil.copy(path, copy)
        with caplog.at_level(logging.WARNING, "comptroller.ledger"):
            assert await spent_in(copy) == 42
            assert await spent_in(path) == 42
        assert caplog.messages == []
