"""Whatever `comptroller serve` is asked, its answer is one that the protocol's document allows.

The document's own operations, with inputs that schemathesis makes of it, the same ones each time: a
third is malformed, a third is aimed at the caller's own tenant and at reservations that are there.
"""

import secrets
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.cli import done
from support.serve_command import key_of, served

pytestmark = pytest.mark.alike

DOCUMENT = Path(__file__).parents[1] / "data" / "protocol" / "cycles-protocol-v0.yaml"
SCHEMA = schemathesis.openapi.from_path(DOCUMENT)
OPERATIONS = {
    f"{operation.method} {operation.path}": operation
    for operation in (found.ok() for found in SCHEMA.get_all_operations())
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ADMIN_KEY = "the-operators-own-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A client of a server, and the keys of two tenants."""
    ledger = tmp_path_factory.mktemp("schema") / "ledger.db"
    for scope in ("tenant:acme", "tenant:globex"):
        done("budget", "set", scope, "1000000usd", "--ledger", str(ledger))
    keys = {tenant: key_of(tenant, ledger) for tenant in ("acme", "globex")}
    with served(ledger, COMPTROLLER_ADMIN_KEY=ADMIN_KEY) as running:
        with httpx.Client(base_url=running.url, trust_env=False) as client:
            yield client, keys


@pytest.fixture
def made(server):
    """Reservations in each state, and another tenant's."""
    return list(reservations(*server))


def reservations(client, keys):
    """Make them, each time others."""
    for tenant, ends in (("acme", ("", "/commit", "/release")), ("globex", ("",))):
        client.headers["X-Cycles-API-Key"] = keys[tenant]
        for number, end in enumerate(ends):
            amount = {"unit": "USD_MICROCENTS", "amount": 100}
            asked = {
                "idempotency_key": secrets.token_hex(8),
                "subject": {"tenant": tenant},
                "action": {"kind": "llm.completion", "name": "model"},
                "estimate": amount,
                "ttl_ms": 86_400_000,
                "metadata": {"number": number},
            }
            made = client.post("/v1/reservations", json=asked).json()["reservation_id"]
            if end:
                actual = {"actual": amount} if end == "/commit" else {}
                settled = {"idempotency_key": "end", **actual}
                assert client.post(f"/v1/reservations/{made}{end}", json=settled).is_success
            yield made
    del client.headers["X-Cycles-API-Key"]


def aim(case, reservation_id):
    """Turn a made-up request into one about what is there."""
    if isinstance(case.body, dict):
        if "subject" in case.body:
            case.body["subject"] = {"tenant": "acme"}
        for amount in {"estimate", "actual"} & set(case.body):
            some = case.body[amount]["amount"] % 1_000  # others want something, too
            case.body[amount] = {"unit": "USD_MICROCENTS", "amount": some}
    for optional in ("tenant", "cursor"):
        case.query.pop(optional, None)
    if "/balances" in case.path:
        case.query["tenant"] = "acme"
    case.headers.pop("X-Idempotency-Key", None)
    if "reservation_id" in case.path_parameters:
        case.path_parameters["reservation_id"] = reservation_id
    return case


def inputs(operation, made):
    """Requests of an operation: as the document says, as it says and to the point, malformed."""
    sound, bad = (
        operation.as_strategy(generation_mode=mode)
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    )
    return sound | st.builds(aim, sound, st.sampled_from([*made[:1] * 3, *made])) | bad


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_is_one_of_the_document(server, made, name):
    client, keys = server
    operation, statuses = OPERATIONS[name], set()
    others = [{}, {"X-Cycles-API-Key": "ck_1_2"}, {"X-Admin-API-Key": ADMIN_KEY}]

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=inputs(operation, made),
        who=st.sampled_from([{"X-Cycles-API-Key": keys["acme"]}] * 7 + others),
    )
    def ask(case, who):
        for header in ("X-Cycles-API-Key", "X-Admin-API-Key"):
            case.headers.pop(header, None)
        answer = case.call(base_url=str(client.base_url), headers=who)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    public = operation.definition.raw.get("security") == []
    assert statuses & ({404} if public else {200, 201}), statuses
    assert public or 401 in statuses, statuses
