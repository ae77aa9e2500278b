"""The HTTP face speaks the Cycles protocol: keys, headers, bodies, errors.

What the reference server was asked and answered is replayed in `test_exchanges`.
"""

import json
import logging
import re
from contextlib import asynccontextmanager
from urllib.parse import quote

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from comptroller.errors import BudgetExceeded, LedgerRefused, LedgerUnreachable
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.protocol.codec import DETAILS
from comptroller.money import usd
from comptroller.server import MAX_BODY_BYTES, serve_ledger

pytestmark = pytest.mark.anyio

KEYS = {"key-of-acme": "acme", "key-of-globex": "globex"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER_TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@asynccontextmanager
async def served(ledger, **headers):
    """An HTTP client of `ledger`, as acme unless told otherwise."""
    transport = httpx.ASGITransport(serve_ledger(ledger, KEYS))
    headers = {"X-Cycles-API-Key": "key-of-acme", **headers}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://cycles", headers=headers
    ) as client:
        yield client


@pytest.fixture
async def memory(clock):
    async with open_memory(now=clock) as ledger:
        await ledger.set_budget("tenant:acme", usd("1"))
        yield ledger


@pytest.fixture
async def client(memory):
    async with served(memory) as client:
        yield client


def asked(**changes):
    return {
        "idempotency_key": "k1",
        "subject": {"tenant": "acme"},
        "action": {"kind": "llm.completion", "name": "openai:gpt-4o-mini"},
        "estimate": {"unit": "USD_MICROCENTS", "amount": 100},
    } | changes


async def exchanged(ledger, messages):
    """What is sent to an ASGI server that hands over `messages`, and how many of them were read."""
    said, left = [], list(messages)

    async def receive():
        return left.pop(0)

    async def send(message):
        said.append(message)

    headers = [(b"x-cycles-api-key", b"key-of-acme")]
    scope = {"type": "http", "method": "POST", "path": "/v1/decide", "query_string": b""}
    await serve_ledger(ledger, KEYS)({**scope, "headers": headers}, receive, send)
    return said, len(messages) - len(left)


@pytest.mark.parametrize(
    ("keys", "said"),
    [({"": "acme"}, "'acme' is empty"), ({"key": "a b"}, "tenant='a b'"), ({"key": ""}, "empty")],
)
async def test_a_key_that_anybody_has_or_that_is_nobodys_is_refused(memory, keys, said):
    with pytest.raises(ValueError, match=said):
        serve_ledger(memory, keys)


class TestCorrelation:
    async def test_every_answer_has_a_request_id_a_trace_id_and_the_tenant(self, client):
        first = await client.get("/v1/balances?tenant=acme")
        second = await client.get("/v1/balances?tenant=acme")
        assert first.headers["X-Cycles-Tenant"] == "acme"
        assert re.fullmatch("[0-9a-f]{32}", first.headers["X-Cycles-Trace-Id"])
        assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
        assert first.headers["X-Cycles-Trace-Id"] != second.headers["X-Cycles-Trace-Id"]

    async def test_an_error_carries_both_ids_in_its_body(self, client):
        answer = await client.get("/v1/nothing")
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
        assert answer.json()["trace_id"] == answer.headers["X-Cycles-Trace-Id"]

    @pytest.mark.parametrize(
        ("headers", "kept"),
        [
            ({"traceparent": TRACEPARENT}, TRACE),
            ({"X-Cycles-Trace-Id": TRACE}, TRACE),
            ({"traceparent": TRACEPARENT, "X-Cycles-Trace-Id": OTHER_TRACE}, TRACE),
            ({"traceparent": "garbage", "X-Cycles-Trace-Id": TRACE}, TRACE),
            ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
            ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
            ({"traceparent": f"01-{TRACE}-00f067aa0ba902b7-01"}, None),
            ({"X-Cycles-Trace-Id": "0" * 32}, None),
            ({"X-Cycles-Trace-Id": TRACE.upper()}, None),
        ],
    )
    async def test_the_trace_is_the_callers_where_it_is_valid(self, client, headers, kept):
        """The W3C header before X-Cycles-Trace-Id; what is malformed counts as absent."""
        answer = await client.get("/v1/balances?tenant=acme", headers=headers)
        assert answer.status_code == 200
        trace = answer.headers["X-Cycles-Trace-Id"]
        assert re.fullmatch("(?!0{32})[0-9a-f]{32}", trace)
        assert (trace == TRACE) == (kept is not None)


class TestRequests:
    @pytest.mark.parametrize(
        "changes",
        [
            {"surprise": 1},
            {"subject": {"tenant": "acme", "planet": "earth"}},
            {"estimate": {"unit": "USD_MICROCENTS", "amount": 1e300}},
            {"estimate": {"unit": "USD_MICROCENTS", "amount": 1.5}},
            {"estimate": {"unit": "USD_MICROCENTS", "amount": True}},
            {"estimate": {"unit": "USD_MICROCENTS", "amount": "100"}},
            {"estimate": {"unit": "USD_MICROCENTS", "amount": 2**63}},
            {"ttl_ms": "60000"},
            {"ttl_ms": True},
            {"dry_run": "true"},
            {"dry_run": 1},
            {"overage_policy": "MAYBE"},
            {"idempotency_key": 7},
            {"idempotency_key": "k" * 257},
            {"action": {"kind": "k" * 65, "name": "n"}},
            {"metadata": []},
        ],
    )
    async def test_a_body_that_the_schema_does_not_allow_is_refused(self, memory, client, changes):
        """No lax reading: what is not the protocol's is 400, says where, and changes nothing."""
        answer = await client.post("/v1/reservations", json=asked(**changes))
        assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")
        assert next(iter(changes)) in answer.json()["message"]
        assert await untouched(memory)

    @pytest.mark.parametrize("when", [-1, 2**63])
    async def test_a_time_of_the_client_that_is_none_is_refused(self, memory, client, when):
        body = {name: said for name, said in asked().items() if name != "estimate"}
        body |= {"actual": asked()["estimate"], "client_time_ms": when}
        answer = await client.post("/v1/events", json=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")
        assert "client_time_ms" in answer.json()["message"]
        assert await untouched(memory)

    @pytest.mark.parametrize(
        ("name", "status"), [("r" * 128, 404), ("r" * 129, 400), ("r" * 129 + "/commit", 400)]
    )
    async def test_an_id_has_at_most_128_characters(self, client, name, status):
        method = "POST" if "/" in name else "GET"
        body = {"idempotency_key": "c", "actual": asked()["estimate"]} if "/" in name else None
        answer = await client.request(method, f"/v1/reservations/{name}", json=body)
        assert answer.status_code == status

    @pytest.mark.parametrize(
        ("name", "status"), [("0a" * 32, 404), ("0A" * 32, 400), ("0a" * 31, 400), ("x", 400)]
    )
    async def test_evidence_is_named_by_its_digest(self, client, name, status):
        assert (await client.get(f"/v1/evidence/{name}")).status_code == status

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"null", b"{", b"\xff", b'{"a": NaN}', b"[" * 999]
    )
    async def test_a_body_that_is_no_json_object_is_refused(self, client, body):
        answer = await client.post("/v1/reservations", content=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")

    async def test_not_a_number_hides_nowhere(self, client):
        """A free-form member would keep it, and no answer could carry it back."""
        body = json.dumps(asked(metadata={"share": float("nan")}))
        for written in (body, body.replace("NaN", "1e999")):
            answer = await client.post("/v1/reservations", content=written)
            assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")

    async def test_a_body_too_long_is_refused_before_it_is_read_to_its_end(self, memory):
        piece = {"type": "http.request", "body": b" " * 2**16, "more_body": True}
        said, read = await exchanged(memory, [piece] * 64)
        assert said[0]["status"] == 400
        assert str(MAX_BODY_BYTES) in json.loads(said[1]["body"])["message"]
        assert read * 2**16 < 2 * MAX_BODY_BYTES

    async def test_a_caller_that_hangs_up_is_not_answered(self, memory):
        piece = {"type": "http.request", "body": b"{", "more_body": True}
        said, _ = await exchanged(memory, [piece, {"type": "http.disconnect"}])
        assert said == []

    @pytest.mark.parametrize("path", ["/", "/v1", "/v1/reservations/", "/v1/reservations/a/b/c"])
    async def test_what_is_nowhere_is_not_found(self, client, path):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/decide"),
            ("DELETE", "/v1/reservations"),
            ("PUT", "/v1/reservations/r/commit"),
        ],
    )
    async def test_a_method_that_a_path_does_not_take_is_refused(self, client, method, path):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error"]) == (405, "INVALID_REQUEST")

    async def test_it_can_be_mounted_below_a_path(self, memory):
        """As frameworks do: the path keeps the prefix, and the prefix is named."""
        transport = httpx.ASGITransport(serve_ledger(memory, KEYS), root_path="/budgets")
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            answer = await client.get(
                "/budgets/v1/balances?tenant=acme", headers={"X-Cycles-API-Key": "key-of-acme"}
            )
        assert answer.status_code == 200

    async def test_an_additive_parameter_is_ignored(self, client):
        answer = await client.get("/v1/reservations?sort_by=status&include=metadata&from=")
        assert answer.status_code == 200

    async def test_a_listing_is_filtered_by_the_subject(self, client):
        for name in ("triage", "research"):
            body = asked(idempotency_key=name, subject={"tenant": "acme", "agent": name})
            assert (await client.post("/v1/reservations", json=body)).status_code == 200
        rows = (await client.get("/v1/reservations?agent=Triage")).json()["reservations"]
        assert [row["subject"]["agent"] for row in rows] == ["triage"]


def reachable(thing):
    """`thing`'s own state, and that of what it holds."""
    for name, value in vars(thing).items():
        yield (name, value)
        if hasattr(value, "__dict__"):
            yield from reachable(value)


class TestKeys:
    async def test_a_key_says_whose_request_it_is(self, memory):
        async with served(memory, **{"X-Cycles-API-Key": "key-of-globex"}) as client:
            answers = [
                await client.post("/v1/reservations", json=asked()),
                await client.get("/v1/balances?tenant=acme"),
                await client.get("/v1/reservations?tenant=acme"),
            ]
        assert {(one.status_code, one.json()["error"]) for one in answers} == {(403, "FORBIDDEN")}
        assert await untouched(memory)

    async def test_a_key_sees_its_own_tenant_only(self, memory, client):
        await memory.set_budget("tenant:globex", usd("7"))
        await client.post("/v1/reservations", json=asked())
        await memory.set_budget("tenant:acme/agent:triage", usd("1"))
        async with served(memory, **{"X-Cycles-API-Key": "key-of-globex"}) as other:
            assert (await other.get("/v1/reservations")).json()["reservations"] == []
            assert (await other.get("/v1/balances?agent=triage")).json()["balances"] == []
            (shown,) = (await other.get("/v1/balances?tenant=globex")).json()["balances"]
        assert shown["scope"] == "tenant:globex"

    async def test_the_application_keeps_no_key(self, memory):
        application = serve_ledger(memory, KEYS, admin_key="the-operator")
        for kept in (application, *reachable(application.doors)):
            assert "key-of-acme" not in repr(kept)
            assert "the-operator" not in repr(kept)


class Failing:
    """A ledger whose decide raises what it is given."""

    name, request_timeout, remote = "failing", 5.0, False

    def __init__(self, error):
        self.error = error

    async def decide(self, request, *, tenant=None):
        raise self.error


class TestErrors:
    async def decided(self, error):
        async with served(Failing(error)) as client:
            return await client.post("/v1/decide", json=asked())

    async def test_a_denial_says_what_was_asked_and_what_is_left(self, client):
        much = {"unit": "USD_MICROCENTS", "amount": usd("2").amount}
        answer = await client.post("/v1/reservations", json=asked(estimate=much))
        assert "details" not in answer.json()  # as the reference server
        client.headers[DETAILS] = "denials"
        answer = await client.post("/v1/reservations", json=asked(estimate=much))
        details = answer.json()["details"]
        assert (answer.status_code, answer.json()["error"]) == (409, "BUDGET_EXCEEDED")
        assert (details["scope"], details["unit"]) == ("tenant:acme", "USD_MICROCENTS")
        assert (details["requested"], details["remaining"]) == (usd("2").amount, usd("1").amount)

    async def test_what_a_ledger_asks_to_wait_is_handed_on(self):
        """In whole seconds, rounded up."""
        error = LedgerRefused("slow", status=429, error_code="LIMIT_EXCEEDED", retry_after_ms=1500)
        answer = await self.decided(error)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")

    async def test_a_denial_of_a_ledger_behind_is_a_conflict(self):
        answer = await self.decided(BudgetExceeded("denied", status=200))
        assert (answer.status_code, answer.json()["error"]) == (409, "BUDGET_EXCEEDED")

    @pytest.mark.parametrize(
        "error",
        [
            LedgerUnreachable("gone", status=-1),
            LedgerRefused("odd", status=418, error_code="TEAPOT"),
            ZeroDivisionError("a defect"),
        ],
    )
    async def test_what_the_protocol_does_not_know_is_the_servers_own_failure(self, error, caplog):
        answer = await self.decided(error)
        assert (answer.status_code, answer.json()["error"]) == (500, "INTERNAL_ERROR")
        assert answer.json()["trace_id"]

    async def test_a_defect_is_logged_once_and_not_told_to_the_caller(self, caplog):
        answer = await self.decided(ZeroDivisionError("a secret of the house"))
        assert "secret" not in answer.text
        (line,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert answer.json()["request_id"] in line.getMessage()
        assert line.exc_info[0] is ZeroDivisionError

    async def test_a_cancelled_request_is_not_answered(self):
        """Cancellation is no failure of the ledger: it passes through."""

        class Hanging(Failing):
            async def decide(self, request, *, tenant=None):
                await anyio.sleep_forever()

        async with served(Hanging(None)) as client:
            with anyio.move_on_after(0.01) as scope:
                await client.post("/v1/decide", json=asked())
        assert scope.cancelled_caught


class TestApplication:
    async def test_start_and_stop_of_the_server_are_acknowledged(self, memory):
        """Servers that ask for `lifespan` get its answers; the ledger stays open."""
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        said = []

        async def receive():
            return messages.pop(0)

        async def send(message):
            said.append(message["type"])

        await serve_ledger(memory, KEYS)({"type": "lifespan"}, receive, send)
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert await untouched(memory)

    async def test_anything_but_http_is_refused(self, memory):
        with pytest.raises(ValueError, match="websocket"):
            await serve_ledger(memory, KEYS)({"type": "websocket"}, None, None)


async def untouched(memory):
    balances = (await memory.balances(tenant="acme")).balances
    return {(one.reserved.amount, one.spent.amount) for one in balances} == {(0, 0)}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["acme", "USD_MICROCENTS", "2e3", "-1", 2**63, -1, "k" * 300, "\x00"])
)
NONSENSE = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = sorted(
    {
        *asked(),
        "actual",
        "ttl_ms",
        "grace_period_ms",
        "extend_by_ms",
        "metadata",
        "metrics",
        "reason",
    }
)
BODIES = (
    st.dictionaries(st.sampled_from(MEMBERS), NONSENSE)
    | st.dictionaries(st.sampled_from(MEMBERS), NONSENSE, min_size=1).map(
        lambda members: {**asked(actual=asked()["estimate"]), **members, "surprise": 1}
    )
    | NONSENSE
)
PATHS = st.sampled_from(
    ["decide", "reservations", "events", "reservations/r/commit", "reservations/rsv_1_0/extend"]
)


class TestNonsense:
    """No body, path or query makes the server fail or moves money."""

    async def answer(self, clock, method, path, content=None):
        async with open_memory(now=clock) as ledger, served(ledger) as client:
            await ledger.set_budget("tenant:acme", usd("1"))
            answer = await client.request(method, path, content=content)
            assert answer.status_code < 500, (path, content, answer.text)
            assert await untouched(ledger)
            return answer

    @settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(path=PATHS, body=BODIES)
    async def test_of_a_body(self, clock, path, body):
        answer = await self.answer(clock, "POST", f"/v1/{path}", json.dumps(body).encode())
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(path=PATHS, body=st.binary(max_size=64))
    async def test_of_bytes(self, clock, path, body):
        answer = await self.answer(clock, "POST", f"/v1/{path}", body)
        assert answer.json()["error"] == "INVALID_REQUEST"

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        where=st.sampled_from(["reservations", "balances"]),
        query=st.dictionaries(
            st.sampled_from(["tenant", "status", "limit", "cursor", "agent", "idempotency_key"]),
            st.text(max_size=12) | st.integers().map(str),
        ),
    )
    @example(where="reservations", query={"cursor": "9" * 4400})
    @example(where="reservations", query={"cursor": "9" * 30})
    @example(where="reservations", query={"limit": "9" * 4400})
    async def test_of_a_query(self, clock, where, query):
        text = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
        await self.answer(clock, "GET", f"/v1/{where}?{text}")

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        reservation=st.text(min_size=1, max_size=30) | st.sampled_from(["rsv_" + "f" * 99 + "_0"])
    )
    async def test_of_a_reservation_id(self, clock, reservation):
        assume(reservation not in (".", ".."))  # a client resolves them (RFC 3986, 5.2.4)
        path = quote(reservation, safe="")
        answer = await self.answer(clock, "GET", f"/v1/reservations/{path}")
        assert answer.status_code == 404

    async def test_a_sound_request_does_move_it(self, memory, client):
        """So the checks above can fail."""
        await client.post("/v1/reservations", json=asked())
        assert not await untouched(memory)
