"""The engine answers what the reference server of the protocol answered, case by case.

Recorded exchanges are replayed in-process on a clock of their own. What only HTTP has (keys of
tenants, headers, bodies that are no JSON) is tested where HTTP is; it is listed here, with reasons.
"""

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError
from runcycles import (
    Amount,
    Caps,
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
)

from comptroller.decide.funding import Funding
from comptroller.errors import BudgetExceeded, BudgetNotFound, LedgerRefused, UnitMismatch
from comptroller.ledger.memory import open_memory
from comptroller.ledger.sqlite import open_sqlite

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parents[1] / "data" / "exchanges"
CASES = {
    case["case"]: case
    for path in sorted(DATA.glob("*.jsonl"))
    for case in map(json.loads, path.read_text().splitlines())
}
NOT_HERE = {
    "auth": "API keys are HTTP's",
    "replay-header-key": "the key in a header is HTTP's",
    "trace": "trace headers are HTTP's",
}
STEPS_NOT_HERE = {
    ("auth-foreign-subject", "GET", "/v1/balances?tenant=acme"): "whose key asks is HTTP's",
    ("list", "GET", "/v1/reservations?limit=1"): "the order of a page is the server's own",
    ("balances-filters", "GET", "/v1/balances?tenant=acme&limit=1"): "balances come on one page",
}


ASKING = {
    "reservations": (200, "reserve", ReservationCreateRequest),
    "decide": (200, "decide", DecisionRequest),
    "events": (201, "record", EventCreateRequest),
}
SETTLING = {
    "commit": CommitRequest,
    "release": ReleaseRequest,
    "extend": ReservationExtendRequest,
}


class Steps:
    """Performs the steps of one case on a ledger and compares what comes back."""

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
        elif (self.case["case"], step.get("method", "POST"), step["path"]) not in STEPS_NOT_HERE:
            await self.request(step)

    async def request(self, step):
        try:
            status, answer = await self.answered(step)
        except ValidationError:
            status, answer = 400, {"error": "INVALID_REQUEST"}
        except (BudgetExceeded, BudgetNotFound, UnitMismatch, LedgerRefused) as error:
            status, answer = error.status, {"error": error.error_code}
            if isinstance(error, UnitMismatch) and error.details:
                answer["details"] = error.details
        for name, member in step.get("save", {}).items():
            self.saved[name] = answer.get(member)
        expected = {k: v for k, v in step["answer"].items() if k not in ("request_id", "trace_id")}
        assert status == step["status"], (step, answer)
        self.compare(expected, answer)

    async def answered(self, step):
        path = urlsplit(self.filled(step["path"]))
        query = {k: v for k, v in parse_qsl(path.query) if k != "include_children"}
        if "limit" in query:
            query["limit"] = int(query["limit"])
        body = step.get("raw") or json.dumps(step.get("body"))
        match step.get("method", "POST"), path.path.split("/")[2:]:
            case "GET", ["balances"]:
                return 200, dumped(await self.ledger.balances(**query))
            case "GET", ["reservations"]:
                return 200, dumped(await self.ledger.reservations(**{"tenant": step["as"]} | query))
            case "GET", ["reservations", one]:
                return 200, dumped(await self.ledger.reservation(one, tenant=step["as"]))
            case "POST", [*_, "reservations" | "decide" | "events" as endpoint]:
                status, verb, request = ASKING[endpoint]
                call = getattr(self.ledger, verb)
                answer = await call(request.model_validate_json(body), tenant=step["as"])
                return status, dumped(answer)
            case "POST", ["reservations", one, verb]:
                request = SETTLING[verb].model_validate_json(body)
                answer = await getattr(self.ledger, verb)(one, request, tenant=step["as"])
                return 200, dumped(answer)

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


def dumped(answer):
    return answer.model_dump(mode="json", exclude_none=True)


def in_order(items):
    """Balances have no order of their own; scopes have."""
    if items and isinstance(items[0], dict) and "scope_path" in items[0]:
        return sorted(items, key=lambda one: (one["scope_path"], json.dumps(one, sort_keys=True)))
    return items


@pytest.mark.parametrize("case", [name for name in CASES if name not in NOT_HERE])
async def test_memory_answers_as_the_reference_server(case, clock):
    async with open_memory(now=clock) as ledger:
        await Steps(CASES[case], ledger, clock).run()


@pytest.mark.parametrize("case", [name for name in CASES if name not in NOT_HERE])
async def test_sqlite_answers_as_the_reference_server(case, clock, tmp_path):
    async with open_sqlite(tmp_path / "ledger.db", now=clock) as ledger:
        await Steps(CASES[case], ledger, clock).run()


def test_what_is_left_to_http_is_what_was_recorded():
    """The lists of exceptions name cases that exist, so none can linger unnoticed."""
    assert set(NOT_HERE) <= set(CASES)
    for case, method, path in STEPS_NOT_HERE:
        steps = CASES[case]["steps"]
        assert any((s.get("method", "POST"), s.get("path")) == (method, path) for s in steps)
