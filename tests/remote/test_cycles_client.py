"""What was written for `runcycles.AsyncCyclesClient` works on a ledger of this process."""

import pytest
from runcycles import (
    Action,
    Amount,
    AsyncCyclesClient,
    ReservationCreateRequest,
    Subject,
    Unit,
    cycles,
)

from comptroller import as_client, tokens
from comptroller.ledger.embedded.memory import open_memory
from support.requests import committing

pytestmark = pytest.mark.anyio

RESERVE = {
    "idempotency_key": "k",
    "subject": {"tenant": "acme"},
    "action": {"kind": "llm.completion", "name": "gpt"},
    "estimate": {"unit": "TOKENS", "amount": 10},
    "ttl_ms": 60_000,
}


@pytest.fixture
async def ledger():
    async with open_memory() as ledger:
        await ledger.set_budget("tenant:acme", tokens(100))
        yield ledger


async def test_dictionaries_and_models_are_understood_alike(ledger):
    client = as_client(ledger)
    assert isinstance(client, AsyncCyclesClient)
    first = await client.create_reservation(RESERVE)
    model = ReservationCreateRequest.model_validate({**RESERVE, "idempotency_key": "l"})
    second = await client.create_reservation(model)
    assert (first.status, second.status, first.body["decision"]) == (200, 200, "ALLOW")
    replayed = await client.create_reservation(RESERVE)
    assert replayed.get_body_attribute("reservation_id") == first.body["reservation_id"]


async def test_a_whole_life_of_a_reservation(ledger):
    client = as_client(ledger)
    made = (await client.create_reservation(RESERVE)).body["reservation_id"]
    extended = await client.extend_reservation(
        made, {"idempotency_key": "e", "extend_by_ms": 60_000}
    )
    assert extended.body["status"] == "ACTIVE"
    committed = await client.commit_reservation(
        made, {"idempotency_key": "c", "actual": {"unit": "TOKENS", "amount": 4}}
    )
    assert committed.body["charged"] == {"unit": "TOKENS", "amount": 4}
    again = await client.release_reservation(made, {"idempotency_key": "r"})
    assert (again.status, again.body["error"]) == (409, "RESERVATION_FINALIZED")
    event = await client.create_event(
        {**{k: RESERVE[k] for k in ("subject", "action")}, "idempotency_key": "v",
         "actual": {"unit": "TOKENS", "amount": 1}}
    )  # fmt: skip
    assert event.status == 201
    detail = await client.get_reservation(made)
    assert detail.body["status"] == "COMMITTED"
    listed = await client.list_reservations(tenant="acme", limit="1")
    assert len(listed.body["reservations"]) == 1
    balances = await client.get_balances(tenant="acme")
    assert balances.body["balances"][0]["spent"]["amount"] == 5


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"estimate": {"unit": "TOKENS", "amount": 1_000}}, 409, "BUDGET_EXCEEDED"),
        ({"subject": {"tenant": "globex"}}, 404, "NOT_FOUND"),
        ({"estimate": {"unit": "CREDITS", "amount": 1}}, 400, "UNIT_MISMATCH"),
        ({"estimate": {"unit": "TOKENS", "amount": "1"}}, 400, "INVALID_REQUEST"),
        ({"surprise": 1}, 400, "INVALID_REQUEST"),
        ({"ttl_ms": object()}, 400, "INVALID_REQUEST"),
    ],
)
async def test_refusals_are_answers_with_the_protocols_codes(ledger, change, status, code):
    answer = await as_client(ledger).create_reservation({**RESERVE, **change})
    assert (answer.status, answer.body["error"]) == (status, code)
    assert answer.error_message
    assert answer.request_id == answer.body["request_id"]
    assert not answer.is_transport_error


async def test_a_clients_tenant_is_all_it_sees(ledger):
    await ledger.set_budget("tenant:globex", tokens(100))
    one = await ledger.reserve(_of("globex"))
    client = as_client(ledger, tenant="acme")
    for answer in (
        await client.create_reservation({**RESERVE, "subject": {"tenant": "globex"}}),
        await client.get_reservation(one.reservation_id),
        await client.commit_reservation(one.reservation_id, committing("c", 1)),
        await client.get_balances(tenant="globex"),
        await client.list_reservations(tenant="globex"),
    ):
        assert (answer.status, answer.body["error"]) == (403, "FORBIDDEN")
    assert (await client.list_reservations()).body["reservations"] == []


def _of(tenant):
    return ReservationCreateRequest(
        idempotency_key="g",
        subject=Subject(tenant=tenant),
        action=Action(kind="llm.completion", name="gpt"),
        estimate=Amount(unit=Unit.TOKENS, amount=1),
    )


async def test_wrong_queries_are_refused(ledger):
    client = as_client(ledger)
    assert (await client.list_reservations(limit="many")).body["error"] == "INVALID_REQUEST"
    assert (await client.list_reservations(surprise="1")).is_success  # as a server would
    assert (await as_client(ledger, tenant="acme").get_balances()).is_success
    with pytest.raises(ValueError, match="at least one filter"):
        await client.get_balances()
    await client.aclose()
    assert (await client.create_reservation(RESERVE)).is_success  # the ledger is still open


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # the decorator is asyncio's
async def test_the_decorator_and_the_stream_of_the_cycles_sdk(ledger, anyio_backend):
    client = as_client(ledger)

    @cycles(client=client, estimate=7, unit="TOKENS", tenant="acme", action_name="gpt")
    async def ask():
        return "answered"

    assert await ask() == "answered"
    async with client.stream_reservation(
        subject=Subject(tenant="acme"),
        action=Action(kind="llm.completion", name="gpt"),
        estimate=tokens(10),
        cost_fn=lambda usage: 3,
    ):
        pass
    balances = (await ledger.balances(tenant="acme")).balances
    assert (balances[0].spent.amount, balances[0].reserved.amount) == (10, 0)


def test_a_client_wants_a_ledger():
    with pytest.raises(TypeError, match="ledger='memory:': give what `async with open_ledger"):
        as_client("memory:")
