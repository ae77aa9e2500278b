"""A remote ledger that is silent, or has just said no, is not asked each time."""

import gc
import weakref
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from runcycles import (
    Action,
    CommitRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
    Subject,
)

from comptroller.errors import BudgetExceeded, CallDenied, CredentialsMissing, LedgerUnreachable
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.money import tokens
from comptroller.server import serve_ledger
from support.run_harness import bench, funded, tokens_spent

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Way(httpx.AsyncBaseTransport):
    """The way to a server. `state`: `up`, `dead` (no connection) or `silent` (no answer).

    `drops`: how many requests are dropped next. `lasts`: seconds that an answer takes.
    """

    def __init__(self, application):
        self._server = httpx.ASGITransport(application)
        self.state, self.asked, self.drops, self.lasts = "up", [], 0, 0.0

    async def handle_async_request(self, request):
        self.asked.append(request.url.path)
        if self.lasts:
            await anyio.sleep(self.lasts)
        if self.drops:
            self.drops -= 1
            await anyio.sleep(0.01)
            raise httpx.ReadError("dropped", request=request)
        if self.state == "dead":
            raise httpx.ConnectError("nobody there", request=request)
        if self.state == "silent":
            await anyio.sleep_forever()
        if isinstance(self.state, int):
            return httpx.Response(self.state, json={"error": "INTERNAL_ERROR"})
        return await self._server.handle_async_request(request)


@asynccontextmanager
async def remote(tmp_path, limit=1_000, **settings):
    async with funded(limit) as behind:
        way = Way(serve_ledger(behind, {"key": "acme"}))
        async with open_cycles(
            "http://cycles", **{"api_key": "key", **settings}, transport=way, outbox=tmp_path
        ) as ledger:
            yield ledger, behind, way


def asking(number, amount=100, **subject):
    return ReservationCreateRequest(
        idempotency_key=f"k{number}",
        subject=Subject(**{"tenant": "acme", **subject}),
        action=Action(kind="k", name="n"),
        estimate=tokens(amount),
    )


async def refused(ledger, number, amount=100, **subject):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests look at it
        await ledger.reserve(asking(number, amount, **subject))
    return caught.value


class TestSilence:
    @pytest.mark.parametrize("state", ["dead", "silent"])
    async def test_a_dead_ledger_does_not_cost_every_call_its_time_out(self, tmp_path, state):
        async with remote(tmp_path, request_timeout=5) as (ledger, _, way):
            way.state = state
            began = anyio.current_time()
            errors = [await refused(ledger, number) for number in range(20)]
            assert {type(error) for error in errors} == {LedgerUnreachable}
            assert {error.status for error in errors} == {-1}
            assert len(way.asked) == 3
            assert anyio.current_time() - began <= 15.1
            assert "asked again in" in str(errors[-1])

    async def test_a_ledger_that_was_never_asked_was_not_silent(self, tmp_path):
        """A key that did not come in time says nothing about it; each is asked twice."""
        pauses = [2.0, 2.0]

        async def key(tenant):
            await anyio.sleep(pauses.pop() if pauses else 0)
            return "key"

        async with remote(tmp_path, api_key=key, request_timeout=1) as (ledger, _, way):
            assert "no API key within 1 s" in str(await refused(ledger, 0))
            way.state = "dead"
            await refused(ledger, 1)
            way.state = "up"
            assert (await ledger.reserve(asking(2))).reservation_id

    async def test_a_server_that_drops_all_its_connections_at_once_is_asked_again(self, tmp_path):
        async with remote(tmp_path, limit=10_000, in_flight=50) as (ledger, _, way):
            granted = []

            async def ask(number):
                granted.append(await ledger.reserve(asking(number)))

            async with anyio.create_task_group() as tasks:
                way.drops = 50
                for number in range(50):
                    tasks.start_soon(ask, number)
            assert len(granted) == 50

    async def test_one_request_goes_through_now_and_then_until_it_is_back(self, tmp_path):
        async with remote(tmp_path) as (ledger, _, way):
            way.state = "dead"
            for number in range(5):
                await refused(ledger, number)
            before = len(way.asked)
            for number in range(5, 500):
                await anyio.sleep(0.2)
                await refused(ledger, number)
            assert 4 <= len(way.asked) - before <= 10  # 99 seconds, in doubling pauses
            way.state = "up"
            await anyio.sleep(30)
            assert (await ledger.reserve(asking("back"))).reservation_id
            for number in range(500, 503):
                assert (await ledger.reserve(asking(number))).reservation_id

    async def test_what_is_not_sent_is_not_the_one_that_goes_through(self, tmp_path):
        async with remote(tmp_path, api_key={"acme": "key"}) as (ledger, _, way):
            way.state = "dead"
            for number in range(5):
                await refused(ledger, number)
            way.state = "up"
            await anyio.sleep(30)
            assert isinstance(await refused(ledger, "x", tenant="globex"), CredentialsMissing)
            assert (await ledger.reserve(asking("back"))).reservation_id

    async def test_one_that_is_given_up_on_its_way_holds_back_the_others_for_a_while(
        self, tmp_path
    ):
        async with remote(tmp_path) as (ledger, _, way):
            way.state = "dead"
            for number in range(5):
                await refused(ledger, number)
            way.state = "silent"
            for number in range(5, 10):
                await anyio.sleep(30)
                with anyio.move_on_after(0.1):
                    await ledger.reserve(asking(number))
            way.state = "up"
            await anyio.sleep(30)
            assert (await ledger.reserve(asking("back"))).reservation_id

    async def test_those_that_wait_for_a_place_are_told_when_nothing_comes_back(self, tmp_path):
        async with remote(tmp_path, in_flight=1, request_timeout=60) as (ledger, _, way):
            way.drops = 100
            errors = []

            async def ask(number):
                errors.append(await refused(ledger, number))

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(ask, number)
            assert {type(error) for error in errors} == {LedgerUnreachable}
            assert len(way.asked) < 10

    async def test_an_answer_is_no_silence_whatever_it_says(self, tmp_path):
        async with remote(tmp_path) as (ledger, _, way):
            way.state = 503
            for number in range(10):
                assert isinstance(await refused(ledger, number), LedgerUnreachable)
            assert len(way.asked) == 20

    async def test_leases_are_extended_all_the_same(self, tmp_path):
        async with remote(tmp_path) as (ledger, _, way):
            way.state = "dead"
            for number in range(5):
                await refused(ledger, number)
            before = len(way.asked)
            for number in range(5):
                request = ReservationExtendRequest(idempotency_key=f"{number}", extend_by_ms=1000)
                with pytest.raises(LedgerUnreachable):
                    await ledger.extend("rsv", request, tenant="acme")
            assert len(way.asked) - before == 5

    async def test_who_asks_for_it_is_not_held_back(self, tmp_path):
        async with remote(tmp_path) as (ledger, _, way):
            way.state = "dead"
            for number in range(5):
                await refused(ledger, number)
            way.state = "up"
            assert isinstance(await refused(ledger, "still"), LedgerUnreachable)
            ledger.ask_again()
            assert (await ledger.reserve(asking("now"))).reservation_id

    async def test_without_fail_open_a_run_is_stopped_by_the_network_never_by_its_budget(
        self, tmp_path
    ):
        async with remote(tmp_path) as (ledger, _, way):
            way.state = "dead"
            for _ in range(4):
                async with bench(ledger) as it:
                    refusal = await it.refused()
                    assert isinstance(refusal, LedgerUnreachable)
                    assert not isinstance(refusal, CallDenied)

    async def test_with_fail_open_calls_go_on_and_are_recorded_when_the_ledger_is_back(
        self, tmp_path
    ):
        async with remote(tmp_path) as (ledger, behind, way):
            way.state = "dead"
            async with bench(ledger, fail_open=True) as it:
                lines = [await it.whole() for _ in range(5)]
            assert {line.outcome for line in lines} == {"outboxed"}
            assert all("fail-open" in line.reason for line in lines)
            assert await tokens_spent(behind) == 0
            way.state = "up"
            await anyio.sleep(120)
            assert await tokens_spent(behind) == 150
            assert (await behind.reservations(tenant="acme")).reservations == []

    async def test_the_first_answer_has_the_outbox_sent(self, tmp_path):
        async with remote(tmp_path) as (ledger, behind, way):
            way.state = "dead"
            async with bench(ledger, fail_open=True) as it:
                await it.whole()
            await anyio.sleep(300)  # its pauses have grown by now
            way.state = "up"
            ledger.ask_again()
            await ledger.balances(tenant="acme")
            await anyio.sleep(1)
            assert await tokens_spent(behind) == 30


class TestDenials:
    async def test_a_loop_that_is_denied_is_answered_here_for_a_growing_time(self, tmp_path):
        async with remote(tmp_path, limit=50) as (ledger, _, way):
            for number in range(600):
                error = await refused(ledger, number)
                assert isinstance(error, BudgetExceeded)
                assert (error.scope, error.remaining, error.reason_code) == (
                    "tenant:acme", 50, "BUDGET_EXCEEDED",
                )  # fmt: skip
                await anyio.sleep(0.1)
            # a minute: 0.25 s, 0.5 s, ... 10 s
            assert 8 <= len(way.asked) <= 14
            assert error.retry_after_ms <= 10_000

    async def test_the_first_two_are_the_ledgers(self, tmp_path):
        async with remote(tmp_path, limit=50) as (ledger, _, way):
            for number in range(3):
                await refused(ledger, number)
            assert len(way.asked) == 2

    async def test_those_that_ask_together_are_no_loop(self, tmp_path):
        async with remote(tmp_path, limit=50) as (ledger, _, way):
            way.lasts = 0.01
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(refused, ledger, number)
            assert len(way.asked) == 20
            await refused(ledger, "once more")
            assert (await refused(ledger, "held back")).retry_after_ms <= 250

    async def test_what_is_remembered_holds_nothing_of_who_was_denied(self, tmp_path):
        class Conversation:
            pass

        async def ask(ledger, number):
            conversation = Conversation()
            with pytest.raises(BudgetExceeded):
                await ledger.reserve(asking(number))
            return weakref.ref(conversation)

        async with remote(tmp_path, limit=50) as (ledger, _, _way):
            held = [await ask(ledger, number) for number in range(4)]
            gc.collect()
            assert [each() for each in held] == [None] * 4

    async def test_what_may_fit_is_asked(self, tmp_path):
        async with remote(tmp_path, limit=50) as (ledger, _, _way):
            for number in range(5):
                await refused(ledger, number)
            assert (await ledger.reserve(asking("small", 40))).reservation_id

    async def test_another_scope_is_asked(self, tmp_path):
        async with remote(tmp_path) as (ledger, behind, _):
            await behind.set_budget("tenant:acme/agent:a", tokens(10))
            for number in range(5):
                await refused(ledger, number, agent="a")
            assert (await ledger.reserve(asking("b", agent="b"))).reservation_id
            assert isinstance(await refused(ledger, "c", 100, agent="A"), BudgetExceeded)

    async def test_funding_is_seen_soon_and_at_once_by_who_asks_again(self, tmp_path):
        async with remote(tmp_path, limit=50) as (ledger, behind, _):
            for number in range(5):
                await refused(ledger, number)
            await behind.fund("tenant:acme", tokens(100))
            await refused(ledger, "yet")
            ledger.ask_again("tenant:globex")
            await refused(ledger, "not that one")
            ledger.ask_again("tenant:acme")
            assert (await ledger.reserve(asking("now"))).reservation_id
        async with remote(tmp_path, limit=50) as (ledger, behind, _):
            for number in range(5):
                await refused(ledger, number)
            await behind.fund("tenant:acme", tokens(100))
            await anyio.sleep(0.3)
            assert (await ledger.reserve(asking("soon"))).reservation_id

    @pytest.mark.parametrize("how", ["release", "commit"])
    async def test_budget_that_comes_back_ends_it(self, tmp_path, how):
        async with remote(tmp_path, limit=120) as (ledger, _, _way):
            held = (await ledger.reserve(asking("held"))).reservation_id
            for number in range(5):
                await refused(ledger, number)
            if how == "release":
                await ledger.release(held, ReleaseRequest(idempotency_key="r"), tenant="acme")
            else:
                request = CommitRequest(idempotency_key="c", actual=tokens(10))
                await ledger.commit(held, request, tenant="acme")
            assert (await ledger.reserve(asking("after"))).reservation_id
