"""Law 9: concurrency never makes a budget overspend, and every receipt is the ledger's truth."""

from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest
from agents import Agent, function_tool
from agents.testing import function_call
from runcycles import Unit

from comptroller import open_ledger, open_supervisor
from comptroller.core.call_lifecycle import Outcome
from comptroller.ledger.embedded.memory import open_memory
from comptroller.money import tokens
from comptroller.runtime.outcomes import Completed, Denied
from comptroller.testing import CountingModel, RecordingLedger, assert_settled, no_task_left, spent
from support.agent_scenarios import policy

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

TENANTS, RUNS, CALLS, COST = 20, 10, 2, 15


class Watching(RecordingLedger):
    """Looks at the balances after every request: no moment may show an overspent scope."""

    async def _handle(self, request, forward):
        try:
            return await forward()
        finally:
            if request.verb in ("reserve", "commit", "release", "record"):
                await within_budget(self.inner, request.tenant)


async def within_budget(ledger, tenant):
    for balance in (await ledger.balances(tenant=tenant)).balances:
        held = balance.spent.amount + balance.reserved.amount
        assert held <= balance.allocated.amount, balance
        assert balance.remaining.amount == balance.allocated.amount - held


@function_tool
def work() -> str:
    """Do something."""
    return "worked"


def worker():
    """Two calls of 15 tokens each, if nothing stops it."""
    call = [function_call("work", {}, call_id="call")]
    return Agent("Worker", model=CountingModel(*[call] * (CALLS - 1), "done"), tools=[work])


@asynccontextmanager
async def opened(kind, tmp_path):
    if kind == "sqlite":
        async with open_ledger(str(tmp_path / "ledger.db")) as ledger:
            yield ledger
    else:
        async with open_memory() as ledger:
            yield Watching(ledger)


@pytest.mark.parametrize(("kind", "estimate"), [("memory", 5), ("sqlite", COST), ("memory", 40)])
async def test_200_runs_at_once_against_budgets_for_half_of_their_calls(kind, estimate, tmp_path):
    """Whether calls are estimated too low, exactly, or too high.

    No scope is overspent by one unit, every run that was denied ends as Denied, and the sum of the
    receipts is what the ledger says.
    """
    allowed = RUNS * CALLS * COST // 2
    names = [f"tenant-{number}" for number in range(TENANTS)]
    async with no_task_left(), opened(kind, tmp_path) as ledger:
        for name in names:
            await ledger.set_budget(f"tenant:{name}", tokens(allowed))
        async with open_supervisor(
            ledger=ledger, policy=policy(llm_estimate=tokens(estimate), tools=None),
            max_concurrency=TENANTS * RUNS,
        ) as supervisor:  # fmt: skip
            runs = {
                name: [supervisor.start(worker(), "go", tenant=name) for _ in range(RUNS)]
                for name in names
            }
            outcomes = {
                name: [await started.outcome() for started in mine] for name, mine in runs.items()
            }
        for name in names:
            await within_budget(ledger, name)
            await assert_settled(ledger, tenant=name)
            books = (await spent(ledger, name))[Unit.TOKENS]
            charged = sum(run.receipt.charged.get(Unit.TOKENS, 0) for run in runs[name])
            assert books == charged
            if estimate >= COST:  # nothing cost more than was reserved for it
                assert not any(run.receipt.shortfall for run in runs[name])
            if estimate == COST:  # and whatever was granted was used: the budget, to the last unit
                assert books == allowed
            for run, outcome in zip(runs[name], outcomes[name], strict=True):
                denied = run.receipt.outcomes.get(Outcome.DENIED, 0)
                assert isinstance(outcome, Denied if denied else Completed)
                assert denied <= 1
        kinds = Counter(type(outcome) for mine in outcomes.values() for outcome in mine)
        assert kinds[Denied] > 0
        assert supervisor.statistics().spend == {
            Unit.TOKENS: sum([(await spent(ledger, name))[Unit.TOKENS] for name in names])
        }


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_scopes_within_a_tenant_hold_each_their_own_budget(kind, tmp_path):
    """The tenant's, and one agent's beneath it: whichever is smaller stops the call."""
    async with opened(kind, tmp_path) as ledger:
        await ledger.set_budget("tenant:acme", tokens(150))
        await ledger.set_budget("tenant:acme/agent:Worker", tokens(60))
        async with open_supervisor(
            ledger=ledger, policy=policy(llm_estimate=tokens(COST), tools=None)
        ) as supervisor:
            runs = [supervisor.start(worker(), "go", tenant="acme") for _ in range(3)]
            other = supervisor.start(Agent("Other", model=CountingModel()), "go", tenant="acme")
            found = [await run.outcome() for run in runs]
            assert isinstance(await other.outcome(), Completed)
        assert Denied in {type(outcome) for outcome in found}
        balances = {
            balance.scope_path: balance.spent.amount
            for balance in (await ledger.balances(tenant="acme")).balances
        }
        assert balances == {"tenant:acme": 75, "tenant:acme/agent:worker": 60}


async def test_an_overspent_scope_would_be_seen():
    """The watching itself."""

    class Generous(RecordingLedger):
        async def balances(self, **asked):
            answer = await self.inner.balances(**asked)
            for balance in answer.balances:
                balance.spent.amount += 1_000
            return answer

    async with open_memory() as memory:
        await memory.set_budget("tenant:acme", tokens(100))
        with pytest.raises(AssertionError):
            await within_budget(Generous(memory), "acme")
        await anyio.lowlevel.checkpoint()
