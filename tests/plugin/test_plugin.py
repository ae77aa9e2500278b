"""The pytest plugin, used as its users do."""

import subprocess
import sys

import anyio
import pytest
from agents import Agent
from runcycles import Unit

from comptroller import BudgetExceeded, Outcome, Policy, tokens
from comptroller.testing import (
    BlockedModel,
    CountingModel,
    assert_settled,
    deny_at,
    lose_answer,
    open_reservations,
    spent,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

POLICY = Policy(llm_estimate=tokens(100))


@pytest.fixture
def ledger_budgets(ledger_budgets):
    return {"tenant:acme": [*ledger_budgets["tenant:acme"], tokens(10**12)]}


def agent(*answers):
    return Agent("Agent", model=CountingModel(*answers))


async def test_a_governed_run_needs_nothing_but_an_agent(governed, ledger):
    async with governed(agent()) as run:
        assert (await run("go")).final_output == "done"
    await assert_settled(run)
    await assert_settled(ledger)
    assert governed.runs == [run]
    assert [request.verb for request in ledger.requests[:2]] == ["reserve", "commit"]


async def test_the_nth_call_is_denied(governed, ledger):
    ledger.plan(deny_at(2))
    async with governed(agent(), policy=POLICY) as run:
        await run("go")
        with pytest.raises(BudgetExceeded):
            await run("go on")
    await assert_settled(run)
    assert [line.outcome for line in run.receipt.calls] == [Outcome.COMMITTED, Outcome.DENIED]


async def test_the_answer_to_a_commit_is_lost_and_it_is_charged_once(governed, ledger):
    ledger.plan(lose_answer(1))
    async with governed(agent(), policy=POLICY) as run:
        await run("go")
        await run("go on")
    assert len(ledger.asked("commit")) == 3
    assert (await spent(ledger, "acme"))[Unit.TOKENS] == 30


async def test_budgets_can_be_set(governed, ledger):
    await ledger.set_budget("tenant:acme", tokens(50))
    with pytest.raises(BudgetExceeded, match="50 tokens left"):
        async with governed(agent(), policy=POLICY) as run:
            await run("go")


async def test_a_supervisor_is_open_for_the_test(supervisor, ledger):
    """What a web backend opens in its lifespan; what still runs at the end is cancelled."""
    result = await supervisor.start(agent(), "go", tenant="acme")
    assert result.final_output == "done"
    assert len(ledger.asked("commit")) == 1
    supervisor.start(Agent("Agent", model=BlockedModel()), "go", tenant="acme")


async def test_a_run_that_is_not_settled_is_named(governed, ledger):
    """A release without an answer: the lease runs out, and until then the run is not settled."""
    ledger.plan(lose_answer(1, verb="reserve"))
    with pytest.raises(Exception, match="no answer"):
        async with governed(agent(), policy=POLICY) as run:
            await run("go")
    with pytest.raises(AssertionError, match=r"llm-1 \(.* by Agent, lapsing\) is not settled"):
        await assert_settled(run)
    assert len(await open_reservations(ledger)) == 1
    with pytest.raises(
        AssertionError, match=r"left behind: reservation rsv_.* of .*/llm-1/reserve"
    ):
        governed.check_ended()
    await anyio.sleep(120)
    await assert_settled(ledger)


def test_it_imports_nothing_until_it_is_asked():
    """Every pytest of every project that has it installed imports it, trio or not."""
    script = (
        "import sys, pytest, pytest_comptroller\n"
        "print([name for name in ('comptroller', 'agents', 'trio') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert told.stdout.strip() == "[]"


def test_the_doubles_need_no_trio():
    script = (
        "import sys, comptroller.testing\n"
        "print([name for name in ('trio', 'trio_asyncio') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert told.stdout.strip() == "[]"


def printed(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
