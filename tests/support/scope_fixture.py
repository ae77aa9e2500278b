"""A governed scope on a memory ledger, and the checks that hold however it ends."""

from contextlib import asynccontextmanager

from comptroller import governed_run, risk_points, tokens
from comptroller.ledger.embedded.memory import open_memory
from comptroller.testing import assert_settled, no_task_left
from support.governed_vs_plain import Way, policy_for

PLENTY = {"tenant:acme": (tokens(10**9), risk_points(10**6))}

TURNS = 20
"""Turns of the loop until Python has finalised a generator that its consumer did not close."""


class Books:
    """The run, its ledger, and afterwards its receipt by outcome."""

    def __init__(self, run, ledger):
        self.run, self.ledger = run, ledger

    @property
    def lines(self):
        return self.run.receipt.calls

    def outcomes(self, kind="llm.completion"):
        """(agent, outcome) of every call of a kind, in the order in which they began."""
        return [(line.agent, line.outcome.value) for line in self.lines if line.kind == kind]

    def tools(self):
        """(tool, outcome, charged) of every tool call."""
        return [
            (line.name, line.outcome.value, line.charged and line.charged.amount)
            for line in self.lines
            if line.kind == "tool.invoke"
        ]

    @property
    def refused(self):
        """The calls that never got a grant; an unanswered reserve may have made a lease."""
        return [line for line in self.lines if line.outcome in ("denied", "failed", "lapsing")]


@asynccontextmanager
async def open_books(agent, budgets=None, *, around=lambda ledger: ledger, limits=None, **policy):
    """A run of `agent` under `budgets` (scope -> amounts, besides PLENTY).

    When it is over nothing is reserved, no task is left, and receipt and ledger agree.
    """
    async with open_memory() as behind:
        for scope, amounts in {**PLENTY, **(budgets or {})}.items():
            for allocated in amounts:
                await behind.set_budget(scope, allocated)
        ledger, policy = around(behind), policy_for(Way(), **policy)
        try:
            async with no_task_left(turns=TURNS):
                async with governed_run(
                    agent, "acme", ledger=ledger, policy=policy, limits=limits
                ) as run:
                    books = Books(run, behind)
                    yield books
        finally:
            await assert_settled(behind)
            spent = {
                balance.spent.unit: balance.spent.amount
                for balance in (await behind.balances(tenant="acme")).balances
                if balance.scope == "tenant:acme" and balance.spent.amount
            }
            charged = {unit: total for unit, total in run.receipt.charged.items() if total}
            assert charged == spent
