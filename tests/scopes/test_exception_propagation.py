"""KeyboardInterrupt and SystemExit out of the SDK's own tasks: the program ends, and all settles.

`sys.exit` in a tool, a Ctrl-C that trio raises wherever its program stands: asyncio hands both on
as what they are, at once, out of the loop. So it is under trio, whoever has opened the loop that
carries asyncio there.
"""

import asyncio
import contextlib
import itertools
import sqlite3
import subprocess
import sys

import anyio
import pytest
from agents import Agent, function_tool
from agents.testing import function_call

from comptroller import governed_run, open_ledger, open_supervisor, risk_points, tokens
from comptroller.testing import BlockedModel, CountingModel
from support.agent_scenarios import policy
from support.subprocesses import PROCESSES, Python

CARRYING = ["trio", "trio with a loop of its own"]
RAISED = {"interrupt": KeyboardInterrupt("pressed"), "exit": SystemExit(3)}


class Raising(CountingModel):
    """Its answer is an error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    async def _before(self, turn):
        del turn
        raise self.error


def in_a_model(error):
    return Agent("Worker", model=Raising(error))


def in_a_tool(error):
    @function_tool(failure_error_function=None)
    async def work() -> None:
        raise error

    return _asking_for(work)


def in_a_thread(error):
    @function_tool(failure_error_function=None)
    def work() -> None:
        raise error

    return _asking_for(work)


def _asking_for(tool):
    model = CountingModel([function_call("work", {}, call_id="call-1")], "done")
    return Agent("Worker", model=model, tools=[tool])


ANYWHERE = [in_a_model, in_a_tool, in_a_thread]
"""Not on asyncio: each task of the SDK that waits for a tool's raises its error again, out of the
very loop that is to cancel and to clean up, and nothing cleans up after that."""


async def governed(ledger, agent):
    async with governed_run(agent, "acme", ledger=ledger, policy=policy()) as run:
        await run("go")


async def supervised(ledger, agent):
    async with open_supervisor(ledger=ledger, policy=policy()) as supervisor:
        waiting = BlockedModel()
        for _ in range(2):
            supervisor.start(Agent("Waiting", model=waiting), "go", tenant="acme")
        await waiting.started(2)
        await supervisor.start(agent, "go", tenant="acme")


@contextlib.asynccontextmanager
async def asyncio_carried(host):
    if not host.endswith("its own"):
        yield
        return
    import trio_asyncio

    async with trio_asyncio.open_loop():
        yield


async def program(path, host, act, agent):
    async with asyncio_carried(host), open_ledger(path) as ledger:
        for budget in (tokens(100_000), risk_points(100)):
            await ledger.set_budget("tenant:acme", budget)
        await act(ledger, agent)


def run(*program, backend):
    """On a loop as a program has it: trio-asyncio puts its own in asyncio's place."""
    own = {"loop_factory": asyncio.SelectorEventLoop} if backend == "asyncio" else {}
    anyio.run(*program, backend=backend, backend_options=own)


def leaf(error):
    """A program's own nurseries make groups of what ends them."""
    while isinstance(error, BaseExceptionGroup):
        error, *_ = error.exceptions  # once for each task that has handed it on
    return error


@pytest.mark.parametrize("error", RAISED.values(), ids=RAISED)
@pytest.mark.parametrize(
    ("host", "raising"), [("asyncio", in_a_model), *itertools.product(CARRYING, ANYWHERE)]
)
@pytest.mark.parametrize("act", [governed, supervised])
def test_it_ends_the_program_and_nothing_stays_reserved(tmp_path, host, act, raising, error):
    path = str(tmp_path / "ledger.db")
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - which one is looked at below
        run(program, path, host, act, raising(error), backend=host.split(maxsplit=1)[0])
    assert leaf(raised.value) is error
    if not host.endswith("its own"):
        assert raised.value is error
    with contextlib.closing(sqlite3.connect(path)) as looking:
        rows = looking.execute("SELECT status, charged FROM reservations").fetchall()
    assert len(rows) >= (1 if act is governed else 3)
    assert {status for status, _ in rows} <= {"COMMITTED", "RELEASED"}


@pytest.mark.parametrize("tool", ["thread", "loop"])
@pytest.mark.parametrize(("error", "code"), [("exit", 7), ("interrupt", -2)])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_thread_of_ours_keeps_a_process_that_a_tool_has_ended(
    tmp_path, backend, error, code, tool
):
    """Asyncio leaves its loop at once, and nobody tells a thread that waits for work to stop."""
    program = str(PROCESSES / "tool_that_exits.py")
    with Python(
        [sys.executable, program, "ledger.db", backend, error, tool],
        cwd=tmp_path, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.wait(30) == code
        finally:
            process.kill()
