"""Scopes whose user is gone: generators that are left, loops that end, processes that fork.

Frameworks finalise an async generator in another task than the one that ran it (a streaming
response whose client left); `asyncio.run` ends under tasks that nobody awaited.
"""

import asyncio
import gc
import signal
import textwrap

import pytest
from agents import Agent, Runner, function_tool
from runcycles import Unit

from comptroller import Cancelled, RunCancelled, governed_run, open_supervisor
from comptroller.core.call_lifecycle import Outcome
from comptroller.ledger.embedded.base import wall_clock
from comptroller.ledger.embedded.memory import MemoryLedger
from comptroller.money import risk_points, tokens
from comptroller.testing import (
    BlockedModel,
    CountingModel,
    StalledLedger,
    VirtualTimeLoop,
    assert_settled,
    asyncio_tasks_left,
    open_reservations,
    spent,
)
from support import subprocesses
from support.agent_scenarios import SHAPES, asking, plain, policy, streamed, with_tool

WHOSE = ["governed", "supervised"]


@pytest.fixture
def runner():
    """Asyncio on virtual time; nothing of it is left at its end but what is said."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        yield runner


class Program:
    """A ledger that outlives loops, and a streaming response over a governed run."""

    def __init__(self, whose="governed"):
        self.whose = whose
        self.run = None

    async def open(self):
        self.ledger = MemoryLedger(wall_clock)  # `open_memory` would end with the loop
        await self.ledger.set_budget("tenant:acme", tokens(10_000))
        await self.ledger.set_budget("tenant:acme", risk_points(100))
        return self

    async def response(self, agent, supervisor=None):
        """What a web framework iterates: it holds the scope between two pieces."""
        scope = (
            governed_run(agent, "acme", ledger=self.ledger, policy=policy())
            if supervisor is None
            else supervisor.run(agent, "acme", policy=policy())
        )
        async with scope as self.run:
            async for event in self.run.stream("go"):
                if event.type == "raw_response_event" and event.data.type.endswith("text.delta"):
                    yield event.data.delta

    async def is_settled(self):
        await assert_settled(self.ledger)
        assert (await spent(self.ledger, "acme"))[Unit.TOKENS] == self.run.receipt.charged.get(
            Unit.TOKENS, 0
        )
        [line] = self.run.receipt.calls
        assert line.outcome is Outcome.ABANDONED
        assert line.charged.amount > 0


async def nothing_is_left():
    for _ in range(3):  # a stream that was collected is finalised by its loop, in a few turns
        await asyncio.sleep(0)
    assert asyncio_tasks_left() == set()


async def in_another_task(function):
    await asyncio.create_task(function())


@pytest.mark.parametrize("whose", WHOSE)
def test_a_generator_is_closed_by_another_task(runner, whose):
    """`aclose()`, as a server does when the client has gone."""

    async def main():
        program = await Program().open()
        async with open_supervisor(ledger=program.ledger) as supervisor:
            response = program.response(
                streamed().agent, supervisor if whose == "supervised" else None
            )
            assert [await anext(response) for _ in range(3)] == ["words "] * 3
            before = asyncio.get_running_loop().time()
            await in_another_task(response.aclose)
            assert asyncio.get_running_loop().time() - before < 0.2
            await program.is_settled()
        await nothing_is_left()

    runner.run(main())


@pytest.mark.parametrize("whose", WHOSE)
def test_a_generator_is_cancelled_while_another_task_waits_in_it(runner, whose):
    async def main():
        program = await Program().open()
        async with open_supervisor(ledger=program.ledger) as supervisor:
            response = program.response(
                streamed().agent, supervisor if whose == "supervised" else None
            )
            await anext(response)
            waiting = asyncio.create_task(anext(response))
            await asyncio.sleep(0.5)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await program.is_settled()
        await nothing_is_left()

    runner.run(main())


@pytest.mark.parametrize("whose", WHOSE)
def test_a_generator_is_collected(runner, whose):
    """Nobody closes it; the loop finalises it in a task of its own."""

    async def main():
        program = await Program().open()
        async with open_supervisor(ledger=program.ledger) as supervisor:
            response = program.response(
                streamed().agent, supervisor if whose == "supervised" else None
            )
            await anext(response)
            del response
            gc.collect()
            await asyncio.sleep(0.1)
            await program.is_settled()
        await nothing_is_left()

    runner.run(main())


@pytest.mark.parametrize("whose", WHOSE)
def test_a_generator_that_is_left_when_its_loop_ends(whose):
    """`asyncio.run` cancels all tasks first and closes generators afterwards."""
    program, kept = Program(), []

    async def main():
        await program.open()
        if whose == "governed":
            kept.append(program.response(streamed().agent))
            await anext(kept[0])
            return
        async with open_supervisor(ledger=program.ledger) as supervisor:
            kept.append(program.response(streamed().agent, supervisor))
            await anext(kept[0])
            raise KeyError("the server is shut down")

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        if whose == "governed":
            runner.run(main())
        else:
            with pytest.raises(KeyError):
                runner.run(main())
        loop = runner.get_loop()
        before = loop.time()
    assert loop.time() - before < 0.2
    asyncio.run(program.is_settled())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("whose", [*WHOSE, "started"])
def test_a_loop_that_ends_under_a_run(shape, whose):
    """A task that nobody awaited: with all others it is cancelled, and leaves nothing."""
    program, play = Program(), SHAPES[shape]()

    async def forgotten():
        if whose == "governed":
            async with governed_run(
                play.agent, "acme", ledger=program.ledger, policy=policy()
            ) as program.run:
                await play.act(program.run)
        async with open_supervisor(ledger=program.ledger, policy=policy()) as supervisor:
            if whose == "started":
                program.run = supervisor.start(play.agent, "go", tenant="acme")
                await program.run
            async with supervisor.run(play.agent, "acme") as program.run:
                await play.act(program.run)

    async def main():
        await program.open()
        tasks.append(asyncio.create_task(forgotten()))
        await play.underway()

    tasks = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
        loop = runner.get_loop()
        before = loop.time()
    assert loop.time() - before < 0.2
    assert tasks[0].cancelled()
    assert not any(line.open for line in program.run.receipt.calls)

    async def look():
        await assert_settled(program.ledger)
        assert await spent(program.ledger, "acme") == {
            Unit.TOKENS: 0, Unit.RISK_POINTS: 0, **program.run.receipt.charged,
        }  # fmt: skip

    asyncio.run(look())


def test_a_loop_that_ends_while_settlements_hang():
    """Bounded; what could not be settled is said to be."""
    program, play = Program(), plain()

    async def forgotten():
        ledger = StalledLedger(program.ledger, ["commit"])
        async with governed_run(play.agent, "acme", ledger=ledger, policy=policy()) as program.run:
            await play.act(program.run)

    async def main():
        await program.open()
        tasks.append(asyncio.create_task(forgotten()))
        await play.underway()

    tasks = []
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
        loop = runner.get_loop()
        before = loop.time()
    assert loop.time() - before == pytest.approx(1, abs=0.2)
    assert [line.outcome for line in program.run.receipt.calls] == [Outcome.UNSETTLED]


def test_an_async_generator_of_the_sdks_stream_is_finalised(runner):
    """`break` out of a stream and leave it to the collector, then go on with the run."""

    async def main():
        program = await Program().open()
        play = streamed()
        async with governed_run(
            play.agent, "acme", ledger=program.ledger, policy=policy()
        ) as program.run:
            async for event in program.run.stream("go"):
                if event.type == "raw_response_event":
                    break
            gc.collect()
            assert await asyncio.wait_for(program.run("go"), 60)
        await assert_settled(program.ledger)
        await nothing_is_left()

    runner.run(main())


# -- whole programs

PROGRAM = """
    import asyncio, os, signal, sys, warnings
    from agents import set_tracing_disabled
    from comptroller import governed_run, open_ledger, open_supervisor
    from comptroller.errors import ComptrollerError
    from comptroller.money import risk_points, tokens
    from comptroller.testing import open_reservations, spent
    from support.agent_scenarios import SHAPES, policy
    set_tracing_disabled(True)

    async def fund(ledger):
        await ledger.set_budget("tenant:acme", tokens(10_000))
        await ledger.set_budget("tenant:acme", risk_points(100))

    async def report():
        async with open_ledger(path) as ledger:
            left = await open_reservations(ledger)
            print("left", len(left))

    path = sys.argv[1]
"""


def python(body, *args, code=0):
    """What a program of its own prints; it must end by itself, and with this exit code."""
    script = textwrap.dedent(PROGRAM) + textwrap.dedent(body)
    ended, out, err = subprocesses.run(["-W", "ignore", "-c", script, *map(str, args)])
    assert ended == code, err
    return out.splitlines(), err


@pytest.mark.parametrize(
    ("shape", "whose", "flavour"),
    [
        ("plain", "governed", "trio"),
        ("plain", "supervised", "asyncio"),
        ("with_tools", "supervised", "trio"),
        ("streamed_silence", "governed", "asyncio"),
    ],
)
def test_a_keyboard_interrupt_settles_everything(tmp_path, shape, whose, flavour):
    """Ctrl-C in the middle of a call: the program ends with KeyboardInterrupt, nothing is held."""
    body = """
    import anyio, contextlib, threading
    shape, whose, flavour = sys.argv[2:]

    @contextlib.asynccontextmanager
    async def opened(agent, ledger):
        if whose == "governed":
            async with governed_run(agent, "acme", ledger=ledger, policy=policy()) as run:
                yield run
        else:
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                async with supervisor.run(agent, "acme") as run:
                    yield run

    async def interrupt(play):
        await play.underway()
        os.kill(os.getpid(), signal.SIGINT)

    async def main():
        play = SHAPES[shape]()
        async with open_ledger(path) as ledger:
            await fund(ledger)
            async with anyio.create_task_group() as group:
                group.start_soon(interrupt, play)
                async with opened(play.agent, ledger) as run:
                    try:
                        await play.act(run)
                    finally:
                        print("body ended")
    try:
        anyio.run(main, backend=flavour)
    except BaseException as error:
        kinds = [error]
        while isinstance(kinds[-1], BaseExceptionGroup):
            kinds.append(kinds[-1].exceptions[0])
        print(type(kinds[-1]).__name__)
    asyncio.run(report())
    """
    out, _ = python(body, tmp_path / "ledger.db", shape, whose, flavour)
    assert out == ["body ended", "KeyboardInterrupt", "left 0"]


def test_a_fork_is_told_that_it_is_one(tmp_path):
    """One clear error for whatever it tries; its parent's run is not disturbed."""
    body = """
    from agents import Runner
    play = SHAPES["plain"]()
    play.let_go()

    def attempt(what):
        try:
            what()
        except ComptrollerError as error:
            return str(error).partition(":")[0].replace(str(os.getpid()), "CHILD").replace(
                str(os.getppid()), "PARENT")
        return "nothing raised"

    def send(coroutine):
        try:
            coroutine.send(None)
        finally:
            coroutine.close()

    async def main():
        async with open_ledger(path) as ledger:
            await fund(ledger)
            async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
                async with supervisor.run(play.agent, "acme") as run:
                    await run("go")
                    child = os.fork()
                    if child == 0:
                        try:
                            for what in (
                                lambda: supervisor.start(play.agent, "go", tenant="acme"),
                                lambda: send(supervisor.run(play.agent, "acme").__aenter__()),
                                lambda: send(run("go")),
                                lambda: send(Runner.run(play.agent, "go")),
                                lambda: run.cancel("by the child"),
                                lambda: send(run._run.close("the child exits")),
                            ):
                                print(attempt(what), flush=True)
                        finally:
                            os._exit(0)
                    os.waitpid(child, 0)
                    await run("go on")
                print(run.status, run.receipt.outcomes)
    asyncio.run(main())
    asyncio.run(report())
    """
    out, _ = python(body, tmp_path / "ledger.db")
    refused = "this scope was opened in process PARENT and cannot be used in its fork CHILD"
    assert out == [*[refused] * 6, "completed {<Outcome.COMMITTED: 'committed'>: 2}", "left 0"]


def test_a_tools_thread_does_not_keep_the_scope(runner):
    """Synchronous tools run on in their thread; the scope waits for them as long as allowed."""
    from support.agent_scenarios import with_thread

    async def main():
        program = await Program().open()
        play = with_thread()
        async with open_supervisor(ledger=program.ledger, policy=policy()) as supervisor:
            started = supervisor.start(play.agent, "go", tenant="acme")
            await play.underway()
            started.cancel("enough")
            with pytest.raises(RunCancelled):
                await started
            play.let_go()
        await assert_settled(program.ledger)
        tools = [line for line in started.receipt.calls if line.kind == "tool.invoke"]
        assert [line.outcome for line in tools] == [Outcome.ABANDONED]

    runner.run(main())


def test_a_loop_that_is_closed_under_an_agent_is_not_waited_for(runner):
    """One of a tool's own, in its thread: nothing goes on there, and nothing can be stopped."""
    model = BlockedModel()
    inner = Agent("Inner", model=model)

    @function_tool
    def work() -> str:
        loop = asyncio.new_event_loop()
        task = loop.create_task(Runner.run(inner, "go"))
        loop.run_until_complete(model.started())
        loop.close()
        left.append(task)
        return "left"

    left, agent = [], Agent("Outer", model=asking(1), tools=[work])

    async def main():
        program = await Program().open()
        async with governed_run(agent, "acme", ledger=program.ledger, policy=policy()) as run:
            await run("go")
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 1
        await assert_settled(program.ledger)
        outcomes = [line.outcome for line in run.receipt.calls if line.agent == "Inner"]
        assert outcomes == [Outcome.ABANDONED]

    runner.run(main())
    left[0]._log_destroy_pending = False


def test_an_open_reservation_would_be_seen(runner):
    """The checks above can fail."""
    handler = signal.getsignal(signal.SIGINT)

    async def main():
        program = await Program().open()
        play = with_tool()
        async with open_supervisor(ledger=program.ledger, policy=policy()) as supervisor:
            started = supervisor.start(play.agent, "go", tenant="acme")
            await play.underway()
            assert len(await open_reservations(program.ledger)) == 1
            started.cancel()

    runner.run(main())
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_signal_reaches_the_runs_of_a_supervisor_whose_task_has_ended(runner):
    """Its body has no task any more that could be cancelled, and nobody tries for ever."""

    async def main():
        program = await Program().open()
        scope = open_supervisor(ledger=program.ledger, policy=policy(), handle_signals=True)
        supervisor = await asyncio.create_task(scope.__aenter__())
        started = supervisor.start(Agent("A", model=BlockedModel()), "go", tenant="acme")
        await asyncio.sleep(0)
        scope._signals._stop()
        assert isinstance(await started.outcome(), Cancelled)
        assert not scope._signals.body.cancel_called
        await asyncio.create_task(scope.__aexit__(None, None, None))
        await nothing_is_left()

    runner.run(main())


def test_a_supervisor_may_be_left_by_another_task(runner):
    """As the cells of a notebook do, and the fixtures of pytest-asyncio."""

    async def cells():
        program = await Program().open()
        scope = open_supervisor(ledger=program.ledger, policy=policy())
        supervisor = await asyncio.create_task(scope.__aenter__())
        started = supervisor.start(Agent("A", model=CountingModel()), "go", tenant="acme")
        await asyncio.create_task(scope.__aexit__(None, None, None))
        assert started.status == "completed"
        await assert_settled(program.ledger)
        await nothing_is_left()

    runner.run(cells())
