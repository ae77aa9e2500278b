"""`comptroller serve` to the client that others use: `runcycles`, as it comes from the index.

Sync, async, as a decorator and for a stream; what it charged is what the ledger shows.
"""

import json
import secrets

import anyio
import pytest
from runcycles import (
    Action,
    Amount,
    AsyncCyclesClient,
    BudgetExceededError,
    CyclesClient,
    CyclesConfig,
    ReservationListResponse,
    Unit,
    cycles,
    get_cycles_context,
)

from support import requests
from support.cli import done
from support.serve_command import key_of, served


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return tmp_path_factory.mktemp("clients") / "ledger.db"


@pytest.fixture(scope="module")
def url(ledger):
    done("budget", "set", "tenant:first", "1usd", "--ledger", str(ledger))
    with served(ledger) as running:
        yield running.url


@pytest.fixture
def tenant(url, ledger):
    """A tenant of this test, with a dollar."""
    name = f"tenant-{secrets.token_hex(4)}"
    done("budget", "set", f"tenant:{name}", "1usd", "--ledger", str(ledger))
    return name


@pytest.fixture
def config(url, ledger, tenant, tmp_path):
    key = key_of(tenant, ledger)
    return CyclesConfig(url, key, tenant=tenant, journal_dir=str(tmp_path))


@pytest.fixture
def charged(ledger, tenant):
    """Asks what the tenant was charged, in microcents, with nothing reserved."""

    def ask():
        shown = json.loads(
            done("budget", "list", "--tenant", tenant, "--json", "--ledger", str(ledger))
        )
        assert [one["reserved"]["amount"] for one in shown] == [0]
        return shown[0]["spent"]["amount"]

    return ask


def usd_micro(count):
    return Amount(unit=Unit.USD_MICROCENTS, amount=count)


def test_a_sync_client_asks_everything_there_is(config, tenant, charged):
    with CyclesClient(config) as client:
        made = client.create_reservation(requests.asking("k", 100, tenant=tenant))
        assert (made.status, made.cycles_tenant) == (200, tenant)
        one = made.body["reservation_id"]
        assert client.extend_reservation(one, requests.extending("x", 1_000)).is_success
        assert client.commit_reservation(one, requests.committing("c", 40)).body["charged"]
        assert client.get_reservation(one).body["status"] == "COMMITTED"
        other = client.create_reservation(requests.asking("k2", 100, tenant=tenant))
        release = requests.releasing("r", "not needed")
        assert client.release_reservation(other.body["reservation_id"], release).is_success
        assert (
            client.decide(requests.deciding("d", 10**9, tenant=tenant)).body["decision"] == "DENY"
        )
        assert client.create_event(requests.event("e", 2, tenant=tenant)).status == 201
        assert client.get_balances(tenant=tenant).body["balances"][0]["spent"]["amount"] == 42
        page = client.list_reservations(status="COMMITTED", sort_by="reserved", limit="10")
        assert len(ReservationListResponse.model_validate(page.body | {"reservations": []})
                   .model_dump()) == 3  # fmt: skip
        assert [row["reservation_id"] for row in page.body["reservations"]] == [one]
    assert charged() == 42


async def ask(config, tenant):
    async with AsyncCyclesClient(config) as client:
        made = await client.create_reservation(requests.asking("k", 100, tenant=tenant))
        done_with = requests.committing("c", 30)
        assert (await client.commit_reservation(made.body["reservation_id"], done_with)).is_success
        denied = await client.create_reservation(requests.asking("much", 10**9, tenant=tenant))
        assert (denied.status, denied.body["error"]) == (409, "BUDGET_EXCEEDED")
        assert denied.request_id == denied.body["request_id"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_client(config, tenant, charged, backend):
    anyio.run(ask, config, tenant, backend=backend)
    assert charged() == 30


def test_a_decorated_function_is_charged_for_what_it_did(config, charged):
    with CyclesClient(config) as client:

        @cycles(estimate=1_000, actual=len, client=client, action_kind="llm.completion")
        def work(text):
            assert get_cycles_context().reservation_id
            return text * 2

        assert work("four") == "fourfour"
    assert charged() == 8


def test_a_decorated_function_that_fails_costs_nothing(config, charged):
    with CyclesClient(config) as client:

        @cycles(estimate=1_000, client=client)
        def work():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
    assert charged() == 0


def test_a_decorated_function_that_nobody_can_pay_is_not_called(config, charged):
    with CyclesClient(config) as client:

        @cycles(estimate=10**12, client=client)
        def work():
            raise AssertionError("it was called")

        with pytest.raises(BudgetExceededError):
            work()
    assert charged() == 0


def test_a_decorated_coroutine(config, charged):
    async def decorated():
        async with AsyncCyclesClient(config) as client:

            @cycles(estimate=1_000, actual=7, client=client)
            async def work():
                return "done"

            return await work()

    assert anyio.run(decorated) == "done"
    assert charged() == 7


def test_a_stream_is_charged_for_its_tokens(config, charged):
    with (
        CyclesClient(config) as client,
        client.stream_reservation(
            action=Action(kind="llm.completion", name="model"),
            estimate=usd_micro(1_000),
            cost_fn=lambda usage: usage.tokens_input + 2 * usage.tokens_output,
        ) as stream,
    ):
        for _ in range(3):
            stream.usage.tokens_output += 10
        stream.usage.tokens_input = 5
    assert charged() == 65


def test_an_async_stream_that_breaks_off_costs_nothing(config, charged):
    async def broken():
        action = Action(kind="llm.completion", name="model")
        async with (
            AsyncCyclesClient(config) as client,
            client.stream_reservation(action=action, estimate=usd_micro(1_000)),
        ):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        anyio.run(broken)
    assert charged() == 0
