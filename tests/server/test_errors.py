"""Every error code of the protocol over HTTP, which of two comes first, and what a replay answers.

The order is that of `comptroller.server.application`: path, method, key, rate, tenant, query
and body, then the ledger's own.
"""

import json
from pathlib import Path

import pytest
import yaml
from runcycles import CommitOveragePolicy

from comptroller.errors import LedgerUnreachable
from comptroller.ledger.embedded.memory import open_memory
from comptroller.ledger.sqlite import open_sqlite
from support.http_requests import ADMIN, amount, event, reserved, reserving, served, settle, told
from support.requests import amount as amount_of

pytestmark = pytest.mark.anyio

DOCUMENT = Path(__file__).parents[1] / "data" / "protocol" / "cycles-protocol-v0.yaml"
NEVER = {
    "BUDGET_CLOSED": "no budget is ever closed here: an operator freezes it",
    "DEBT_OUTSTANDING": "a debt that may not be owed is over the limit, which comes first",
    "MAX_EXTENSIONS_EXCEEDED": "the number of extensions is not limited",
    "TENANT_CLOSED": "there is no governance plane that closes tenants",
}
"""Codes of the document that this server does not answer, and why."""


@pytest.fixture
async def ledger(clock):
    async with open_memory(now=clock) as ledger:
        await ledger.set_budget("tenant:acme", amount_of(1_000))
        await ledger.set_budget("tenant:globex", amount_of(1_000))
        yield ledger


@pytest.fixture
async def client(ledger):
    async with served(ledger) as client:
        yield client


# Each code: what leads to it


async def invalid_request(ledger, client, clock):
    return await client.post("/v1/reservations", json=reserving(count=-1))


async def unauthorized(ledger, client, clock):
    return await client.get("/v1/balances?tenant=acme", headers={"X-Cycles-API-Key": "wrong"})


async def forbidden(ledger, client, clock):
    return await client.post("/v1/reservations", json=reserving(tenant="globex"))


async def not_found(ledger, client, clock):
    return await client.get("/v1/reservations/rsv_1_0123456789abcdef")


async def no_budget(ledger, client, clock):
    async with served(ledger) as other:
        await ledger.set_budget("tenant:acme", amount_of(0))
        return await other.post(
            "/v1/events",
            json=event(subject={"workspace": "prod"}),
        )


async def budget_exceeded(ledger, client, clock):
    return await client.post("/v1/reservations", json=reserving(count=1_001))


async def budget_frozen(ledger, client, clock):
    await ledger.freeze("tenant:acme")
    return await client.post("/v1/reservations", json=reserving())


async def overdraft_limit_exceeded(ledger, client, clock):
    one = await reserved(client, count=900)
    await settle(client, one, "commit", idempotency_key="c", actual=amount(5_000))
    return await client.post("/v1/reservations", json=reserving("k2", 1))


async def reservation_expired(ledger, client, clock):
    one = await reserved(client)
    clock.advance(60_000 + 5_000 + 1)
    return await settle(client, one, "commit", idempotency_key="c", actual=amount(1))


async def reservation_finalized(ledger, client, clock):
    one = await reserved(client)
    await settle(client, one, "release", idempotency_key="r")
    return await settle(client, one, "commit", idempotency_key="c", actual=amount(1))


async def idempotency_mismatch(ledger, client, clock):
    await reserved(client, count=1)
    return await client.post("/v1/reservations", json=reserving(count=2))


async def unit_mismatch(ledger, client, clock):
    return await client.post("/v1/reservations", json=reserving(unit="TOKENS"))


async def limit_exceeded(ledger, client, clock):
    async with served(ledger, rate=1, now=lambda: 0.0) as slow:
        await slow.get("/v1/balances?tenant=acme")
        return await slow.get("/v1/balances?tenant=acme")


async def internal_error(ledger, client, clock):
    class Broken:
        remote = False

        async def decide(self, request, *, tenant=None):
            raise LedgerUnreachable("the disk is on fire", status=500)

    async with served(Broken()) as broken:
        return await broken.post("/v1/decide", json=reserving())


CODES = {
    "INVALID_REQUEST": (400, invalid_request),
    "UNAUTHORIZED": (401, unauthorized),
    "FORBIDDEN": (403, forbidden),
    "NOT_FOUND": (404, not_found),
    "BUDGET_EXCEEDED": (409, budget_exceeded),
    "BUDGET_FROZEN": (409, budget_frozen),
    "OVERDRAFT_LIMIT_EXCEEDED": (409, overdraft_limit_exceeded),
    "RESERVATION_EXPIRED": (410, reservation_expired),
    "RESERVATION_FINALIZED": (409, reservation_finalized),
    "IDEMPOTENCY_MISMATCH": (409, idempotency_mismatch),
    "UNIT_MISMATCH": (400, unit_mismatch),
    "LIMIT_EXCEEDED": (429, limit_exceeded),
    "INTERNAL_ERROR": (500, internal_error),
}


@pytest.mark.parametrize("code", CODES)
async def test_each_code_has_its_status_and_the_whole_body(code, ledger, client, clock):
    status, lead_to = CODES[code]
    answer = await lead_to(ledger, client, clock)
    assert told(answer) == (status, code), answer.text
    body = answer.json()
    assert set(body) - {"details"} == {"error", "message", "request_id", "trace_id"}
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert body["trace_id"] == answer.headers["X-Cycles-Trace-Id"]
    assert "details" in body if code == "UNIT_MISMATCH" else "details" not in body


async def test_no_budget_at_all_is_not_found(ledger, client, clock):
    assert told(await no_budget(ledger, client, clock)) == (404, "NOT_FOUND")


def test_every_code_of_the_document_is_answered_or_explained():
    schemas = yaml.safe_load(DOCUMENT.read_text())["components"]["schemas"]
    codes = set(schemas["ErrorCode"]["enum"])
    assert len(codes) == 17
    assert codes == set(CODES) | set(NEVER)


# Which of two comes first


async def test_a_path_before_the_key_and_the_key_before_everything_else(ledger):
    async with served(ledger, key=None) as nobody:
        assert told(await nobody.get("/v1/nothing")) == (404, "NOT_FOUND")
        wrong = await nobody.delete("/v1/decide")
        assert told(wrong) == (405, "INVALID_REQUEST")
        assert wrong.headers["Allow"] == "POST"
        for request in (
            nobody.post("/v1/reservations", content=b"{no json"),
            nobody.post("/v1/reservations", json=reserving(tenant="globex")),
            nobody.get("/v1/reservations/rsv_1_0"),
            nobody.get("/v1/balances"),
        ):
            assert told(await request) == (401, "UNAUTHORIZED")


async def test_another_tenant_before_a_malformed_query_and_a_body_before_its_tenant(client):
    assert told(await client.get("/v1/reservations?tenant=globex&limit=0"))[0] == 403
    twice_wrong = reserving(tenant="globex") | {"surprise": 1}
    assert told(await client.post("/v1/reservations", json=twice_wrong))[0] == 400


async def test_the_parameter_tenant_means_something_to_listings_only(client, clock):
    one = await reserved(client)
    for listing in ("reservations", "balances"):
        assert told(await client.get(f"/v1/{listing}?tenant=globex")) == (403, "FORBIDDEN")
    assert (await client.get(f"/v1/reservations/{one}?tenant=globex")).status_code == 200
    another = await client.post("/v1/reservations?tenant=globex", json=reserving("k9"))
    assert another.status_code == 200


async def test_whose_a_reservation_is_before_what_became_of_it(ledger, client, clock):
    one = await reserved(client)
    await settle(client, one, "commit", idempotency_key="c", actual=amount(1))
    async with served(ledger, key="key-of-globex") as other:
        for verb, body in SETTLING.items():
            answer = await settle(other, one, verb, idempotency_key="x", **body)
            assert told(answer) == (403, "FORBIDDEN")
        assert told(await other.get(f"/v1/reservations/{one}")) == (403, "FORBIDDEN")


SETTLING = {"commit": {"actual": amount(1)}, "release": {}, "extend": {"extend_by_ms": 1}}


@pytest.mark.parametrize("verb", SETTLING)
async def test_a_settled_reservation_is_finalized_also_when_its_lease_is_over(client, clock, verb):
    one = await reserved(client)
    await settle(client, one, "commit", idempotency_key="c", actual=amount(1))
    clock.advance(10**8)
    answer = await settle(client, one, verb, idempotency_key="x", **SETTLING[verb])
    assert told(answer) == (409, "RESERVATION_FINALIZED")


@pytest.mark.parametrize("verb", SETTLING)
async def test_an_expired_reservation_is_gone_for_every_request_but_a_list(client, clock, verb):
    one = await reserved(client)
    clock.advance(65_001)
    answer = await settle(client, one, verb, idempotency_key="x", **SETTLING[verb])
    assert told(answer) == (410, "RESERVATION_EXPIRED")
    assert told(await client.get(f"/v1/reservations/{one}")) == (410, "RESERVATION_EXPIRED")
    [row] = (await client.get("/v1/reservations?status=EXPIRED")).json()["reservations"]
    assert row["reservation_id"] == one
    assert "finalized_at_ms" not in row


async def test_a_mismatched_key_before_the_reservations_state(client, clock):
    one = await reserved(client)
    await settle(client, one, "commit", idempotency_key="c", actual=amount(1))
    answer = await settle(client, one, "commit", idempotency_key="c", actual=amount(2))
    assert told(answer) == (409, "IDEMPOTENCY_MISMATCH")


async def test_the_state_of_a_reservation_before_its_unit(client, clock):
    one = await reserved(client)
    wrong = {"idempotency_key": "c", "actual": amount(1, "TOKENS")}
    assert told(await settle(client, one, "commit", **wrong)) == (400, "UNIT_MISMATCH")
    await settle(client, one, "release", idempotency_key="r")
    assert told(await settle(client, one, "commit", **wrong)) == (409, "RESERVATION_FINALIZED")


async def test_over_limit_before_debt_before_what_is_left(ledger, client):
    await ledger.set_budget("tenant:acme", amount_of(1_000), overdraft_limit=500)
    policy = CommitOveragePolicy.ALLOW_WITH_OVERDRAFT.value
    one = await reserved(client, count=1_000, overage_policy=policy)
    await settle(client, one, "commit", idempotency_key="c", actual=amount(1_100))
    much = reserving("k2", 10**9)
    assert told(await client.post("/v1/reservations", json=much)) == (409, "BUDGET_EXCEEDED")
    await ledger.set_budget(
        "tenant:acme", amount_of(10**12), overdraft_limit=0
    )  # nothing may be owed any more
    over = await client.post("/v1/reservations", json=much)
    assert told(over) == (409, "OVERDRAFT_LIMIT_EXCEEDED")


async def test_a_frozen_budget_before_what_is_left(ledger, client, clock):
    await ledger.freeze("tenant:acme")
    answer = await client.post("/v1/reservations", json=reserving(count=10**9))
    assert told(answer) == (409, "BUDGET_FROZEN")


async def test_the_decide_endpoint_denies_with_an_answer(ledger, client, clock):
    await ledger.freeze("tenant:acme")
    answer = await client.post("/v1/decide", json=reserving(count=10**9))
    assert answer.json() | {"affected_scopes": 0} == {
        "decision": "DENY",
        "reason_code": "BUDGET_FROZEN",
        "affected_scopes": 0,
    }


# Replays: the first answer again, whatever has happened since

ANSWERED = {
    "reserve": ("/v1/reservations", reserving("first", 10)),
    "decide": ("/v1/decide", reserving("first", 10)),
    "record": ("/v1/events", event("first", 10)),
    "dry run": ("/v1/reservations", reserving("first", 10, dry_run=True)),
}


@pytest.mark.parametrize("name", ANSWERED)
async def test_a_request_is_answered_again_word_for_word(ledger, client, clock, name):
    path, body = ANSWERED[name]
    first = (await client.post(path, json=body)).json()
    clock.advance(100)
    await client.post("/v1/events", json=event("between", 20))
    await ledger.freeze("tenant:acme")
    again = (await client.post(path, json=body)).json()
    if name == "reserve":
        assert again.pop("remaining_ttl_ms") == first.pop("remaining_ttl_ms") - 100
    assert again == first


@pytest.mark.parametrize("said", [{"dry_run": False}, {"grace_period_ms": 5_000}])
async def test_what_only_says_a_default_makes_no_other_request(client, clock, said):
    first = (await client.post("/v1/reservations", json=reserving("first"))).json()
    for more in (said, {"dry_run": False, "grace_period_ms": 5_000, "metadata": None}, {}):
        again = await client.post("/v1/reservations", json=reserving("first", **more))
        assert again.json() == first
    other = await client.post("/v1/reservations", json=reserving("first", grace_period_ms=5_001))
    assert told(other) == (409, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize("verb", SETTLING)
async def test_a_settlement_is_answered_again_word_for_word(ledger, client, clock, verb):
    one = await reserved(client)
    first = (await settle(client, one, verb, idempotency_key="x", **SETTLING[verb])).json()
    clock.advance(100)
    await client.post("/v1/events", json=event("between", 20))
    again = (await settle(client, one, verb, idempotency_key="x", **SETTLING[verb])).json()
    if verb == "extend":
        assert again.pop("remaining_ttl_ms") == first.pop("remaining_ttl_ms") - 100
    assert again == first


@pytest.mark.parametrize("verb", SETTLING)
async def test_after_expiry_too(ledger, client, clock, verb):
    """The lease is long over, and has been given back where it was open: 0 is left of it."""
    one = await reserved(client)
    first = (await settle(client, one, verb, idempotency_key="x", **SETTLING[verb])).json()
    clock.advance(10**8)
    made = (await client.post("/v1/reservations", json=reserving())).json()
    assert (made["reservation_id"], made["remaining_ttl_ms"]) == (one, 0)
    again = await settle(client, one, verb, idempotency_key="x", **SETTLING[verb])
    assert again.status_code == 200
    if verb == "extend":
        assert again.json()["remaining_ttl_ms"] == 0
    assert again.json() | {"remaining_ttl_ms": 0} == first | {"remaining_ttl_ms": 0}


async def test_a_failure_is_not_remembered(ledger, client, clock):
    """Denied, funded, and asked again under the same key: granted."""
    denied = await client.post("/v1/reservations", json=reserving(count=2_000))
    assert told(denied) == (409, "BUDGET_EXCEEDED")
    await ledger.fund("tenant:acme", amount_of(5_000))
    granted = await client.post("/v1/reservations", json=reserving(count=2_000))
    assert granted.status_code == 200
    other = await client.post("/v1/reservations", json=reserving(count=2_001))
    assert told(other) == (409, "IDEMPOTENCY_MISMATCH")


async def test_what_was_refused_of_a_reservation_may_be_mended_under_its_key(client, clock):
    one = await reserved(client)
    wrong = await settle(client, one, "commit", idempotency_key="c", actual=amount(1, "TOKENS"))
    assert told(wrong) == (400, "UNIT_MISMATCH")
    right = await settle(client, one, "commit", idempotency_key="c", actual=amount(1))
    assert right.status_code == 200


async def test_one_key_at_each_endpoint_and_each_tenant_is_another(ledger, client, clock):
    one = await reserved(client, "same")
    for path, body in (("/v1/decide", reserving("same", 1)), ("/v1/events", event("same", 1))):
        assert (await client.post(path, json=body)).is_success
    assert (
        await settle(client, one, "commit", idempotency_key="same", actual=amount(1))
    ).is_success
    async with served(ledger, key="key-of-globex") as other:
        assert await reserved(other, "same", tenant="globex") != one


# The operator


class TestTheOperator:
    @pytest.fixture
    async def operator(self, ledger):
        async with served(ledger, key=None) as client:
            client.headers["X-Admin-API-Key"] = ADMIN
            yield client

    async def test_lists_and_reads_and_releases_what_tenants_hold(self, client, operator):
        one = await reserved(client)
        listed = await operator.get("/v1/reservations?tenant=acme")
        assert [row["reservation_id"] for row in listed.json()["reservations"]] == [one]
        assert (await operator.get(f"/v1/reservations/{one}")).json()["status"] == "ACTIVE"
        released = await settle(operator, one, "release", idempotency_key="r", reason="hung")
        assert released.json()["status"] == "RELEASED"
        assert "X-Cycles-Tenant" not in released.headers

    async def test_has_to_say_whose_reservations(self, operator):
        answer = await operator.get("/v1/reservations")
        assert told(answer) == (400, "INVALID_REQUEST")
        assert answer.json()["message"] == (
            "tenant query parameter is required when using admin key authentication"
        )

    async def test_does_not_spend(self, client, operator):
        one = await reserved(client)
        for request in (
            operator.post("/v1/reservations", json=reserving("k2")),
            operator.post("/v1/events", json=event()),
            settle(operator, one, "commit", idempotency_key="c", actual=amount(1)),
            settle(operator, one, "extend", idempotency_key="x", extend_by_ms=1),
            operator.get("/v1/balances?tenant=acme"),
        ):
            assert told(await request) == (401, "UNAUTHORIZED")

    async def test_sets_funds_and_freezes_budgets(self, client, operator):
        terms = {"scope": "tenant:new", "unit": "TOKENS", "allocated": amount(5, "TOKENS")}
        made = await operator.post("/v1/admin/budgets", json=terms)
        assert (made.status_code, made.json()["tenant_id"]) == (201, "new")
        where = "scope=tenant:new&unit=TOKENS&tenant_id=new"
        funding = {"operation": "CREDIT", "amount": amount(7, "TOKENS"), "idempotency_key": "f"}
        for _ in range(2):  # sent again, it is credited once
            funded = await operator.post(f"/v1/admin/budgets/fund?{where}", json=funding)
            assert funded.json()["remaining"]["amount"] == 12
        frozen = await operator.post(f"/v1/admin/budgets/freeze?{where}")
        assert frozen.json()["status"] == "FROZEN"
        opened = await operator.post(f"/v1/admin/budgets/unfreeze?{where}")
        assert opened.json()["status"] == "ACTIVE"
        closed = await operator.post(f"/v1/admin/budgets/close?{where}")
        assert closed.json()["status"] == "CLOSED"
        frozen = await operator.post(f"/v1/admin/budgets/freeze?{where}")
        assert frozen.json()["status"] == "CLOSED"
        opened = closed
        looked_up = await operator.get(f"/v1/admin/budgets/lookup?{where}")
        assert looked_up.json() == opened.json()
        [one] = (await operator.get("/v1/admin/budgets?tenant_id=new")).json()["ledgers"]
        assert one == opened.json()

    @pytest.mark.parametrize(
        ("path", "body", "code"),
        [
            ("", {}, "INVALID_REQUEST"),
            ("", {"scope": "acme"}, "INVALID_REQUEST"),
            ("", {"unit": "TOKENS"}, "INVALID_REQUEST"),
            ("", {"zone": "Mars/Olympus", "per": "day"}, "INVALID_REQUEST"),
            ("", {"tenant_id": "globex"}, "INVALID_REQUEST"),
            ("", {"overdraft_limit": amount(1, "TOKENS")}, "INVALID_REQUEST"),
            ("/fund?scope=tenant:acme", {"amount": amount(1, "TOKENS")}, "INVALID_REQUEST"),
            ("/fund?scope=tenant:acme&unit=BEANS", {"amount": amount(1)}, "INVALID_REQUEST"),
            ("/fund?scope=tenant:none", {"amount": amount(1)}, "NOT_FOUND"),
            ("/freeze?scope=tenant:none", {}, "NOT_FOUND"),
        ],
    )
    async def test_bad_terms_are_refused(self, operator, path, body, code):
        terms = {"operation": "CREDIT"} if "fund" in path else {}
        if not path and body:
            terms = {"scope": "tenant:acme", "unit": "USD_MICROCENTS", "allocated": amount(1)}
        answer = await operator.post(f"/v1/admin/budgets{path}", json=terms | body)
        assert answer.json()["error"] == code, answer.text

    async def test_another_request_under_a_fundings_key_is_a_mismatch(self, operator):
        where = "/v1/admin/budgets/fund?scope=tenant:acme"
        asked = {"operation": "CREDIT", "amount": amount(1), "idempotency_key": "f"}
        assert (await operator.post(where, json=asked)).is_success
        asked["operation"] = "DEBIT"
        assert told(await operator.post(where, json=asked)) == (409, "IDEMPOTENCY_MISMATCH")

    async def test_a_key_in_the_head_that_the_body_does_not_have_is_refused(self, operator):
        """It would be taken for one that protects from moving money twice."""
        where, head = "/v1/admin/budgets/fund?scope=tenant:acme", {"X-Idempotency-Key": "f"}
        asked = {"operation": "CREDIT", "amount": amount(1)}
        refused = await operator.post(where, json=asked, headers=head)
        assert told(refused) == (400, "INVALID_REQUEST")
        asked["idempotency_key"] = "f"
        assert (await operator.post(where, json=asked, headers=head)).is_success

    async def test_a_tenants_key_opens_no_budget(self, ledger, client):
        for headers in ({}, {"X-Admin-API-Key": "a guess"}):
            answer = await client.get("/v1/admin/budgets", headers=headers)
            assert told(answer) == (401, "UNAUTHORIZED")


# How often


async def test_a_rate_is_each_tenants_own_and_says_when_to_come_back(ledger):
    now = [0.0]
    async with served(ledger, rate=2, now=lambda: now[0]) as client:
        ask = "/v1/balances?tenant=acme"
        left = [(await client.get(ask)).headers["X-RateLimit-Remaining"] for _ in range(2)]
        assert left == ["1", "0"]
        refused = await client.get(ask)
        assert told(refused) == (429, "LIMIT_EXCEEDED")
        assert refused.headers["Retry-After"] == "1"
        assert int(refused.headers["X-RateLimit-Reset"]) > 1_600_000_000
        other = {"X-Cycles-API-Key": "key-of-globex"}
        assert (await client.get("/v1/balances?tenant=globex", headers=other)).is_success
        assert (await client.get("/healthz")).is_success
        now[0] += 0.5
        assert (await client.get(ask)).is_success
        assert told(await client.get(ask)) == (429, "LIMIT_EXCEEDED")


@pytest.mark.parametrize("settings", [{"rate": 0}, {"rate": float("nan")}, {"most_bytes": 0}])
async def test_a_limit_that_is_none_is_refused(ledger, settings):
    with pytest.raises(ValueError, match=r"number above 0|at least 1 byte"):
        async with served(ledger, **settings):
            pass


async def test_health_is_the_ledgers(ledger):
    class Broken:
        remote = False

        async def reservation(self, reservation_id, *, tenant=None):
            raise LedgerUnreachable("held", status=-1)

    async with served(ledger) as client, served(Broken()) as broken:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        failing = await broken.get("/healthz")
        assert (failing.status_code, failing.json()) == (503, {"status": "failing"})
        assert told(await client.post("/healthz")) == (405, "INVALID_REQUEST")
        assert told(await client.get("/metrics")) == (404, "NOT_FOUND")


class Held:
    """A ledger that does not answer."""

    remote = False

    async def reservation(self, reservation_id, *, tenant=None):
        raise LedgerUnreachable("held", status=-1)


@pytest.mark.parametrize("path", ["/healthz", "/actuator/health", "/actuator/health/readiness"])
async def test_health_is_asked_for_as_watchers_do(ledger, client, path):
    """By its own path or the reference server's; by GET or by HEAD (RFC 9110, 9.1)."""
    well, head = await client.get(path), await client.head(path)
    assert well.json() == {"status": "ok" if path == "/healthz" else "UP"}
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(well.content))
    async with served(Held()) as broken:
        assert (await broken.get(path)).status_code == 503
        assert (await broken.head(path)).status_code == 503


async def test_head_is_answered_like_get(ledger, client):
    for path in ("/v1/balances?tenant=acme", "/v1/reservations", "/v1/no/such/path", "/metrics"):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("/v1/reservations?status=", "status"),
        ("/v1/reservations?sort_by=", "sort_by"),
        ("/v1/reservations?sort_dir=&sort_by=status", "sort_dir"),
        ("/v1/balances?tenant=acme&include_children=", "include_children"),
        ("/v1/balances?tenant=acme&include_children=maybe", "include_children"),
    ],
)
async def test_one_of_a_few_words_is_none_of_them_when_empty(ledger, client, path, member):
    """Of enumerations and booleans; a bound of time may be left blank."""
    answer = await client.get(path)
    assert told(answer) == (400, "INVALID_REQUEST")
    assert member in answer.json()["message"]
    for fine in ("reservations?from=&to=", "balances?tenant=acme&include_children=false"):
        assert (await client.get(f"/v1/{fine}")).status_code == 200


@pytest.mark.parametrize(
    ("written", "read"),
    [("5.0", 5), ("5e3", 5_000), ("0.0", 0), ("9007199254740993.0", 9_007_199_254_740_993)],
)
async def test_a_number_with_a_zero_fraction_is_an_integer(ledger, client, written, read):
    """OpenAPI 3.1; to the last digit, and free members stay as they were written."""
    await ledger.set_budget("tenant:acme", amount_of(2**62))
    body = json.dumps(reserving(count=7, ttl_ms=60_000, metadata={"n": 5.0}))
    body = body.replace('"amount": 7', f'"amount": {written}').replace("60000", "6e4")
    answer = await client.post("/v1/reservations", content=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["reserved"]["amount"] == read
    one = await client.get(f"/v1/reservations/{answer.json()['reservation_id']}")
    assert '"metadata":{"n":5.0}' in one.text


@pytest.mark.parametrize(
    "written",
    ["1.5", '"5"', "true", "NaN", "1e400", "1e999999999", "9007199254740993.5", "-5.0", "[5.0]"],
)
async def test_nothing_else_is_an_integer(ledger, client, written):
    body = json.dumps(reserving(count=7)).replace('"amount": 7', f'"amount": {written}')
    answer = await client.post("/v1/reservations", content=body)
    assert told(answer) == (400, "INVALID_REQUEST")


async def test_no_answer_names_a_path_of_the_server_or_a_command_of_its_operator(tmp_path):
    """Whatever goes wrong: those who ask over HTTP have neither."""
    path = tmp_path / "of-the-server" / "ledger.db"
    path.parent.mkdir()
    async with open_sqlite(path) as ledger, served(ledger) as client:
        said = [await client.post("/v1/reservations", json=reserving())]
        await ledger.set_budget("tenant:acme", amount_of(10))
        said.append(await client.post("/v1/reservations", json=reserving(unit="TOKENS")))
        said.append(await client.get("/v1/reservations/rsv_7_0123456789abcdef"))
        await ledger.freeze("tenant:acme")
        said.append(await client.post("/v1/reservations", json=reserving()))
        path.unlink()
        said.append(await client.post("/v1/reservations", json=reserving()))
        said.append(await client.get("/v1/balances?tenant=acme"))
    assert [answer.status_code for answer in said] == [404, 400, 404, 409, 500, 500]
    said.append(await internal_error(None, None, None))
    for answer in said:
        assert "disk" not in answer.text
        assert "of-the-server" not in answer.text
        assert "comptroller " not in answer.json()["message"]
