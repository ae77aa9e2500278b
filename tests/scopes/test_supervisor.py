"""`open_supervisor`: many runs started, watched, cancelled and left, on both backends."""

import asyncio
import traceback

import anyio
import anyio.lowlevel
import pytest
from agents import Agent, Runner, function_tool
from runcycles import Unit

from comptroller import (
    BudgetExceeded,
    LimitReached,
    Limits,
    Policy,
    RunCancelled,
    governed_run,
    open_supervisor,
)
from comptroller.core.call_lifecycle import Outcome
from comptroller.money import tokens
from comptroller.runtime.outcomes import Cancelled, Completed, Denied, Failed
from comptroller.testing import (
    BlockedModel,
    CountingModel,
    FailingModel,
    StalledLedger,
    assert_settled,
    no_task_left,
    spent,
)
from support.agent_scenarios import SHAPES, asking, plain, policy
from support.run_harness import funded

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
SOON = 0.2


def agent(model, **fields):
    return Agent("Worker", model=model, **fields)


def ready(*answers):
    """An agent that answers at once."""
    return agent(CountingModel(*answers))


# -- started runs


async def test_a_started_run_is_awaited_for_its_result():
    """The same body on asyncio and trio."""
    async with no_task_left(), funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
            first = supervisor.start(ready("one"), "go", tenant="acme")
            second = supervisor.start(ready("two"), "go", tenant="acme")
            assert (await second).final_output == "two"
            assert (await first.result()).final_output == "one"
            assert isinstance(await first.outcome(), Completed)
            assert (first.status, first.receipt.charged) == ("completed", {Unit.TOKENS: 15})
        assert (await spent(ledger, "acme"))[Unit.TOKENS] == 30


async def test_the_sdks_arguments_are_handed_on():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        looping = agent(asking(1, *[asking(1)._answers[0]] * 5), tools=[work])
        outcome = await supervisor.start(looping, "go", tenant="acme", max_turns=2).outcome()
        assert type(outcome.error).__name__ == "MaxTurnsExceeded"


@function_tool
def work() -> str:
    """Do something."""
    return "worked"


async def outcome_of(ledger, made, **options):
    async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        started = supervisor.start(made, "go", tenant="acme", **options)
        outcome = await started.outcome()
        if not isinstance(outcome, Completed):
            with pytest.raises(type(outcome.error)) as raised:
                await started
            assert raised.value is outcome.error
        assert supervisor.statistics().runs == {started.status: 1}
        return outcome, started.status


async def test_an_outcome_never_raises():
    """One value of four; awaiting the run raises what it holds."""
    mine = ZeroDivisionError("mine")
    async with funded(150) as ledger:
        completed, status = await outcome_of(ledger, ready())
        assert (type(completed), status) == (Completed, "completed")
        failed, status = await outcome_of(ledger, agent(FailingModel(mine, tokens=None)))
        assert (failed, status) == (Failed(mine), "failed")
        denied, status = await outcome_of(ledger, ready())
        assert (type(denied), status) == (Denied, "denied")
        assert isinstance(denied.error, BudgetExceeded)
        limited, status = await outcome_of(ledger, ready(), limits=Limits(llm_calls=0))
        assert (type(limited), status) == (Denied, "denied")


async def test_a_started_run_is_cancelled_from_anywhere():
    async with no_task_left(), funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
            play = plain()
            first = supervisor.start(play.agent, "go", tenant="acme")
            second = supervisor.start(play.agent, "go", tenant="acme")
            await play.agent.model.started(2)
            assert (first.status, second.status) == ("running", "running")
            before = anyio.current_time()
            first.cancel("deadline moved")
            await anyio.to_thread.run_sync(second.cancel, "from a thread")
            for started, reason in ((first, "deadline moved"), (second, "from a thread")):
                outcome = await started.outcome()
                assert isinstance(outcome, Cancelled)
                assert outcome.error.reason == reason
                assert started.status == "cancelled"
            assert anyio.current_time() - before < SOON
            first.cancel("again")
            await assert_settled(ledger)
        await anyio.to_thread.run_sync(second.cancel, "after its supervisor")


async def test_what_a_run_raised_does_not_grow_with_those_who_await_it():
    """And still says where it came from."""
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        started = supervisor.start(agent(FailingModel(KeyError)), "go", tenant="acme")
        traces = []
        for _ in range(4):
            with pytest.raises(KeyError) as caught:
                await started
            frames = traceback.extract_tb(caught.value.__traceback__)
            traces.append([frame.name for frame in frames])
        assert "get_response" in traces[0]
        assert traces == [traces[0]] * 4


async def test_several_may_await_one_run():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        play = plain()
        started = supervisor.start(play.agent, "go", tenant="acme")
        got = []

        async def wait():
            got.append((await started).final_output)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
            await play.underway()
            play.let_go()
        assert got == ["done"] * 3


async def test_a_run_is_awaited_in_its_supervisors_loop():
    """From a thread's own loop it would never be woken: that is said at once."""
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        started = supervisor.start(ready(), "go", tenant="acme")

        def elsewhere():
            with pytest.raises(RuntimeError, match="a started run is awaited in the loop that"):
                asyncio.run(started.outcome())

        await anyio.to_thread.run_sync(elsewhere)


async def test_a_waiter_that_is_cancelled_does_not_cancel_the_run():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        play = plain()
        started = supervisor.start(play.agent, "go", tenant="acme")
        await play.underway()
        with anyio.move_on_after(1):
            await started
        assert started.status == "running"
        play.let_go()
        assert (await started).final_output == "done"


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_started_run_does_ends_with_it(shape):
    async with no_task_left(), funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
            play = SHAPES[shape]()
            started = supervisor.start(play.agent, "go", tenant="acme", run_id="mine")
            await play.underway()
            started.cancel("enough")
            assert isinstance(await started.outcome(), Cancelled)
            await assert_settled(ledger)
            assert not any(line.open for line in supervisor.runs["mine"].receipt.calls)


# -- concurrency


async def test_no_more_run_at_once_than_allowed():
    """The others wait, and are shown as waiting."""
    async with funded(10**6) as ledger:
        async with open_supervisor(ledger=ledger, policy=policy(), max_concurrency=3) as supervisor:
            model = BlockedModel()
            started = [supervisor.start(agent(model), "go", tenant="acme") for _ in range(10)]
            await model.started(3)
            await anyio.sleep(10)
            assert model.in_flight == 3
            assert supervisor.statistics().runs == {"running": 3, "waiting": 7}
            model.release()
        assert {run.status for run in started} == {"completed"}
        assert supervisor.statistics().runs == {"completed": 10}


async def test_a_run_is_cancelled_while_it_waits():
    """It never begins, and gives its place to nobody, since it had none."""
    async with no_task_left(), funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy(), max_concurrency=1) as supervisor:
            play = plain()
            first = supervisor.start(play.agent, "go", tenant="acme")
            await play.underway()
            waiting = supervisor.start(ready(), "go", tenant="acme", run_id="waiting")
            third = supervisor.start(ready("third"), "go", tenant="acme")
            await anyio.sleep(1)
            waiting.cancel("not needed")
            outcome = await waiting.outcome()
            assert isinstance(outcome, Cancelled)
            assert outcome.error.reason == "not needed"
            assert (waiting.status, waiting.receipt.calls) == ("cancelled", ())
            assert third.status == "waiting"
            play.let_go()
            assert (await third).final_output == "third"
            await first
            again = supervisor.start(ready(), "go", tenant="acme", run_id="waiting")
            await again


async def test_a_run_cancelled_before_it_could_begin_never_begins():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        model = CountingModel()
        started = supervisor.start(agent(model), "go", tenant="acme")
        started.cancel("changed my mind")
        assert isinstance(await started.outcome(), Cancelled)
        assert model.dispatches == 0


async def test_scopes_count_as_well_as_started_runs():
    async with funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy(), max_concurrency=1) as supervisor:
            started = None

            async def inside():
                nonlocal started
                async with supervisor.run(ready(), "acme") as run:
                    started = supervisor.start(ready(), "go", tenant="acme")
                    await run("go")
                    await anyio.sleep(1)

            await inside()
            assert (await started).final_output == "done"


@pytest.mark.parametrize("way", ["start", "run"])
async def test_a_run_from_inside_a_governed_run_takes_no_place(way):
    """It would wait for itself."""
    async with funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy(), max_concurrency=1) as supervisor:
            async with supervisor.run(ready("outer"), "acme") as outer:
                with anyio.fail_after(10):
                    if way == "start":
                        result = await supervisor.start(ready("inner"), "go", tenant="acme")
                    else:
                        async with supervisor.run(ready("inner"), "acme") as inner:
                            result = await inner("go")
                assert result.final_output == "inner"
                assert (await outer("go")).final_output == "outer"


@ON_ASYNCIO
async def test_a_tool_may_start_a_run_and_wait_for_it():
    async with funded() as ledger:
        async with open_supervisor(
            ledger=ledger, policy=policy(tools=None), max_concurrency=1
        ) as supervisor:

            @function_tool
            async def work() -> str:
                return str(
                    (await supervisor.start(ready("inside"), "go", tenant="acme")).final_output
                )

            outer = supervisor.start(agent(asking(1), tools=[work]), "go", tenant="acme")
            with anyio.fail_after(10):
                await outer
            assert {handle.receipt.calls[0].episode for handle in supervisor.runs.values()} == {"1"}
            assert len(supervisor.runs) == 2


async def test_a_started_run_is_no_part_of_the_run_that_started_it():
    """Its calls stand in its own receipt, under its own tenant and limits."""
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        async with supervisor.run(ready(), "acme", limits=Limits(llm_calls=0)) as outer:
            inner = supervisor.start(ready(), "go", tenant="acme")
            await inner
        assert (outer.receipt.calls, len(inner.receipt.calls)) == ((), 1)


# -- leaving


async def test_left_normally_it_waits_for_its_runs():
    async with no_task_left(), funded() as ledger:
        play = plain()
        async with anyio.create_task_group() as group:
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                started = supervisor.start(play.agent, "go", tenant="acme")
                waiting = supervisor.start(ready(), "go", tenant="acme")
                group.start_soon(_later, 30, play.let_go)
            assert anyio.current_time() >= 30
        assert (started.status, waiting.status) == ("completed", "completed")
        await assert_settled(ledger)


async def _later(seconds, function):
    await anyio.sleep(seconds)
    function()


class Mine(Exception):
    pass


@pytest.mark.parametrize("shape", SHAPES)
async def test_left_by_an_exception_it_cancels_its_runs_with_the_reason(shape):
    """Those that wait, too. The exception comes out as it is."""
    mine, made = Mine(), []

    async def program(ledger):
        async with open_supervisor(ledger=ledger, policy=policy(), max_concurrency=1) as supervisor:
            play = SHAPES[shape]()
            made.append(supervisor.start(play.agent, "go", tenant="acme"))
            await play.underway()
            made.append(supervisor.start(ready(), "go", tenant="acme"))
            await anyio.lowlevel.checkpoint()
            made.append(anyio.current_time())
            raise mine

    async with no_task_left(), funded() as ledger:
        with pytest.raises(Mine) as raised:
            await program(ledger)
        assert raised.value is mine
        running, waiting, before = made
        assert anyio.current_time() - before < SOON
        for started in (running, waiting):
            outcome = await started.outcome()
            assert isinstance(outcome, Cancelled)
            assert outcome.error.reason == "its supervisor was left by Mine"
        await assert_settled(ledger)


async def test_left_by_a_cancellation_it_cancels_its_runs():
    async with no_task_left(), funded() as ledger:
        play = plain()
        with anyio.move_on_after(5) as scope:
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                started = supervisor.start(play.agent, "go", tenant="acme")
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert anyio.current_time() - scope.deadline < SOON
        assert isinstance(await started.outcome(), Cancelled)
        await assert_settled(ledger)


async def test_cancelled_while_it_waits_for_its_runs():
    async with no_task_left(), funded() as ledger:
        play = plain()
        with anyio.move_on_after(5) as scope:
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                started = supervisor.start(play.agent, "go", tenant="acme")
        assert scope.cancelled_caught
        assert anyio.current_time() - scope.deadline < SOON
        assert isinstance(await started.outcome(), Cancelled)
        await assert_settled(ledger)


@ON_ASYNCIO
@pytest.mark.parametrize("more", [[], [0.0], [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("hangs", [False, True])
async def test_its_task_is_cancelled_natively(more, hangs):
    async with no_task_left(), funded() as memory:
        ledger = StalledLedger(memory, ["commit"]) if hangs else memory
        play = plain()

        async def program():
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                handles.append(supervisor.start(play.agent, "go", tenant="acme"))
                await asyncio.sleep(3600)

        async def timed():
            try:
                await program()
            finally:
                left.append(anyio.current_time())

        handles, left = [], []
        task = asyncio.create_task(timed())
        await play.underway()
        before = anyio.current_time()
        task.cancel()
        for moment in more:
            await asyncio.sleep(before + moment - anyio.current_time())
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left[0] - before < SOON + hangs
        assert isinstance(await handles[0].outcome(), Cancelled)


async def test_a_run_left_in_another_task():
    """Nothing of the scope is tied to the task that entered it."""
    async with no_task_left(), funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
            scope = supervisor.run(ready(), "acme")
            run = await scope.__aenter__()
            await run("go")
            async with anyio.create_task_group() as group:
                group.start_soon(scope.__aexit__, None, None, None)
            assert run.status == "completed"
        assert supervisor.statistics().runs == {"completed": 1}


async def test_its_end_does_not_wait_for_scopes_held_elsewhere():
    """A task of the user's holds a run and waits for something else: the run is closed for it."""
    async with no_task_left(), funded() as ledger:
        go_on, entered = anyio.Event(), anyio.Event()
        runs = []

        async def holder(supervisor):
            async with supervisor.run(ready(), "acme") as run:
                runs.append(run)
                entered.set()
                await go_on.wait()
                with pytest.raises(RunCancelled, match="its supervisor was left by Mine"):
                    await run("go")

        async def program(group):
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                group.start_soon(holder, supervisor)
                await entered.wait()
                raise Mine

        async with anyio.create_task_group() as group:
            before = anyio.current_time()
            with pytest.raises(Mine):
                await program(group)
            assert anyio.current_time() - before < SOON
            go_on.set()
        assert runs[0].status == "cancelled"


async def test_no_run_begins_when_it_has_been_left():
    async with funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
            late = supervisor.run(ready(), "acme")
        with pytest.raises(RunCancelled, match="its supervisor was left"):
            supervisor.start(ready(), "go", tenant="acme")
        with pytest.raises(RunCancelled, match="its supervisor was left"):
            await late.__aenter__()


async def test_a_place_awaited_when_it_is_left_is_not_taken():
    async with no_task_left(), funded() as ledger:
        refused = []

        async def second(supervisor):
            try:
                async with supervisor.run(ready(), "acme"):
                    pass
            except RunCancelled as error:
                refused.append(error.reason)

        async def program(group):
            async with open_supervisor(
                ledger=ledger, policy=policy(), max_concurrency=1
            ) as supervisor:
                async with supervisor.run(ready(), "acme"):
                    group.start_soon(second, supervisor)
                    await anyio.sleep(1)
                    raise Mine

        async with anyio.create_task_group() as group:
            with pytest.raises(Mine):
                await program(group)
        assert refused in (["its supervisor was left by Mine"], [])


# -- policies, ids, figures


async def test_a_policy_may_depend_on_the_tenant():
    estimates = {"acme": 100, "globex": 40}

    def of(tenant: str) -> Policy:
        return policy(llm_estimate=tokens(estimates[tenant]))

    async with funded() as ledger:
        await ledger.set_budget("tenant:globex", tokens(1_000))
        async with open_supervisor(ledger=ledger, policy=of) as supervisor:
            runs = [supervisor.start(ready(), "go", tenant=tenant) for tenant in estimates]
            own = supervisor.start(
                ready(), "go", tenant="acme", policy=policy(llm_estimate=tokens(7))
            )
        assert [run.receipt.calls[0].reserved for run in [*runs, own]] == [
            tokens(100), tokens(40), tokens(7),
        ]  # fmt: skip


async def test_an_id_in_use_is_refused_at_once():
    """Whether the other run waits or runs, here or under another supervisor."""
    async with funded() as ledger:
        async with open_supervisor(ledger=ledger, policy=policy(), max_concurrency=1) as supervisor:
            play = plain()
            supervisor.start(play.agent, "go", tenant="acme", run_id="a")
            await play.underway()
            supervisor.start(ready(), "go", tenant="acme", run_id="b")
            async with open_supervisor(ledger=ledger) as other:
                for place in (supervisor, other):
                    for name in ("a", "b"):
                        with pytest.raises(ValueError, match=f"run_id='{name}'"):
                            place.start(ready(), "go", tenant="acme", run_id=name)
            with pytest.raises(ValueError, match="run_id='b'"):
                async with governed_run(None, "acme", ledger=ledger, run_id="b"):
                    pass
            play.let_go()
        assert supervisor.statistics().runs == {"completed": 2}


async def test_runs_are_shown_by_their_ids():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        play = plain()
        started = supervisor.start(play.agent, "go", tenant="acme", run_id="started")
        await play.underway()
        async with supervisor.run(ready(), "acme", run_id="scope") as run:
            assert supervisor.runs == {"started": started, "scope": run}
            supervisor.runs["started"].cancel("by the console")
        assert isinstance(await started.outcome(), Cancelled)
        assert [handle.status for handle in supervisor.runs.values()] == ["cancelled", "completed"]


async def test_statistics_are_of_everything():
    async with funded(180) as ledger:
        async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
            for _ in range(4):
                await supervisor.start(ready(), "go", tenant="acme").outcome()
            play = plain()
            running = supervisor.start(play.agent, "go", tenant="acme")
            await play.underway()
            denied = supervisor.start(ready(), "go", tenant="acme")
            await denied.outcome()
            figures = supervisor.statistics()
            assert figures.runs == {"completed": 4, "running": 1, "denied": 1}
            assert figures.calls == {
                Outcome.COMMITTED: 4, Outcome.RUNNING: 1, Outcome.DENIED: 1,
            }  # fmt: skip
            assert figures.spend == {Unit.TOKENS: 60}
            running.cancel()


async def test_a_ledger_of_its_own_from_the_environment(tmp_path, monkeypatch):
    from comptroller import open_ledger

    path = str(tmp_path / "ledger.db")
    monkeypatch.setenv("COMPTROLLER_LEDGER", path)
    async with open_ledger(path) as ledger:
        await ledger.set_budget("tenant:acme", tokens(1_000))
    async with no_task_left():
        async with open_supervisor(policy=policy()) as supervisor:
            await supervisor.start(ready(), "go", tenant="acme")
    async with open_ledger(path) as ledger:
        assert await spent(ledger, "acme") == {Unit.TOKENS: 15}


@pytest.mark.parametrize("wrong", [0, -1, True, "5", 2.5, None])
def test_at_least_one_run_must_fit(wrong):
    with pytest.raises(ValueError, match="at least 1 run must fit"):
        open_supervisor(max_concurrency=wrong)


async def later(tenant):
    return Policy()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": {}}, "policy={}: give a Policy"),
        ({"policy": "strict"}, "policy='strict': give a Policy"),
        ({"ledger": "memory:"}, "ledger='memory:': give what `async with open_ledger"),
        ({"policy": later}, "policy: nobody awaits an async function: give a plain function"),
    ],
)
def test_a_wrong_argument_of_a_supervisor_is_refused_at_once(wrong, message):
    with pytest.raises(TypeError, match=message):
        open_supervisor(**wrong)


async def test_a_wrong_argument_of_a_run_is_refused_at_once():
    async with funded() as ledger, open_supervisor(ledger=ledger) as supervisor:
        with pytest.raises(ValueError, match="tenant"):
            supervisor.start(ready(), "go", tenant="no spaces")
        with pytest.raises(ValueError, match="workspace"):
            supervisor.run(ready(), "acme", workspace="a/b")
        with pytest.raises(TypeError, match="agent=None"):
            supervisor.start(None, "go", tenant="acme")
        assert supervisor.runs == {}


async def test_a_limit_of_time_ends_a_started_run():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        play = plain()
        started = supervisor.start(play.agent, "go", tenant="acme", limits=Limits(seconds=60))
        outcome = await started.outcome()
        assert isinstance(outcome, Denied)
        assert isinstance(outcome.error, LimitReached)


@ON_ASYNCIO
async def test_a_run_outside_its_scopes_is_not_governed():
    async with funded() as ledger, open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        await Runner.run(ready(), "go")
        assert supervisor.statistics().runs == {}
        assert (await spent(ledger, "acme"))[Unit.TOKENS] == 0
