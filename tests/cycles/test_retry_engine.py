"""A charge that the server has not accepted goes to the retry engine, and is never given back."""

import itertools
from types import SimpleNamespace

import httpx
import pytest
from runcycles import CyclesConfig, ReleaseRequest
from runcycles.journal import CommitJournal, auth_fingerprint
from runcycles.retry import AsyncCommitRetryEngine

from comptroller import as_client
from comptroller.server import serve_ledger
from comptroller.testing import (
    ScriptedLedger,
    StalledLedger,
    expired,
    lost_answer,
    lost_request,
    rate_limited,
    refused,
    server_error,
    spent,
)
from support.hooks_fixture import client_over, hooks_on, talker
from support.hooks_scenarios import Watched

pytestmark = pytest.mark.anyio


class Engine:
    """Writes down what it is given."""

    def __init__(self, broken=False):
        self.client, self.commits, self.events, self.broken = None, [], [], broken
        self.pending = {}

    def set_client(self, client):
        self.client = client

    def persist_pending(self, reservation_id, commit, event):
        self.pending[reservation_id] = commit

    def discard_pending(self, reservation_id):
        self.pending.pop(reservation_id, None)

    def schedule(self, reservation_id, commit, event, retry_after_ms=None):
        if self.broken:
            raise OSError("no space left")
        self.commits.append(
            SimpleNamespace(id=reservation_id, commit=commit, event=event, after=retry_after_ms)
        )

    def schedule_event(self, reservation_id, event):
        self.events.append(SimpleNamespace(id=reservation_id, event=event))


async def run_with(script, engine, **settings):
    """The receipt line, and the commits that were sent, of a run whose ledger follows `script`."""
    made = []

    def around(ledger):
        made.append(ScriptedLedger(ledger, script))
        return made[0]

    async with hooks_on(around, retry_engine=engine, **settings) as (hooks, ledger):
        await hooks.run(talker()[0], "hi")
        for each in (await ledger.reservations(tenant="acme", status="ACTIVE")).reservations:
            # it holds what the engine would settle
            await ledger.release(each.reservation_id, ReleaseRequest(idempotency_key="end"))
    (line,) = hooks.receipt.calls
    return line, made[0].asked("commit")


@pytest.mark.parametrize("fault", [lost_request(), lost_answer(), server_error(503)])
@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_an_unanswered_commit_is_handed_over_after_so_many_attempts(fault, attempts):
    engine = Engine()
    line, commits = await run_with(
        {"commit": itertools.repeat(fault)}, engine, commit_max_attempts=attempts
    )
    assert (line.outcome, line.charged) == ("outboxed", None)
    assert len(commits) == attempts
    (owed,) = engine.commits
    assert owed.id == line.reservation_id
    assert owed.commit["actual"] == owed.event["actual"] == {
        "unit": "USD_MICROCENTS", "amount": line.actual.amount,
    }  # fmt: skip
    assert owed.commit["idempotency_key"] == owed.event["idempotency_key"] == commits[0].key
    assert owed.event["subject"] == {"tenant": "acme", "agent": "Triage-agent"}
    assert owed.event["metadata"]["recovered_reservation_id"] == line.reservation_id


async def test_it_is_journalled_before_it_is_sent_and_forgotten_when_it_is_settled():
    seen = []

    class Watching(Engine):
        def persist_pending(self, reservation_id, commit, event):
            super().persist_pending(reservation_id, commit, event)
            seen.append((reservation_id, commit["idempotency_key"]))

    engine = Watching()
    line, commits = await run_with({}, engine)
    assert seen == [(line.reservation_id, commits[0].key)]
    assert (line.outcome, engine.pending, engine.commits) == ("committed", {}, [])


async def test_a_429_is_handed_over_with_its_time():
    engine = Engine()
    await run_with({"commit": itertools.repeat(rate_limited(9_000))}, engine, commit_max_attempts=1)
    assert [owed.after for owed in engine.commits] == [9_000]


@pytest.mark.parametrize("fault", [refused(401, "UNAUTHORIZED"), refused(418, "TEAPOT")])
async def test_refused_keys_and_unknown_answers_are_kept(fault):
    engine = Engine()
    line, commits = await run_with({"commit": itertools.repeat(fault)}, engine)
    assert line.outcome == "outboxed"
    assert (len(commits), len(engine.commits)) == (1, 1)


async def test_a_lease_that_is_over_is_recorded_and_else_kept_as_an_event():
    engine = Engine()
    line, _ = await run_with({"commit": [expired()]}, engine)
    assert (line.outcome, engine.events) == ("recorded", [])
    line, _ = await run_with(
        {"commit": [expired()], "record": itertools.repeat(lost_request())}, engine
    )
    assert line.outcome == "outboxed"
    (owed,) = engine.events
    assert owed.id == line.reservation_id


async def test_what_the_ledger_will_never_accept_is_told_and_not_kept():
    engine = Engine()
    line, _ = await run_with({"commit": [refused(409, "IDEMPOTENCY_MISMATCH")]}, engine)
    assert (line.outcome, engine.commits) == ("unsettled", [])


async def test_an_engine_that_does_not_take_it_leaves_it_unsettled(caplog):
    line, _ = await run_with({"commit": itertools.repeat(lost_request())}, Engine(broken=True))
    assert line.outcome == "unsettled"
    assert "no space left" in caplog.text


async def test_a_ledger_that_stalls_at_the_bound_is_not_waited_for_and_nothing_is_lost():
    engine = Engine()
    async with hooks_on() as (_, ledger):
        stalled = StalledLedger(ledger, ["commit"])
        hooks = Watched(as_client(stalled), tenant="acme", retry_engine=engine)
        await hooks.run(talker()[0], "hi")
        (line,) = hooks.receipt.calls
        assert line.outcome == "outboxed"
        (owed,) = engine.commits
        await as_client(ledger).commit_reservation(owed.id, owed.commit)
        assert sum((await spent(ledger, "acme")).values()) == line.actual.amount


async def test_the_engine_of_runcycles_settles_when_the_server_is_back(tmp_path):
    """Journalled on disk while it is away, charged once when it answers, then forgotten."""
    config = CyclesConfig(
        base_url="http://cycles", api_key="key", journal_dir=str(tmp_path), retry_initial_delay=60.0
    )
    async with hooks_on() as (_, ledger):
        app, away = httpx.ASGITransport(serve_ledger(ledger, {"key": "acme"})), []

        class Away(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request):
                if request.url.path.endswith("/commit") and not away:
                    raise httpx.ConnectError("away", request=request)
                return await app.handle_async_request(request)

        client = client_over(Away(), config)
        engine = AsyncCommitRetryEngine(config)
        hooks = Watched(client, tenant="acme", retry_engine=engine)
        await hooks.run(talker()[0], "hi")
        (line,) = hooks.receipt.calls
        assert line.outcome == "outboxed"
        journal = CommitJournal(tmp_path / auth_fingerprint("http://cycles", "key", None))
        assert [entry.reservation_id for entry in journal.load_pending("http://cycles")] == [
            line.reservation_id
        ]
        away.append("back")
        await engine.flush(timeout=600)
        assert journal.load_pending("http://cycles") == []
        assert sum((await spent(ledger, "acme")).values()) == line.actual.amount
