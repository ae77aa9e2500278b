"""The ledger answers what the reference server of the protocol answered, case by case.

Recorded exchanges are replayed on a clock of their own: in-process, against the served application,
and through a real server on loopback. What only HTTP has cannot be asked in-process; `skips` says
what that is.
"""

import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

import httpx
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
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.protocol import query_params
from comptroller.ledger.protocol.codec import MalformedError
from comptroller.ledger.sqlite import open_sqlite
from comptroller.server import serve_ledger
from support.live_server import listening
from support.manual_clock import Clock
from support.recorded_exchanges import CASES, DATA, Steps, cases

pytestmark = pytest.mark.anyio

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
REFUSED = (BudgetExceeded, BudgetNotFound, UnitMismatch, LedgerRefused)
NOBODY = {"none": {}, "bad": {"X-Cycles-API-Key": "no-such-key"}}
TENANTS = sorted(
    {step["as"] for case in CASES.values() for step in case["steps"] if "as" in step} - set(NOBODY)
)


class InProcess(Steps):
    """Makes each request of a case as a call of the ledger."""

    def skips(self, step):
        """Keys, and parameters and headers that only repeat what a call says once."""
        query = dict(parse_qsl(urlsplit(step["path"]).query))
        key = (step.get("headers") or {}).get("X-Idempotency-Key")
        return (
            step["as"] in NOBODY
            or query.get("tenant", step["as"]).lower() != step["as"]
            or key not in (None, (step.get("body") or {}).get("idempotency_key"))
        )

    async def answered(self, step, path):
        try:
            status, answer = await self.called(step, path)
        except (ValidationError, MalformedError):
            return 400, self.error("INVALID_REQUEST")
        except REFUSED as error:
            refused = self.error(error.error_code)
            if isinstance(error, UnitMismatch) and error.details:
                refused["details"] = error.details
            return error.status, refused
        return status, answer.model_dump(mode="json", exclude_none=True)

    def error(self, code):
        """An error's body; the ids in it are HTTP's."""
        return {"error": code, "request_id": "of HTTP", "trace_id": "of HTTP"}

    async def called(self, step, path):
        url, tenant = urlsplit(path), step["as"]
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        body = step.get("raw") or json.dumps(step.get("body"))
        match step.get("method", "POST"), url.path.split("/")[2:]:
            case "GET", ["balances"]:
                asked = tenant if any(query.values()) else None
                return 200, await self.ledger.balances(
                    tenant=asked, **query_params.balance_query(query)
                )
            case "GET", ["reservations"]:
                wanted = query_params.reservation_query(query)
                return 200, await self.ledger.reservations(tenant=tenant, **wanted)
            case "GET", ["reservations", one]:
                return 200, await self.ledger.reservation(one, tenant=tenant)
            case "POST", [*_, "reservations" | "decide" | "events" as endpoint]:
                status, verb, request = ASKING[endpoint]
                call = getattr(self.ledger, verb)
                return status, await call(request.model_validate_json(body), tenant=tenant)
            case "POST", ["reservations", one, verb]:
                request = SETTLING[verb].model_validate_json(body)
                return 200, await getattr(self.ledger, verb)(one, request, tenant=tenant)


class OverHttp(Steps):
    """Makes each request of a case as its client did: with keys, headers and raw bodies."""

    def __init__(self, case, ledger, clock, client):
        super().__init__(case, ledger, clock)
        self.client = client

    async def answered(self, step, path):
        key = NOBODY.get(step["as"], {"X-Cycles-API-Key": f"key-of-{step['as']}"})
        answer = await self.client.request(
            step.get("method", "POST"),
            path,
            content=step.get("raw") or (json.dumps(step["body"]) if "body" in step else None),
            headers={"Content-Type": "application/json"} | key | (step.get("headers") or {}),
        )
        body = answer.json()
        if answer.is_error:
            assert isinstance(body.pop("message"), str)
        return answer.status_code, body


@asynccontextmanager
async def client_of(ledger, transport=None, url="http://cycles"):
    application = serve_ledger(ledger, {f"key-of-{tenant}": tenant for tenant in TENANTS})
    transport = transport or httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        yield client


@pytest.mark.parametrize("case", CASES)
async def test_memory_answers_as_the_reference_server(case, clock):
    async with open_memory(now=clock) as ledger:
        await InProcess(CASES[case], ledger, clock).run()


@pytest.mark.parametrize("case", CASES)
async def test_sqlite_answers_as_the_reference_server(case, clock, tmp_path):
    async with open_sqlite(tmp_path / "ledger.db", now=clock) as ledger:
        await InProcess(CASES[case], ledger, clock).run()


@pytest.mark.parametrize("case", CASES)
async def test_over_http_it_answers_as_the_reference_server(case, clock):
    async with open_memory(now=clock) as ledger, client_of(ledger) as client:
        await OverHttp(CASES[case], ledger, clock, client).run()


@pytest.mark.alike
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_server_answers_as_the_reference_server(tmp_path):
    """Every case through sockets and the server of `comptroller serve`, on a ledger in a file."""
    keys = {f"key-of-{tenant}": tenant for tenant in TENANTS}
    served = {}

    async def application(scope, receive, send):
        await served["application"](scope, receive, send)

    async with listening(application) as url, httpx.AsyncClient(base_url=url) as client:
        for number, case in enumerate(CASES.values()):
            clock = Clock()
            async with open_sqlite(tmp_path / f"{number}.db", now=clock) as ledger:
                served["application"] = serve_ledger(ledger, keys)
                await OverHttp(case, ledger, clock, client).run()


def test_in_process_most_is_asked():
    """What `skips` leaves out is the least of what was recorded."""
    steps = [step for case in cases(DATA).values() for step in case["steps"] if "path" in step]
    skipped = [step for step in steps if InProcess({}, None, None).skips(step)]
    assert len(skipped) == 5
    assert len(steps) > 200


def test_a_directory_of_more_cases_is_read(tmp_path):
    """As `COMPTROLLER_EXCHANGES` names one: a case of a known name does not hide the known one."""
    known = next(iter(cases(DATA).values()))
    lines = [json.dumps(known), "", json.dumps(known | {"case": "another"})]
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    names = set(cases(DATA, tmp_path)) - set(cases(DATA))
    assert names == {f"more:{known['case']}", "another"}


class Told(Steps):
    """Is answered what it was given."""

    def __init__(self, *answers):
        super().__init__({"budgets": [], "steps": []}, None, Clock())
        self.answers = list(answers)

    async def answered(self, step, path):
        return self.answers.pop(0)


NOW = Clock().now
STEP = {"as": "acme", "path": "/v1/x", "status": 200, "answer": {"a": 1, "at": "*ms"}}


class TestComparing:
    """The comparison itself can fail."""

    @pytest.mark.parametrize(
        "answer",
        [
            (201, {"a": 1, "at": NOW}),
            (200, {"a": 2, "at": NOW}),
            (200, {"a": 1}),
            (200, {"a": 1, "at": NOW, "more": None}),
            (200, {"a": True, "at": NOW}),
            (200, {"a": 1, "at": "soon"}),
        ],
    )
    async def test_another_answer_is_found(self, answer):
        with pytest.raises(AssertionError):
            await Told(answer).request(STEP)
        await Told((200, {"a": 1, "at": NOW})).request(STEP)

    async def test_a_page_of_other_rows_is_found(self):
        rows = [{"reservation_id": "a"}, {"reservation_id": "b"}]
        recorded = {"reservations": rows[1:], "has_more": True, "next_cursor": "*next"}
        step = {"as": "acme", "path": "/v1/reservations?limit=1", "status": 200, "answer": recorded}
        page = {"reservations": rows[:1], "has_more": True, "next_cursor": "x"}
        await Told((200, page), (200, {"reservations": rows})).request(step)
        with pytest.raises(AssertionError):
            await Told((200, page), (200, {"reservations": rows[:1]})).request(step)
        with pytest.raises(AssertionError):
            await Told((200, page | {"reservations": []}), (200, {})).request(step)
