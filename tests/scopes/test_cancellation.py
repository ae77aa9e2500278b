"""However a run is given up: it ends at once, leaves nothing, and raises one plain exception.

Outside cancellation is never translated and wins; `run.cancel` is RunCancelled(reason), a reached
limit of time LimitReached; the body's own exception comes out as it is.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from itertools import product

import anyio
import pytest
from runcycles import Unit

from comptroller import LimitReached, Limits, RunCancelled
from comptroller.core.call_lifecycle import Outcome
from comptroller.testing import (
    StalledLedger,
    assert_settled,
    no_task_left,
    open_reservations,
    spent,
)
from support.agent_scenarios import SCOPES, SHAPES, plain, policy, with_tool, with_tools
from support.run_harness import funded

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
SOON = 0.2  # seconds

of_every_shape = pytest.mark.parametrize("shape", SHAPES)
in_every_scope = pytest.mark.parametrize("scope", SCOPES)


class Stage:
    """A play in a governed scope, and what became of it."""

    def __init__(self, ledger, play, scope="governed", *, limits=None, **changes):
        self.ledger, self.play = ledger, play
        self._open = SCOPES[scope]
        self._limits, self._policy = limits, policy(**changes)
        self.run = self.error = self.result = None
        self.given_up = None

    async def perform(self):
        """The user's program."""
        try:
            async with self._open(
                self.play.agent, "acme", ledger=self.ledger, policy=self._policy,
                limits=self._limits,
            ) as self.run:  # fmt: skip
                self.result = await self.play.act(self.run)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.left = anyio.current_time()

    @asynccontextmanager
    async def observed(self, at_most=SOON):
        """Nothing is left afterwards, and it did not take long after `give_up`."""
        async with no_task_left():
            yield self
        took = self.left - self.given_up
        assert took <= at_most + self.play.clean_up, f"took {took:g} s"
        assert not isinstance(self.error, BaseExceptionGroup)
        assert not any(line.open for line in self.run.receipt.calls)

    def giving_up(self):
        self.given_up = anyio.current_time()


def charged_for(run):
    return {unit: total for unit, total in run.receipt.charged.items() if total}


def given_up(run):
    """Why, of all calls that were given up in flight."""
    return {line.reason for line in run.receipt.calls if line.outcome is Outcome.ABANDONED}


async def agrees(ledger, run):
    """The ledger holds nothing, and charged what the receipt says."""
    await assert_settled(ledger)
    books = {unit: total for unit, total in (await spent(ledger, "acme")).items() if total}
    assert books == charged_for(run)


# -- from outside: never translated, and it wins


@of_every_shape
@in_every_scope
async def test_cancelled_by_the_scope_around_it(shape, scope):
    async with funded() as ledger:
        stage = Stage(ledger, SHAPES[shape](), scope)
        async with stage.observed():
            async with anyio.create_task_group() as group:
                group.start_soon(stage.perform)
                await stage.play.underway()
                stage.giving_up()
                group.cancel_scope.cancel()
        assert isinstance(stage.error, _cancelled())
        await agrees(ledger, stage.run)


def _cancelled():
    import trio

    return asyncio.CancelledError | trio.Cancelled


@of_every_shape
@in_every_scope
async def test_cancelled_by_a_time_out_around_it(shape, scope):
    """It is the user's own TimeoutError."""
    async with funded() as ledger:
        stage = Stage(ledger, SHAPES[shape](), scope)
        async with stage.observed():
            stage.given_up = anyio.current_time() + 5
            with pytest.raises(TimeoutError) as raised:
                with anyio.fail_after(5):
                    await stage.perform()
            assert type(raised.value) is TimeoutError
        await agrees(ledger, stage.run)


@ON_ASYNCIO
@of_every_shape
@in_every_scope
async def test_cancelled_by_asyncios_time_out_around_it(shape, scope):
    async with funded() as ledger:
        stage = Stage(ledger, SHAPES[shape](), scope)
        async with stage.observed():
            stage.given_up = anyio.current_time() + 5
            with pytest.raises(TimeoutError) as raised:
                async with asyncio.timeout(5):
                    await stage.perform()
            assert type(raised.value) is TimeoutError
        await agrees(ledger, stage.run)


# moments after the first cancellation, in seconds: while the SDK tears down, while tools clean up,
# while the settlements are under way
MOMENTS = {
    "once": [],
    "twice at once": [0],
    "thrice": [0.1, 0.3],
    "in every phase": [0, 0.2, 0.5, 0.9, 1.2],
}


@ON_ASYNCIO
@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("slow", ["prompt", "hangs", "slow"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("shape", [*SHAPES, "cleaning"])
async def test_cancelled_by_its_task(shape, scope, slow, moments):
    """`task.cancel()`, which ignores every shield, as often as anybody likes."""
    async with funded() as memory:
        ledger = {"prompt": memory, "hangs": StalledLedger(memory, ["commit", "release"]),
                  "slow": SlowLedger(memory)}[slow]  # fmt: skip
        play = with_tools(0.4) if shape == "cleaning" else SHAPES[shape]()
        stage = Stage(ledger, play, scope)
        bound = {"prompt": SOON, "hangs": 1 + SOON, "slow": 0.7 + SOON}[slow]
        async with stage.observed(bound):
            task = asyncio.create_task(stage.perform())
            await play.underway()
            stage.giving_up()
            task.cancel()
            for moment in MOMENTS[moments]:
                await asyncio.sleep(stage.given_up + moment - anyio.current_time())
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert task.cancelled()
        if slow != "hangs":
            await agrees(memory, stage.run)


class SlowLedger(StalledLedger):
    """Needs 0.6 s for each settlement."""

    def __init__(self, inner):
        super().__init__(inner, ["commit", "release"])

    async def _hang(self):
        await anyio.sleep(0.6)


@of_every_shape
async def test_an_outer_cancellation_wins_over_the_runs_own(shape):
    async with funded() as ledger:
        stage = Stage(ledger, SHAPES[shape]())
        async with stage.observed():
            async with anyio.create_task_group() as group:
                group.start_soon(stage.perform)
                await stage.play.underway()
                stage.giving_up()
                group.cancel_scope.cancel()
                stage.run.cancel("at the same time")
        assert isinstance(stage.error, _cancelled())
        await agrees(ledger, stage.run)


# -- the run's own


@of_every_shape
@in_every_scope
@pytest.mark.parametrize("caller", ["task", "thread"])
async def test_cancelled_by_its_handle(shape, scope, caller):
    async with funded() as ledger:
        stage = Stage(ledger, SHAPES[shape](), scope)
        async with stage.observed():
            async with beside(stage):
                await stage.play.underway()
                if caller == "task":
                    stage.run.cancel("user closed the tab")
                else:
                    await anyio.to_thread.run_sync(stage.run.cancel, "user closed the tab")
                stage.giving_up()
        assert isinstance(stage.error, RunCancelled)
        assert stage.error.reason == "user closed the tab"
        await agrees(ledger, stage.run)
        assert given_up(stage.run) == {"user closed the tab"}
        assert stage.run.status == "cancelled"


@asynccontextmanager
async def beside(stage):
    """The block goes on beside the performance; its exception is the stage's."""
    async with anyio.create_task_group() as group:
        group.start_soon(_caught, stage)
        yield


async def _caught(stage):
    with suppress(Exception):
        await stage.perform()


@of_every_shape
@in_every_scope
async def test_ended_by_its_limit_of_time(shape, scope):
    async with funded() as ledger:
        stage = Stage(ledger, SHAPES[shape](), scope, limits=Limits(seconds=5))
        async with stage.observed():
            stage.given_up = anyio.current_time() + 5
            with pytest.raises(LimitReached, match="limit of 5 seconds") as raised:
                await stage.perform()
            assert raised.value is stage.error
        await agrees(ledger, stage.run)
        assert given_up(stage.run) == {str(stage.error)}
        assert stage.run.status == "denied"


@in_every_scope
async def test_cancelled_before_it_runs(scope):
    async with funded() as ledger:
        play = plain()

        async def act(run):
            run.cancel("changed my mind")
            return await run("go")

        play.act = act
        stage = Stage(ledger, play, scope)
        stage.giving_up()
        async with stage.observed():
            with pytest.raises(RunCancelled, match="changed my mind"):
                await stage.perform()
        assert stage.run.receipt.calls == ()
        assert play.agent.model.dispatches == 0


@in_every_scope
@pytest.mark.parametrize("streams", [False, True])
async def test_cancelled_during_its_reserve(scope, streams):
    """The caller is gone at once; what is granted afterwards is given back, nothing is sent."""
    async with funded() as memory:
        ledger = StalledLedger(memory, ["reserve"], answers_only=True)
        play = SHAPES["streamed_silence" if streams else "plain"]()
        stage = Stage(ledger, play, scope)
        async with stage.observed():
            async with beside(stage):
                await ledger.reached()
                stage.run.cancel("during its reserve")
                stage.giving_up()
                await anyio.sleep(0.1)
                ledger.resume()
        assert isinstance(stage.error, RunCancelled)
        await agrees(memory, stage.run)
        assert play.agent.model.dispatches == 0
        [line] = stage.run.receipt.calls
        assert (line.outcome, line.reason) == (Outcome.RELEASED, "during its reserve")


@in_every_scope
async def test_cancelled_during_its_settlement(scope):
    """The work is done and charged; the run says that it was cancelled."""
    async with funded() as memory:
        ledger = StalledLedger(memory, ["commit"])
        play = plain()
        play.let_go()

        async def act(run):
            await run("go")
            await ledger.reached()
            run.cancel("too late for this call")
            ledger.resume()
            return await run("go on")

        play.act = act
        stage = Stage(ledger, play, scope)
        stage.giving_up()
        async with stage.observed():
            with pytest.raises(RunCancelled, match="too late for this call"):
                await stage.perform()
        await agrees(memory, stage.run)
        assert [line.outcome for line in stage.run.receipt.calls] == [Outcome.COMMITTED]


@in_every_scope
async def test_cancelled_after_its_end(scope):
    async with funded() as ledger:
        play = plain()
        play.let_go()
        stage = Stage(ledger, play, scope)
        stage.giving_up()
        async with stage.observed():
            await stage.perform()
        stage.run.cancel("long over")
        await anyio.to_thread.run_sync(stage.run.cancel, "long over")
        assert stage.run.status == "completed"
        await agrees(ledger, stage.run)


async def test_only_what_the_run_does_is_interrupted():
    """Not the user's own awaits; leaving the block then raises nothing."""
    async with funded() as ledger:
        play = plain()
        done = []

        async def act(run):
            run.cancel("no more")
            await anyio.sleep(3)
            done.append(True)

        play.act = act
        stage = Stage(ledger, play)
        await stage.perform()
        assert done == [True]
        assert stage.run.status == "cancelled"


async def test_several_runs_at_once_are_all_cancelled():
    async with funded() as ledger:
        play = plain()
        raised = []

        async def one(run):
            with pytest.raises(RunCancelled, match="all of it") as caught:
                await run("go")
            raised.append(caught.value)

        async def act(run):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(one, run)
                await play.agent.model.started(3)
                run.cancel("all of it")

        play.act = act
        stage = Stage(ledger, play)
        stage.giving_up()
        async with stage.observed():
            await stage.perform()
        assert len(raised) == 3
        await agrees(ledger, stage.run)


# -- the body's own exception


class Mine(Exception):
    pass


@of_every_shape
@in_every_scope
async def test_the_bodys_exception_comes_out_as_it_is(shape, scope):
    """The same object, while agents are under way; nothing of them is left."""
    mine = Mine("what went wrong")
    async with funded() as ledger:
        play = SHAPES[shape]()
        inner = play.act

        async def act(run):
            async def background():
                with pytest.raises((RunCancelled, *_both())):
                    await inner(run)

            group = anyio.create_task_group()
            async with group:
                group.start_soon(background)
                await play.underway()
                stage.giving_up()
                group.cancel_scope.cancel()
            raise mine

        play.act = act
        stage = Stage(ledger, play, scope)
        async with stage.observed():
            with pytest.raises(Mine) as raised:
                await stage.perform()
        assert raised.value is mine
        assert mine.__cause__ is None
        await agrees(ledger, stage.run)
        assert stage.run.status == "failed"


def _both():
    import trio

    return asyncio.CancelledError, trio.Cancelled


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Mine])
@in_every_scope
async def test_any_exception_of_the_body_comes_out_as_it_is(error, scope):
    mine = error()
    async with funded() as ledger:
        with pytest.raises(error) as raised:
            async with SCOPES[scope](plain().agent, "acme", ledger=ledger, policy=policy()):
                raise mine
        assert raised.value is mine


@in_every_scope
async def test_the_bodys_exception_survives_an_outer_cancellation(scope):
    """Raised while the scope around it was already cancelled, it is not lost on the way out."""
    mine = Mine()

    async def program(ledger):
        with anyio.CancelScope() as outer:
            async with SCOPES[scope](plain().agent, "acme", ledger=ledger, policy=policy()):
                outer.cancel()
                raise mine

    async with funded() as ledger:
        with pytest.raises(Mine) as raised:
            await program(ledger)
        assert raised.value is mine


@in_every_scope
async def test_a_group_of_the_body_stays_the_bodys(scope):
    group = ExceptionGroup("mine", [Mine(), Mine()])
    async with funded() as ledger:
        with pytest.raises(ExceptionGroup) as raised:
            async with SCOPES[scope](plain().agent, "acme", ledger=ledger, policy=policy()):
                raise group
        assert raised.value is group


@in_every_scope
async def test_leaving_early_ends_what_still_runs(scope):
    """The block is left normally while an agent is under way in a task of the user's."""
    async with funded() as ledger:
        play = plain()
        ended = []

        async def background(run):
            with pytest.raises(RunCancelled, match="its scope was left"):
                await run("go")
            ended.append(True)

        async with no_task_left(), anyio.create_task_group() as group:
            async with SCOPES[scope](play.agent, "acme", ledger=ledger, policy=policy()) as run:
                group.start_soon(background, run)
                await play.underway()
        assert ended == [True]
        await agrees(ledger, run)


# -- tools that clean up


@pytest.mark.parametrize("way", ["handle", "limit", "closing"])
@pytest.mark.parametrize("make", [with_tool, with_tools])
async def test_tools_that_clean_up_still_report(make, way):
    """0.4 s after the cancellation: the scope waits for them, and their lines are settled."""
    async with funded() as ledger:
        play = make(0.4)
        limits = Limits(seconds=5) if way == "limit" else None
        stage = Stage(ledger, play, limits=limits)
        async with stage.observed():
            async with beside(stage):
                await play.underway()
                if way == "limit":
                    await anyio.sleep(5)
                elif way == "handle":
                    stage.run.cancel("enough")
                else:
                    await stage.run._run.close("closed by its supervisor")
                stage.giving_up()
        assert isinstance(stage.error, LimitReached if way == "limit" else RunCancelled)
        assert play.log == ["cleaned up"] * (3 if make is with_tools else 1)
        lines = [line for line in stage.run.receipt.calls if line.kind == "tool.invoke"]
        assert {line.outcome for line in lines} == {Outcome.ABANDONED}
        assert (await spent(ledger, "acme"))[Unit.RISK_POINTS] == 7 * len(lines)
        await agrees(ledger, stage.run)


async def test_tools_that_take_longer_than_allowed_are_left_behind():
    """Bounded: their calls are settled, they are not waited for."""
    async with funded() as ledger:
        play = with_tool(30)
        stage = Stage(ledger, play, teardown_timeout=2)
        async with beside(stage):
            await play.underway()
            stage.run.cancel("enough")
            stage.giving_up()
        assert isinstance(stage.error, RunCancelled)
        assert stage.left - stage.given_up == pytest.approx(2, abs=SOON)
        await agrees(ledger, stage.run)
        await anyio.sleep(60)


# -- ledgers that hang


HANGING = [*product(["commit", "release"], [False, True]), ("extend", False), ("extend", True)]


@pytest.mark.parametrize(("verb", "answers_only"), HANGING)
@pytest.mark.parametrize("shape", ["plain", "with_tools", "nested", "streamed"])
async def test_a_ledger_that_hangs_delays_the_end_by_its_bound_only(shape, verb, answers_only):
    """And what it did, though it never said so, is found in order afterwards."""
    async with funded() as memory:
        ledger = StalledLedger(memory, [verb], answers_only=answers_only)
        stage = Stage(ledger, SHAPES[shape]())
        async with stage.observed(1 + SOON):
            async with beside(stage):
                await stage.play.underway()
                stage.run.cancel("enough")
                stage.giving_up()
        assert isinstance(stage.error, RunCancelled)
        assert ledger.stalled == 0
        if verb == "extend" or answers_only:
            assert await open_reservations(memory) == []
        else:
            await anyio.sleep(120)  # the leases run out
            assert await open_reservations(memory) == []


@pytest.mark.parametrize("shape", ["plain", "streamed_silence"])
@pytest.mark.parametrize("way", ["outer", "handle"])
async def test_a_ledger_that_never_grants_holds_nobody(shape, way):
    async with funded() as memory:
        ledger = StalledLedger(memory, ["reserve"])
        stage = Stage(ledger, SHAPES[shape]())
        async with stage.observed(1 + SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(_caught, stage)
                await ledger.reached()
                stage.giving_up()
                if way == "outer":
                    group.cancel_scope.cancel()
                else:
                    stage.run.cancel("enough")
        assert [line.outcome for line in stage.run.receipt.calls] == [Outcome.LAPSING]
        assert stage.play.agent.model.dispatches == 0
