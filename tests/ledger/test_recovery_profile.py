"""The scenarios of the Cycles SDK recovery profile (`tests/data/recovery-scenarios.yaml`).

Each is bound to a test by its id. Where a process dies, a real child does.
"""

import hashlib
import itertools
import json
import re
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from runcycles.journal import PendingCommitRecord

from comptroller.core.settlement import Abandoned
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.ledger.remote.outbox import Entry, OutboxDirectory
from comptroller.server import serve_ledger
from comptroller.testing import ScriptedLedger, lost_request
from support.cli import ended, start
from support.fake_cycles_server import fault, open_bank, verb_of
from support.run_harness import DONE, bench, funded, tokens_spent, tool
from support.subprocesses import PROCESSES, Python, environment

HERE = Path(__file__).parent
PROFILE = HERE.parent / "data" / "recovery-scenarios.yaml"
COVERED = {}


def scenario(name):
    """Binds a test to the scenario of this id."""

    def bind(test):
        COVERED.setdefault(name, []).append(test.__name__)
        return test

    return bind


# -- in one process: the ledger behind HTTP, and what happens on the way


class Way(httpx.AsyncBaseTransport):
    """The way to a server. `faults[verb]`: what becomes of its next requests, in order."""

    def __init__(self, application, **faults):
        self._server = httpx.ASGITransport(application)
        self._faults = {verb: iter(each) for verb, each in faults.items()}
        self.asked = []

    async def handle_async_request(self, request):
        verb = verb_of(f"{request.method} {request.url.path}")
        self.asked.append((verb, json.loads(request.content or b"{}")))
        what = next(self._faults.get(verb, iter(())), None)
        if what == "lost":
            await self._server.handle_async_request(request)
            raise httpx.ReadError("the answer was lost", request=request)
        if what is None:
            return await self._server.handle_async_request(request)
        if callable(what):
            return what(await self._server.handle_async_request(request))
        status, body, headers = what
        return httpx.Response(status, content=body, headers=headers)

    def of(self, *verbs):
        return [(verb, body.get("idempotency_key")) for verb, body in self.asked if verb in verbs]

    def bodies(self, verb):
        return [body for asked, body in self.asked if asked == verb]


@asynccontextmanager
async def remote(tmp_path, **faults):
    """A remote ledger with an outbox, what is behind it, and the way between them."""
    async with funded() as behind:
        way = Way(serve_ledger(behind, {"key": "acme"}), **faults)
        async with open_cycles(
            "http://cycles", api_key="key", transport=way, outbox=tmp_path / "outbox"
        ) as ledger:
            yield ledger, behind, way


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@scenario("CR-CORE-001")
@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_lost_answer_is_asked_for_again_under_the_same_key(tmp_path):
    async with remote(tmp_path, commit=["lost"]) as (ledger, behind, way):
        async with bench(ledger) as it:
            line = await it.whole()
            assert line.outcome == "outboxed"
        assert await ledger.drain(60) == 0
        (first, again) = way.of("commit")
        assert first == again
        assert await tokens_spent(behind) == 30
    assert files(tmp_path) == []


@scenario("CR-CORE-002")
@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_an_expired_commit_becomes_an_event_under_the_same_key(tmp_path):
    gone = fault(410, "RESERVATION_EXPIRED")
    async with remote(tmp_path, commit=[gone]) as (ledger, behind, way):
        async with bench(ledger) as it:
            line = await it.whole()
            assert line.outcome == "recorded"
        ((_, key),) = way.of("commit")
        assert way.of("record") == [("record", key)]
        (reserved,), (event,) = way.bodies("reserve"), way.bodies("record")
        assert [event[name] for name in ("subject", "action")] == [
            reserved[name] for name in ("subject", "action")
        ]
        assert event["actual"] == way.bodies("commit")[0]["actual"]
        assert await tokens_spent(behind) == 30
    assert files(tmp_path) == []


@scenario("CR-CORE-003")
@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_heartbeat_that_fails_is_told_and_the_call_goes_on(caplog):
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"extend": itertools.repeat(lost_request())})
        async with bench(ledger, ttl_ms=30_000) as it:
            asked = await it.granted()
            await anyio.sleep(25)
            asked.actor.tell(DONE)
            await it.over(asked)
            keys = [request.key for request in ledger.asked("extend")]
            assert len(keys) > 1
            assert len(set(keys)) == 1
            assert asked.line.heartbeat
            assert f"reservation {asked.line.reservation_id} is no longer extended" in caplog.text
            assert len(ledger.asked("commit")) == 1
            assert await tokens_spent(memory) == 30


def another_status(answer):
    return httpx.Response(202, stream=answer.stream, headers=answer.headers)


@scenario("CR-CORE-004")
@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "success",
    [
        lambda _: httpx.Response(200, json={}),
        lambda _: httpx.Response(200, content=b"<html>"),
        lambda _: httpx.Response(200, json={"status": "COMMITTED", "charged": {"amount": "30"}}),
        another_status,
    ],
)
async def test_a_success_that_the_protocol_does_not_know_is_asked_for_again(tmp_path, success):
    async with remote(tmp_path, commit=[success]) as (ledger, behind, way):
        async with bench(ledger) as it:
            assert (await it.whole()).outcome == "outboxed"
        assert await ledger.drain(60) == 0
        first, again = way.of("commit")
        assert first == again
        assert await tokens_spent(behind) == 30


@scenario("CR-BOUNDARY-001")
@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_what_failed_without_an_actual_is_told_and_not_settled(tmp_path):
    """Where policy does not have the estimate charged."""
    async with remote(tmp_path) as (ledger, _, way):
        async with bench(ledger, on_abandoned="release") as it:
            line = await it.whole(tool(), Abandoned("it raised ZeroDivisionError"))
            assert (line.outcome, line.actual) == ("abandoned", None)
            assert "ZeroDivisionError" in line.reason
        assert way.of("commit", "record") == []


# -- with processes that die


def child(bank, outbox):
    """A process that spends 30 tokens."""
    return Python(
        [sys.executable, "-P", PROCESSES / "spend_once.py", bank.url, outbox, "key"],
        stdout=subprocess.PIPE,
        env=environment(),
    )


@contextmanager
def killed_after(bank, outbox, verb):
    """A child that has spent, killed by SIGKILL when it has sent `verb`."""
    with child(bank, outbox) as spending:
        try:
            bank.wait_for(verb)
            yield
        finally:
            spending.kill()


def replaying(bank, outbox, key="key", seconds=30):
    """Another process that sends what it finds."""
    settings = {"CYCLES_API_KEY": key, "COMPTROLLER_OUTBOX": str(outbox)}
    words = ("outbox", "replay", "--ledger", bank.url, "--timeout", str(seconds))
    return start(*words, env=environment(**settings))


def replayed(*args, code=0, **settings):
    got, out, err = ended(replaying(*args, **settings))
    assert got == code, err
    return out


def records(outbox):
    return [PendingCommitRecord.from_json(path.read_text()) for path in files(outbox)]


@pytest.fixture
def outbox(tmp_path):
    return tmp_path / "outbox"


@scenario("CR-DURABLE-001")
def test_a_process_that_dies_while_its_first_commit_is_in_flight_loses_nothing(outbox):
    with open_bank() as bank:
        bank.script["commit"] = ["hold"]
        with killed_after(bank, outbox, "commit"):
            # the request is at the server: the entry was there before
            (path,) = files(outbox)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        (record,) = records(outbox)
        assert path.name == f"v2-{hashlib.sha256(record.reservation_id.encode()).hexdigest()}.json"
        replayed(bank, outbox)
        first, again = bank.of("commit")
        assert first == again == ("commit", record.commit_body["idempotency_key"])
        assert bank.spent() == 30
    assert files(outbox) == []


@scenario("CR-DURABLE-002")
def test_an_expired_commit_is_an_event_on_disk_before_it_is_sent(outbox):
    with open_bank() as bank:
        bank.script["commit"] = ["hold"]
        with killed_after(bank, outbox, "commit"):
            pass
        (record,) = records(outbox)
        bank.lapse(record.reservation_id)
        bank.script["record"] = ["hold"]
        switching = replaying(bank, outbox)
        try:
            bank.wait_for("record")
            assert [each.mode for each in records(outbox)] == ["event"]
        finally:
            switching.kill()
            switching.communicate()
        replayed(bank, outbox)
        key = record.commit_body["idempotency_key"]
        assert bank.of("commit", "record") == [("commit", key)] * 2 + [("record", key)] * 2
        assert bank.spent() == 30
    assert files(outbox) == []


@scenario("CR-DURABLE-003")
def test_a_rate_limit_holds_for_the_next_process_too(outbox):
    with open_bank() as bank:
        bank.script["commit"] = [fault(429, "LIMIT_EXCEEDED", **{"retry-after": "600"})]
        with child(bank, outbox) as spending:
            assert spending.stdout.readline() == b"outboxed\n"
            spending.kill()
        (record,), (path,) = records(outbox), files(outbox)
        assert record.not_before_ms - record.recorded_at_ms > 590_000
        assert "1 left" in replayed(bank, outbox, code=1)
        assert len(bank.of("commit")) == 1  # no request before its time
        record.not_before_ms = record.recorded_at_ms
        path.write_text(record.to_json())
        replayed(bank, outbox)
        first, again = bank.of("commit")
        assert first == again
        assert bank.spent() == 30
    assert files(outbox) == []


@scenario("CR-DURABLE-004")
def test_a_new_key_of_the_tenant_finds_what_the_old_one_left(outbox):
    with open_bank({"key": "acme", "new-key": "acme"}) as bank:
        bank.script["commit"] = ["hold"]
        with killed_after(bank, outbox, "commit"):
            pass
        (path,) = files(outbox)
        assert "key" not in {json.dumps(value) for value in json.loads(path.read_text()).values()}
        del bank.keys["key"]
        replayed(bank, outbox, key="new-key")
        assert [each.api_key for each in bank.asked if each.verb == "commit"] == ["key", "new-key"]
        assert bank.spent() == 30
    assert files(outbox) == []


@scenario("CR-DURABLE-005")
def test_what_cannot_be_read_is_set_aside_and_told_and_the_rest_is_sent(outbox):
    with open_bank() as bank:
        bank.script["commit"] = ["hold"]
        with killed_after(bank, outbox, "commit"):
            pass
        (good,) = files(outbox)
        text = json.loads(good.read_text())
        bad = {
            "v2-torn.json": good.read_text()[:40],
            "v2-newer.json": json.dumps({**text, "version": 9}),
            "v2-empty.json": "",
            "v2-foreign.json": json.dumps({**text, "reservation_id": "x", "commit_body": {"a": 1}}),
        }
        for name, content in bad.items():
            (good.parent / name).write_text(content)
        code, out, err = ended(replaying(bank, outbox))
        assert (code, bank.spent()) == (0, 30)
        assert "4 set aside" in out
        assert err.count("cannot be read") == 4
        left = files(outbox)
        assert {path.suffix for path in left} == {".corrupt"}
        assert sorted(path.read_text() for path in left) == sorted(
            [*list(bad.values())[:3], bad["v2-foreign.json"]]
        )


@scenario("CR-DURABLE-006")
def test_two_processes_that_send_the_same_entry_charge_once(outbox):
    with open_bank() as bank:
        bank.script["commit"] = ["hold"]
        with killed_after(bank, outbox, "commit"):
            pass
        bank.script["commit"] = ["lose", "lose"]  # both have sent it before either is answered
        both = [replaying(bank, outbox) for _ in range(2)]
        assert [ended(one)[0] for one in both] == [0, 0]
        keys = bank.of("commit")
        assert len(keys) >= 4
        assert len(set(keys)) == 1
        assert bank.spent() == 30
    assert files(outbox) == []


@scenario("CR-DURABLE-007")
def test_any_identifier_has_a_file_of_its_own_and_older_names_are_taken_over(tmp_path):
    shelf = OutboxDirectory(tmp_path, "http://cycles")
    ids = ["a/b", "a?b", "a_b", "A_b", "ä", "../../b", "x" * 500]
    for name in ids:
        shelf.put(owed_by(name))
    paths = files(tmp_path)
    digests = {hashlib.sha256(name.encode()).hexdigest() for name in ids}
    assert {path.name for path in paths} == {f"v2-{digest}.json" for digest in digests}

    place = paths[0].parent
    older = place / "a_b.json"  # as earlier releases named `a b`, `a/b`, and more
    older.write_text(owed_by("a b").record().to_json())
    assert sorted(shelf.entry(path).key for path in shelf.names()[0]) == sorted([*ids, "a b"])
    assert not older.exists()
    older.write_text(owed_by("a:b").record().to_json())
    shelf.remove(owed_by("a/b"))
    assert older.exists()  # it collides with the name of another one


def owed_by(key):
    subject = {"tenant": "acme"}
    amount = {"unit": "TOKENS", "amount": 30}
    return Entry.read(
        PendingCommitRecord(
            reservation_id=key,
            base_url="http://cycles",
            commit_body={"idempotency_key": "k", "actual": amount},
            event_fallback_body={
                "idempotency_key": "k",
                "actual": amount,
                "subject": subject,
                "action": {"kind": "k", "name": "n"},
            },
        )
    )


def test_every_scenario_has_its_test():
    named = set(re.findall(r"- id: (\S+)", PROFILE.read_text()))
    assert len(named) > 10
    assert set(COVERED) == named
