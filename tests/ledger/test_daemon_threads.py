"""Blocking work in daemons: kept for the next job, never given to two, lost with nobody."""

import asyncio
import os
import sys
import threading

import anyio
import pytest

from comptroller.ledger import daemon_threads

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True),
]


@pytest.fixture(autouse=True)
def nobody_idle(monkeypatch):
    monkeypatch.setattr(daemon_threads, "_idle", [])


async def test_a_thread_is_kept_for_the_next_job():
    threads = {await daemon_threads.run_sync(threading.current_thread) for _ in range(10)}
    assert len(threads) == 1
    assert all(thread.daemon for thread in threads)


async def test_no_two_jobs_share_a_thread_at_once():
    together = threading.Barrier(5)

    def meet():
        together.wait(30)
        return threading.get_ident()

    met = []

    async def job():
        met.append(await daemon_threads.run_sync(meet))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(job)
    assert len(set(met)) == 5


async def test_an_error_is_the_callers_and_the_thread_stays():
    with pytest.raises(ZeroDivisionError):
        await daemon_threads.run_sync(divmod, 1, 0)
    assert len(daemon_threads._idle) == 1
    assert await daemon_threads.run_sync(divmod, 5, 2) == (2, 1)
    assert len(daemon_threads._idle) == 1


async def test_a_thread_that_was_ended_gets_no_further_job():
    with pytest.raises(RuntimeError, match="its thread was ended"):
        await daemon_threads.run_sync(sys.exit, 3)
    assert daemon_threads._idle == []
    assert await daemon_threads.run_sync(str, 5) == "5"
    assert len(daemon_threads._idle) == 1


async def test_a_thread_whose_caller_was_cancelled_natively_is_given_to_nobody():
    """It may be at work for long: who comes next does not wait for it."""
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(30)

    task = asyncio.create_task(daemon_threads.run_sync(work))
    await anyio.to_thread.run_sync(begun.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert daemon_threads._idle == []
    assert await daemon_threads.run_sync(str, 5) == "5"
    go_on.set()


async def test_a_thread_without_work_ends(monkeypatch):
    monkeypatch.setattr(daemon_threads, "_IDLE_SECONDS", 0.01)
    thread = await daemon_threads.run_sync(threading.current_thread)
    await anyio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()
    assert daemon_threads._idle == []
    assert await daemon_threads.run_sync(str, 5) == "5"


async def test_a_fork_inherits_no_thread():
    await daemon_threads.run_sync(str, 5)
    child = os.fork()
    if not child:
        os._exit(len(daemon_threads._idle))
    ended = await anyio.to_thread.run_sync(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert len(daemon_threads._idle) == 1
