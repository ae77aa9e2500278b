"""A ledger file's schema: numbered steps, each performed once and recorded with it."""

import sqlite3
from contextlib import closing

import anyio
import pytest

from comptroller.errors import ComptrollerError, LedgerUnreachable
from comptroller.ledger.engine.idempotency import key_of
from comptroller.ledger.sqlite import open_sqlite, schema
from support.requests import amount, asking, balance_of, committing, event, extending

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


def of_first_schema(path):
    old = sqlite3.connect(path)
    for statement in schema.migrations()[0].statements():
        old.execute(statement)
    old.execute("PRAGMA application_id = 1129140308")
    old.execute("PRAGMA user_version = 1")
    return old


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


async def test_what_the_first_schema_holds_is_answered_again(tmp_path, clock):
    """Each answer is found under its key: a grant, its commit, an extension, an event."""
    path = tmp_path / "ledger.db"
    requests = {
        "reserve": asking("k", 10),
        "commit": committing("c", 7),
        "extend": extending("x", 1000),
        "record": event("e", 3),
    }
    keys = {
        verb: key_of(None, "acme", verb, request, request.idempotency_key)
        for verb, request in requests.items()
    }
    held = ("acme", "tenant:acme", 1, "USD_MICROCENTS", 10, "REJECT", 5, 9_000, 9_500, "k")
    old = of_first_schema(path)
    old.execute(
        "INSERT INTO accounts VALUES"
        " (1, 'tenant:acme', 'USD_MICROCENTS', 100, 10, 10, 0, 0, 0, 0, NULL, NULL, NULL, NULL)"
    )
    said = requests["reserve"].model_dump_json(exclude_none=True)
    for row, *ended in ((1, "COMMITTED", 7, 6), (2, "ACTIVE", None, None)):
        old.execute(
            "INSERT INTO reservations VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,NULL)",
            (row, str(row) * 16, *held, said, *ended),
        )

    def answered(number, verb, made=0, token="", amount_=0, moment_ms=0, reservation=None):
        key = keys[verb]
        old.execute(
            "INSERT INTO answers VALUES (?,?,?,?,?,?,?,?,NULL,NULL,?)",
            (number, reservation, key.digest if reservation else None, key.fingerprint, made,
             token, amount_, moment_ms, "[[1,100,0,10,0,0,0]]"),
        )  # fmt: skip
        if not reservation:
            old.execute("INSERT INTO keys VALUES (?, ?)", (key.digest, number))

    answered(1, "reserve", 1, "1" * 16, moment_ms=8_000)
    answered(2, "commit", amount_=7, reservation=1)
    answered(3, "extend", moment_ms=9_000, reservation=2)
    answered(4, "record", 1, "3" * 16, amount_=3)
    old.commit()
    old.close()

    async with open_sqlite(path, now=lambda: 5) as ledger:
        granted = await ledger.reserve(requests["reserve"])
        assert (granted.reservation_id, granted.expires_at_ms) == (f"rsv_1_{'1' * 16}", 8_000)
        assert granted.balances[0].reserved.amount == 10
        settled = await ledger.commit(granted.reservation_id, requests["commit"])
        assert settled.charged.amount == 7
        later = await ledger.extend(f"rsv_2_{'2' * 16}", requests["extend"])
        assert later.expires_at_ms == 9_000
        assert (await ledger.record(requests["record"])).event_id == f"evt_1_{'3' * 16}"
        assert (await balance_of(ledger, "tenant:acme"))["spent"] == 10
    assert looked(path, "SELECT count(*), min(made_ms) > 0 FROM answers") == [(2, 1)]
    assert looked(path, "SELECT count(*) FROM keys") == [(2,)]


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
