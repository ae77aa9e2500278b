"""Alerts: one event per period and share, told to a callback and to signed webhooks."""

import http.server
import json
import logging
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime

import anyio
import attrs
import pytest
import standardwebhooks

import comptroller.ledger.webhooks
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.factory import open_ledger, open_webhooks
from comptroller.ledger.models import LogEntry
from comptroller.ledger.sqlite import SqliteWebhooks, open_sqlite
from comptroller.ledger.sqlite.webhooks import WebhookSender
from comptroller.ledger.webhooks import ID, SIGNATURE, TIMESTAMP, Webhook
from support.cli import done, refused
from support.manual_clock import Clock
from support.requests import amount, asking, committing, event, releasing

pytestmark = pytest.mark.anyio

SCOPE, DAY = "tenant:acme", 86_400_000
SECRET, ANOTHER = "whsec_" + "c2Vj" * 8, "whsec_" + "b3Ro" * 8


async def alerts(ledger):
    """The shares that were told, with how much was spent."""
    found = await ledger.events(kinds=["alert"])
    return [(entry.details["share"], entry.amount) for entry in found]


async def test_a_share_is_told_when_it_is_spent_and_not_when_it_is_reserved(embedded):
    await embedded.set_budget(SCOPE, amount(100), alerts=["50%", "100%"])
    one = await embedded.reserve(asking("k1", 60))
    two = await embedded.reserve(asking("k2", 40))
    assert await alerts(embedded) == []
    await embedded.commit(one.reservation_id, committing("c", 60))
    assert await alerts(embedded) == [(50, 60)]
    await embedded.release(two.reservation_id, releasing("r"))
    await embedded.record(event("e", 40))
    assert await alerts(embedded) == [(50, 60), (100, 100)]
    [first, _] = await embedded.events(kinds=["alert"])
    assert (first.scope, first.details["allocated"]) == (SCOPE, 100)


async def test_one_charge_may_pass_several(embedded):
    await embedded.set_budget(SCOPE, amount(100), alerts=[80, 50, 90])
    await embedded.record(event("e", 85))
    assert await alerts(embedded) == [(50, 85), (80, 85)]


async def test_each_period_tells_anew_and_a_late_commit_tells_of_its_own(embedded, clock):
    await embedded.set_budget(SCOPE, amount(100), per="day", alerts=80)
    late = await embedded.reserve(asking("k", 90, ttl_ms=DAY))
    clock.advance(DAY // 2)
    await embedded.record(event("e1", 85))
    await embedded.commit(late.reservation_id, committing("c", 90))
    await embedded.record(event("e2", 5))
    today, yesterday = await embedded.events(kinds=["alert"])
    assert (today.amount, yesterday.amount) == (85, 90)
    assert today.since_ms > yesterday.since_ms == 0
    assert (await embedded.verify()).differences == ()


async def test_a_budget_that_is_cut_or_debited_may_pass_a_share(embedded):
    await embedded.set_budget(SCOPE, amount(100), alerts=80)
    await embedded.record(event("e", 50))
    await embedded.set_budget(SCOPE, amount(60), alerts=80)
    assert await alerts(embedded) == [(80, 50)]
    await embedded.set_budget(SCOPE, amount(55), alerts=80)
    assert await alerts(embedded) == [(80, 50)]


@pytest.mark.parametrize("name", ["memory", "file"])
async def test_the_callback_is_told_of_what_this_ledger_set_off(tmp_path, name):
    told, address = [], "memory:" if name == "memory" else str(tmp_path / "ledger.db")
    async with open_ledger(address, on_alert=told.append) as ledger:
        await ledger.set_budget(SCOPE, amount(100), alerts=[50])
        await ledger.record(event("e", 70))
        await ledger.record(event("e2", 1))
    assert [(type(entry), entry.details["share"], entry.amount) for entry in told] == [
        (LogEntry, 50, 70)
    ]


async def test_a_callback_that_raises_is_logged_and_disturbs_nothing(caplog):
    def broken(entry):
        raise ZeroDivisionError

    async with open_memory(on_alert=broken) as ledger:
        await ledger.set_budget(SCOPE, amount(100), alerts=[50])
        await ledger.record(event("e", 70))
        await ledger.record(event("e2", 30))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "on_alert raised" in caplog.text


async def test_nobody_waits_for_a_callback(tmp_path):
    """It is called in a thread of its own, while callers go on."""
    let_go, called = threading.Event(), threading.Event()

    def slow(entry):
        called.set()
        let_go.wait(30)

    async with open_sqlite(tmp_path / "ledger.db", on_alert=slow) as ledger:
        await ledger.set_budget(SCOPE, amount(100), alerts=[50])
        await ledger.record(event("e", 70))
        await anyio.to_thread.run_sync(called.wait)
        await ledger.record(event("e2", 1))
        let_go.set()


async def test_ledgers_that_pass_a_share_together_tell_it_once(tmp_path, clock):
    path, told = tmp_path / "ledger.db", []
    async with open_sqlite(path, now=clock) as ledger:
        await ledger.set_budget(SCOPE, amount(100), alerts=[50])

        async def spend(name):
            async with open_sqlite(path, now=clock, on_alert=told.append) as mine:
                for number in range(10):
                    await mine.record(event(f"{name}-{number}", 2))

        async with anyio.create_task_group() as spenders:
            for name in range(4):
                spenders.start_soon(spend, name)
        assert await alerts(ledger) == [(50, 50)]
    assert len(told) == 1


async def test_alerts_that_were_undone_are_not_told(tmp_path, monkeypatch):
    told = []
    async with open_sqlite(tmp_path / "ledger.db", on_alert=told.append) as ledger:
        await ledger.set_budget(SCOPE, amount(100), alerts=[50])

        def fails():
            raise OSError("the disk is gone")

        with monkeypatch.context() as patch:
            patch.setattr(ledger._store, "commit", fails)
            with pytest.raises(Exception, match="the disk is gone"):
                await ledger.record(event("e", 70))
        assert await alerts(ledger) == []
        await ledger.record(event("e2", 1))
    assert told == []


# -- webhooks


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted; answers as told."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((dict(self.headers), body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if statuses else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def receiving(*statuses):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.posted, server.statuses = [], list(statuses)
        server.url = f"http://127.0.0.1:{server.server_port}/alerts"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@attrs.define
class Seconds:
    """Epoch seconds that a test moves."""

    now: float = attrs.Factory(time.time)

    def __call__(self):
        return self.now


def told(server):
    return [json.loads(body)["data"]["share"] for _, body in server.posted]


async def ledger_with(path, server, *shares, spent=0):
    """A ledger whose webhook is `server`; nothing has told it yet."""
    async with open_sqlite(path, now=Clock(int(time.time() * 1000))) as ledger:
        with open_webhooks(ledger) as webhooks:
            webhooks.add(Webhook(server.url, SECRET))
        await ledger.set_budget(SCOPE, amount(100), alerts=shares)
        if spent:
            ledger._courier.notify = lambda: None
            await ledger.record(event("e", spent))


async def test_a_webhook_is_told_with_a_signature_by_the_time_the_ledger_is_closed(tmp_path):
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50)
        async with open_ledger(tmp_path / "l.db") as ledger:
            await ledger.record(event("e", 70))
        [(headers, body)] = server.posted
    said = json.loads(body)
    assert sorted(said) == ["data", "timestamp", "type"]
    assert said["type"] == "budget.alert"
    assert datetime.fromisoformat(said["timestamp"]).tzinfo is not None
    assert said["data"] == {
        "ledger": str(tmp_path / "l.db"),
        "scope": SCOPE,
        "unit": "USD_MICROCENTS",
        "share": 50,
        "spent": 70,
        "allocated": 100,
        "period_since": None,
    }
    assert standardwebhooks.Webhook(SECRET).verify(body, dict(headers)) == said


async def test_what_was_not_taken_is_sent_again_later_and_in_order(tmp_path, caplog):
    now = Seconds()
    with receiving(500, 404) as server:
        await ledger_with(tmp_path / "l.db", server, 50, 60, spent=70)
        courier = WebhookSender(tmp_path / "l.db", now)
        pauses = [courier._tell()]
        assert courier._tell() == pauses[0]  # it is not due yet, and not sent
        assert told(server) == [50]
        now.now += pauses[0]
        pauses.append(courier._tell())
        now.now += pauses[1]
        courier._tell()
        assert told(server) == [50, 50, 50, 60]
        assert len({headers[ID] for headers, _ in server.posted}) == 2
        assert pauses == pytest.approx([1, 2], abs=0.01)
    webhooks = SqliteWebhooks(tmp_path / "l.db")
    [webhook] = webhooks.all()
    webhooks.close()
    assert (webhook.failures, webhook.problem) == (0, None)
    assert "answered 500" in caplog.text


async def test_what_one_process_left_behind_the_next_one_tells(tmp_path):
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
        async with open_ledger(tmp_path / "l.db"):
            pass
        assert told(server) == [50]
        async with open_ledger(tmp_path / "l.db"):
            pass
        assert told(server) == [50]


async def test_nobody_there_is_tried_again(tmp_path):
    now = Seconds()
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
    courier = WebhookSender(tmp_path / "l.db", now)
    for _ in range(12):
        courier._tell()
        now.now += 300
    webhooks = SqliteWebhooks(tmp_path / "l.db")
    [webhook] = webhooks.all()
    webhooks.close()
    assert webhook.failures == 12
    assert webhook.problem
    assert webhook.not_before_ms - now.now * 1000 <= 300_000


async def test_two_couriers_do_not_tell_the_same_at_once(tmp_path):
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, *range(10, 60, 10), spent=70)
        couriers = [
            threading.Thread(target=WebhookSender(tmp_path / "l.db")._tell) for _ in range(3)
        ]
        for courier in couriers:
            courier.start()
        for courier in couriers:
            courier.join()
        assert told(server) == [10, 20, 30, 40, 50]


async def test_what_is_no_news_any_more_is_not_sent(tmp_path, caplog):
    now = Seconds()
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
        now.now += 4 * 86_400
        WebhookSender(tmp_path / "l.db", now)._tell()
        assert server.posted == []
    assert "too long ago" in caplog.text


class Endless(http.server.BaseHTTPRequestHandler):
    """Takes an alert; at /never its answer has no head, at /endless no end."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.paths.append(self.path)
        with suppress(OSError):
            if self.path == "/never":
                while not self.server.over.wait(0.02):
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.send_response(200)
            self.end_headers()
            while self.path == "/endless" and not self.server.over.is_set():
                self.wfile.write(b"x" * 2**16)
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def endless():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.paths, server.over = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


async def webhooks_at(path, *urls):
    async with open_ledger(path) as ledger:
        with open_webhooks(ledger) as webhooks:
            for url in urls:
                webhooks.add(Webhook(url, SECRET))
        await ledger.set_budget(SCOPE, amount(100), alerts=(50, 60))
        ledger._courier.notify = lambda: None
        await ledger.record(event("e", 70))


def all_of(path):
    webhooks = SqliteWebhooks(path)
    found = {webhook.url.rpartition("/")[2]: webhook for webhook in webhooks.all()}
    webhooks.close()
    return found


async def test_a_delivery_is_bounded_as_a_whole(tmp_path, monkeypatch):
    """Not read by read: a head may trickle for ever."""
    monkeypatch.setattr(comptroller.ledger.webhooks, "MOST_SECONDS", 0.2)
    with endless() as server:
        await webhooks_at(tmp_path / "l.db", f"{server.url}/never")
        WebhookSender(tmp_path / "l.db")._tell()
        found = all_of(tmp_path / "l.db")
    assert found["never"].problem == "did not answer within 0.2 seconds"


async def test_of_an_answer_to_a_delivery_no_body_is_read(tmp_path):
    with endless() as server:
        await webhooks_at(tmp_path / "l.db", f"{server.url}/endless")
        WebhookSender(tmp_path / "l.db")._tell()
        found = all_of(tmp_path / "l.db")
    assert found["endless"].problem is None
    assert server.paths.count("/endless") == 2


async def test_a_slow_webhook_delays_no_other(tmp_path):
    with endless() as server:
        await webhooks_at(tmp_path / "l.db", f"{server.url}/never", f"{server.url}/fine")
        courier = WebhookSender(tmp_path / "l.db")
        courier._tell(0)
        if fine := courier._telling.get(f"{server.url}/fine"):
            fine.join(30)
        assert server.paths.count("/fine") == 2
        [slow] = courier._telling.values()
        assert courier._tell(0) > 1  # nothing is to be done meanwhile
        server.over.set()
        slow.join(30)


@pytest.mark.parametrize(
    "broken", [{"SSL_CERT_FILE": "/nonexistent/ca.pem"}, {"http_proxy": "socks5://127.0.0.1:1"}]
)
async def test_an_environment_that_cannot_be_used_is_the_webhooks_problem(
    tmp_path, monkeypatch, broken
):
    """Whatever goes wrong with a webhook ends no thread: it stands in the ledger, tried again."""
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
        with monkeypatch.context() as patched:
            patched.delenv("no_proxy", raising=False)
            patched.delenv("NO_PROXY", raising=False)
            for name, value in broken.items():
                patched.setenv(name, value)
            WebhookSender(tmp_path / "l.db")._tell()
        [webhook] = all_of(tmp_path / "l.db").values()
        assert (webhook.failures, webhook.told) == (1, 0)
        assert webhook.problem
        WebhookSender(tmp_path / "l.db", lambda: time.time() + 60)._tell()
        assert told(server) == [50]


async def test_the_threads_of_webhooks_survive_anything(tmp_path, monkeypatch, caplog):
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
        courier = WebhookSender(tmp_path / "l.db")
        with monkeypatch.context() as patched:
            patched.setattr(courier, "_post", lambda *_: 1 / 0)
            courier._tell()
            assert courier._tell(0) > 30
        assert "division by zero" in caplog.text
        courier._put_off.clear()
        courier._now = lambda: time.time() + 60
        courier._tell()
        assert told(server) == [50]


@pytest.mark.parametrize(
    ("secret", "changed"),
    [
        (ANOTHER, {}),
        (SECRET, {TIMESTAMP: str(int(time.time()) - 301)}),
        (SECRET, {TIMESTAMP: str(int(time.time()) + 400)}),
        (SECRET, {ID: "alert_0_0"}),
        (SECRET, {"body": " "}),
        (SECRET, {SIGNATURE: ""}),
    ],
)
async def test_a_receiver_does_not_believe_what_is_not_ours(tmp_path, secret, changed):
    """By the library of Standard Webhooks: another key, an old one, one that was changed."""
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
        async with open_ledger(tmp_path / "l.db"):
            pass
        [(headers, body)] = server.posted
    headers = dict(headers)
    standardwebhooks.Webhook(SECRET).verify(body, headers)
    changed = dict(changed)
    body += changed.pop("body", "").encode()
    headers = {name.lower(): value for name, value in headers.items()} | changed
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(body, headers)


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (SECRET, SECRET),
        ("a secret of the two of us", b"a secret of the two of us"),
        ("whsec_x", b"whsec_x"),
        ("whsec_", b"whsec_"),
        ("gehe\u00efm", "gehe\u00efm".encode()),
    ],
)
async def test_a_secret_of_any_form_is_a_key(tmp_path, monkeypatch, secret, key):
    """One that is not `whsec_` and base64 is the key itself: receivers verify with its bytes."""
    monkeypatch.setitem(globals(), "SECRET", secret)
    with receiving() as server:
        await ledger_with(tmp_path / "l.db", server, 50, spent=70)
        async with open_ledger(tmp_path / "l.db"):
            pass
        [(headers, body)] = server.posted
    standardwebhooks.Webhook(key).verify(body, dict(headers))


def test_a_secret_is_never_empty():
    with pytest.raises(ValueError, match="is empty"):
        Webhook("https://example.com", "")


class TestCommands:
    LEDGER = ("--ledger", "ledger.db")

    def test_added_listed_and_removed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        url = "https://example.com/alerts"
        shown = json.loads(done("webhook", "add", url, "--json", *self.LEDGER))
        assert shown["secret"].startswith("whsec_")
        [listed] = json.loads(done("webhook", "list", "--json", *self.LEDGER))
        assert (listed["url"], listed["failures"]) == (url, 0)
        assert "secret" not in listed
        assert " delivering " in done("webhook", "list", *self.LEDGER)
        assert url in done("webhook", "remove", url, *self.LEDGER)
        assert done("webhook", "list", *self.LEDGER) == "no webhook in ledger.db\n"

    def test_with_a_secret_of_ones_own(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        env = {"HOOK_SECRET": SECRET}
        url, option = "https://example.com/alerts", ("--secret-env", "HOOK_SECRET")
        shown = done("webhook", "add", url, *option, "--json", *self.LEDGER, env=env)
        assert SECRET not in shown
        assert "export HOOK_SECRET" in refused("webhook", "add", url, *option, *self.LEDGER)

    @pytest.mark.parametrize("url", ["example.com", "ftp://example.com", "https://me:pw@x.y/"])
    def test_an_address_is_one(self, tmp_path, monkeypatch, url):
        monkeypatch.chdir(tmp_path)
        assert "https://example.com/alerts" in refused("webhook", "add", url, *self.LEDGER)

    def test_what_is_not_there_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done("budget", "set", SCOPE, "1usd", *self.LEDGER)
        assert "webhook list" in refused("webhook", "remove", "https://x.y", *self.LEDGER)
        assert "on_alert" in refused("webhook", "list", "--ledger", "memory:")
