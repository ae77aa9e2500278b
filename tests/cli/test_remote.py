"""Against a Cycles server on loopback: what a tenant's key may see and spend."""

import json
import socket
import threading

import anyio
import pytest
import uvicorn

from comptroller import open_ledger, usd
from comptroller.server import serve_ledger
from support.cli import call, done, refused

ADMIN = {"COMPTROLLER_ADMIN_KEY": "the key of its operator"}


@pytest.fixture
def server():
    """The address of a server where acme has $1 and the key `key`."""
    listener = socket.create_server(("127.0.0.1", 0))
    made = threading.Event()
    servers = []

    async def serve():
        async with open_ledger("memory:") as ledger:
            await ledger.set_budget("tenant:acme", usd(1))
            settings = uvicorn.Config(
                serve_ledger(ledger, {"key": "acme"}, admin_key=ADMIN["COMPTROLLER_ADMIN_KEY"]),
                lifespan="off", log_level="warning", ws="none", timeout_graceful_shutdown=1,
            )  # fmt: skip
            servers.append(uvicorn.Server(settings))
            made.set()
            await servers[0].serve([listener])

    thread = threading.Thread(target=anyio.run, args=[serve])
    thread.start()
    made.wait()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    servers[0].should_exit = True
    thread.join()


@pytest.mark.usefixtures("desk")
def test_a_run_and_what_it_left(server):
    at = ("--ledger", server, "--api-key-env", "ACME_KEY")
    env = {"ACME_KEY": "key"}
    result = call("run", "desk:agent", "hi", "--tenant", "acme", "--json", *at, env=env)
    assert result.exit_code == 0, result.output
    charged = json.loads(result.stdout)["receipt"]["charged"]["USD_MICROCENTS"]
    [budget] = json.loads(done("budget", "list", "--tenant", "acme", "--json", *at, env=env))
    assert (budget["spent"]["amount"], budget["reserved"]["amount"]) == (charged, 0)
    assert "tenant:acme" in done("budget", "list", "--tenant", "acme", *at, env=env)
    assert done("reservations", "--tenant", "acme", *at, env=env).count("committed") == 2


@pytest.mark.usefixtures("desk")
def test_the_environment_names_it(server):
    env = {"CYCLES_BASE_URL": server, "CYCLES_API_KEY": "key", "CYCLES_TENANT": "acme",
           "CYCLES_WORKSPACE": "prod"}  # fmt: skip
    assert call("run", "desk:agent", "hi", "--tenant", "acme", env=env).exit_code == 0
    shown = done("reservations", "--tenant", "acme", env=env)
    assert "tenant:acme/workspace:prod/agent:triage-agent" in shown


@pytest.mark.usefixtures("desk")
def test_a_wrong_key_is_bad_input(server):
    at = ("--ledger", server)
    env = {"CYCLES_API_KEY": "wrong"}
    result = call("run", "desk:agent", "hi", "--tenant", "acme", *at, env=env)
    assert result.exit_code == 2
    assert "refused the API key of tenant 'acme'" in result.stderr


def test_its_operator_sets_budgets_there_with_the_same_rules(server):
    """And sees the terms, which the protocol's balances do not carry."""
    at = ("--ledger", server)
    words = ("2usd", "--per", "day", "--alert", "50%", "--max-tokens", "5", "--caps-below", "20%")
    done("budget", "set", "tenant:acme", *words, *at, env=ADMIN)
    line = done("budget", "set", "tenant:acme", "4usd", *at, env=ADMIN)
    assert line == (
        f"tenant:acme in {server}: $4.00 left of $4.00, $0.00 spent, $0.00 reserved; $4.00 a day"
        " (UTC), alerts at 50%, caps below 20%: max_tokens 5\n"
    )
    assert "open, anew each day" in done("budget", "list", *at, env=ADMIN)
    assert "lasts until" in done("budget", "fund", "tenant:acme", "1usd", *at, env=ADMIN)
    done("budget", "freeze", "tenant:acme", *at, env=ADMIN)
    assert "frozen" in done("budget", "list", "--tenant", "acme", *at, env=ADMIN)
    done("budget", "unfreeze", "tenant:acme", *at, env=ADMIN)
    ended = ("--per", "never", "--no-alerts", "--no-caps", "--overdraft", "0usd")
    assert done("budget", "set", "tenant:acme", "4usd", *ended, *at, env=ADMIN).endswith(
        "$0.00 reserved\n"
    )


@pytest.mark.usefixtures("desk")
def test_its_operator_closes_a_scope_there_in_all_its_units(server):
    """Nothing more is granted, in any unit; what it has spent stays to be seen."""
    at = ("--ledger", server)
    done("budget", "set", "tenant:acme", "500tokens", *at, env=ADMIN)
    assert done("budget", "close", "tenant:Acme", *at, env=ADMIN) == (
        f"tenant:acme in {server} is closed; what it has spent stays in reports\n"
    )
    told = json.loads(done("budget", "close", "tenant:acme", "--json", *at, env=ADMIN))
    assert told == {"scope": "tenant:acme", "closed": True}
    rows = json.loads(done("budget", "list", "--json", *at, env=ADMIN))
    assert [(row["scope"], row["closed"]) for row in rows] == [("tenant:acme", True)] * 2
    denied = call("run", "desk:agent", "hi", "--tenant", "acme", *at, env={"CYCLES_API_KEY": "key"})
    assert denied.exit_code == 3
    assert "closed" in denied.stderr
    assert "tenant:none" in refused("budget", "close", "tenant:none", *at, env=ADMIN)


def test_what_a_server_refuses_its_operator_is_one_line(server):
    at = ("--ledger", server)
    assert "comptroller budget set tenant:none" in refused(
        "budget", "freeze", "tenant:none", *at, env=ADMIN
    )
    assert "(401)" in refused("budget", "list", *at, env={"COMPTROLLER_ADMIN_KEY": "another"})
    words = ("1usd", "--per", "week")
    assert "(400)" in refused("budget", "set", "tenant:acme", *words, *at, env=ADMIN)
    away = ("--ledger", "http://127.0.0.1:9")
    line = refused("budget", "list", *away, env=ADMIN, code=1)
    assert line.startswith("http://127.0.0.1:9 does not answer: ")


@pytest.mark.parametrize("command", ["key list", "key create acme", "webhook list", "verify"])
def test_what_reads_the_file_says_where_to_run_it(command):
    """Without asking for a key first, that would not help."""
    line = refused(*command.split(), "--ledger", "http://127.0.0.1:9")
    assert "run it on the machine that serves http://127.0.0.1:9, with --ledger FILE" in line


def test_recovery_says_that_a_server_was_not_asked():
    words = ("recover", "--ledger", "http://127.0.0.1:9")
    assert done(*words, env={"CYCLES_API_KEY": "key"}) == (
        "no dead process of this host has spent at http://127.0.0.1:9, so it was not asked\n"
    )
