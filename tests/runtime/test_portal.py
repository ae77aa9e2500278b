"""Where actors live: one door for the loop itself, its guests, and bare callbacks."""

import asyncio
import os
import threading

import anyio
import pytest
from anyio.lowlevel import checkpoint

from comptroller.errors import ComptrollerError
from comptroller.runtime.portal import Condition, LoopPortal, PortalClosed, wait_shielded
from comptroller.testing import no_task_left

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
ON_TRIO = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)


class Log(list):
    """What arrived, and whether it ran at home; can be waited for."""

    def __init__(self, home):
        super().__init__()
        self.change = Condition()
        self._home = home

    def note(self, what):
        assert self._home.is_here()
        self.append(what)
        self.change.notify()

    async def reaches(self, count):
        with anyio.fail_after(5):
            await self.change.until(lambda: len(self) >= count)


async def test_what_is_sent_from_home_has_run_when_the_call_returns():
    async with LoopPortal() as home:
        log = Log(home)
        home.call(log.note, 1)
        assert log == [1]


async def test_what_is_sent_before_it_has_opened_runs_in_its_order_when_it_opens():
    """Messages, tasks, and what a thread has sent: nothing of it overtakes another."""
    home = LoopPortal()
    log = Log(home)

    async def task(what):
        log.note(what)

    home.call(log.note, 1)
    home.start(task, "task", name="early")
    home.call(log.note, 2)
    await anyio.to_thread.run_sync(lambda: home.call(log.note, 3))
    await anyio.lowlevel.checkpoint()
    assert log == []
    async with home:
        home.call(log.note, 4)
        await log.reaches(5)
    assert [what for what in log if what != "task"] == [1, 2, 3, 4]


async def test_what_a_thread_sends_arrives_in_order():
    async with LoopPortal() as home:
        log = Log(home)

        def send():
            for number in range(100):
                home.call(log.note, number)

        await anyio.to_thread.run_sync(send)
        await log.reaches(100)
        assert log == list(range(100))


async def test_a_guest_with_a_loop_of_its_own_sends():
    """A synchronous tool may run an asyncio loop in its worker thread."""
    async with LoopPortal() as home:
        log = Log(home)

        async def guest():
            assert not home.is_here()
            home.call(log.note, "from a loop")

        await anyio.to_thread.run_sync(lambda: asyncio.run(guest()))
        await log.reaches(1)


async def test_a_task_is_started_for_a_guest():
    """In a thread, it would die with the guest's loop."""
    async with LoopPortal() as home:
        log = Log(home)

        async def task():
            await checkpoint()
            log.note("ran")

        def start():
            home.start(task, name="started for a guest")

        await anyio.to_thread.run_sync(lambda: home.call(start))
        await log.reaches(1)


@ON_ASYNCIO
async def test_a_bare_callback_of_the_loop_may_send():
    """It runs in no task; what it sends may start one."""
    async with LoopPortal() as home:
        log = Log(home)

        async def task():
            log.note("ran")

        def start():
            home.start(task, name="started by a callback")

        asyncio.get_running_loop().call_soon(home.call, start)
        await log.reaches(1)


@ON_TRIO
async def test_asyncio_code_that_trio_carries_is_a_guest():
    """The same thread, another flavour."""
    import trio_asyncio

    async with LoopPortal() as home, trio_asyncio.open_loop():
        log = Log(home)

        async def guest():
            assert not home.is_here()
            home.call(log.note, "carried")
            asyncio.get_running_loop().call_soon(home.call, log.note, "a bare callback")
            await asyncio.sleep(0.01)

        await trio_asyncio.aio_as_trio(guest)()
        await log.reaches(2)
        assert log == ["carried", "a bare callback"]


async def test_a_guest_of_a_closed_home_is_told():
    async with LoopPortal() as home:
        pass
    with pytest.raises(PortalClosed):
        await anyio.to_thread.run_sync(home.call, list)


@ON_ASYNCIO
async def test_a_guest_of_a_home_whose_loop_has_ended_is_told():
    """Its thread outlived the program that it was part of."""

    def guest():
        loop = asyncio.new_event_loop()
        home = loop.run_until_complete(made())
        loop.close()
        with pytest.raises(PortalClosed):
            home.call(list)

    async def made():
        return LoopPortal()

    await anyio.to_thread.run_sync(guest)


async def test_the_last_messages_are_handed_on():
    """Sent before the door closed, they run, though the home is being left."""
    seen = []
    async with LoopPortal() as home:
        thread = threading.Thread(target=lambda: [home.call(seen.append, n) for n in range(50)])
        thread.start()
        thread.join()
    assert seen == list(range(50))


async def test_guests_are_served_while_an_outer_scope_is_cancelled():
    """The SDK still reports while it tears down."""
    seen = []
    with anyio.CancelScope() as outer:
        async with LoopPortal() as home:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                await anyio.to_thread.run_sync(home.call, seen.append, 1)
                await anyio.sleep(1)
            assert seen == [1]


async def test_leaving_cancels_what_is_inside_and_waits_for_it():
    ended = []

    async def stubborn():
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
            ended.append(anyio.current_time())

    async with no_task_left():
        before = anyio.current_time()
        async with LoopPortal() as home:
            home.start(stubborn, name="stubborn")
            await anyio.sleep(1)
        assert ended == [pytest.approx(before + 4)]


async def test_the_bodys_exception_is_no_group():
    async def program():
        async with LoopPortal() as home:
            home.start(anyio.sleep_forever, name="sleeper")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await program()


async def test_a_fork_is_refused(monkeypatch):
    async with LoopPortal() as home:
        monkeypatch.setattr(os, "getpid", lambda: home._process + 1)
        for use in (lambda: home.call(list), lambda: home.start(checkpoint, name="x")):
            with pytest.raises(
                ComptrollerError, match=r"cannot be used in its fork .* open a scope"
            ):
                use()
        monkeypatch.undo()


# -- outlasting


async def outlasted(disturb, *, after=2.0, at_most=5.0):
    """(seconds it took, what it returned) of a wait that `disturb(scope)` tries to end."""
    change, done = Condition(), []
    taken = []

    async def wait(scope):
        before = anyio.current_time()
        with scope:
            taken.append(await wait_shielded(change, lambda: bool(done), at_most))
            taken.insert(0, anyio.current_time() - before)

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, scope)
        await anyio.sleep(1)
        disturb(scope)
        await anyio.sleep(after - 1)
        done.append(True)
        change.notify()
    return taken


async def test_a_wait_ends_when_it_is_done():
    assert await outlasted(lambda scope: None) == [pytest.approx(2), None]


async def test_a_wait_outlasts_the_scope_around_it():
    assert await outlasted(lambda scope: scope.cancel()) == [pytest.approx(2), None]


async def test_a_wait_is_bounded():
    assert await outlasted(lambda scope: None, after=60) == [pytest.approx(5), None]


@ON_ASYNCIO
@pytest.mark.parametrize("moments", [[1], [1, 1, 1], [0.5, 1, 1.5], [5], [4.9, 5], [0, 5, 5]])
async def test_a_wait_outlasts_native_cancellations_and_returns_one(moments):
    """However many, and at the very moment of the time-out too: none is lost, none shortens it."""
    taken = []

    async def wait():
        taken.append(await wait_shielded(Condition(), lambda: False, 5))
        taken.append(loop.time() - before)

    loop = asyncio.get_running_loop()
    before = loop.time()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        for moment in moments:
            loop.call_at(before + moment, task.cancel)
    assert isinstance(taken[0], asyncio.CancelledError)
    assert taken[1] == pytest.approx(5)


@ON_ASYNCIO
async def test_a_wait_that_is_done_returns_what_came_meanwhile():
    change, done, taken = Condition(), [], []

    async def wait():
        taken.append(await wait_shielded(change, lambda: bool(done), 5))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        done.append(True)
        change.notify()
    assert isinstance(taken[0], asyncio.CancelledError)


async def test_a_change_wakes_everybody_whose_wish_is_fulfilled():
    change, value, woken = Condition(), [0], []

    async def wait(wish):
        await change.until(lambda: value[0] >= wish)
        woken.append(wish)

    async with anyio.create_task_group() as group:
        for wish in (1, 2, 2, 3):
            group.start_soon(wait, wish)
        for step in (1, 2, 3):
            await anyio.sleep(1)
            value[0] = step
            change.notify()
            await anyio.sleep(1)
            assert sorted(woken) == [wish for wish in (1, 2, 2, 3) if wish <= step]
    assert change._waiters == set()
