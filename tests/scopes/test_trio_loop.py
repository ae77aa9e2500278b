"""A trio program has one asyncio loop, however many scopes it opens.

What asyncio code keeps beyond a scope (a client's connections, a background task) belongs to the
loop that it was made in. The loop ends with the program, and leaves nothing.
"""

import asyncio
import contextlib
import gc
import logging

import pytest
import trio
import trio_asyncio
from agents import Agent, Runner, function_tool
from agents.testing import function_call

from comptroller import governed_run, open_ledger, open_supervisor, risk_points, usd
from comptroller.testing import CountingModel, no_task_left


class Attached(CountingModel):
    """Notes the loop of every turn; it keeps what is of its first one, as a client does."""

    def __init__(self, *turns):
        super().__init__(*turns)
        self.loops = []

    async def _before(self, turn):
        del turn
        self.loops.append(asyncio.get_running_loop())


async def one_after_another(visit):
    for _ in range(3):
        await visit()


async def at_once(visit):
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(visit)


async def one_outlives_another(visit):
    """A task that began in a scope opens one of its own when that is over."""
    over = trio.Event()

    async def later():
        await over.wait()
        await visit()

    async with trio.open_nursery() as nursery:
        await visit(lambda: nursery.start_soon(later))
        over.set()


WAYS = [one_after_another, at_once, one_outlives_another]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", ["governed_run", "open_supervisor"])
def test_all_scopes_of_a_program_share_a_loop(way, scope):
    model = Attached(*["hello"] * 5)
    agent = Agent("A", model=model)

    async def main():
        async with open_ledger("memory:") as ledger:
            await ledger.set_budget("tenant:acme", usd("10"))

            async def visit(inside=lambda: None):
                async with no_task_left() if way is one_after_another else contextlib.nullcontext():
                    if scope == "governed_run":
                        async with governed_run(agent, "acme", ledger=ledger) as run:
                            inside()
                            await run("hi")
                    else:
                        async with open_supervisor(ledger=ledger) as supervisor:
                            inside()
                            await supervisor.start(agent, "hi", tenant="acme")

            await way(visit)
            assert trio_asyncio.current_loop.get() is None

    trio.run(main)
    assert len(model.loops) >= 2
    assert len(set(model.loops)) == 1
    assert model.loops[0].is_closed()


def test_each_program_has_its_own():
    model = Attached("one", "two")

    async def main():
        async with open_ledger("memory:") as ledger:
            await ledger.set_budget("tenant:acme", usd("10"))
            async with governed_run(Agent("A", model=model), "acme", ledger=ledger) as run:
                await run("hi")

    trio.run(main)
    trio.run(main)
    first, second = model.loops
    assert first is not second
    assert first.is_closed()
    assert second.is_closed()


def test_a_loop_of_the_programs_own_is_used():
    model = Attached("one", "two")

    async def main():
        async with open_ledger("memory:") as ledger, trio_asyncio.open_loop() as own:
            await ledger.set_budget("tenant:acme", usd("10"))
            agent = Agent("A", model=model)
            for _ in range(2):
                async with governed_run(agent, "acme", ledger=ledger) as run:
                    await run("hi")
            assert model.loops == [own, own]
            assert trio_asyncio.current_loop.get() is own

    trio.run(main)


def left_running(then):
    """An agent whose tool leaves a task of its own in the loop."""

    @function_tool
    async def leave() -> str:
        kept.append(asyncio.ensure_future(then()))
        await asyncio.sleep(0)
        return "left"

    kept = []
    model = CountingModel([function_call("leave", {}, call_id="c")], "done", "again")
    return Agent("A", model=model, tools=[leave]), kept


def play(agent, between):
    """Two scopes, and `between` them."""

    async def main():
        async with open_ledger("memory:") as ledger:
            for budget in (usd("10"), risk_points(10)):
                await ledger.set_budget("tenant:acme", budget)
            for _ in range(2):
                async with governed_run(agent, "acme", ledger=ledger) as run:
                    await run("hi")
                await between()

    trio.run(main)


def test_a_task_of_a_tools_goes_on_between_scopes_and_ends_with_the_program():
    log = []

    async def work():
        try:
            while True:
                log.append("worked")
                await asyncio.sleep(0.001)
        finally:
            log.append("cleaned up")

    async def between():
        done = len(log)
        with trio.fail_after(5):
            while len(log) < done + 3:  # noqa: ASYNC110 - no scope is open: nothing tells trio
                await trio.sleep(0.001)

    agent, tasks = left_running(work)
    play(agent, between)
    assert log[-1] == "cleaned up"
    assert log.count("cleaned up") == 1
    assert tasks[0].cancelled()


def test_an_error_that_nobody_asks_for_is_logged_and_ends_no_scope(caplog):
    """As on asyncio; a loop of trio-asyncio would end with it, and every scope that uses it."""

    async def fail():
        raise ValueError("nobody looks")

    agent, kept = left_running(fail)

    async def between():
        kept.clear()
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        play(agent, between)
    assert "nobody looks" in str([record.exc_info for record in caplog.records])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("pressed")])
def test_what_ends_a_program_ends_every_scope_on_its_loop(error):
    """It is raised in a task that nobody awaits, while the program waits for something else."""
    ended = []

    async def give_up():
        await asyncio.sleep(0)
        raise error

    async def main():
        async with open_ledger("memory:") as ledger, trio.open_nursery() as nursery:
            for budget in (usd("10"), risk_points(10)):
                await ledger.set_budget("tenant:acme", budget)

            async def wait():
                try:
                    async with governed_run(None, "acme", ledger=ledger):
                        await trio.sleep_forever()
                except BaseException as raised:
                    ended.append(raised)
                    raise

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            async with governed_run(left_running(give_up)[0], "acme", ledger=ledger) as run:
                await run("hi")
                await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(main)
    assert ended == [error]
    assert raised.value.split(type(error))[1] is None


def test_the_sdks_own_runner_is_carried_by_it():
    model = Attached("one", "two")

    async def main():
        async with open_ledger("memory:") as ledger:
            await ledger.set_budget("tenant:acme", usd("10"))
            for _ in range(2):
                async with governed_run(None, "acme", ledger=ledger) as run:
                    await trio_asyncio.aio_as_trio(Runner.run)(Agent("A", model=model), "hi")
                assert len(run.receipt.calls) == 1

    trio.run(main)
    assert len(set(model.loops)) == 1
