"""Every ledger of the project keeps the contract that it ships (`comptroller.testing.contract`)."""

import anyio
import hypothesis
import pytest
from hypothesis import strategies as st

from comptroller.errors import BudgetExceeded, LedgerRefused
from comptroller.ledger.embedded.memory import open_memory
from comptroller.testing.contract import EmbeddedContract, OperatorContract
from support.http_ledger import over_http
from support.ledger_fixtures import client, memory, sqlite
from support.manual_clock import Clock
from support.requests import amount, asking, committing, counts, event, releasing


class TestMemory(EmbeddedContract):
    @pytest.fixture
    async def ledger(self, clock, tmp_path):
        async with memory(clock, tmp_path) as ledger:
            yield ledger


class TestSqlite(EmbeddedContract):
    @pytest.fixture
    async def ledger(self, clock, tmp_path):
        async with sqlite(clock, tmp_path) as ledger:
            yield ledger


class TestAServersClient(OperatorContract):
    @pytest.fixture
    async def ledger(self, clock, tmp_path):
        async with over_http(clock, tmp_path) as ledger:
            yield ledger


class TestTheCyclesSdksClient(OperatorContract):
    @pytest.fixture
    async def ledger(self, clock, tmp_path):
        async with client(clock, tmp_path) as ledger:
            yield ledger


amounts = st.integers(min_value=0, max_value=60)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts, st.sampled_from(["a", "b"])),
        st.tuples(st.just("commit"), amounts, st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5)),
        st.tuples(st.just("event"), amounts, st.sampled_from(["a", "b"])),
        st.tuples(st.just("fund"), amounts),
        st.tuples(st.just("pass"), st.integers(1, 90_000)),
    ),
    max_size=30,
)


@hypothesis.given(steps)
def test_charges_never_exceed_the_budget_and_balances_always_add_up(taken):
    """Under the default policy, whatever is asked in whatever order."""
    anyio.run(hold_the_invariants, taken, Clock())


async def hold_the_invariants(taken, clock):
    budget, charged, live = {"tenant:acme": 100, "tenant:acme/agent:a": 70}, {"*": 0, "a": 0}, []
    async with open_memory(now=clock) as ledger:
        for scope, count in budget.items():
            await ledger.set_budget(scope, amount(count))
        for number, step in enumerate(taken):
            try:
                done = await take(ledger, clock, live, number, *step)
            except (BudgetExceeded, LedgerRefused):
                done = None
            if step[0] == "fund":
                budget["tenant:acme"] += step[1]
            if done is not None:
                agent, count = done
                charged["*"] += count
                charged["a"] += count if agent == "a" else 0
            for shown in await ledger.budgets():
                figures = counts(shown)
                assert figures["remaining"] == (
                    figures["allocated"] - figures["spent"] - figures["reserved"] - figures["debt"]
                )
                assert figures["remaining"] >= 0
                assert figures["spent"] == charged["a" if "/" in shown.scope_path else "*"]
                assert figures["spent"] <= budget[shown.scope_path] == figures["allocated"]


async def take(ledger, clock, live, number, verb, *given):
    """Take one step; what it charged, and to whom."""
    if verb == "reserve":
        count, agent = given
        made = await ledger.reserve(asking(f"k{number}", count, agent=agent))
        live.append((made.reservation_id, agent))
    elif verb == "fund":
        await ledger.fund("tenant:acme", amount(given[0]))
    elif verb == "pass":
        clock.advance(given[0])
    elif verb == "event":
        count, agent = given
        answer = await ledger.record(event(f"e{number}", count, agent=agent))
        return agent, answer.charged.amount if answer.charged else count
    elif live:
        name, agent = live[given[-1] % len(live)]
        if verb == "commit":
            answer = await ledger.commit(name, committing(f"c{number}", given[0]))
            return agent, answer.charged.amount
        await ledger.release(name, releasing(f"l{number}"))
    return None
