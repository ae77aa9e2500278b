"""Against a Cycles server on loopback: what a tenant's key may see and spend."""

import json
import socket
import threading

import anyio
import pytest
import uvicorn

from cli.commands import call, done
from comptroller import open_ledger, usd
from comptroller.ledger.server import serve_ledger


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
                serve_ledger(ledger, {"key": "acme"}),
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
