"""However a run under hooks is left, nothing of it stays: streams, loops, shutdowns, failures."""

import asyncio
import gc
import itertools
from contextlib import aclosing, suppress

import anyio
import pytest
from agents import Agent, Runner
from agents.run import AgentRunner
from runcycles import BudgetExceededError, CyclesConfig, ReleaseRequest
from runcycles.retry import AsyncCommitRetryEngine

from comptroller import LedgerRefused, as_client, usd
from comptroller.cycles import CyclesRunHooks, ToolEstimateConfig, cycles_budget_guardrail
from comptroller.ledger.embedded.memory import open_memory
from comptroller.runtime import registry
from comptroller.testing import (
    BlockedModel,
    FailingModel,
    ScriptedLedger,
    StalledLedger,
    StreamingModel,
    assert_settled,
    lost_request,
    no_task_left,
    open_reservations,
    rate_limited,
)
from support.hooks_fixture import funded, hooks_on, searcher, talker
from support.hooks_scenarios import Beside, Watched

pytestmark = [
    pytest.mark.anyio,
    # a task that is cancelled before its first step never takes it
    pytest.mark.filterwarnings(
        "ignore:coroutine '.*' was never awaited:RuntimeWarning",
        "ignore:Exception ignored in. <coroutine object:pytest.PytestUnraisableExceptionWarning",
    ),
]


@pytest.fixture(autouse=True)
def _collected():
    """What tasks that never began leave is collected here, not in another test."""
    yield
    gc.collect()


async def test_a_cancellation_while_a_stream_is_left_is_not_swallowed():
    async with funded() as ledger:
        stalled = StalledLedger(ledger, ["commit"])
        hooks = Watched(as_client(stalled), tenant="acme")
        late = []
        with anyio.move_on_after(20) as scope:
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    model = StreamingModel("one ", "two ", pause=1.0)
                    stream = hooks.run_streamed(Agent(name="A", model=model), "hi")
                    async with aclosing(stream.stream_events()) as events:
                        async for event in events:
                            if event.type == "raw_response_event":
                                break
                    late.append("the body went on")
        assert (late, scope.cancel_called) == ([], False)
        stalled.resume()
        await settle_by_hand(ledger)


async def settle_by_hand(ledger):
    """What the bound has cut off is nobody's any more."""
    for each in await open_reservations(ledger):
        request = ReleaseRequest(idempotency_key=each.reservation_id)
        await ledger.release(each.reservation_id, request)


@pytest.mark.parametrize("hooks_of", [lambda hooks: hooks, Beside])
@pytest.mark.parametrize("closed", [False, True])
async def test_a_plain_streams_end_is_its_settlement(hooks_of, closed):
    async with hooks_on() as (hooks, ledger), no_task_left():
        result = Runner.run_streamed(searcher()[0], "hi", hooks=hooks_of(hooks))
        async with aclosing(result.stream_events()) as events:
            async for _ in events:
                if closed:
                    break
        await assert_settled(ledger)
        assert hooks._carried == {}


async def test_a_client_of_one_tenant_stays_one():
    async with funded() as ledger:
        await ledger.set_budget("tenant:globex", usd("5"))
        mine = as_client(ledger, tenant="acme")
        agent, model = talker()
        with pytest.raises(LedgerRefused) as caught:
            await CyclesRunHooks(mine, tenant="globex").run(agent, "hi")
        assert caught.value.error_code == "FORBIDDEN"
        guardrail = cycles_budget_guardrail(client=mine, tenant="globex", estimate=1)
        outcome = await guardrail.guardrail_function(None, agent, "hi")
        assert outcome.tripwire_triggered
        assert model.dispatches == 0


async def test_what_is_overridden_in_a_client_is_asked():
    class Closed(type(as_client(_Named()))):
        async def create_reservation(self, request):
            raise RuntimeError("closed")

    async with funded() as ledger:
        with pytest.raises(BudgetExceededError, match="closed"):
            await CyclesRunHooks(Closed(ledger), tenant="acme").run(talker()[0], "hi")


class _Named:
    name = "nowhere"


def test_a_shutdown_before_its_first_step_leaves_nothing():
    """Every other task is cancelled in the tick in which the stream was started."""

    async def main():
        async with funded() as ledger:
            hooks = Watched(as_client(ledger), tenant="acme")
            for _ in range(2):  # the id is free again
                hooks.run_streamed(talker()[0], "hi", run_id="case-42")
                others = asyncio.all_tasks() - {asyncio.current_task()}
                for task in others:
                    task.cancel()
                await asyncio.wait(others)
                assert hooks._carried == hooks._begun == {}
                assert "case-42" not in registry._RUNNING
                assert len(hooks._lender._open) == 0

    asyncio.run(main())


def test_a_loop_that_was_closed_under_a_run_does_not_stand_in_the_way():
    loop = asyncio.new_event_loop()
    model, box = BlockedModel(), {}

    async def begin():
        box["stack"] = open_memory()
        ledger = await box["stack"].__aenter__()
        await ledger.set_budget("tenant:acme", usd("1"))
        box["hooks"] = Watched(as_client(ledger), tenant="acme")
        box["task"] = asyncio.ensure_future(
            box["hooks"].run(Agent(name="A", model=model), "hi", run_id="case-7")
        )
        await model.started()

    loop.run_until_complete(begin())
    box["task"]._log_destroy_pending = False  # the test is about what it leaves
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()
    hooks = box["hooks"]

    async def afterwards():
        await hooks.release_pending("nobody is there")
        await hooks.release_all_pending("really")
        assert hooks._carried == {}
        await hooks.run(talker()[0], "hi", run_id="case-7")
        await box["stack"].__aexit__(None, None, None)

    asyncio.run(afterwards())


async def test_release_all_pending_reaches_runs_of_other_loops():
    async with hooks_on() as (hooks, ledger):
        model = BlockedModel()

        def elsewhere():
            asyncio.run(hooks.run(Agent(name="A", model=model), "hi"))

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, elsewhere)
            await model.started()
            await hooks.release_all_pending("shutting down")
            await assert_settled(ledger)
            model.release()
        assert hooks._carried == {}


async def test_an_engine_that_keeps_nothing_is_no_outbox():
    config = CyclesConfig("http://cycles", "k", retry_enabled=False, journal_enabled=False)
    hooks = CyclesRunHooks(config=config, retry_engine=AsyncCommitRetryEngine(config))
    assert hooks._outbox is None


async def test_a_429_is_not_waited_for_where_an_engine_takes_it():
    handed = []

    class Engine:
        def set_client(self, client):
            self.client = client

        def schedule(self, *args, **named):
            handed.append(named)

    script = {"commit": [rate_limited(30_000)]}
    async with funded() as ledger:
        hooks = Watched(
            as_client(ScriptedLedger(ledger, script)), tenant="acme", retry_engine=Engine()
        )
        before = anyio.current_time()
        await hooks.run(talker()[0], "hi")
        assert anyio.current_time() - before < 1
        assert handed == [{"retry_after_ms": 30_000}]
        await settle_by_hand(ledger)


async def test_what_goes_wrong_in_closing_a_ledger_is_no_outcome(caplog):
    async with funded() as ledger:
        hooks = Watched(as_client(ledger), tenant="acme")
        lend = hooks._lender.lend

        async def broken():
            raise OSError("cannot close")

        def lending():
            lent = lend()
            hooks._lender._open[asyncio.get_running_loop()].close = broken
            return lent

        hooks._lender.lend = lending
        assert (await hooks.run(talker()[0], "hi")).final_output == "done"
        with pytest.raises(ValueError, match="the model's"):
            await hooks.run(Agent(name="A", model=FailingModel(ValueError("the model's"))), "hi")
        assert "cannot close" in caplog.text


async def test_under_another_runner_a_refused_run_leaves_nothing():
    async with hooks_on(dollars="0") as (hooks, _), no_task_left():
        for _ in range(2):
            with pytest.raises(BudgetExceededError):
                await AgentRunner().run(talker()[0], "hi", hooks=hooks)
        assert hooks._carried == hooks._begun == {}


def test_wrong_prices_and_tool_configs_fail_where_they_are_written():
    config = CyclesConfig("http://cycles", "k", journal_enabled=False)
    with pytest.raises((TypeError, ValueError), match="prices"):
        CyclesRunHooks(config=config, prices={"a": 5})
    with pytest.raises(TypeError, match="unit"):
        ToolEstimateConfig(5, unit="BAD")
    with pytest.raises(ValueError, match="action_kind"):
        ToolEstimateConfig(5, action_kind="x" * 100)


async def test_a_journal_is_replayed_by_the_first_run_of_hooks_made_outside_a_loop():
    given = []

    class Engine:
        def set_client(self, client):
            asyncio.get_running_loop()
            given.append(client)

    async with funded() as ledger:
        client = as_client(ledger)
        hooks = await anyio.to_thread.run_sync(
            lambda: Watched(client, tenant="acme", retry_engine=Engine())
        )
        assert given == []
        for _ in range(2):
            await hooks.run(talker()[0], "hi")
        assert given == [client]


async def test_spend_without_a_reservation_is_handed_over_as_no_reservations():
    events = []

    class Engine:
        def set_client(self, client):
            self.client = client

        def schedule_event(self, key, event):
            events.append(event)

    script = {verb: itertools.repeat(lost_request()) for verb in ("reserve", "record")}
    async with hooks_on(
        lambda it: ScriptedLedger(it, script), retry_engine=Engine(), fail_open=True
    ) as (hooks, _):
        await hooks.run(talker()[0], "hi")
        (event,) = events
        assert "recovered_reservation_id" not in event["metadata"]
        assert "overage_policy" not in event
