"""The actor of one call, from its reserve to its end, on both backends and on virtual time."""

import threading
from itertools import repeat

import anyio
import pytest
from runcycles import ReleaseRequest, Unit

from comptroller.core.call_lifecycle import TRANSITIONS, Event, Outcome, State
from comptroller.core.settlement import Abandoned, Finished, NotStarted
from comptroller.errors import (
    BudgetExceeded,
    BudgetNotFound,
    LedgerMisbehaved,
    LedgerUnreachable,
    RunCancelled,
)
from comptroller.money import risk_points, tokens
from comptroller.policy import Limits, ToolEstimateConfig
from comptroller.runtime import actor as actor_module
from comptroller.runtime.call import CallGrant
from comptroller.runtime.limit_tracker import LimitTracker
from comptroller.testing import (
    RecordingLedger,
    ScriptedLedger,
    StalledLedger,
    assert_settled,
    expired,
    lost_answer,
    lost_request,
    malformed,
    no_task_left,
    open_reservations,
    rate_limited,
    refused,
    server_error,
)
from support.run_harness import (
    DONE,
    USED,
    Kept,
    bench,
    funded,
    llm,
    outcomes,
    reserved,
    tokens_spent,
    tool,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


# -- the table, walked


async def granted_and_settled():
    async with funded() as ledger, bench(ledger) as it:
        await it.whole()


async def waived_and_nothing_to_settle():
    async with funded() as ledger, bench(ledger, dry_run=True) as it:
        await it.whole()


async def refused_by_the_budget():
    async with funded(50) as ledger, bench(ledger) as it:
        await it.refused()


async def asked_again_after_a_settlement():
    async with funded(100) as memory, bench(StalledLedger(memory, ["commit"])) as it:
        first = await it.granted()
        first.actor.tell(DONE)
        async with anyio.create_task_group() as group:
            group.start_soon(it.granted)
            await anyio.sleep(1)
            await memory.fund("tenant:acme", tokens(100))
            it.run.terms.ledger.resume()


async def given_up_while_reserving():
    async with funded() as memory, bench(StalledLedger(memory, ["reserve"])) as it:
        it.open(llm())
        await it.close()


async def beaten_twice():
    async with funded() as ledger, bench(ledger) as it:
        await it.granted()
        await anyio.sleep(90)


async def sent_again():
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, {"commit": [lost_answer()]})) as it:
            await it.whole()


async def recorded_after_its_lease():
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, {"commit": [expired()]})) as it:
            await it.whole()


async def rejected():
    async with funded() as memory:
        script = {"commit": [refused(409, "IDEMPOTENCY_MISMATCH")]}
        async with bench(ScriptedLedger(memory, script)) as it:
            await it.whole()


async def handed_over():
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"commit": repeat(lost_request())})
        async with bench(ledger, outbox=Kept()) as it:
            await it.whole()


async def cut_off_while_settling():
    async with funded() as memory, bench(StalledLedger(memory, ["commit"])) as it:
        await it.granted()


WALKS = {
    (State.RESERVING, Event.GRANTED): granted_and_settled,
    (State.RESERVING, Event.WAIVED): waived_and_nothing_to_settle,
    (State.RESERVING, Event.REFUSED): refused_by_the_budget,
    (State.RESERVING, Event.ASKED_AGAIN): asked_again_after_a_settlement,
    (State.RESERVING, Event.CUT_OFF): given_up_while_reserving,
    (State.HOLDING, Event.BEAT): beaten_twice,
    (State.HOLDING, Event.TOLD): granted_and_settled,
    (State.WAIVED, Event.TOLD): waived_and_nothing_to_settle,
    (State.SETTLING, Event.SETTLED): granted_and_settled,
    (State.SETTLING, Event.NOTHING_TO_SETTLE): waived_and_nothing_to_settle,
    (State.SETTLING, Event.UNANSWERED): sent_again,
    (State.SETTLING, Event.EXPIRED): recorded_after_its_lease,
    (State.SETTLING, Event.KEPT): handed_over,
    (State.SETTLING, Event.REJECTED): rejected,
    (State.SETTLING, Event.CUT_OFF): cut_off_while_settling,
}


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row[0].name}-{row[1].name}")
async def test_every_row_of_the_life_cycle_is_walked(row, monkeypatch):
    """And what is walked ends in the state that the table says."""
    taken = {}
    real = actor_module.step

    def watched(state, event):
        taken[state, event] = real(state, event)
        return taken[state, event]

    monkeypatch.setattr(actor_module, "step", watched)
    await WALKS[row]()
    assert taken[row] is TRANSITIONS[row]


# -- one call


async def test_a_call_is_reserved_before_and_committed_after():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            asked = await it.granted()
            assert await reserved(memory) == 100
            asked.actor.tell(DONE)
            await it.idle()
        assert [request.verb for request in ledger.requests] == ["reserve", "commit"]
        assert await tokens_spent(memory) == 30
    line = asked.line
    assert (line.outcome, line.reserved, line.actual, line.charged) == (
        Outcome.COMMITTED, tokens(100), tokens(30), tokens(30),
    )  # fmt: skip
    assert (line.tokens, line.actual_source, line.shortfall) == (USED, "usage", 0)


async def test_every_message_of_a_call_has_its_own_key_and_the_executions_differ():
    """Law 7: run / execution / call / verb; the same run id later is another execution."""
    prefixes = set()
    async with funded() as memory:
        for _ in range(2):
            ledger = RecordingLedger(memory)
            async with bench(ledger, run_id="nightly") as it:
                await it.whole()
                await it.whole(tool(), Finished())
            keys = [request.key.split("/") for request in ledger.requests]
            assert [(key[0], key[2], key[3]) for key in keys] == [
                ("nightly", "llm-1", "reserve"),
                ("nightly", "llm-1", "commit"),
                ("nightly", "tool-2", "reserve"),
                ("nightly", "tool-2", "commit"),
            ]
            assert len({key[1] for key in keys}) == 1
            prefixes.add(keys[0][1])
    assert len(prefixes) == 2


async def test_the_first_end_counts():
    async with funded() as ledger, bench(ledger) as it:
        asked = await it.granted()
        for end in (DONE, Abandoned("late"), NotStarted("later"), Finished()):
            asked.actor.tell(end)
        await it.idle()
        asked.actor.tell(Abandoned("much later"))
        assert await tokens_spent(ledger) == 30
        assert asked.line.outcome is Outcome.COMMITTED


async def test_an_end_may_be_told_from_a_thread():
    """And of many at once one counts."""
    async with funded() as ledger, bench(ledger) as it:
        asked = await it.granted()
        ready = threading.Barrier(4)

        def tell():
            ready.wait()
            asked.actor.tell(DONE)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(anyio.to_thread.run_sync, tell)
        await it.idle()
        assert await tokens_spent(ledger) == 30


async def test_what_never_began_is_released():
    async with funded() as ledger, bench(ledger) as it:
        line = await it.whole(end=NotStarted("a sibling failed"))
        assert (line.outcome, line.reason) == (Outcome.RELEASED, "a sibling failed")
        assert (await tokens_spent(ledger), await reserved(ledger)) == (0, 0)
        assert line.charged is None


@pytest.mark.parametrize(("choice", "charged"), [("charge", 100), ("release", 0)])
async def test_what_was_abandoned_follows_the_policy(choice, charged):
    """Either way the receipt says that it was, and why."""
    async with funded() as ledger, bench(ledger, on_abandoned=choice) as it:
        line = await it.whole(end=Abandoned("the stream was closed"))
        assert (line.outcome, line.reason) == (Outcome.ABANDONED, "the stream was closed")
        assert (await tokens_spent(ledger), await reserved(ledger)) == (charged, 0)


async def test_a_cut_stream_is_charged_what_was_heard():
    async with funded() as ledger, bench(ledger) as it:
        asked = await it.granted()
        asked.actor.streamed = 5
        asked.actor.tell(Abandoned("cut"))
        await it.idle()
        assert asked.line.actual == tokens(10 + 5)  # forty characters sent
        assert asked.line.actual_source == "streamed"


async def test_a_tools_cost_and_the_reason_travel_with_the_commit():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            await it.whole(tool(), Finished(cost=risk_points(3)))
            await it.whole(tool(), Abandoned("it raised"))
        told, given_up = (request.body for request in ledger.asked("commit"))
        assert (told.actual, told.metadata["actual_source"]) == (risk_points(3), "tool")
        assert given_up.actual == risk_points(7)
        assert given_up.metadata["abandoned"] == "it raised"
        assert told.metadata["name"] == "search"


async def test_a_commit_carries_what_the_model_reported():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            asked = await it.granted()
            await anyio.sleep(2)
            asked.actor.tell(DONE)
            await it.idle()
        (commit,) = ledger.asked("commit")
        metrics = commit.body.metrics
        assert (metrics.tokens_input, metrics.tokens_output) == (20, 10)
        assert (metrics.latency_ms, metrics.model_version) == (2_000, "openai:gpt")


async def test_an_actual_above_its_estimate_is_charged_as_far_as_the_budget_goes():
    """ALLOW_IF_AVAILABLE; charged + shortfall = actual."""
    from comptroller.core.pricing import TokenCount

    async with funded(120) as ledger, bench(ledger) as it:
        line = await it.whole(end=Finished(TokenCount(input=150)))
        assert (line.actual, line.charged, line.shortfall) == (tokens(150), tokens(120), 30)
        denial = await it.refused()
        assert isinstance(denial, BudgetExceeded)
        assert "over its limit" in str(denial)
        assert "fund it with" in str(denial)


async def test_a_price_book_that_fails_costs_the_estimate(caplog):
    """The call ran and has to be charged; whose fault it was is logged."""

    class Broken:
        def price(self, model, used, /):
            raise ZeroDivisionError

    from comptroller.money import usd

    async with funded() as ledger:
        await ledger.set_budget("tenant:acme", usd("1"))
        async with bench(ledger, llm_estimate=usd("0.05"), prices=Broken()) as it:
            line = await it.whole()
    assert (line.outcome, line.charged) == (Outcome.COMMITTED, usd("0.05"))
    assert "ZeroDivisionError" in caplog.text


async def test_a_model_without_a_price_is_warned_of_once(caplog, monkeypatch):
    """By the first call that is charged its estimate for want of one, whatever run it is of."""
    monkeypatch.setattr("comptroller.runtime.settlement._WARNED", set())
    from comptroller.money import usd

    async with funded() as ledger:
        await ledger.set_budget("tenant:acme", usd("1"))
        async with bench(ledger, llm_estimate=usd("0.05")) as it:
            await it.whole(end=Finished(None))
            assert caplog.records == []  # nobody knows its tokens: a price would not help
            assert (await it.whole()).charged == usd("0.05")
        async with bench(ledger, llm_estimate=usd("0.05")) as it:
            await it.whole()
        async with bench(ledger, llm_estimate=usd("0.05"), prices={"gpt": "gpt-4.1"}) as it:
            assert (await it.whole()).actual_source == "usage"
    [warning] = caplog.records
    assert (warning.name, warning.levelname) == ("comptroller", "WARNING")
    assert warning.getMessage() == (
        "no price is known for openai:gpt: its calls are charged their estimate. Say what it costs"
        ' in USD per million tokens, prices={"openai:gpt": Price("2.50", "10")}, or the name it is'
        " priced as"
    )


@pytest.mark.parametrize("estimate", [tokens(100), risk_points(1)], ids=["tokens", "points"])
async def test_where_no_price_is_needed_nobody_misses_one(estimate, caplog, monkeypatch):
    monkeypatch.setattr("comptroller.runtime.settlement._WARNED", set())
    async with funded() as ledger, bench(ledger, llm_estimate=estimate) as it:
        await it.whole()
    assert caplog.records == []


async def test_a_strategy_that_cannot_learn_changes_no_price(caplog):
    class Slow:
        def estimate(self, request, prices, /):
            return tokens(100)

        def learn(self, agent, model, actual):
            raise ZeroDivisionError

    async with funded() as ledger, bench(ledger, llm_estimate=Slow()) as it:
        line = await it.whole()
    assert (line.outcome, line.charged) == (Outcome.COMMITTED, tokens(30))
    assert "ZeroDivisionError" in caplog.text


async def test_a_strategy_learns_what_was_really_used_and_no_estimates():
    lessons = []

    class Keen:
        def estimate(self, request, prices, /):
            return tokens(100)

        def learn(self, *lesson):
            lessons.append(lesson)

    async with funded() as ledger, bench(ledger, llm_estimate=Keen()) as it:
        await it.whole()
        await it.whole(end=Finished())
        await it.whole(end=Abandoned("cut"))
        await it.whole(end=NotStarted("not needed"))
        await it.whole(tool(), Finished(cost=risk_points(1)))
    assert lessons == [("triage", "openai:gpt", tokens(30))]


# -- told early


async def test_told_while_reserving_it_gives_back_what_it_is_granted():
    """The caller left; the request is finished, and nothing is charged."""
    async with funded() as memory:
        ledger = StalledLedger(memory, ["reserve"], answers_only=True)
        async with bench(ledger) as it:
            asked = it.open(llm())
            await ledger.reached()
            asked.actor.tell(NotStarted("given up before it was granted"))
            ledger.resume()
            await it.idle()
            assert isinstance(await asked.answer(), RunCancelled)
            assert it.run.ended is None
        assert asked.line.outcome is Outcome.RELEASED
        assert (await tokens_spent(memory), await reserved(memory)) == (0, 0)


async def test_abandoned_while_reserving_nothing_was_dispatched():
    """Law 3: who has no grant has not begun, so there is nothing to charge."""
    async with funded() as memory:
        ledger = StalledLedger(memory, ["reserve"])
        async with bench(ledger) as it, anyio.create_task_group() as group:
            asked = it.open(llm())
            await ledger.reached()
            group.start_soon(it.close, "the tab was closed")
            await anyio.sleep(0.1)
            ledger.resume()
        assert isinstance(await asked.answer(), RunCancelled)
        assert (asked.line.outcome, asked.line.reason) == (Outcome.RELEASED, "the tab was closed")
        assert await tokens_spent(memory) == 0


async def test_told_before_a_refusal_it_is_just_refused():
    async with funded(50) as ledger, bench(ledger) as it:
        asked = it.open(llm())
        asked.actor.tell(NotStarted("gone"))
        assert isinstance(await asked.answer(), BudgetExceeded)
        assert asked.line.outcome is Outcome.DENIED


# -- the heartbeat


async def test_a_call_of_ten_minutes_keeps_its_lease():
    """One key per extension, none repeated; afterwards not one more (law 5)."""
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            asked = await it.granted()
            await anyio.sleep(600)
            asked.actor.tell(DONE)
            await it.idle()
            keys = [request.key.rpartition("/")[2] for request in ledger.asked("extend")]
            assert keys == [f"extend-{number}" for number in range(1, len(keys) + 1)]
            assert 10 <= len(keys) <= 15  # a lease of 60 s, less what a safe retry needs
            await anyio.sleep(600)
        assert len(ledger.asked("extend")) == len(keys)
        assert asked.line.outcome is Outcome.COMMITTED
        assert asked.line.heartbeat is None
        assert asked.line.lasted == pytest.approx(600)


async def test_an_extension_that_hangs_does_not_delay_the_commit():
    async with funded() as memory:
        ledger = StalledLedger(memory, ["extend"])
        async with bench(ledger) as it:
            asked = await it.granted()
            await ledger.reached()
            asked.actor.tell(DONE)
            before = anyio.current_time()
            await it.idle()
            assert anyio.current_time() - before < 0.1
            assert ledger.stalled == 0
        assert asked.line.outcome is Outcome.COMMITTED


async def test_an_extension_without_an_answer_is_repeated_under_its_key():
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"extend": [lost_answer()]})
        async with bench(ledger) as it:
            await it.granted()
            await anyio.sleep(120)
            keys = [request.key.rpartition("/")[2] for request in ledger.asked("extend")]
            assert keys[:3] == ["extend-1", "extend-1", "extend-2"]


async def test_a_refused_extension_stops_the_heartbeat_and_is_noted(caplog):
    """The call goes on; its line and the log name what happened."""
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"extend": [refused(409, "MAX_EXTENSIONS_EXCEEDED")]})
        async with bench(ledger) as it:
            asked = await it.granted()
            await anyio.sleep(50)
            asked.actor.tell(DONE)
            await it.idle()
        assert len(ledger.asked("extend")) == 1
        assert asked.line.outcome is Outcome.COMMITTED
        assert "MAX_EXTENSIONS_EXCEEDED" in asked.line.heartbeat
        assert asked.line.reservation_id in caplog.text


async def test_a_lease_that_ran_out_meanwhile_is_recorded_as_an_event():
    """End to end: heartbeats stop, the ledger sweeps, the spend is still charged, once."""
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"extend": [refused(409, "MAX_EXTENSIONS_EXCEEDED")]})
        async with bench(ledger) as it:
            asked = await it.granted()
            await anyio.sleep(300)
            assert await reserved(memory) == 0
            asked.actor.tell(DONE)
            await it.idle()
            assert asked.line.outcome is Outcome.RECORDED
            assert await tokens_spent(memory) == 30


async def test_a_defect_while_extending_stops_the_heartbeat_only(caplog):
    class Broken(RecordingLedger):
        async def extend(self, *args, **kwargs):
            raise ValueError("a slip")

    async with funded() as memory, bench(Broken(memory)) as it:
        asked = await it.granted()
        await anyio.sleep(50)
        asked.actor.tell(DONE)
        await it.idle()
        assert asked.line.outcome is Outcome.COMMITTED
        assert "a slip" in asked.line.heartbeat
        assert "a slip" in caplog.text


@pytest.mark.parametrize(
    ("caps", "beats"),
    [({"heartbeat_max_extensions": 3}, 3), ({"heartbeat_max_age_ms": 120_000}, 2)],
)
async def test_a_capped_heartbeat_stops_and_says_so_and_the_call_is_still_charged(caps, beats):
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger, **caps) as it:
            asked = await it.granted()
            await anyio.sleep(900)
            assert len(ledger.asked("extend")) == beats
            asked.actor.tell(DONE)
            await it.idle()
            assert asked.line.outcome is Outcome.RECORDED
            assert asked.line.heartbeat
            assert await tokens_spent(memory) == 30


# -- the outbox


async def test_a_charge_that_the_bound_cuts_off_is_handed_over():
    """With what its lease, its subject and its key were."""
    outbox = Kept(attempts=5)
    async with (
        funded() as memory,
        bench(StalledLedger(memory, ["commit"], request_timeout=600), outbox=outbox) as it,
    ):
        asked = await it.granted()
        asked.actor.tell(DONE)
        await it.close()
        assert asked.line.outcome is Outcome.OUTBOXED
        (owed,) = outbox.owed
        assert owed.key == asked.line.reservation_id
        assert owed.commit.actual == owed.event.actual == tokens(30)
        assert owed.commit.idempotency_key == asked.actor.call.message_key("commit")


async def test_what_never_began_is_not_owed():
    outbox = Kept()
    async with funded() as memory, bench(StalledLedger(memory, ["release"]), outbox=outbox) as it:
        asked = await it.granted()
        asked.actor.tell(NotStarted("nobody wants it"))
        await it.close()
        assert asked.line.outcome is Outcome.LAPSING
        assert outbox.owed == []


async def test_spend_without_a_reservation_is_owed_as_an_event():
    outbox = Kept()
    script = {"reserve": repeat(lost_request()), "record": repeat(lost_request())}
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, script), outbox=outbox, fail_open=True) as it:
            line = await it.whole()
            assert line.outcome is Outcome.OUTBOXED
            (owed,) = outbox.owed
            assert (owed.commit, owed.event.actual) == (None, tokens(30))


async def test_an_event_that_is_not_accepted_is_owed_too():
    outbox = Kept()
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"record": repeat(lost_request())})
        async with bench(ledger, outbox=outbox) as it:
            await it.granted(llm())
            it.run.note("agent.handoff", tool("Desk"), None)
            await anyio.sleep(1)
            assert [line.outcome for line in it.run.receipt.calls][1] is Outcome.OUTBOXED
            assert len(outbox.owed) == 1


# -- answers to a settlement


async def settled_under(script, *, wait=0.0, end=DONE):
    """(line, requests, tokens spent) of a call whose ledger follows `script`."""
    async with funded() as memory:
        ledger = ScriptedLedger(memory, script)
        async with bench(ledger) as it:
            asked = await it.granted()
            asked.actor.tell(end)
            await it.idle()
            await anyio.sleep(wait)
            line = asked.line
        await assert_settled(memory)
        return line, ledger, await tokens_spent(memory)


@pytest.mark.parametrize("fault", [lost_answer(), lost_request(), malformed(), server_error()])
async def test_an_ambiguous_answer_is_repeated_under_the_same_key(fault):
    """No answer, 5xx, or a success that is none: charged once, whether or not it had arrived."""
    line, ledger, charged = await settled_under({"commit": [fault, fault]})
    assert (line.outcome, line.charged, charged) == (Outcome.COMMITTED, tokens(30), 30)
    keys = {request.key for request in ledger.asked("commit")}
    assert (len(keys), len(ledger.asked("commit"))) == (1, 3)


async def test_a_429_is_not_asked_again_before_its_time():
    before = anyio.current_time()
    line, ledger, _ = await settled_under({"commit": [rate_limited(4_000)]})
    assert line.outcome is Outcome.COMMITTED
    assert 4 <= anyio.current_time() - before < 4.1
    first, second = ledger.asked("commit")
    assert first.key == second.key


async def test_a_429_that_names_years_is_asked_again_within_an_hour():
    before = anyio.current_time()
    line, ledger, charged = await settled_under({"commit": [rate_limited(10**15)]})
    assert (line.outcome, charged) == (Outcome.RECORDED, 30)  # the lease is over by then
    assert 3_600 <= anyio.current_time() - before < 3_601
    assert len({request.key for request in ledger.asked("commit")}) == 1


async def test_a_lease_that_is_over_is_recorded_under_the_commits_key():
    """With the original subject and action."""
    line, ledger, charged = await settled_under({"commit": [expired()]})
    assert (line.outcome, charged) == (Outcome.RECORDED, 30)
    (commit,), (record,) = ledger.asked("commit"), ledger.asked("record")
    (reserve,) = ledger.asked("reserve")
    assert record.key == commit.key
    assert (record.body.subject, record.body.action) == (reserve.body.subject, reserve.body.action)
    assert record.body.actual == tokens(30)


async def test_a_record_whose_answer_is_lost_is_charged_once():
    line, ledger, charged = await settled_under(
        {"commit": [expired()], "record": [lost_answer(), None]}
    )
    assert (line.outcome, charged) == (Outcome.RECORDED, 30)
    assert len({request.key for request in ledger.asked("record")}) == 1


@pytest.mark.parametrize(
    "fault",
    [
        refused(401, "UNAUTHORIZED"),
        refused(403, "FORBIDDEN"),
        refused(409, "IDEMPOTENCY_MISMATCH"),
        refused(404, "NOT_FOUND"),
        refused(418, "TEAPOT"),
    ],
    ids=lambda fault: fault.error_code,
)
async def test_spend_that_the_ledger_does_not_take_is_loud_and_never_released(fault, caplog):
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"commit": repeat(fault)})
        async with bench(ledger) as it:
            line = await it.whole()
        assert line.outcome is Outcome.UNSETTLED
        assert fault.error_code in line.reason
        assert (line.actual, line.charged, line.shortfall) == (tokens(30), None, 0)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert ledger.asked("release") == []
        assert len(ledger.asked("commit")) == 1


async def test_settled_by_an_earlier_attempt_is_settled():
    """The answer was lost; a gateway has forgotten the key, the reservation is final."""
    line, _, charged = await settled_under(
        {"commit": [lost_answer(), refused(409, "RESERVATION_FINALIZED")]}
    )
    assert (line.outcome, line.charged, charged) == (Outcome.COMMITTED, tokens(30), 30)


async def test_what_an_operator_releases_while_it_runs_is_recorded_and_says_so():
    """Work that ran is never released (law 3), whoever gave its reservation back."""
    async with funded() as memory, bench(memory) as it:
        opened = await it.granted()
        [held] = await open_reservations(memory)
        request = ReleaseRequest(idempotency_key="operator", reason="stuck?")
        await memory.release(held.reservation_id, request)
        opened.actor.tell(DONE)
        await it.over(opened)
        line = opened.line
        assert (line.outcome, line.charged) == (Outcome.RECORDED, tokens(30))
        assert "released while it ran" in line.reason


async def test_a_release_without_an_answer_lapses():
    """Best effort: one attempt, then the lease runs out by itself."""
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"release": [lost_request()]})
        async with bench(ledger) as it:
            line = await it.whole(end=NotStarted("not needed"))
        assert line.outcome is Outcome.LAPSING
        assert line.reason.startswith("not needed; ")
        assert len(ledger.asked("release")) == 1
        assert await reserved(memory) == 100
        await anyio.sleep(120)
        await memory.reservations()
        assert await reserved(memory) == 0


# -- defects


class Slip(RecordingLedger):
    """Raises what no ledger may raise, in one verb."""

    def __init__(self, inner, verb):
        super().__init__(inner)
        self._verb = verb

    async def _handle(self, request, forward):
        if request.verb == self._verb:
            raise ValueError("a slip")
        return await forward()


async def test_a_defect_of_the_ledger_is_its_fault_and_ends_the_run():
    """Law 10. The actor raises nothing into its group: the others live on."""
    async with no_task_left(), funded() as memory, bench(Slip(memory, "reserve")) as it:
        answer = await it.refused()
        assert isinstance(answer, LedgerMisbehaved)
        assert isinstance(answer.__cause__, ValueError)
        assert it.run.ended is answer
        assert outcomes(it.run) == [Outcome.UNSETTLED]
        assert it.hub.home.is_here()


async def test_a_defect_in_handing_over_a_grant_is_told_to_who_waits_and_nothing_begins(
    monkeypatch, caplog
):
    def slip(*_):
        raise ValueError("a slip")

    async with no_task_left(), funded() as memory, bench(memory) as it:
        with monkeypatch.context() as patched:
            patched.setattr(LimitTracker, "granted", slip)
            asked = it.open(llm())
            answer = await asked.answer()
        await it.over(asked)
        assert isinstance(answer, LedgerMisbehaved)
        assert isinstance(answer.__cause__, ValueError)
        assert asked.line.outcome == Outcome.RELEASED
        assert await open_reservations(memory) == []
        assert it.run.ended is answer
    assert "a slip" in caplog.text


async def test_a_defect_in_handing_over_a_refusal_to_a_guest_leaves_the_home_in_place(monkeypatch):
    def slip(*_):
        raise ValueError("a slip")

    async with no_task_left(), funded() as memory, bench(memory, limits=Limits(llm_calls=0)) as it:
        monkeypatch.setattr("comptroller.runtime.run.add_context", slip)
        asked = await anyio.to_thread.run_sync(it.open, llm())
        answer = await asked.answer()
        assert isinstance(answer.__cause__, ValueError)
        assert it.run.ended is answer


@pytest.mark.parametrize(("verb", "end"), [("commit", DONE), ("release", NotStarted("not needed"))])
async def test_a_defect_while_settling_leaves_an_unsettled_line(verb, end):
    async with funded() as memory, bench(Slip(memory, verb)) as it:
        other = await it.granted(tool())
        line = await it.whole(end=end)
        assert line.outcome is Outcome.UNSETTLED
        assert "a slip" in line.reason
        assert not other.actor._ended  # the group and everybody in it survived


# -- refusals


async def test_a_ledger_without_an_answer_ends_the_run():
    """The reserve may have arrived: its estimate lapses, and the line says so."""
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, {"reserve": [lost_answer()]})) as it:
            refusal = await it.refused()
            assert isinstance(refusal, LedgerUnreachable)
            assert it.run.ended is refusal
            assert refusal.run_id == it.run.id
            assert refusal.receipt.calls[0].outcome is Outcome.LAPSING
        assert await reserved(memory) == 100
        await anyio.sleep(120)
        await memory.reservations()
        assert await reserved(memory) == 0


async def test_a_key_that_the_ledger_refuses_is_a_failure_not_a_denial():
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, {"reserve": [refused(401, "UNAUTHORIZED")]})) as it:
            await it.refused()
            assert outcomes(it.run) == [Outcome.FAILED]


async def test_a_tenant_without_a_budget_learns_how_to_set_one():
    from comptroller.ledger.embedded.memory import open_memory

    async with open_memory() as ledger, bench(ledger) as it:
        refusal = await it.refused()
        assert isinstance(refusal, BudgetNotFound)
        assert 'await ledger.set_budget("tenant:acme"' in str(refusal)
        assert outcomes(it.run) == [Outcome.FAILED]


async def test_a_denial_tells_everything_about_itself():
    async with funded(120) as ledger, bench(ledger) as it:
        await it.granted()
        denial = await it.refused(llm(agent="Triage agent"))
        assert isinstance(denial, BudgetExceeded)
        assert str(denial) == (
            "acme: 100 tokens requested for gpt by agent Triage agent,"
            " 20 tokens left of 120 tokens (tenant:acme)"
        )
        assert (denial.scope, denial.unit, denial.requested, denial.remaining) == (
            "tenant:acme", Unit.TOKENS, 100, 20,
        )  # fmt: skip
        assert (denial.reason_code, denial.run_id, denial.call) == (
            "BUDGET_EXCEEDED", it.run.id, "llm-2",
        )  # fmt: skip
        assert [line.outcome for line in denial.receipt.calls] == [Outcome.RUNNING, Outcome.DENIED]


async def test_a_grant_without_a_reservation_is_none():
    """Nothing proceeds unreserved (law 1)."""

    class Careless(RecordingLedger):
        async def reserve(self, request, *, tenant=None):
            answer = await self.inner.reserve(request, tenant=tenant)
            return answer.model_copy(update={"reservation_id": None})

    async with funded() as memory, bench(Careless(memory)) as it:
        assert isinstance(await it.refused(), LedgerMisbehaved)


# -- asked once more


async def test_a_denial_due_to_a_settlement_under_way_is_asked_once_more():
    """The commit is off the caller's path: it frees what the next reserve wants."""
    async with funded(130) as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger) as it, anyio.create_task_group() as group:
            first = await it.granted()
            first.actor.tell(DONE)
            second = it.open(llm())
            await ledger.reached()
            await anyio.sleep(0.5)
            assert second.answers == []
            ledger.resume()
            assert isinstance(await second.answer(), CallGrant)
            group.cancel_scope.cancel()
        verbs = [request.key.rpartition("/")[2] for request in ledger.asked("reserve")]
        assert verbs == ["reserve", "reserve", "reserve-again"]
        assert Outcome.DENIED not in outcomes(it.run)


async def test_a_second_denial_is_believed_and_shown_once():
    async with funded(110) as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger) as it:
            first = await it.granted()
            first.actor.tell(Abandoned("cut"))
            second = it.open(llm())
            await ledger.reached()
            ledger.resume()
            assert isinstance(await second.answer(), BudgetExceeded)
            await it.idle()
            assert outcomes(it.run) == [Outcome.ABANDONED, Outcome.DENIED]
        assert len(ledger.asked("reserve")) == 3


async def test_a_denial_that_was_overtaken_by_a_settlement_is_asked_once_more():
    """The ledger refused before it heard of the commit; the commit's answer was quicker."""

    class LateDenials(RecordingLedger):
        async def _handle(self, request, forward):
            if request.verb == "commit":
                await anyio.sleep(1)
            try:
                return await forward()
            except BudgetExceeded:
                await anyio.sleep(2)
                raise

    async with funded(130) as memory, bench(LateDenials(memory)) as it:
        first = await it.granted()
        first.actor.tell(DONE)
        await it.granted()


async def test_open_calls_are_not_waited_for():
    """An enclosing agent-as-tool would wait for itself."""
    async with funded(130) as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            await it.granted()
            before = anyio.current_time()
            assert isinstance(await it.refused(), BudgetExceeded)
            assert anyio.current_time() == before
            assert len(ledger.asked("reserve")) == 2


async def test_settlements_elsewhere_are_not_waited_for():
    """Only those that touch the scope that was denied."""
    async with funded(100) as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger, settle_timeout=1) as it:
            await memory.set_budget("tenant:other", tokens(1_000))
            denied = it.run.terms.settling
            denied.begin("somebody", frozenset({"tenant:other"}))
            before = anyio.current_time()
            await it.granted()
            assert isinstance(await it.refused(), BudgetExceeded)
            assert anyio.current_time() == before
            denied.answered("somebody")


async def test_the_wait_for_settlements_is_bounded():
    """By one time-out of the ledger."""
    async with funded(100) as memory:
        ledger = StalledLedger(memory, ["commit"], request_timeout=3)
        async with bench(ledger, settle_timeout=1) as it:
            first = await it.granted()
            first.actor.tell(DONE)
            before = anyio.current_time()
            assert isinstance(await it.refused(), BudgetExceeded)
            assert anyio.current_time() - before == pytest.approx(3)


async def test_settlements_of_another_run_on_the_same_ledger_count():
    async with funded(130) as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger) as one, bench(ledger) as other:
            first = await one.granted()
            first.actor.tell(DONE)
            second = other.open(llm())
            await ledger.reached()
            ledger.resume()
            assert isinstance(await second.answer(), CallGrant)


# -- let through without a reservation


async def test_a_zero_estimate_asks_nothing_and_says_so():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger, tools=None) as it:
            line = await it.whole(tool("anything"), Finished())
        assert ledger.requests == []
        assert (line.outcome, line.reason) == (Outcome.UNRESERVED, "nothing to reserve")
        assert line.reservation_id is None


async def test_what_a_free_tool_turns_out_to_cost_is_recorded():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        tools = {"search": ToolEstimateConfig(0, actual=lambda _arguments, _result: risk_points(2))}
        async with bench(ledger, tools=tools) as it:
            line = await it.whole(tool(), Finished(cost=risk_points(2)))
        assert (line.outcome, line.charged) == (Outcome.RECORDED, risk_points(2))
        assert [request.verb for request in ledger.requests] == ["record"]


@pytest.mark.parametrize("fault", [lost_request(), server_error(503)])
async def test_fail_open_lets_calls_through_that_the_ledger_did_not_answer(fault):
    """What they cost is recorded as soon as it answers again."""
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"reserve": [fault], "record": [fault, None]})
        async with bench(ledger, fail_open=True) as it:
            line = await it.whole()
        assert line.outcome is Outcome.RECORDED
        assert line.reason.startswith("fail-open: ")
        assert await tokens_spent(memory) == 30


@pytest.mark.parametrize(
    "fault",
    [
        refused(409, "BUDGET_EXCEEDED"),
        refused(401, "UNAUTHORIZED"),
        refused(400, "INVALID_REQUEST"),
        rate_limited(),
        malformed(),
    ],
    ids=lambda fault: fault.error_code or "malformed",
)
async def test_fail_open_covers_neither_denials_nor_any_4xx(fault):
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, {"reserve": [fault]}), fail_open=True) as it:
            await it.refused()


async def test_a_dry_run_asks_and_neither_stops_nor_charges():
    async with funded(150) as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger, dry_run=True) as it:
            first = await it.granted()
            await it.whole(llm(agent="second"))
            first.actor.tell(DONE)
            await memory.set_budget("tenant:acme", tokens(10))
            line = await it.whole()
        assert {request.verb for request in ledger.requests} == {"reserve"}
        assert all(request.body.dry_run for request in ledger.requests)
        assert (line.outcome, line.would_deny) == (Outcome.UNRESERVED, "BUDGET_EXCEEDED")
        assert (line.actual, line.charged) == (tokens(30), None)
        assert (await tokens_spent(memory), await reserved(memory)) == (0, 0)


async def test_a_dry_run_goes_on_where_the_ledger_does_not_answer():
    async with funded() as memory:
        script = {"reserve": [lost_request(), refused(404, "NOT_FOUND")]}
        async with bench(ScriptedLedger(memory, script), dry_run=True) as it:
            assert (await it.whole()).would_deny == "LedgerUnreachable"
            assert (await it.whole()).would_deny == "NOT_FOUND"


# -- cut off


@pytest.mark.parametrize("verb", ["reserve", "commit", "release"])
async def test_a_ledger_that_hangs_cannot_hold_the_scope(verb):
    """Cut off at the bound; the line says what is left, and no task is."""
    end = NotStarted("not needed") if verb == "release" else DONE
    async with funded() as memory:
        ledger = StalledLedger(memory, [verb])
        async with no_task_left(), bench(ledger, settle_timeout=2) as it:
            asked = it.open(llm())
            await anyio.sleep(0.1)
            asked.actor.tell(end)
            await anyio.sleep(1)
            before = anyio.current_time()
            await it.close()
            assert 1.9 < anyio.current_time() - before < 2.1
        lapses = verb != "commit"
        assert asked.line.outcome is (Outcome.LAPSING if lapses else Outcome.UNSETTLED)
        assert asked.line.reason == "the ledger did not answer in time"
        assert ledger.stalled == 0


async def test_a_call_cut_off_while_it_reserves_is_answered():
    async with funded() as memory:
        async with bench(StalledLedger(memory, ["reserve"]), settle_timeout=1) as it:
            asked = it.open(llm())
            await anyio.sleep(0.1)
            await it.close()
            assert isinstance(await asked.answer(), LedgerUnreachable)
