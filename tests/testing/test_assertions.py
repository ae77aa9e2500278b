"""The check that no task is left, on both backends."""

import asyncio

import anyio
import pytest

from comptroller.testing import assert_settled, no_task_left, tasks_left

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_tasks_that_have_ended_are_not_left():
    async with no_task_left():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 10)
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep(20)
            group.cancel_scope.cancel()


async def test_tasks_of_before_do_not_count():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        await anyio.lowlevel.checkpoint()
        async with no_task_left():
            await anyio.sleep(1)
        group.cancel_scope.cancel()


async def test_a_task_that_is_left_is_named():
    async def straggler():
        await anyio.sleep_forever()

    async def careless(group):
        async with no_task_left():
            group.start_soon(straggler)

    async with anyio.create_task_group() as group:
        with pytest.raises(AssertionError, match=r"tasks left: .*straggler"):
            await careless(group)
        assert len(tasks_left()) > 0
        group.cancel_scope.cancel()


async def test_an_error_of_the_block_is_not_hidden():
    """The body's own exception is what the reader needs."""
    with pytest.raises(ZeroDivisionError):
        async with no_task_left():
            raise ZeroDivisionError


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_asyncio_tasks_on_a_loop_that_trio_carries_count():
    import trio_asyncio

    async def leave_one():
        left.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600)))

    left = []
    async with trio_asyncio.open_loop():
        with pytest.raises(AssertionError, match="sleep"):
            async with no_task_left():
                await trio_asyncio.aio_as_trio(leave_one)()
        left.pop().cancel()


@pytest.mark.parametrize("what", [None, "acme", 5])
async def test_only_ledgers_and_runs_can_be_settled(what):
    with pytest.raises(TypeError, match="is no ledger, no run and no started run"):
        await assert_settled(what)
