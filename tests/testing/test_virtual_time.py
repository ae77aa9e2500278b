"""Virtual time: jumps when nothing is ready, keeps pace while something real is awaited."""

import asyncio
import gc
import math
import threading
import time

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from comptroller.ledger import daemon_threads
from comptroller.testing import VirtualTimeLoop, virtual_backend

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_an_hour_passes_without_waiting_for_it():
    """Each sleeper wakes at its time, in order, and nobody waits."""
    woken = []

    async def sleeper(seconds):
        await anyio.sleep(seconds)
        woken.append((seconds, anyio.current_time() - started))

    started, real = anyio.current_time(), time.monotonic()
    async with anyio.create_task_group() as group:
        for seconds in (3600, 1, 60):
            group.start_soon(sleeper, seconds)
    assert time.monotonic() - real < 5
    assert [seconds for seconds, _ in woken] == [1, 60, 3600]
    assert [at for _, at in woken] == pytest.approx([1, 60, 3600])


async def test_ten_minutes_of_heartbeats_cost_next_to_nothing():
    """About 2 ms on a quiet machine; the bound leaves room for a busy one."""
    started, real = anyio.current_time(), time.process_time()
    beats = 0
    with anyio.move_on_after(600):
        while True:
            await anyio.sleep(20)
            beats += 1
    assert beats in (29, 30)  # the thirtieth and the deadline fall together
    assert anyio.current_time() - started == pytest.approx(600)
    assert time.process_time() - real < 0.2


async def test_a_deadline_strikes_at_its_time():
    started = anyio.current_time()
    with pytest.raises(TimeoutError):
        with anyio.fail_after(7.5):
            await anyio.sleep_forever()
    assert anyio.current_time() - started == pytest.approx(7.5)


async def test_the_clock_does_not_run_ahead_of_a_worker_thread():
    """A time-out of ten virtual seconds does not strike while a thread does a moment's work."""
    turn = threading.Event()
    threading.Timer(0.05, turn.set).start()
    with anyio.fail_after(10):
        assert await anyio.to_thread.run_sync(turn.wait)
    before = anyio.current_time()
    await anyio.sleep(100)  # and jumps again afterwards
    assert anyio.current_time() - before == pytest.approx(100, abs=1)


async def test_time_goes_on_while_a_thread_waits_for_the_loop():
    """A thread that waits for a timer of the loop gets its answer: time is paced, not stopped."""

    def in_thread():
        return anyio.from_thread.run(anyio.sleep, 0.01) or "woken"

    assert await anyio.to_thread.run_sync(in_thread) == "woken"


async def test_a_ledgers_thread_that_has_told_its_result_does_not_hold_the_clock(monkeypatch):
    """It may take a while to end: nothing is awaited of it by then."""
    over, perform = threading.Event(), daemon_threads._Job.perform

    def lingering(job):
        perform(job)
        over.wait(10)

    monkeypatch.setattr(daemon_threads._Job, "perform", lingering)
    try:
        assert await daemon_threads.run_sync(str, 5) == "5"
        real = time.monotonic()
        await anyio.sleep(5)
        assert time.monotonic() - real < 2
    finally:
        over.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_thread_that_wakes_the_loop_while_the_clock_looks_is_not_overtaken(monkeypatch):
    """Whoever no longer sees it sees that it has woken the loop."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    looked = []

    def look():
        if not looked:  # by the time of the first look the thread has told, and is gone
            looked.append(True)
            teller = threading.Thread(target=loop.call_soon_threadsafe, args=[told.set])
            teller.start()
            teller.join()
        return False

    monkeypatch.setattr(loop, "_workers", look)
    with anyio.fail_after(60):
        await told.wait()
    assert looked
    assert anyio.current_time() < 60


async def test_a_thread_that_nobody_awaits_any_more_does_not_hold_the_clock(anyio_backend_name):
    """An abandoned thread is not awaited on trio; anyio's asyncio workers stay counted."""
    release = threading.Event()
    with anyio.move_on_after(0.01):
        await anyio.to_thread.run_sync(release.wait, abandon_on_cancel=True)
    if anyio_backend_name == "trio":
        await anyio.sleep(3600)
    release.set()
    await anyio.sleep(3600)


async def test_the_clock_does_not_run_ahead_of_a_socket():
    """Bytes that are on their way through loopback arrive before a time-out strikes."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    address = listener.extra_attributes[anyio.abc.SocketAttribute.local_address]()

    async def answer(stream):
        async with stream:
            await stream.send(await stream.receive())

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        with anyio.fail_after(20):
            async with await anyio.connect_tcp(*address) as client:
                await client.send(b"x" * 1000)
                assert await client.receive()
        group.cancel_scope.cancel()
    before = anyio.current_time()
    await anyio.sleep(600)
    assert anyio.current_time() - before == pytest.approx(600, abs=1)


async def test_waiting_for_ever_is_not_busy():
    """A timer at infinity is no timer: a thread unknown to the loop can still end the wait."""
    with anyio.CancelScope() as scope:
        token = anyio.lowlevel.current_token()
        threading.Timer(0.05, lambda: anyio.from_thread.run_sync(scope.cancel, token=token)).start()
        used = time.process_time()
        await anyio.sleep(math.inf)
    assert time.process_time() - used < 0.04


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_clock_does_not_run_ahead_of_an_executor():
    with anyio.fail_after(10):
        assert await asyncio.to_thread(time.sleep, 0.02) is None
    release = threading.Event()
    with anyio.move_on_after(0.01):
        await asyncio.to_thread(release.wait)
    await asyncio.sleep(3600)  # the job runs on, but nobody awaits it
    release.set()


def test_closing_waits_for_executor_threads_in_real_time():
    """The limit that asyncio sets on joining its threads is not jumped over."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()

        async def start():
            loop.run_in_executor(None, time.sleep, 0.05)
            await asyncio.sleep(0)

        runner.run(start())
    assert loop.is_closed()


def test_a_loop_leaves_nothing_behind():
    """Closing gives the file descriptors back: no ResourceWarning when it is collected."""
    VirtualTimeLoop().close()
    gc.collect()


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_an_asyncio_loop_carried_by_trio_is_on_virtual_time_too():
    """Timers of asyncio code under trio-asyncio jump; its threads are waited for."""
    import trio_asyncio

    async with trio_asyncio.open_loop():
        started = anyio.current_time()
        await trio_asyncio.aio_as_trio(asyncio.sleep)(3600)
        assert anyio.current_time() - started == pytest.approx(3600, abs=1)
        with anyio.fail_after(10):
            await trio_asyncio.aio_as_trio(asyncio.to_thread)(time.sleep, 0.02)


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="'curio': virtual time is offered for 'asyncio' and"):
        virtual_backend("curio")


def test_a_timer_at_infinity_can_be_cancelled():
    loop = VirtualTimeLoop()
    handle = loop.call_later(math.inf, print)
    handle.cancel()
    assert handle.cancelled()
    loop.close()
