"""A ledger file's schema: numbered steps, each performed once and recorded with it."""

import sqlite3
from contextlib import closing

import anyio
import pytest

from comptroller.errors import ComptrollerError, LedgerUnreachable
from comptroller.ledger.sqlite import open_sqlite, schema
from support.requests import amount, asking, balance_of

pytestmark = pytest.mark.anyio

MORE = (
    *schema.migrations(),
    schema.Migration(
        schema.newest() + 1,
        "more",
        "-- A comment; in full.\nCREATE TABLE more (id);\nINSERT INTO more VALUES (';');\n",
    ),
)
BROKEN = (
    *MORE,
    schema.Migration(schema.newest() + 2, "broken", "CREATE TABLE later (id);\nDROP TABLE none;\n"),
)


def looked(path, asked):
    with closing(sqlite3.connect(path)) as looking:
        return looking.execute(asked).fetchall()


def tables(path):
    return {name for (name,) in looked(path, "SELECT name FROM sqlite_master")}


def recorded(path):
    return [number for (number,) in looked(path, "SELECT number FROM migrations ORDER BY number")]


async def made(path):
    async with open_sqlite(path) as ledger:
        await ledger.set_budget("tenant:acme", amount(100))


async def opened(path):
    async with open_sqlite(path) as ledger:
        return await balance_of(ledger, "tenant:acme")


@pytest.fixture
def known(monkeypatch):
    """Which steps this program knows."""

    def these(steps):
        monkeypatch.setattr(schema, "migrations", lambda: tuple(steps))

    return these


def test_the_steps_are_numbered_without_a_gap():
    steps = schema.migrations()
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.name.isidentifier() for step in steps)


def test_every_line_of_every_step_is_performed():
    for step in schema.migrations():
        assert "".join(step.statements()).strip() == step.script.strip()


async def test_a_new_file_has_every_step_recorded(tmp_path):
    path = tmp_path / "ledger.db"
    await made(path)
    assert recorded(path) == [step.number for step in schema.migrations()]
    assert looked(path, "PRAGMA user_version") == [(schema.newest(),)]


async def test_an_older_file_is_brought_forward_and_keeps_what_it_holds(tmp_path, known):
    path = tmp_path / "ledger.db"
    await made(path)
    known(MORE)
    assert (await opened(path))["allocated"] == 100
    assert recorded(path) == [step.number for step in MORE]
    assert looked(path, "SELECT * FROM more") == [(";",)]
    assert (await opened(path))["allocated"] == 100  # and each step is performed once


async def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path, known):
    path = tmp_path / "ledger.db"
    await made(path)
    before = tables(path), recorded(path)
    known(BROKEN)
    with pytest.raises(ComptrollerError, match="no such table: none"):
        await opened(path)
    assert (tables(path), recorded(path)) == before
    known(MORE)
    assert (await opened(path))["allocated"] == 100


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path, known):
    path, ours = tmp_path / "ledger.db", schema.migrations()
    known(MORE)
    await made(path)
    content = path.read_bytes()
    known(ours)
    with pytest.raises(ComptrollerError, match=r"newer comptroller .* pip install --upgrade"):
        await opened(path)
    assert path.read_bytes() == content


async def test_a_file_brought_forward_while_it_is_open_takes_no_more_from_the_older_one(
    tmp_path, known
):
    """Two versions on one file: the newer one goes on, the older one says what to do."""
    path, ours = tmp_path / "ledger.db", schema.migrations()
    async with open_sqlite(path) as older:
        await older.set_budget("tenant:acme", amount(100))
        known(MORE)
        async with open_sqlite(path) as newer:
            known(ours)
            told = []

            async def ask(number):
                with pytest.raises(LedgerUnreachable, match="by another comptroller") as caught:
                    await older.reserve(asking(f"k{number}", 1))
                told.append(str(caught.value))

            async with anyio.create_task_group() as callers:
                for number in range(3):
                    callers.start_soon(ask, number)
            await ask(3)
            assert len(told) == 4
            assert all("nothing was recorded" in text for text in told)
            known(MORE)
            await newer.reserve(asking("k", 1))
            assert (await balance_of(newer, "tenant:acme"))["reserved"] == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_several_that_open_an_older_file_at_once_perform_each_step_once(tmp_path, known):
    path = tmp_path / "ledger.db"
    await made(path)
    known(MORE)
    async with anyio.create_task_group() as openers:
        for _ in range(4):
            openers.start_soon(opened, path)
    assert looked(path, "SELECT * FROM more") == [(";",)]
