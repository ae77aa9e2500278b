"""What the runs of a supervisor share: ids, figures, and the end."""

import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial

import anyio
import attrs
import pytest
from runcycles import Subject, Unit

from comptroller.core.call_lifecycle import Outcome
from comptroller.core.pricing import TokenCount
from comptroller.errors import RunCancelled
from comptroller.policy import Limits
from comptroller.runtime import registry as hub_module
from comptroller.runtime.portal import LoopPortal
from comptroller.runtime.registry import RunRegistry
from comptroller.testing import StalledLedger, no_task_left
from support.run_harness import DONE, Bench, Named, bench, funded, llm, outcomes, policy, reserved

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@attrs.define
class Handle:
    id: str
    status: str = "running"
    receipt: object = None
    cancelled: list[str] = attrs.Factory(list)

    def cancel(self, reason="cancelled"):
        self.cancelled.append(reason)


def begun(hub, run_id, **changes):
    handle = Handle(run_id)
    hub.register(handle)
    run = hub.new_run(run_id, Subject(tenant="acme"), policy(**changes), Limits())
    hub.begin(run)
    return Bench(hub, run), handle


async def test_an_id_in_use_is_refused():
    """In the whole process: it names the run in the ledger, too."""
    async with funded() as ledger, LoopPortal() as home, bench(ledger, run_id="nightly") as it:
        for hub in (it.hub, RunRegistry(home, ledger)):
            with pytest.raises(ValueError, match="run_id='nightly': a run with this id is running"):
                hub.register(Named("nightly"))
        await it.close()
        hub.register(Named("nightly"))
        hub.forget("nightly", "cancelled")


async def test_a_waiting_run_holds_its_id():
    async with funded() as ledger, bench(ledger) as it:
        it.hub.register(Named("soon", status="waiting"))
        with pytest.raises(ValueError, match="run_id='soon'"):
            it.hub.register(Named("soon"))
        it.hub.forget("soon", "cancelled")


async def test_a_run_is_opened_in_the_loop_of_its_supervisor():
    async with funded() as ledger, bench(ledger) as it:
        with pytest.raises(RuntimeError, match="in the loop that opened its supervisor"):
            await anyio.to_thread.run_sync(it.hub.register, Named("elsewhere"))
        it.hub.register(Named("elsewhere"))
        it.hub.forget("elsewhere", "cancelled")


async def test_runs_are_shown_and_the_latest_are_remembered(monkeypatch):
    """What has ended is forgotten, oldest first; what lives is always shown."""
    monkeypatch.setattr(hub_module, "REMEMBERED", 3)
    async with funded() as ledger, bench(ledger, run_id="alive") as it:
        for number in range(6):
            other, handle = begun(it.hub, f"past-{number}")
            await other.run.close("over")
            handle.status = "completed"
            it.hub.ended(other.run, "completed")
        assert list(it.hub.runs) == ["alive", "past-3", "past-4", "past-5"]
        assert it.hub.statistics().runs == {"completed": 6, "running": 1}
        with pytest.raises(TypeError):
            it.hub.runs["x"] = handle


async def test_the_end_of_a_run_looks_at_no_other():
    """It takes as many steps among a hundred runs as among a few, while their end is waited for."""
    async with funded() as ledger, LoopPortal() as home:
        steps = []
        for others in (3, 100):
            hub = RunRegistry(home, ledger)
            runs = [begun(hub, f"one-of-{others}-{number}") for number in range(others)]
            it, handle = begun(hub, f"other-than-{others}")
            handle.status = "completed"
            async with anyio.create_task_group() as group:
                group.start_soon(hub.all_ended)
                await anyio.wait_all_tasks_blocked()
                with counted_steps() as count:
                    await it.run.close("over")
                    hub.ended(it.run, "completed")
                    await anyio.wait_all_tasks_blocked()
                steps.append(count["ours"])
                for other, _ in runs:
                    await other.run.close("over")
                    hub.ended(other.run, "completed")
        assert steps[0] == steps[1] > 0


@contextmanager
def counted_steps():
    """How many lines of the runtime are executed in the block, once for each time."""
    count = Counter()

    def step(_frame, event, _arg):
        count["ours"] += event == "line"
        return step

    def call(frame, _event, _arg):
        return step if "/comptroller/runtime/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield count
    finally:
        sys.settrace(before)


async def test_statistics_are_of_all_runs_past_and_present():
    async with funded() as ledger, bench(ledger) as it:
        past, handle = begun(it.hub, "past")
        await past.whole()
        await past.run.close("over")
        handle.status = "completed"
        it.hub.ended(past.run, "completed")
        await it.whole()
        await it.granted()
        figures = it.hub.statistics()
        assert figures.runs == {"completed": 1, "running": 1}
        assert figures.calls == {Outcome.COMMITTED: 2, Outcome.RUNNING: 1}
        assert figures.spend == {Unit.TOKENS: 60}
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            figures.runs = {}


async def test_a_run_counts_once_however_often_it_is_said_to_have_ended():
    async with funded() as ledger, bench(ledger) as it:
        other, _ = begun(it.hub, "twice")
        await other.run.close("over")
        it.hub.ended(other.run, "completed")
        it.hub.ended(other.run, "cancelled")
        assert it.hub.statistics().runs == {"completed": 1, "running": 1}


async def test_runs_are_ended_at_once_not_one_after_the_other():
    """A ledger that hangs costs the bound once, not once for each run."""
    async with no_task_left(), funded(10**6) as memory, LoopPortal() as home:
        hub = RunRegistry(home, StalledLedger(memory, ["commit"]))
        runs = [begun(hub, f"run-of-many-{n}", settle_timeout=2) for n in range(20)]
        for it, _ in runs:
            await it.granted()
        before = anyio.current_time()
        assert await hub.cancel_all("the supervisor is left") is None
        assert anyio.current_time() - before == pytest.approx(2, abs=0.1)
        assert all(handle.cancelled == ["the supervisor is left"] for _, handle in runs)
        assert [outcomes(it.run) for it, _ in runs] == [[Outcome.UNSETTLED]] * 20
        assert hub.statistics().runs == {"cancelled": 20}


async def test_no_run_begins_once_its_supervisor_is_being_left():
    async with funded() as ledger, LoopPortal() as home:
        hub = RunRegistry(home, ledger)
        await hub.cancel_all("it was left")
        with pytest.raises(RunCancelled, match="it was left"):
            hub.register(Named("late"))


async def test_a_run_whose_scope_is_held_elsewhere_is_closed_all_the_same():
    async with funded() as ledger, LoopPortal() as home:
        hub = RunRegistry(home, ledger)
        it, _ = begun(hub, "held")
        asked = await it.granted()
        before = anyio.current_time()
        await hub.cancel_all("it was left")
        assert anyio.current_time() - before < 0.1
        assert asked.line.outcome is Outcome.ABANDONED
        assert await reserved(ledger) == 0


async def test_waiting_for_all_sees_runs_that_begin_meanwhile():
    async with funded() as ledger, LoopPortal() as home:
        hub = RunRegistry(home, ledger)
        first, _ = begun(hub, "first-of-two")
        ended = []

        async def wait():
            await hub.all_ended()
            ended.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(1)
            second, _ = begun(hub, "second-of-two")
            await first.close()
            await anyio.sleep(1)
            assert ended == []
            await second.close()
        assert len(ended) == 1


async def test_runs_with_the_same_prices_share_a_book():
    """And a program that makes them anew for each run fills no memory."""
    mine = {"local": "openai:gpt-4.1"}
    async with funded() as ledger, LoopPortal() as home:
        hub = RunRegistry(home, ledger)
        books = [hub.book(mine) for _ in range(3)]
        assert books[0] is books[1] is books[2]
        assert hub.book(None) is hub.book(None)
        assert hub.book(mine).price("local", TokenCount(input=10)) is not None
        for _ in range(2 * hub_module.REMEMBERED):
            hub.book(dict(mine))
        assert len(hub._books) <= hub_module.REMEMBERED


async def test_loops_that_share_a_ledger_do_not_share_their_waits(anyio_backend_name):
    """A ledger in memory may be used by several threads, an event by its own loop only."""
    seen = []

    async def elsewhere():
        async with bench(ledger) as it:
            seen.append(it.run.terms.settling.under_way())

    async with funded() as ledger, bench(ledger) as here, bench(ledger) as beside:
        here.run.terms.settling.begin("somebody", frozenset({"tenant:acme"}))
        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=anyio_backend_name))
        seen.append(beside.run.terms.settling.under_way())
    assert seen == [{}, {"somebody": {"tenant:acme"}}]


async def test_two_runs_do_not_share_their_ends():
    async with funded() as ledger, bench(ledger) as one, bench(ledger) as other:
        one.run.cancel("this one only")
        asked = await other.granted(llm())
        asked.actor.tell(DONE)
        await other.idle()
        assert outcomes(other.run) == [Outcome.COMMITTED]
