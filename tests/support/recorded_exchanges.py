"""Recorded exchanges with the reference server, replayed on a ledger on a clock of its own.

Those of `tests/data/exchanges`, and every `*.jsonl` of the directory that `COMPTROLLER_EXCHANGES`
names. Status and the whole answer are compared, `message` aside. What has no order of its own is
compared without one: balances; and where a page shows a part of what has none, that each of its
rows is one of the whole.
"""

import json
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from runcycles import Amount, Caps, Unit

from comptroller.core.budgets import Funding

DATA = Path(__file__).parents[1] / "data" / "exchanges"
MORE = os.environ.get("COMPTROLLER_EXCHANGES")  # read before the tests forget the environment
ROWS = ("reservations", "balances")


def cases(*folders):
    """Every case of the files of `folders`, by name; a second one of its name gets its file's."""
    found = {}
    for folder in folders:
        assert Path(folder).is_dir(), f"COMPTROLLER_EXCHANGES={folder}: there is no such directory"
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.jsonl"))):
        for line in filter(str.strip, path.read_text("utf-8").splitlines()):
            case = json.loads(line)
            name = case["case"]
            found[name if name not in found else f"{path.stem}:{name}"] = case
    return found


CASES = cases(DATA, *([MORE] if MORE else []))


class Steps(ABC):
    """Performs the steps of one case on a ledger and compares what comes back.

    A subclass says how a request is made (`answered`) and what it cannot make (`skips`).
    """

    def __init__(self, case, ledger, clock):
        self.case, self.ledger, self.clock = case, ledger, clock
        self.saved = {}

    async def run(self):
        for budget in self.case["budgets"]:
            await self.ledger.set_budget(
                budget["scope"],
                Amount(unit=budget["unit"], amount=budget["allocated"]),
                overdraft_limit=budget.get("overdraft_limit", 0),
                caps=Caps(**budget["caps"]) if "caps" in budget else None,
            )
            if budget.get("frozen"):
                await self.ledger.freeze(budget["scope"], Unit(budget["unit"]))
        for step in self.case["steps"]:
            if "sleep_ms" in step:
                self.clock.advance(step["sleep_ms"])
            elif "operator" in step:
                await self.operate(step)
            elif not self.skips(step):
                await self.request(step)

    async def operate(self, step):
        if step["operator"] == "fund":
            amount = Amount(unit=step["unit"], amount=step["amount"])
            await self.ledger.fund(step["scope"], amount, operation=Funding[step["operation"]])
        else:
            unit = Unit(step["unit"]) if "unit" in step else None
            await getattr(self.ledger, step["operator"])(step["scope"], unit)

    def skips(self, step):
        """Whether a request cannot be made in this way."""
        return False

    @abstractmethod
    async def answered(self, step, path):
        """Make a recorded request at `path`: the status, and the answer without its message."""

    async def request(self, step):
        path = self.filled(step["path"])
        status, answer = await self.answered(step, path)
        assert status == step["status"], (step, answer)
        for name, member in step.get("save", {}).items():
            self.saved[name] = answer.get(member)
        expected = {name: v for name, v in step["answer"].items() if name != "message"}
        if rows := self.unordered(step, path):
            await self.compare_page(rows, step, path, expected, answer)
        else:
            self.compare(expected, answer)

    def unordered(self, step, path):
        """The name of the rows, where an answer is a part of what has no order of its own."""
        query = dict(parse_qsl(urlsplit(path).query))
        part = step["answer"].get("has_more") or "cursor" in query
        sorted_by = {"sort_by", "sort_dir"} & set(query)
        return next(
            (name for name in ROWS if part and not sorted_by and name in step["answer"]), None
        )

    async def compare_page(self, rows, step, path, expected, answer):
        """Each recorded row is one of the whole; all else is as recorded."""
        assert len(answer[rows]) == len(expected[rows]), (expected, answer)
        self.compare(expected | {rows: []}, answer | {rows: []})
        whole = {name: v for name, v in parse_qsl(urlsplit(path).query) if name != "cursor"}
        query = "&".join(f"{name}={value}" for name, value in (whole | {"limit": "200"}).items())
        _, everything = await self.answered(step, f"{urlsplit(path).path}?{query}")
        for row in expected[rows]:
            assert any(self.agree(row, one) for one in everything[rows]), (row, everything)

    def agree(self, expected, answer):
        try:
            self.compare(expected, answer)
        except (AssertionError, KeyError):
            return False
        return True

    def filled(self, text):
        return re.sub(r"\{(\w+)\}", lambda found: str(self.saved[found[1]]), text)

    def compare(self, expected, answer):
        if isinstance(expected, dict):
            assert isinstance(answer, dict), (expected, answer)
            assert set(expected) == set(answer), (expected, answer)
            for member, value in expected.items():
                self.compare(value, answer[member])
        elif isinstance(expected, list):
            assert len(expected) == len(answer), (expected, answer)
            for one, other in zip(in_order(expected), in_order(answer), strict=True):
                self.compare(one, other)
        elif expected == "*ms":
            assert type(answer) is int
            assert answer >= self.clock.start
        elif expected == "*ttl":
            assert type(answer) is int
            assert 0 <= answer <= 86_400_000
        elif isinstance(expected, str) and expected.startswith("*"):
            assert isinstance(answer, str)
            assert answer
        elif isinstance(expected, str):
            assert answer == self.filled(expected)
        else:
            assert (type(answer), answer) == (type(expected), expected)


def in_order(items):
    """Balances have no order of their own; scopes, and reservations that were sorted, have."""
    if items and isinstance(items[0], dict) and "remaining" in items[0]:
        return sorted(items, key=lambda one: (one["scope_path"], json.dumps(one, sort_keys=True)))
    return items
