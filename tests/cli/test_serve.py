"""`comptroller serve` and `comptroller key`: from the command to the answer, and to the end."""

import importlib
import io
import json
import logging
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing

import httpx
import pytest
import trustme

from comptroller.cli import server_logging
from support.cli import call, done, ended, environment, refused, start
from support.serve_command import key_of, served
from support.subprocesses import Python

ADMIN = "an-operators-own-key"


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger.db"
    done("budget", "set", "tenant:acme", "1usd", "--ledger", str(path))
    return path


class Session(Python):
    """A child without a terminal, as a service is."""

    def __init__(self, words, **settings):
        super().__init__(words, start_new_session=True, **settings)


def client_of(running, key, **more):
    headers = {"X-Cycles-API-Key": key} if key else {}
    return httpx.Client(base_url=running.url, headers=headers, trust_env=False, **more)


RESERVE = {
    "idempotency_key": "k",
    "subject": {"tenant": "acme"},
    "action": {"kind": "llm.completion", "name": "model"},
    "estimate": {"unit": "USD_MICROCENTS", "amount": 100},
}


class TestKeys:
    def test_a_key_is_shown_once_and_kept_as_a_digest(self, ledger):
        result = call("key", "create", "Acme", "--note", "for tests", "--ledger", str(ledger))
        [key] = result.stdout.splitlines()
        assert re.fullmatch(r"ck_[0-9a-f]{12}_[\w-]{43}", key)
        assert "the only time" in result.stderr
        [listed] = json.loads(done("key", "list", "--json", "--ledger", str(ledger)))
        assert (listed["tenant"], listed["note"]) == ("acme", "for tests")
        assert key.split("_")[1] == listed["key_id"]
        secret = key.split("_", 2)[2].encode()
        kept = b"".join(path.read_bytes() for path in ledger.parent.glob("ledger.db*"))
        assert secret not in kept
        assert listed["key_id"].encode() in kept

    def test_keys_are_listed_by_tenant_with_their_state(self, ledger):
        keys = [key_of(tenant, ledger).split("_")[1] for tenant in ("acme", "globex")]
        done("key", "revoke", keys[1], "--ledger", str(ledger))
        shown = done("key", "list", "--ledger", str(ledger))
        assert all(key in shown for key in keys)
        assert "revoked 2" in shown
        assert keys[0] not in done("key", "list", "--tenant", "GLOBEX", "--ledger", str(ledger))
        assert done("key", "list", "--tenant", "none", "--ledger", str(ledger)) == (
            f"no API key for tenant none in {ledger}\n"
        )

    def test_to_revoke_a_key_again_changes_nothing(self, ledger):
        key = key_of("acme", ledger).split("_")[1]
        at = ("--json", "--ledger", str(ledger))
        first = json.loads(done("key", "revoke", key, *at))
        assert json.loads(done("key", "revoke", key, *at)) == first

    @pytest.mark.parametrize(
        ("words", "remedy"),
        [
            (("revoke", "nothing"), "comptroller key list"),
            (("create", "a b"), "for example 'a-b'"),
            (("create", ""), "cannot be empty"),
            (("create", "acme", "--note", "n" * 201), "at most 200"),
            (("create", "acme", "--ledger", "memory:"), "name a file"),
        ],
    )
    def test_bad_input_is_one_line(self, ledger, words, remedy):
        at = () if "--ledger" in words else ("--ledger", str(ledger))
        assert remedy in refused("key", *words, *at)


class TestServing:
    def test_from_the_key_to_the_answer(self, ledger):
        key = key_of("acme", ledger)
        with served(ledger) as running, client_of(running, key) as client:
            assert running.said == f"comptroller serves {ledger} at {running.url}\n"
            assert client.post("/v1/reservations", json=RESERVE).status_code == 200
            assert client.get("/healthz", headers={"X-Cycles-API-Key": ""}).json() == {
                "status": "ok"
            }
            told = client.get("/metrics").text
            assert (
                'comptroller_requests_total{method="POST",route="/v1/reservations",status="200"}'
                " 1.0" in told
            )
            assert "comptroller_requests_in_flight 1.0" in told
            assert "acme" not in told
            done("key", "revoke", key.split("_")[1], "--ledger", str(ledger))
            until(lambda: client.get("/v1/balances?tenant=acme").status_code == 401)
        shown = json.loads(done("budget", "list", "--json", "--ledger", str(ledger)))
        assert shown[0]["reserved"]["amount"] == 100

    def test_without_a_key_it_says_how_to_make_one(self, ledger):
        with served(ledger) as running:
            line = running.child.stdout.readline()
            assert f"comptroller key create TENANT --ledger {ledger}" in line
            key = key_of("acme", ledger)
            with client_of(running, key) as client:
                assert client.get("/v1/balances?tenant=acme").status_code == 200

    def test_a_ledger_in_memory_has_its_keys_and_budgets_from_the_command(self):
        options = ("--key-for", "acme", "--budget", "tenant:acme=2usd")
        options += ("--key-for", "new", "--default-budget", "3usd")
        with served("memory:", *options, COMPTROLLER_ADMIN_KEY=ADMIN) as running:
            key, new = re.findall(r"ck_\S+", running.said)
            with client_of(running, new) as client:
                asked = RESERVE | {"subject": {"tenant": "new"}}
                made = client.post("/v1/reservations", json=asked).json()
                assert made["balances"][0]["allocated"]["amount"] == 300_000_000
            with client_of(running, key) as client:
                [shown] = client.get("/v1/balances?tenant=acme").json()["balances"]
                assert shown["remaining"]["amount"] == 200_000_000
                del client.headers["X-Cycles-API-Key"]
                client.headers["X-Admin-API-Key"] = ADMIN
                budget = {"unit": "TOKENS", "amount": 5}
                made = client.post(
                    "/v1/admin/budgets",
                    json={"scope": "tenant:acme", "unit": "TOKENS", "allocated": budget},
                )
                assert made.status_code == 201

    def test_over_tls(self, ledger, tmp_path):
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        files = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
        with served(ledger, *files) as running, client_of(running, None, verify=context) as client:
            assert running.url.startswith("https://")
            assert client.get("/healthz").status_code == 200
            authority.cert_pem.write_to_path(tmp_path / "ca.pem")
            key = key_of("acme", ledger)
            asked = ("budget", "list", "--tenant", "acme", "--ledger", running.url)
            for trusted, code in ((str(tmp_path / "ca.pem"), 0), ("", 1)):
                env = environment(CYCLES_API_KEY=key, SSL_CERT_FILE=trusted)
                assert ended(start(*asked, env=env))[0] == code

    def test_the_access_log_is_json_without_secrets(self, ledger, tmp_path):
        key, log = key_of("acme", ledger), tmp_path / "access.jsonl"
        with served(ledger, "--access-log", str(log)) as running, client_of(running, key) as client:
            client.get("/v1/balances?tenant=acme&agent=secret-agent")
            client.get("/v1/balances", headers={"X-Cycles-API-Key": "ck_wrong_key"})
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line["path"], line["status"]) for line in lines] == [
            ("/v1/balances", 200),
            ("/v1/balances", 401),
        ]
        assert (lines[0]["tenant"], lines[0]["key"]) == ("acme", key.split("_")[1])
        assert all(line["request_id"] and line["trace_id"] and line["ms"] >= 0 for line in lines)
        assert not {"secret-agent", key.split("_", 2)[2], "ck_wrong"} & set(
            re.findall(r"[\w-]+", log.read_text())
        )

    def test_a_log_that_cannot_be_written_costs_one_warning(self, capsys, monkeypatch):
        """Not a traceback a request, and no request: here on a full disk."""
        with server_logging.logging_as("text", "info", "/dev/full"):
            for _ in range(3):
                server_logging.ACCESS.info("a line")
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert "No space left on device" in said
        monkeypatch.setattr(sys, "stderr", closed := io.StringIO())
        closed.close()
        with server_logging.logging_as("text", "info", "-"):
            server_logging.ACCESS.info("a line")  # nowhere to be told of, either
            logging.getLogger("comptroller").info("a line")

    def test_what_is_in_flight_is_answered_before_it_ends(self, ledger):
        """The body of a request is on its way when the signal comes."""
        key = key_of("acme", ledger)
        with served(ledger) as running:
            body = json.dumps(RESERVE).encode()
            head = (
                f"POST /v1/reservations HTTP/1.1\r\nHost: x\r\nX-Cycles-API-Key: {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            host, port = running.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=60) as line:
                line.sendall(head.encode() + body[:10])
                with client_of(running, key) as client:
                    assert client.get("/healthz").status_code == 200  # so the head was read, too
                running.child.send_signal(signal.SIGTERM)
                until(lambda: not listens(host, int(port)))
                line.sendall(body[10:])
                assert line.recv(1000).startswith(b"HTTP/1.1 200")
        shown = json.loads(done("budget", "list", "--json", "--ledger", str(ledger)))
        assert shown[0]["reserved"]["amount"] == 100

    def test_a_request_that_does_not_end_is_hung_up_on_before_the_server_ends(self, ledger):
        """Nothing of it was done, and nobody reads a traceback of it."""
        key = key_of("acme", ledger)
        with served(ledger, "--grace", "1") as running:
            head = f"POST /v1/decide HTTP/1.1\r\nHost: x\r\nX-Cycles-API-Key: {key}\r\n"
            host, port = running.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=60) as line:
                line.sendall(f"{head}Content-Length: 9\r\n\r\n{{".encode())
                with client_of(running, key) as client:
                    assert client.get("/healthz").status_code == 200  # so the head was read, too
                running.child.send_signal(signal.SIGTERM)
                assert line.recv(1000) == b""
            _, err = running.child.communicate(timeout=60)
            assert (running.child.returncode, err) == (0, "")

    def test_ctrl_c_ends_it_as_well_as_it_began(self, ledger):
        with served(ledger) as running:
            running.child.send_signal(signal.SIGINT)
            _, err = running.child.communicate(timeout=60)
            assert (running.child.returncode, err) == (0, "")

    def test_it_needs_less_than_200_mb(self, ledger):
        key = key_of("acme", ledger)
        server = served(ledger, program=subprocess.Popen)
        with server as running, client_of(running, key) as client:
            for number in range(50):
                asked = RESERVE | {"idempotency_key": str(number), "metadata": {"x": "x" * 9_000}}
                assert client.post("/v1/reservations", json=asked).status_code == 200
            told = client.get("/metrics").text
        resident = float(re.search(r"^process_resident_memory_bytes (\S+)", told, re.MULTILINE)[1])
        assert resident < 200e6

    def test_its_own_log_has_time_and_level_in_either_form(self, ledger, tmp_path):
        """A webhook that nobody answers is told of there, and an access line begins alike."""
        at = ("--ledger", str(ledger))
        done("budget", "set", "tenant:acme", "1usd", "--alert", "1%", *at)
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            call("webhook", "add", f"http://127.0.0.1:{nobody.getsockname()[1]}/x", *at)
        key, paid = key_of("acme", ledger), RESERVE | {"actual": RESERVE["estimate"]}
        paid["actual"] = {"unit": "USD_MICROCENTS", "amount": 2_000_000}
        del paid["estimate"]
        forms = {
            "text": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning: .*http://127",
            "json": r'^\{"at":"\d{4}-.*Z","level":"warning","logger":"comptroller\S*","message":',
        }
        for form, pattern in forms.items():
            log = tmp_path / form
            options = ("--log-format", form, "--access-log", str(log))
            with served(ledger, *options) as running, client_of(running, key) as client:
                assert client.post("/v1/events", json=paid).status_code == 201
                first = running.child.stderr.readline()
            assert re.search(pattern, first), first
            line = json.loads(log.read_text())
            assert (line["level"], line["logger"]) == ("info", "comptroller.access")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"])

    def test_a_level_leaves_out_what_is_below(self, ledger):
        child = start(
            "serve", "--ledger", str(ledger), "--port", "0", "--host", "0.0.0.0",  # noqa: S104
            "--log-level", "error",
        )  # fmt: skip
        assert child.stdout.readline().startswith("comptroller serves")
        child.send_signal(signal.SIGTERM)
        assert (ended(child)[0], ended(child)[2]) == (0, "")

    def test_a_service_goes_on_when_it_is_told_to_read_its_files_again(self, ledger, tmp_path):
        """As logrotate may: a log that was moved away is begun anew by itself."""
        log = tmp_path / "access"
        service = {"program": Session}
        with (
            served(ledger, "--access-log", str(log), **service) as running,
            client_of(running, None) as client,
        ):
            client.get("/healthz")
            log.rename(tmp_path / "access.1")
            running.child.send_signal(signal.SIGHUP)
            assert "info: SIGHUP" in running.child.stderr.readline()
            client.get("/healthz")
        assert len(log.read_text().splitlines()) == 1

    def test_how_long_is_kept_is_noted_in_the_file(self, ledger):
        with served(ledger, "--retention", "52w"):
            with closing(sqlite3.connect(ledger)) as looking:
                [(kept,)] = looking.execute("SELECT value FROM settings").fetchall()
        assert kept == 52 * 7 * 86_400_000

    def test_others_are_warned_of_plain_http(self, ledger):
        child = start("serve", "--ledger", str(ledger), "--port", "0", "--host", "0.0.0.0")  # noqa: S104
        assert child.stdout.readline().startswith("comptroller serves")
        child.send_signal(signal.SIGTERM)
        code, _, err = ended(child)
        assert code == 0
        [line] = err.splitlines()
        assert "warning: plain HTTP on 0.0.0.0" in line
        assert "--tls-cert" in line


def until(holds, seconds=20):
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def listens(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "remedy"),
        [
            (("--tls-cert", "cert.pem"), "--tls-key FILE"),
            (("--tls-key", "key.pem"), "--tls-cert FILE"),
            (("--tls-cert", "no.pem", "--tls-key", "no.pem"), "--tls-cert no.pem: no such file"),
            (("--tls-cert", "ledger.db", "--tls-key", "ledger.db"), "in PEM"),
            (
                ("--tls-cert", "c", "--tls-key", "k", "--tls-key-password-env", "NO_NAME"),
                "export NO_NAME=",
            ),
            (("--host", "no.such.host.invalid"), "--host no.such.host.invalid"),
            (("--port", "70000"), "comptroller serve --help"),
            (("--rate", "0"), "above 0"),
            (("--rate", "nan"), "above 0"),
            (("--synchronous", "SOMETIMES"), "write NORMAL or FULL"),
            (("--default-budget", "5"), "--default-budget: '5': of what?"),
            (("--max-body", "0"), "comptroller serve --help"),
            (("--grace", "inf"), "comptroller serve --help"),
            (("--admin-key-env", "NO_NAME"), "export NO_NAME="),
            (("--access-log", "no/such/file"), "its directory is not there"),
            (("--log-format", "xml"), "write text or json"),
            (("--log-level", "loud"), "write debug, info, warning, error"),
            (("--retention", "soon"), "write it like 36h, 30d or 8w"),
            (("--retention", "12h"), "such as 2d"),
            (("--key-for", "acme"), "comptroller key create"),
            (("--budget", "tenant:acme=1usd"), "comptroller budget set"),
        ],
    )
    def test_it_is_one_line(self, ledger, monkeypatch, options, remedy):
        monkeypatch.chdir(ledger.parent)
        assert remedy in refused("serve", "--ledger", "ledger.db", "--port", "0", *options)

    @pytest.mark.parametrize(
        ("options", "remedy"),
        [
            (("--ledger", "http://127.0.0.1:9"), "is a server already"),
            (("--ledger", "nodir/ledger.db"), "mkdir -p nodir"),
            (("--ledger", "memory:", "--budget", "tenant:acme"), "tenant:acme=10usd"),
            (("--ledger", "memory:", "--budget", "tenant:acme=10"), "write 10usd"),
            (("--ledger", "memory:", "--key-for", "a b"), "for example 'a-b'"),
            (("--ledger", "memory:", "--retention", "30d"), "--retention is for a file"),
        ],
    )
    def test_of_ledgers(self, tmp_path, monkeypatch, options, remedy):
        monkeypatch.chdir(tmp_path)
        assert remedy in refused("serve", "--port", "0", *options)

    def test_of_the_ledger_that_the_environment_names(self):
        env = {"CYCLES_BASE_URL": "http://127.0.0.1:9", "CYCLES_API_KEY": "key"}
        assert "is a server already" in refused("serve", "--port", "0", env=env)

    def test_a_port_that_somebody_has(self, ledger):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            line = refused("serve", "--ledger", str(ledger), "--port", port)
        assert f"127.0.0.1:{port}" in line
        assert "choose another" in line

    def test_an_admin_key_that_can_be_guessed(self, ledger):
        env = {"COMPTROLLER_ADMIN_KEY": "short"}
        assert "openssl rand" in refused("serve", "--ledger", str(ledger), "--port", "0", env=env)


def test_what_serving_needs_is_named_where_it_is_missing(ledger, monkeypatch):
    serve = importlib.import_module("comptroller.cli.serve")  # the package names its function

    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert "comptroller[serve]" in refused("serve", "--ledger", str(ledger), "--port", "0")
