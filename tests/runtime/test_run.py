"""One run: what may begin, what ends it, and in which order it is left."""

import json
import logging

import anyio
import pytest
from runcycles import Caps, Unit

from comptroller.core.call_lifecycle import Outcome
from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import Abandoned, Finished, NotStarted
from comptroller.errors import (
    BudgetExceeded,
    ComptrollerError,
    LimitReached,
    RunCancelled,
    ToolDenied,
)
from comptroller.money import risk_points, tokens
from comptroller.policy import Limits
from comptroller.runtime.call import CallGrant, CallRequest
from comptroller.runtime.portal import Condition
from comptroller.testing import (
    RecordingLedger,
    ScriptedLedger,
    StalledLedger,
    expired,
    lost_answer,
    no_task_left,
    open_reservations,
)
from support.run_harness import DONE, bench, funded, llm, outcomes, reserved, tokens_spent, tool

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class FakeEpisode:
    """An episode that takes a while to stop, or never does."""

    def __init__(self, run, episode_id="1", *, takes=0.0):
        self.id, self._run, self._takes = episode_id, run, takes
        self.stopped = []

    def stop(self):
        self.stopped.append(anyio.current_time())
        if len(self.stopped) == 1 and self._takes is not None:
            self._run.terms.home.start(self._leave, name="a fake episode")

    async def _leave(self):
        with anyio.CancelScope(shield=True):
            await anyio.sleep(self._takes)
        self.before_leaving()
        self._run.leave(self)

    def before_leaving(self):
        """What the SDK still does while it tears down."""


# -- limits


async def test_llm_calls_beyond_the_limit_are_not_asked_for():
    """No round trip; the refusal names the limit, and ends the run."""
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger, limits=Limits(llm_calls=2)) as it:
            await it.whole()
            await it.granted()
            refusal = await it.refused()
            assert isinstance(refusal, LimitReached)
            assert "llm_calls=2" in str(refusal)
            assert (refusal.reason_code, refusal.call) == ("LIMIT_REACHED", "llm-3")
            assert it.run.ended is refusal
            assert it.run.receipt.calls[-1].outcome is Outcome.DENIED
        assert len(ledger.asked("reserve")) == 2


async def test_tool_calls_are_limited_by_name():
    async with funded() as ledger:
        async with bench(ledger, limits=Limits(tool_calls={"search": 1})) as it:
            await it.whole(tool(), Finished())
            await it.whole(tool("other"), Finished())
            assert isinstance(await it.refused(tool()), LimitReached)


async def test_tokens_count_as_soon_as_a_call_has_ended():
    """Not when its commit is answered: the next call asks before that."""
    async with funded() as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger, limits=Limits(tokens=30)) as it:
            first = await it.granted()
            first.actor.tell(DONE)
            assert isinstance(await it.refused(), LimitReached)
            ledger.resume()


async def test_spend_in_flight_counts_and_gives_way_to_what_it_cost():
    async with funded() as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger, limits=Limits(spend=tokens(250))) as it:
            first = await it.granted()
            second = await it.granted()
            first.actor.tell(DONE)
            third = await it.granted()  # 30 + 100 + 100
            second.actor.tell(NotStarted("not needed"))
            await it.granted()  # 30 + 100 + 100
            assert isinstance(await it.refused(), LimitReached)
            third.actor.tell(DONE)
            ledger.resume()


async def test_what_an_event_cost_counts_as_spend():
    """A tool that the provider ran is not asked for, but what follows it is."""
    async with funded() as ledger, bench(ledger, limits=Limits(spend=tokens(250))) as it:
        it.run.note("tool.hosted", hosted(), tokens(100))
        await it.granted()
        assert isinstance(await it.refused(), LimitReached)


async def test_limits_of_one_unit_leave_the_other_alone():
    async with funded() as ledger, bench(ledger, limits=Limits(spend=tokens(100))) as it:
        await it.granted()
        await it.granted(tool())


async def test_a_run_that_lasts_too_long_is_ended():
    """The reason stands in the error of everything that follows."""
    async with funded() as ledger, bench(ledger, limits=Limits(seconds=30)) as it:
        await it.granted()
        await anyio.sleep(29)
        assert it.run.ended is None
        await anyio.sleep(2)
        assert isinstance(it.run.ended, LimitReached)
        assert "limit of 30 seconds" in str(it.run.ended)
        assert await it.refused() is it.run.ended


async def test_the_time_limit_of_a_run_that_has_ended_leaves_no_timer():
    """Neither of one that is left before its timer began to run."""
    async with funded() as ledger, bench(ledger) as around, no_task_left():
        for wait in (0, 1):
            async with bench(ledger, limits=Limits(seconds=10**6)) as it:
                await anyio.sleep(wait)
        subject, terms = it.run._subject, it.run.terms.policy
        for episodes in (0, 1):  # that are waited for
            run = around.hub.new_run("x", subject, terms, Limits(seconds=10**6))
            run.begin()
            for _ in range(episodes):
                run.enter(FakeEpisode(run, takes=0.5))
            await run.close("at once")
            await anyio.sleep(1)


# -- caps


async def capped(ledger, **caps):
    await ledger.set_budget("tenant:acme", tokens(1_000), caps=Caps(**caps))


async def test_caps_of_the_latest_grant_bind_the_tools():
    """Protocol, Caps: the operator's word, so the error is not the caller's fault."""
    async with funded() as ledger:
        await capped(ledger, tool_denylist=["search"])
        async with bench(ledger) as it:
            await it.granted(tool())
            await it.granted()
            refusal = await it.refused(tool())
            assert isinstance(refusal, ToolDenied)
            assert refusal.reason_code == "CAPS"


async def test_a_later_grant_without_caps_lifts_them():
    async with funded() as ledger:
        await capped(ledger, tool_denylist=["search"])
        async with bench(ledger) as it:
            await it.granted()
            await ledger.set_budget("tenant:acme", tokens(1_000), caps=None)
            await it.granted()
            await it.granted(tool())


async def test_the_cap_on_steps_counts_what_follows_it():
    async with funded() as ledger:
        await capped(ledger, max_steps_remaining=2)
        async with bench(ledger) as it:
            await it.granted()
            await it.granted(tool())
            await it.granted(tool())
            assert isinstance(await it.refused(tool()), ToolDenied)


async def test_a_cool_down_delays_the_next_call():
    async with funded() as ledger:
        await capped(ledger, cooldown_ms=5_000)
        async with bench(ledger) as it:
            await it.whole()
            before = anyio.current_time()
            await it.granted()
            assert anyio.current_time() - before == pytest.approx(5, abs=0.1)


async def test_a_cool_down_of_whatever_length_ends_within_a_day():
    async with funded() as ledger:
        await capped(ledger, cooldown_ms=10**400)
        async with bench(ledger) as it:
            await it.whole()
            before = anyio.current_time()
            await it.granted()
            assert anyio.current_time() - before == pytest.approx(86_400, abs=0.1)


async def test_a_call_given_up_in_its_cool_down_never_was():
    """Nothing is asked, nothing charged."""
    async with funded() as memory:
        await capped(memory, cooldown_ms=5_000)
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            await it.whole()
            asked = it.open(llm())
            await anyio.sleep(1)
            asked.actor.tell(Abandoned("the tab was closed"))
            await it.over(asked)
            assert asked.line.outcome is Outcome.RELEASED
            assert asked.line.reservation_id is None
            assert it.run.ended is None
        assert len(ledger.asked("reserve")) == 1
        assert await tokens_spent(memory) == 30


# -- refusals end the run


async def test_a_refusal_ends_the_run_and_its_other_episodes():
    """It is raised where it fell; elsewhere the SDK would make a text of it."""
    async with funded(50) as ledger, bench(ledger) as it:
        outer, inner = FakeEpisode(it.run, "1"), FakeEpisode(it.run, "1.1")
        it.run.enter(outer)
        it.run.enter(inner)
        denial = await it.refused(llm(episode="1.1"))
        assert it.run.ended is denial
        assert (len(outer.stopped), inner.stopped) == (1, [])
        assert await it.refused(llm(episode="1")) is denial
        with pytest.raises(BudgetExceeded) as raised:
            it.run.check()
        assert raised.value is denial
        assert len(it.run.receipt.calls) == 1  # what is turned away leaves no line


async def test_the_first_refusal_is_kept():
    async with funded(50) as ledger, bench(ledger) as it:
        first = await it.refused()
        it.run.cancel("later")
        assert it.run.ended is first


async def test_a_denial_that_is_told_to_the_model_does_not_end_the_run():
    async with funded(points=5) as ledger, bench(ledger) as it:
        assert isinstance(await it.refused(tool(tells_model=True)), BudgetExceeded)
        assert it.run.ended is None
        await it.granted()


async def test_a_ledger_that_fails_ends_the_run_though_denials_are_told():
    async with (
        funded() as memory,
        bench(ScriptedLedger(memory, {"reserve": [lost_answer()]})) as it,
    ):
        refusal = await it.refused(tool(tells_model=True))
        assert it.run.ended is refusal


async def test_cancelling_refuses_what_follows_with_the_reason():
    async with funded() as ledger, bench(ledger) as it:
        it.run.cancel("user closed the tab")
        refusal = await it.refused()
        assert isinstance(refusal, RunCancelled)
        assert refusal.reason == "user closed the tab"
        assert it.run.receipt.calls == ()


async def test_a_grant_that_comes_after_the_end_lets_nothing_begin():
    """What never began is released (law 3), whoever still waits for the answer."""
    async with funded() as memory:
        ledger = StalledLedger(memory, ["reserve"])
        async with bench(ledger) as it:
            asked = it.open(llm())
            await ledger.reached()
            it.run.cancel("user closed the tab")
            ledger.resume()
            assert await asked.answer() is it.run.ended
            await it.over(asked)
        assert (asked.line.outcome, asked.line.reason) == (Outcome.RELEASED, "user closed the tab")
        assert await tokens_spent(memory) == 0


async def test_a_run_is_cancelled_from_a_thread():
    async with funded() as ledger, bench(ledger) as it:
        episode = FakeEpisode(it.run)
        it.run.enter(episode)
        await anyio.to_thread.run_sync(it.run.cancel, "from a thread")
        await anyio.sleep(0.1)
        assert len(episode.stopped) == 1


async def test_cancelling_a_run_that_has_ended_changes_nothing():
    async with funded() as ledger:
        async with bench(ledger) as it:
            pass
        before = it.run.ended
        it.run.cancel("late")
        await anyio.to_thread.run_sync(it.run.cancel, "later")
        assert it.run.ended is before


# -- names and reasons


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "\U0001f600" * 300, "x" * 1_000])
async def test_no_name_and_no_reason_keeps_a_call_from_its_ledger(text):
    """Half of a surrogate pair is text to Python, and to no message."""
    async with funded() as ledger, bench(ledger) as it:
        lines = [
            await it.whole(llm(agent=text)),
            await it.whole(tool(text)),
            await it.whole(end=Abandoned(text)),
            await it.whole(end=NotStarted(text)),
        ]
        assert [line.outcome for line in lines] == [
            Outcome.COMMITTED,
            Outcome.COMMITTED,
            Outcome.ABANDONED,
            Outcome.RELEASED,
        ]
        assert await open_reservations(ledger) == []


# -- a dry run's limits stop nothing, and stand in the receipt


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (Limits(llm_calls=1), 2),
        (Limits(tokens=30), 2),
        (Limits(spend=tokens(120)), 2),
        (Limits(tool_calls=1), 3),
        (Limits(tool_calls={"search": 1}), 3),
        (Limits(seconds=30), 2),
    ],
)
async def test_a_limit_stops_no_dry_run(limits, calls):
    """The receipt says which calls it would have denied; what they used goes on counting."""
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger, limits=limits, dry_run=True) as it:
            drafts = [llm(), tool(), tool(), llm()] if limits.tool_calls else [llm(), llm(), llm()]
            lines = [await it.whole(draft) for draft in drafts[:1]]
            await anyio.sleep(31)
            lines += [await it.whole(draft) for draft in drafts[1:]]
            assert it.run.ended is None
        would = [line.would_deny for line in lines]
        assert would[: calls - 1] == [None] * (calls - 1)
        assert would[calls - 1] == "LIMIT_REACHED"
        assert lines[calls - 1].reason.startswith("dry run: acme: ")
        assert {line.outcome for line in lines} == {Outcome.UNRESERVED}
        assert len(ledger.asked("reserve")) == would.count(None)
    assert all(line.actual == tokens(30) for line in lines if line.kind == "llm.completion")


# -- events


async def test_an_event_is_recorded_in_the_unit_of_the_llm_calls():
    """A handoff costs nothing, and stands in the ledger with what is said about it."""
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            await it.whole()
            draft = CallRequest(kind="event", name="refunds", agent="triage", episode="1")
            it.run.note("agent.handoff", draft, None, to="refunds")
            await it.idle()
            line = it.run.receipt.calls[-1]
        (record,) = ledger.asked("record")
        assert (record.body.actual, record.body.action.kind) == (tokens(0), "agent.handoff")
        assert record.body.metadata["to"] == "refunds"
        assert (line.outcome, line.kind, line.charged) == (
            Outcome.RECORDED, "agent.handoff", tokens(0),
        )  # fmt: skip


async def test_an_event_whose_answer_is_lost_is_charged_once():
    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"record": [lost_answer(), lost_answer()]})
        async with bench(ledger) as it:
            it.run.note("tool.hosted", hosted(), tokens(40))
            await it.idle()
        assert await tokens_spent(memory) == 40
        assert len({request.key for request in ledger.asked("record")}) == 1


async def test_an_event_that_hangs_is_cut_off_and_unsettled():
    async with funded() as memory:
        async with bench(StalledLedger(memory, ["record"]), settle_timeout=1) as it:
            it.run.note("tool.hosted", hosted(), tokens(40))
            await it.close()
            assert outcomes(it.run) == [Outcome.UNSETTLED]


async def test_events_stand_in_the_receipt_in_their_order():
    async with funded() as ledger, bench(ledger) as it:
        for name in "abcdefgh":
            draft = CallRequest(kind="event", name=name, agent="triage", episode="1")
            it.run.note("tool.hosted", draft, tokens(1))
        await it.idle()
        assert "".join(line.name for line in it.run.receipt.calls) == "abcdefgh"


async def test_a_defect_of_the_ledger_leaves_an_unsettled_event(caplog):
    """And everybody else alive."""

    class Slip(RecordingLedger):
        async def record(self, request, *, tenant=None):
            raise ValueError("a slip")

    async with no_task_left(), funded() as memory, bench(Slip(memory)) as it:
        it.run.note("tool.hosted", hosted(), tokens(40))
        await it.idle()
        [line] = it.run.receipt.calls
        assert line.outcome is Outcome.UNSETTLED
        assert "a slip" in line.reason
        await it.whole()
    assert "a slip" in caplog.text


async def test_an_event_after_the_end_is_logged_and_not_sent(caplog):
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            await it.close()
            it.run.note("tool.hosted", hosted(), tokens(40))
        await anyio.to_thread.run_sync(it.run.note, "agent.handoff", hosted(), tokens(40))
        assert ledger.requests == []
        assert "tool.hosted came after its end" in caplog.text
        assert "agent.handoff came after its end" in caplog.text


async def test_a_dry_run_records_no_events():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger, dry_run=True) as it:
            it.run.note("tool.hosted", hosted(), tokens(40))
        assert ledger.requests == []


def hosted():
    return CallRequest(kind="event", name="web_search", agent="triage", episode="1")


# -- leaving


async def test_a_run_is_left_when_its_calls_are_settled():
    """What was still open is abandoned, with the reason."""
    async with no_task_left(), funded() as ledger, bench(ledger) as it:
        asked = await it.granted()
        await it.close("its scope raised KeyError")
        assert (asked.line.outcome, asked.line.reason) == (
            Outcome.ABANDONED, "its scope raised KeyError",
        )  # fmt: skip
        assert await reserved(ledger) == 0


async def test_calls_that_end_while_the_sdk_tears_down_still_report():
    """A tool's clean-up, 0.4 s after `Runner.run` has returned."""
    async with funded() as ledger, bench(ledger) as it:
        asked = await it.granted()
        episode = FakeEpisode(it.run, takes=0.4)
        episode.before_leaving = lambda: asked.actor.tell(DONE)
        it.run.enter(episode)
        before = anyio.current_time()
        await it.close()
        assert asked.line.outcome is Outcome.COMMITTED
        assert anyio.current_time() - before == pytest.approx(0.4, abs=0.1)


async def test_an_episode_that_never_stops_is_not_waited_for_longer_than_allowed():
    async with funded() as ledger, bench(ledger, teardown_timeout=3) as it:
        asked = await it.granted()
        it.run.enter(FakeEpisode(it.run, takes=None))
        before = anyio.current_time()
        await it.close()
        assert anyio.current_time() - before == pytest.approx(3, abs=0.1)
        assert asked.line.outcome is Outcome.ABANDONED


async def test_the_exit_is_bounded_however_much_hangs():
    """Episodes, settlements, and a ledger that ignores its cancellation."""

    class Deaf(RecordingLedger):
        async def commit(self, *args, **kwargs):
            with anyio.CancelScope(shield=True):
                await released.wait()

    released = anyio.Event()
    async with funded() as memory, anyio.create_task_group() as group:
        group.start_soon(_release_after, 60, released)
        async with bench(Deaf(memory), teardown_timeout=2, settle_timeout=3) as it:
            await it.granted()
            it.run.enter(FakeEpisode(it.run, takes=None))
            before = anyio.current_time()
            await it.close()
            assert anyio.current_time() - before == pytest.approx(2 + 3 + 1, abs=0.1)
            assert anyio.current_time() - before <= it.run.patience
            released.set()
            await it.idle()
        group.cancel_scope.cancel()


async def _release_after(seconds, event):
    await anyio.sleep(seconds)
    event.set()


async def test_new_calls_are_refused_from_the_first_step_on():
    async with funded() as ledger, bench(ledger) as it:
        episode = FakeEpisode(it.run, takes=1)
        late = []
        episode.before_leaving = lambda: late.append(it.open(llm()))
        it.run.enter(episode)
        await it.close("its scope was left")
        assert isinstance(await late[0].answer(), RunCancelled)
        with pytest.raises(RunCancelled, match="its scope was left"):
            it.run.enter(FakeEpisode(it.run, "2"))


async def test_a_run_may_be_closed_twice_at_once():
    async with funded() as memory:
        ledger = StalledLedger(memory, ["commit"])
        async with bench(ledger) as it, anyio.create_task_group() as group:
            asked = await it.granted()
            group.start_soon(it.run.close, "first")
            group.start_soon(it.run.close, "second")
            await ledger.reached()
            ledger.resume()
        assert asked.line.outcome is Outcome.ABANDONED
        assert asked.line.reason in ("first", "second")  # trio starts them in any order
        assert len(ledger.asked("commit")) == 1


async def test_a_call_opened_by_a_guest_of_a_home_that_has_gone_is_refused():
    async with funded() as ledger:
        async with bench(ledger) as it:
            pass

        def guest():
            with pytest.raises(RunCancelled):
                it.run.open(llm(), lambda _: None)

        await anyio.to_thread.run_sync(guest)


async def test_a_guests_calls_are_answered_whatever_becomes_of_the_run():
    """Opened from threads while the run is closed: each has one answer, none is lost."""
    async with funded(10**6) as ledger, bench(ledger) as it:
        answered, change = [], Condition()

        def answer(given):
            answered.append(given)
            change.notify()

        def guest():
            for _ in range(50):
                it.run.open(llm(), answer)

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(anyio.to_thread.run_sync, guest)
            await anyio.sleep(0.001)
            group.start_soon(it.close)
        with anyio.fail_after(10):
            await change.until(lambda: len(answered) == 100)
        assert all(isinstance(given, CallGrant | RunCancelled) for given in answered)


async def test_a_fork_cannot_settle_its_parents_calls(monkeypatch):
    import os

    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with bench(ledger) as it:
            await it.granted()
            monkeypatch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(ComptrollerError, match="cannot be used in its fork"):
                await it.run.close("the child exits")
            with pytest.raises(ComptrollerError, match="cannot be used in its fork"):
                it.open(llm())
            monkeypatch.undo()
            assert len(ledger.requests) == 1


# -- the receipt


async def test_a_receipt_adds_up():
    """Totals by unit, agent and model; charged + shortfall = actual; JSON and a table."""
    async with funded(150) as ledger, bench(ledger, run_id="case-42") as it:
        await it.whole(llm(agent="triage"))
        await it.whole(tool(), Finished(cost=risk_points(3)))
        await it.whole(llm(agent="refunds", episode="1.1"), Finished(TokenCount(130, cached=9)))
        await it.refused(llm(agent="refunds", episode="1.1", attempt=2))
        receipt = it.run.receipt
    assert receipt.charged == {Unit.TOKENS: 150, Unit.RISK_POINTS: 3}
    assert receipt.shortfall == {Unit.TOKENS: 10}
    assert receipt.by_agent == {
        "triage": {Unit.TOKENS: 30, Unit.RISK_POINTS: 3},
        "refunds": {Unit.TOKENS: 120},
    }
    assert receipt.by_model == {"openai:gpt": {Unit.TOKENS: 150}}
    assert receipt.tokens == TokenCount(input=150, cached=9, output=10)
    assert receipt.outcomes == {Outcome.COMMITTED: 3, Outcome.DENIED: 1}
    assert [line.parent for line in receipt.calls] == [None, None, "1", "1"]
    for line in receipt.calls:
        if line.actual is not None:
            assert line.charged.amount + line.shortfall == line.actual.amount

    plain = json.loads(json.dumps(receipt.to_dict()))
    assert plain["charged"] == {"TOKENS": 150, "RISK_POINTS": 3}
    assert plain["shortfall"] == {"TOKENS": 10}
    assert plain["calls"][2] | {
        "id": "llm-3", "episode": "1.1", "parent": "1", "outcome": "committed", "shortfall": 10,
        "actual": {"unit": "TOKENS", "amount": 130}, "charged": {"unit": "TOKENS", "amount": 120},
    } == plain["calls"][2]  # fmt: skip
    assert plain["calls"][3]["charged"] is None

    table = str(receipt).splitlines()
    assert table[0] == "run case-42 of acme: charged 150 tokens, 3 risk points"
    assert table[1].split() == ["call", "agent", "what", "reserved", "charged", "tokens", "outcome"]
    assert len({line.index("reserved") for line in table[1:2]}) == 1
    assert "120 tokens short 10 tokens" in table[4]
    assert table[4].startswith("  llm-3")  # indented under the episode around it
    assert "#2" in table[5]
    assert "denied (tenant:acme is over its limit" in table[5]


async def test_the_tokens_of_a_receipt_are_those_of_all_kinds():
    used = TokenCount(input=9, cached=2, output=7, reasoning=3, cache_write=4)
    async with funded() as ledger, bench(ledger) as it:
        await it.whole(end=Finished(used))
        await it.whole(end=Finished(used))
        assert it.run.receipt.tokens == TokenCount(18, 4, 14, 6, 8)


async def test_a_receipt_of_nothing_says_so():
    async with funded() as ledger, bench(ledger, run_id="idle") as it:
        receipt = it.run.receipt
        assert str(receipt).startswith("run idle of acme: charged nothing")
        assert receipt.to_dict()["calls"] == []


async def test_a_receipt_is_a_snapshot():
    async with funded() as ledger, bench(ledger) as it:
        asked = await it.granted()
        before = it.run.receipt
        asked.actor.tell(DONE)
        await it.idle()
        assert before.calls[0].outcome is Outcome.RUNNING
        assert it.run.receipt.calls[0].outcome is Outcome.COMMITTED


async def test_a_receipt_may_be_read_from_a_thread_while_the_run_goes_on():
    async with funded() as ledger, bench(ledger) as it:
        await it.whole()
        receipt = await anyio.to_thread.run_sync(lambda: it.run.receipt)
        assert receipt.charged == {Unit.TOKENS: 30}


async def test_a_lapsed_lease_and_a_lost_release_are_told_apart():
    async with funded() as memory:
        async with bench(ScriptedLedger(memory, {"commit": [expired()]})) as it:
            await it.whole()
            assert outcomes(it.run) == [Outcome.RECORDED]


def test_the_log_is_the_packages_own():
    """One logger, so that a program can turn it down."""
    from comptroller.runtime import actor, lease, run, settlement

    for module in (actor, lease, run, settlement):
        assert module.log is logging.getLogger("comptroller")
