"""The engine answers what the reference server of the protocol answered, case by case.

Recorded exchanges are replayed in-process on a clock of their own. What only HTTP has (keys of
tenants, headers, bodies that are no JSON) is tested where HTTP is; it is listed here, with reasons.
"""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError
from runcycles import (
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
)

from comptroller.errors import BudgetExceeded, BudgetNotFound, LedgerRefused, UnitMismatch
from comptroller.ledger.memory import open_memory
from comptroller.ledger.sqlite import open_sqlite
from exchanges import CASES, Steps

pytestmark = pytest.mark.anyio

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


class InProcess(Steps):
    """Makes each request of a case as a call of the ledger."""

    async def request(self, step):
        if (self.case["case"], step.get("method", "POST"), step["path"]) in STEPS_NOT_HERE:
            return
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


def dumped(answer):
    return answer.model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("case", [name for name in CASES if name not in NOT_HERE])
async def test_memory_answers_as_the_reference_server(case, clock):
    async with open_memory(now=clock) as ledger:
        await InProcess(CASES[case], ledger, clock).run()


@pytest.mark.parametrize("case", [name for name in CASES if name not in NOT_HERE])
async def test_sqlite_answers_as_the_reference_server(case, clock, tmp_path):
    async with open_sqlite(tmp_path / "ledger.db", now=clock) as ledger:
        await InProcess(CASES[case], ledger, clock).run()


def test_what_is_left_to_http_is_what_was_recorded():
    """The lists of exceptions name cases that exist, so none can linger unnoticed."""
    assert set(NOT_HERE) <= set(CASES)
    for case, method, path in STEPS_NOT_HERE:
        steps = CASES[case]["steps"]
        assert any((s.get("method", "POST"), s.get("path")) == (method, path) for s in steps)
