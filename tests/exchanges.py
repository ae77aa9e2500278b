"""Recorded exchanges with the reference server, replayed on a ledger on a clock of its own."""

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path

from runcycles import Amount, Caps

from comptroller.decide.funding import Funding

DATA = Path(__file__).parent / "data" / "exchanges"
CASES = {
    case["case"]: case
    for path in sorted(DATA.glob("*.jsonl"))
    for case in map(json.loads, path.read_text().splitlines())
}


class Steps(ABC):
    """Performs the steps of one case on a ledger and compares what comes back.

    A subclass says how a request is made (`request`).
    """

    def __init__(self, case, ledger, clock):
        self.case, self.ledger, self.clock = case, ledger, clock
        self.saved = {}

    async def run(self):
        for budget in self.case["budgets"]:
            amount = {"unit": budget["unit"], "amount": budget["allocated"]}
            await self.ledger.set_budget(
                budget["scope"],
                Amount(**amount),
                overdraft_limit=budget.get("overdraft_limit", 0),
                caps=Caps(**budget["caps"]) if "caps" in budget else None,
            )
            if budget.get("frozen"):
                await self.ledger.freeze(budget["scope"])
        for step in self.case["steps"]:
            await self.step(step)

    async def step(self, step):
        if "sleep_ms" in step:
            self.clock.advance(step["sleep_ms"])
        elif "operator" in step:
            amount = Amount(unit=step["unit"], amount=step["amount"])
            await self.ledger.fund(step["scope"], amount, operation=Funding[step["operation"]])
        else:
            await self.request(step)

    @abstractmethod
    async def request(self, step):
        """Make a recorded request, keep what is to be saved, and compare the answer."""

    def filled(self, text):
        return re.sub(r"\{(\w+)\}", lambda found: self.saved[found[1]], text)

    def compare(self, expected, answer):
        if isinstance(expected, dict):
            assert set(expected) == set(answer), (expected, answer)
            for member, value in expected.items():
                self.compare(value, answer[member])
        elif isinstance(expected, list):
            assert len(expected) == len(answer), (expected, answer)
            for one, other in zip(in_order(expected), in_order(answer), strict=True):
                self.compare(one, other)
        elif expected == "*ms":
            assert answer >= self.clock.start
        elif expected == "*ttl":
            assert 0 <= answer <= 86_400_000
        elif isinstance(expected, str) and expected.startswith("*"):
            assert isinstance(answer, str)
            assert answer
        elif isinstance(expected, str):
            assert answer == self.filled(expected)
        else:
            assert answer == expected


def in_order(items):
    """Balances have no order of their own; scopes have."""
    if items and isinstance(items[0], dict) and "scope_path" in items[0]:
        return sorted(items, key=lambda one: (one["scope_path"], json.dumps(one, sort_keys=True)))
    return items
