"""A tenant that is seen for the first time gets its budget, with its first call."""

import anyio
import pytest
from runcycles import Caps, Decision, Unit

from comptroller.core.budgets import BudgetTerms
from comptroller.errors import BudgetExceeded, BudgetNotFound, UnitMismatch
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.factory import open_ledger
from comptroller.ledger.sqlite import open_sqlite
from comptroller.money import tokens, usd
from support.requests import amount, asking, balance_of, deciding, event

pytestmark = pytest.mark.anyio

TERMS = BudgetTerms(
    amount(100), per="day", zone="Europe/Berlin", caps=Caps(max_tokens=5), caps_below="50%"
)


@pytest.fixture(params=["memory", "sqlite"])
def opening(request, tmp_path, clock):
    """Opens the same kind of ledger with a default budget."""

    def opened(default, path="ledger.db"):
        if request.param == "memory":
            return open_memory(now=clock, default_budget=default)
        return open_sqlite(tmp_path / path, now=clock, default_budget=default)

    return opened


async def test_a_first_call_finds_a_budget(opening):
    async with opening(amount(100)) as ledger:
        await ledger.reserve(asking("k", 30, agent="triage"))
        await ledger.record(event("e", 20, tenant="globex"))
        assert (await balance_of(ledger, "tenant:acme"))["reserved"] == 30
        assert (await balance_of(ledger, "tenant:globex"))["spent"] == 20
        assert (await ledger.verify()).differences == ()


async def test_it_has_all_the_terms_and_stands_in_the_log(opening):
    async with opening(TERMS) as ledger:
        first = await ledger.reserve(asking("k", 60))
        assert first.decision is Decision.ALLOW
        assert (await ledger.reserve(asking("k2", 1))).caps == TERMS.caps
        [shown] = await ledger.budgets()
        assert (shown.per, shown.zone, shown.caps_below) == ("day", "Europe/Berlin", 50)
        [entry] = await ledger.events()
        assert (entry.kind, entry.amount, entry.origin.who) == ("set", 100, "default_budget")


async def test_what_an_operator_sets_comes_before(opening):
    async with opening(amount(100)) as ledger:
        await ledger.set_budget("tenant:acme", amount(5))
        await ledger.set_budget("tenant:globex/agent:a", amount(5))
        for tenant in ("acme", "globex"):
            with pytest.raises(BudgetExceeded):
                await ledger.reserve(asking("k", 6, tenant=tenant, agent="a"))
        assert len(await ledger.budgets()) == 2


async def test_a_call_that_does_not_fit_is_denied_and_leaves_nothing(opening):
    async with opening(amount(100)) as ledger:
        with pytest.raises(BudgetExceeded) as caught:
            await ledger.reserve(asking("k", 101))
        assert (caught.value.scope, caught.value.remaining) == ("tenant:acme", 100)
        assert await ledger.budgets() == []


async def test_asking_what_would_be_answered_gives_no_budget_yet(opening):
    async with opening(amount(100)) as ledger:
        assert (await ledger.decide(deciding("d", 100))).decision is Decision.ALLOW
        assert (await ledger.decide(deciding("d2", 101))).decision is Decision.DENY
        answer = await ledger.reserve(asking("r", 100, dry_run=True))
        assert (answer.decision, answer.balances) == (Decision.ALLOW, [])
        assert await ledger.budgets() == []


async def test_a_call_in_another_unit_is_told_which_one(opening):
    async with opening(tokens(100)) as ledger:
        with pytest.raises(UnitMismatch, match="TOKENS"):
            await ledger.reserve(asking("k", 1))
        await ledger.reserve(asking("k", 1, unit=Unit.TOKENS))


async def test_without_one_nothing_has_changed(opening):
    async with opening(None) as ledger:
        with pytest.raises(BudgetNotFound):
            await ledger.reserve(asking("k", 1))


async def test_callers_that_come_first_together_share_one_budget(tmp_path, clock):
    path, outcomes = tmp_path / "ledger.db", []

    async def ask(name):
        async with open_sqlite(path, now=clock, default_budget=amount(10)) as ledger:
            for number in range(5):
                try:
                    await ledger.reserve(asking(f"{name}-{number}", 1))
                except BudgetExceeded:
                    outcomes.append("denied")
                else:
                    outcomes.append("granted")

    async with anyio.create_task_group() as callers:
        for name in range(3):
            callers.start_soon(ask, name)
    assert (outcomes.count("granted"), outcomes.count("denied")) == (10, 5)
    async with open_sqlite(path) as ledger:
        assert len(await ledger.events(kinds=["set"])) == 1


async def test_it_is_an_amount_or_terms(tmp_path):
    async with open_ledger("memory:", default_budget=usd("5")) as ledger:
        await ledger.reserve(asking("k", usd("5").amount))
    async with open_ledger(tmp_path / "l.db", default_budget=TERMS) as ledger:
        await ledger.reserve(asking("k", 100))
    with pytest.raises(TypeError, match="usd"):
        async with open_ledger("memory:", default_budget=5):
            pass
    with pytest.raises(ValueError, match="its operator"):
        open_ledger("http://localhost:1", api_key="k", default_budget=usd(5))


@pytest.mark.parametrize("scope", ["tenant:acme", "tenant:acme/agent:triage"])
async def test_a_tenant_that_was_closed_is_not_begun_anew(opening, scope):
    """Also not by a process that opens the ledger later, and not for another agent of it."""
    async with opening(amount(100)) as ledger:
        await ledger.set_budget(scope, amount(50))
        await ledger.close_budget("tenant:acme")
        for agent in ("triage", "other"):
            with pytest.raises(BudgetExceeded) as caught:
                await ledger.reserve(asking(f"k-{agent}", 1, agent=agent))
            assert caught.value.error_code == "TENANT_CLOSED"
        assert (await ledger.verify()).differences == ()
        await ledger.reserve(asking("k", 1, tenant="globex"))
