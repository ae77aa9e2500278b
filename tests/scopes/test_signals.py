"""SIGTERM and Ctrl-C of a supervisor in a plain script: they settle; who insists leaves."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import anyio
import pytest
from agents import Agent

from comptroller import open_supervisor
from comptroller.testing import BlockedModel, CountingModel
from support.agent_scenarios import policy
from support.cli import done
from support.processes.supervisor_until_signal import ESTIMATE, RUNS
from support.run_harness import funded
from support.subprocesses import PROCESSES, Python, environment

SCRIPT = PROCESSES / "supervisor_until_signal.py"
SETTLED = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: -signal.SIGINT}

either = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def in_the_foreground():
    """A shell lets the jobs in its background ignore Ctrl-C, and their children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def script(ledger, backend, *computing):
    """It runs, and each of its runs waits for a model, or the first one computes."""
    child = Python(
        [sys.executable, SCRIPT, ledger, backend, *computing],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with child:
        try:
            for _ in range(1 if computing else RUNS):
                assert child.stdout.readline() == "asked\n"
            yield child
        finally:
            child.kill()


def rows(ledger):
    """What is left of its calls: status and charge of each."""
    with contextlib.closing(sqlite3.connect(ledger)) as looking:
        return looking.execute("SELECT status, charged FROM reservations").fetchall()


@either
@both
def test_the_first_signal_cancels_settles_and_reports(tmp_path, backend, number):
    ledger = str(tmp_path / "ledger.db")
    with script(ledger, backend) as child:
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == SETTLED[number], err
    assert out.count("given up") == RUNS
    assert "charged" in out
    assert rows(ledger) == [("COMMITTED", ESTIMATE.amount)] * RUNS


@either
@both
def test_a_second_one_ends_it_at_once_and_nothing_is_lost_but_the_wait(tmp_path, backend, number):
    """Its ledger is held by somebody: settling would wait for that, up to a minute."""
    ledger = str(tmp_path / "ledger.db")
    with (
        script(ledger, backend) as child,
        contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as somebody,
    ):
        somebody.execute("BEGIN IMMEDIATE")
        child.send_signal(number)
        for _ in range(RUNS):
            assert child.stdout.readline() == "given up\n"
        began = time.monotonic()
        child.send_signal(number)
        child.communicate(timeout=60)
        assert time.monotonic() - began < 4
        assert child.returncode == -number
    assert {status for status, _ in rows(ledger)} == {"ACTIVE"}
    recovered = json.loads(done("recover", "--json", "--ledger", ledger))
    assert len(recovered) == RUNS
    assert rows(ledger) == [("COMMITTED", ESTIMATE.amount)] * RUNS


@both
def test_a_second_ctrl_c_ends_a_program_that_only_computes(tmp_path, backend):
    ledger = str(tmp_path / "ledger.db")
    with script(ledger, backend, "computing") as child:
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "pressed\n"
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT
    recovered = json.loads(done("recover", "--json", "--ledger", ledger))
    assert recovered  # the one that computed, and those that were granted before it
    assert rows(ledger) == [("COMMITTED", ESTIMATE.amount)] * len(recovered)


def run(main, backend="asyncio"):
    """On a loop as a program has it: trio-asyncio puts its own in asyncio's place."""
    own = {"loop_factory": asyncio.SelectorEventLoop} if backend == "asyncio" else {}
    return anyio.run(main, backend=backend, backend_options=own)


def handlers():
    return [signal.getsignal(number) for number in SETTLED]


@both
def test_a_supervisor_touches_no_handler_unless_it_is_asked_to(backend):
    async def main():
        before = handlers()
        async with funded() as ledger, open_supervisor(ledger=ledger) as supervisor:
            assert handlers() == before
            agent = Agent("Clerk", model=CountingModel())
            await supervisor.start(agent, "hello", tenant="acme", policy=policy())
        assert handlers() == before

    run(main, backend)


@both
def test_handlers_are_as_they_were_when_the_last_supervisor_is_left(backend):
    """They need not be left in the reverse order."""

    async def main():
        before = handlers()
        async with funded() as ledger, contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(
                open_supervisor(ledger=ledger, handle_signals=True)
            )
            assert not set(handlers()) & set(before)
            del first
            async with open_supervisor(ledger=ledger, handle_signals=True):
                pass
            assert not set(handlers()) & set(before)
        assert handlers() == before

    before = handlers()
    run(main, backend)
    assert handlers() == before


@pytest.mark.parametrize("own", [lambda *_: None, signal.SIG_IGN], ids=["own", "ignored"])
@both
def test_the_programs_own_handlers_stay(backend, own):
    async def main():
        was = [signal.signal(number, own) for number in SETTLED]
        try:
            async with funded() as ledger, open_supervisor(ledger=ledger, handle_signals=True):
                assert handlers() == [own, own]
            assert handlers() == [own, own]
        finally:
            for number, handler in zip(SETTLED, was, strict=True):
                signal.signal(number, handler)

    run(main, backend)


@both
def test_two_supervisors_side_by_side_both_hear(backend):
    ended = []

    async def supervise(ledger, name, ready):
        try:
            async with open_supervisor(
                ledger=ledger, policy=policy(), handle_signals=True
            ) as supervisor:
                waiting = BlockedModel()
                started = supervisor.start(Agent("Waiting", model=waiting), "go", tenant="acme")
                await waiting.started()
                ready()
                await anyio.sleep_forever()
        finally:
            ended.append((name, started.status))

    async def main():
        async with funded() as ledger, anyio.create_task_group() as tasks:
            both_wait = Countdown(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
            tasks.start_soon(supervise, ledger, "one", both_wait)
            tasks.start_soon(supervise, ledger, "two", both_wait)

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a group, under trio
        run(main, backend)
    assert raised.errisinstance(SystemExit) or raised.group_contains(SystemExit)
    assert sorted(ended) == [("one", "cancelled"), ("two", "cancelled")]


class Countdown:
    """Calls `zero` when it was called so many times."""

    def __init__(self, count, zero):
        self.count, self.zero = count, zero

    def __call__(self):
        self.count -= 1
        if not self.count:
            self.zero()


def test_a_fork_has_the_handlers_of_a_program_without_supervisors():
    async def main():
        before = handlers()
        async with funded() as ledger, open_supervisor(ledger=ledger, handle_signals=True):
            child = os.fork()
            if not child:
                os._exit(handlers() == before)
            ended = os.waitpid(child, 0)[1]  # noqa: ASYNC222 - it ends at once
            assert os.waitstatus_to_exitcode(ended) == 1

    run(main)


ABANDONED = """
import asyncio, os, signal
from comptroller import open_ledger, open_supervisor

async def main():
    scope = open_supervisor(ledger=await open_ledger("memory:").__aenter__(), handle_signals=True)
    kept.append((scope, await scope.__aenter__()))

kept = []
asyncio.run(main())
os.kill(os.getpid(), signal.SIGTERM)
print("deaf")
"""


def test_sigterm_ends_a_process_whose_loop_is_gone(tmp_path):
    """An error may end a loop on the spot, with whatever stands in it."""
    program = tmp_path / "abandoned.py"
    program.write_text(ABANDONED)
    child = Python([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                   text=True, env=environment())  # fmt: skip
    with child:
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (-signal.SIGTERM, ""), err
