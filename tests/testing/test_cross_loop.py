"""Waiting across loops, threads and flavours."""

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest
from agents import Agent, Runner

from comptroller.testing import BlockedModel
from comptroller.testing.cross_loop import CrossLoopCounter, CrossLoopEvent

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_latch_lets_through_who_waits_and_who_comes_later():
    latch, through = CrossLoopEvent(), []

    async def wait():
        await latch.wait()
        through.append(1)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        group.start_soon(wait)
        await anyio.sleep(60)
        assert through == []
        latch.open()
    await latch.wait()
    assert through == [1, 1]


async def test_a_latch_is_opened_from_another_thread():
    latch = CrossLoopEvent()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, latch.open)
        await latch.wait()


async def test_giving_up_leaves_nothing_behind():
    """Opening afterwards does not call into a loop that may have gone."""
    latch = CrossLoopEvent()
    with anyio.move_on_after(1):
        await latch.wait()
    assert latch._waiters == []
    latch.open()


async def test_a_counter_is_waited_for():
    """At once if the number was reached already; all who wait for one number wake together."""
    counter = CrossLoopCounter()
    counter.add()
    await counter.reached(1)
    async with anyio.create_task_group() as group:
        group.start_soon(counter.reached, 3)
        group.start_soon(counter.reached, 3)
        await anyio.sleep(1)
        counter.add()
        await counter.reached(2)
        counter.add()


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_model_is_watched_from_trio_where_asyncio_is_carried_by_it():
    import trio_asyncio

    model, outputs = BlockedModel("across"), []

    async def run():
        asked = trio_asyncio.aio_as_trio(Runner.run)
        outputs.append((await asked(Agent("Clerk", model=model), "?")).final_output)

    async with trio_asyncio.open_loop(), anyio.create_task_group() as group:
        group.start_soon(run)
        await model.started()
        assert model.in_flight == 1
        model.release()
    assert outputs == ["across"]


def test_a_latch_serves_two_loops_at_once():
    latch, through, waiting = CrossLoopEvent(), [], threading.Barrier(3)

    async def wait(name):
        waiter = asyncio.ensure_future(latch.wait())
        await asyncio.sleep(0)
        waiting.wait(10)
        await waiter
        through.append(name)

    threads = [threading.Thread(target=asyncio.run, args=[wait(name)]) for name in "ab"]
    for thread in threads:
        thread.start()
    waiting.wait(10)
    latch.open()
    for thread in threads:
        thread.join(10)
    assert sorted(through) == ["a", "b"]
