"""Who asks a server for much waits for itself, and nobody else does."""

import json
import threading

import anyio
import pytest

from comptroller import usd
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.engine import idempotency
from comptroller.server.bulkheads import LONG, Lanes
from support.http_requests import reserving, served

pytestmark = pytest.mark.anyio


class Slow:
    """A ledger whose listings of acme take until they are let go."""

    def __init__(self, ledger):
        self.ledger, self.listed, self.go_on = ledger, 0, anyio.Event()

    def __getattr__(self, name):
        return getattr(self.ledger, name)

    async def reservations(self, *, tenant, **query):
        if tenant == "acme":
            self.listed += 1
            await self.go_on.wait()
        return await self.ledger.reservations(tenant=tenant, **query)


async def test_a_tenant_has_one_long_answer_at_a_time_and_delays_no_other():
    async with open_memory() as memory, served(Slow(memory)) as client:
        await memory.set_budget("tenant:acme", usd("1"))
        slow = client._transport.app.ledger
        answers = []

        async def listing():
            answers.append(await client.get("/v1/reservations"))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(listing)
            while not slow.listed:
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(30):
                other = {"X-Cycles-API-Key": "key-of-globex"}
                assert (await client.get("/v1/reservations", headers=other)).status_code == 200
                assert (await client.post("/v1/reservations", json=reserving())).status_code == 200
            assert slow.listed == 1
            slow.go_on.set()
        assert [answer.status_code for answer in answers] == [200] * 3


async def test_a_long_body_is_read_like_any_other():
    async with open_memory() as memory, served(memory) as client:
        await memory.set_budget("tenant:acme", usd("1"))
        body = reserving(metadata={"note": "x" * LONG})
        for _ in range(2):
            answer = await client.post("/v1/reservations", json=body)
            assert answer.status_code == 200, answer.text
        one = (await client.get(f"/v1/reservations/{answer.json()['reservation_id']}")).json()
        assert one["metadata"] == body["metadata"]
        wrong = await client.post("/v1/reservations", content=json.dumps(body)[:-1])
        assert (wrong.status_code, wrong.json()["error"]) == (400, "INVALID_REQUEST")


async def test_a_long_body_is_written_as_json_once_and_in_no_ledgers_turn(monkeypatch):
    """Canonical JSON of a mebibyte takes a fifth of a second, in which nobody else has a turn."""
    written = []

    def canonical(request, original=idempotency.canonical):
        written.append(threading.get_ident())
        return original(request)

    monkeypatch.setattr(idempotency, "canonical", canonical)
    notes = {f"note {number}": number for number in range(LONG // 8)}
    async with open_memory() as memory, served(memory) as client:
        await memory.set_budget("tenant:acme", usd("1"))
        reserved = await client.post("/v1/reservations", json=reserving(metadata=notes))
        assert reserved.status_code == 200
        again = reserving(metadata=notes, dry_run=False, grace_period_ms=5000)
        replayed = await client.post("/v1/reservations", json=again)
        assert replayed.json()["reservation_id"] == reserved.json()["reservation_id"]
        name = reserved.json()["reservation_id"]
        actual = {"unit": "USD_MICROCENTS", "amount": 1}
        committed = await client.post(
            f"/v1/reservations/{name}/commit",
            json={"idempotency_key": "c", "actual": actual, "metadata": notes},
        )
        assert committed.status_code == 200, committed.text
        other = await client.post("/v1/reservations", json=reserving(metadata=notes | {"x": 1}))
        assert other.json()["error"] == "IDEMPOTENCY_MISMATCH"
    assert len(written) == 4
    assert threading.get_ident() not in written


async def test_what_is_wrong_with_a_long_body_is_said_in_the_order_of_the_checks():
    """A number that JSON cannot carry comes after the tenant, as in a short body."""
    endless = reserving(metadata={"number": "endless", "note": "x" * LONG})
    endless = json.dumps(endless).replace('"endless"', "1e999")
    async with open_memory() as memory, served(memory) as client:
        await memory.set_budget("tenant:acme", usd("1"))
        for body, status in (
            (endless, 400),
            (endless.replace('"acme"', '"globex"'), 403),
            (json.dumps(reserving(metadata={"note": "x" * LONG})), 200),
        ):
            answer = await client.post("/v1/reservations", content=body)
            assert answer.status_code == status, answer.text


async def test_a_lane_that_nobody_is_in_is_gone():
    lanes = Lanes()

    async def cross(caller):
        with anyio.move_on_after(0.01 if caller == "gives up" else 30):
            async with lanes.lane("acme"):
                await anyio.lowlevel.checkpoint()
                assert list(lanes._lanes) == ["acme"]

    async with anyio.create_task_group() as tasks:
        for caller in ("one", "gives up", "another"):
            tasks.start_soon(cross, caller)
    assert lanes._lanes == {}
