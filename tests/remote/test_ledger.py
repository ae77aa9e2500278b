"""The remote ledger: what it asks, what it believes, what it asks again, and whose key it uses.

The server is a script (`Script`): one answer for each request, in order; the last one stays.
"""

import json
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import httpx
import pytest
from runcycles import (
    Action,
    CommitRequest,
    DecisionRequest,
    EventCreateRequest,
    ReleaseRequest,
    ReservationCreateRequest,
    ReservationExtendRequest,
    Subject,
)

from comptroller.errors import (
    BudgetExceeded,
    BudgetNotFound,
    ComptrollerError,
    CredentialsMissing,
    LedgerMisbehaved,
    LedgerRefused,
    LedgerUnreachable,
    UnitMismatch,
)
from comptroller.ledger.interface import Ledger
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.money import usd

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ADDRESS = "http://cycles.example.com:7878"
FIVE_CENTS = {"unit": "USD_MICROCENTS", "amount": 5_000_000}
WHAT = {"subject": Subject(tenant="acme"), "action": Action(kind="llm.completion", name="m")}
RESERVE = ReservationCreateRequest(idempotency_key="k1", estimate=usd("0.05"), **WHAT)
DRY = RESERVE.model_copy(update={"dry_run": True})
DECIDE = DecisionRequest(idempotency_key="k1", estimate=usd("0.05"), **WHAT)
RECORD = EventCreateRequest(idempotency_key="k1", actual=usd("0.05"), **WHAT)
COMMIT = CommitRequest(idempotency_key="k2", actual=usd("0.05"))
RELEASE = ReleaseRequest(idempotency_key="k3")
EXTEND = ReservationExtendRequest(idempotency_key="k4", extend_by_ms=1000)

GRANT = {
    "decision": "ALLOW",
    "reservation_id": "rsv_1",
    "affected_scopes": ["tenant:acme"],
    "expires_at_ms": 1_750_000_060_000,
    "remaining_ttl_ms": 60_000,
    "reserved": FIVE_CENTS,
}
CALLS = {
    "reserve": (lambda ledger: ledger.reserve(RESERVE), 200, GRANT),
    "decide": (lambda ledger: ledger.decide(DECIDE), 200, {"decision": "ALLOW"}),
    "record": (lambda ledger: ledger.record(RECORD), 201, {"status": "APPLIED", "event_id": "e"}),
    "commit": (
        lambda ledger: ledger.commit("rsv_1", COMMIT, tenant="acme"),
        200,
        {"status": "COMMITTED", "charged": FIVE_CENTS},
    ),
    "release": (
        lambda ledger: ledger.release("rsv_1", RELEASE, tenant="acme"),
        200,
        {"status": "RELEASED", "released": FIVE_CENTS},
    ),
    "extend": (
        lambda ledger: ledger.extend("rsv_1", EXTEND, tenant="acme"),
        200,
        {"status": "ACTIVE", "expires_at_ms": 1, "remaining_ttl_ms": 1},
    ),
    "balances": (lambda ledger: ledger.balances(tenant="acme"), 200, {"balances": []}),
    "reservations": (lambda ledger: ledger.reservations(tenant="acme"), 200, {"reservations": []}),
    "reservation": (
        lambda ledger: ledger.reservation("rsv_1", tenant="acme"),
        200,
        {
            "reservation_id": "rsv_1",
            "status": "COMMITTED",
            "subject": {"tenant": "acme"},
            "action": {"kind": "k", "name": "n"},
            "reserved": FIVE_CENTS,
            "created_at_ms": 1,
            "expires_at_ms": 2,
            "scope_path": "tenant:acme",
            "affected_scopes": ["tenant:acme"],
        },
    ),
}
ASKED_TWICE = ("reserve", "decide")
ASKED_ONCE = tuple(verb for verb in CALLS if verb not in ASKED_TWICE)


def refused(status, code, message="the server's words", **body):
    """An error body as a conformant server's: it carries a trace id."""
    body = {"error": code, "message": message, "request_id": "r", "trace_id": "0" * 32, **body}
    return httpx.Response(status, json=body, headers={"X-Request-Id": "req_7"})


def hang():
    return anyio.sleep_forever()


class Script:
    """A server that answers in order: a response, an exception to raise, or `hang`."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    async def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            await answer()
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=answer.content, request=request
        )

    @property
    def keys(self):
        return [request.headers["X-Cycles-API-Key"] for request in self.requests]

    @property
    def bodies(self):
        return [json.loads(request.content) for request in self.requests]


@asynccontextmanager
async def ledger_of(script, **settings):
    settings = {"api_key": "key-of-acme", "transport": httpx.MockTransport(script), **settings}
    async with open_cycles(ADDRESS, **settings) as ledger:
        yield ledger


async def asked(call, *answers, **settings):
    """What the call gives or raises, and the server it was made to."""
    script = Script(*answers)
    async with ledger_of(script, **settings) as ledger:
        try:
            return await call(ledger), script
        except ComptrollerError as error:
            return error, script


class TestAnswers:
    @pytest.mark.parametrize("verb", CALLS)
    async def test_a_valid_answer_is_returned(self, verb):
        call, status, body = CALLS[verb]
        answer, script = await asked(call, httpx.Response(status, json=body))
        dumped = answer.model_dump(mode="json", exclude_none=True)
        assert dumped == body
        assert len(script.requests) == 1

    @pytest.mark.parametrize("verb", CALLS)
    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b"{}", b"<html>", b'"ok"', b'{"status": "\\ud800"}']
    )
    async def test_a_body_that_does_not_validate_is_ambiguous(self, verb, body):
        call, status, _ = CALLS[verb]
        error, _ = await asked(call, httpx.Response(status, content=body))
        assert (type(error), error.status) == (LedgerMisbehaved, status)

    @pytest.mark.parametrize("verb", CALLS)
    async def test_a_member_that_the_protocol_does_not_know_is_ambiguous(self, verb):
        call, status, body = CALLS[verb]
        error, _ = await asked(call, httpx.Response(status, json={**body, "surprise": 1}))
        assert (type(error), error.status) == (LedgerMisbehaved, status)
        assert "surprise" in str(error)

    @pytest.mark.parametrize("verb", CALLS)
    async def test_another_success_than_the_protocols_is_ambiguous(self, verb):
        call, status, body = CALLS[verb]
        error, _ = await asked(call, httpx.Response(202, json=body))
        assert (type(error), error.status) == (LedgerMisbehaved, 202)
        assert f"202, not {status}" in str(error)

    @pytest.mark.parametrize("amount", ["5", 5.5, 2.0**63, True, None, -1, 2**63])
    async def test_an_amount_is_a_whole_number_or_ambiguous(self, amount):
        call, _, body = CALLS["commit"]
        body = {**body, "charged": {"unit": "USD_MICROCENTS", "amount": amount}}
        error, _ = await asked(call, httpx.Response(200, json=body))
        assert (type(error), error.status) == (LedgerMisbehaved, 200)
        assert "charged.amount" in str(error)

    @pytest.mark.parametrize(
        ("verb", "extra"),
        [
            ("decide", "cycles_evidence"),
            ("release", "cycles_evidence"),
            ("commit", "cycles_evidence"),
            ("reserve", "cycles_evidence"),
            ("reservation", "evidence"),
            ("reservation", "committed_metadata"),
        ],
    )
    async def test_what_the_protocol_lists_is_accepted_whatever_the_client_package_knows(
        self, verb, extra
    ):
        call, status, body = CALLS[verb]
        seen = {"evidence_id": "a" * 64, "cycles_evidence_url": "https://cycles/evidence/a"}
        answer, _ = await asked(call, httpx.Response(status, json={**body, extra: seen}))
        assert not isinstance(answer, Exception)

    async def test_a_committed_row_of_a_listing_is_accepted(self):
        """Every conformant server's rows say what was committed, and when."""
        row = {**CALLS["reservation"][2], "committed": FIVE_CENTS, "finalized_at_ms": 9}
        answer, _ = await asked(
            CALLS["reservations"][0], httpx.Response(200, json={"reservations": [row]})
        )
        assert answer.reservations[0].committed.amount == FIVE_CENTS["amount"]

    async def test_requests_are_the_callers_and_carry_their_key_in_the_header(self):
        _, script = await asked(CALLS["reserve"][0], httpx.Response(200, json=GRANT))
        (request,) = script.requests
        assert (request.method, request.url) == ("POST", f"{ADDRESS}/v1/reservations")
        assert request.headers["X-Idempotency-Key"] == "k1"
        assert script.bodies == [RESERVE.model_dump(mode="json", exclude_none=True)]

    @pytest.mark.parametrize("key", ["résumé/1", " padded ", "line\nbreak", "鍵"])
    async def test_a_key_that_no_header_can_carry_goes_in_the_body_alone(self, key):
        """The protocol makes the header optional; a run id may be in any language."""
        request = RESERVE.model_copy(update={"idempotency_key": key})
        answer, script = await asked(
            lambda ledger: ledger.reserve(request), httpx.Response(200, json=GRANT)
        )
        assert answer.reservation_id == "rsv_1"
        assert "X-Idempotency-Key" not in script.requests[0].headers
        assert script.bodies[0]["idempotency_key"] == key

    async def test_a_reservation_id_stays_one_segment_of_the_path(self):
        _, script = await asked(
            lambda ledger: ledger.commit("a/b?c#d", COMMIT),
            httpx.Response(200, json=CALLS["commit"][2]),
        )
        assert script.requests[0].url.raw_path == b"/v1/reservations/a%2Fb%3Fc%23d/commit"

    async def test_a_listing_asks_for_what_was_asked(self):
        _, script = await asked(
            lambda ledger: ledger.reservations(tenant="acme", status="ACTIVE", cursor="9", limit=7),
            httpx.Response(200, json={"reservations": []}),
        )
        assert dict(script.requests[0].url.params) == {
            "tenant": "acme",
            "status": "ACTIVE",
            "cursor": "9",
            "limit": "7",
        }

    async def test_a_listing_that_never_ends_is_no_listing(self):
        """A server that does not read the cursor: whoever wants all pages would read for ever."""
        page = httpx.Response(200, json={"reservations": [], "has_more": True, "next_cursor": "9"})
        async with ledger_of(Script(page)) as ledger:
            first = await ledger.reservations(tenant="acme")
            with pytest.raises(LedgerMisbehaved, match="the next page is the one"):
                await ledger.reservations(tenant="acme", cursor=first.next_cursor)


class TestGrants:
    async def test_a_denial_in_an_answer_of_200_is_a_refusal(self):
        denied = {"decision": "DENY", "affected_scopes": [], "reason_code": "ACTION_KIND_DENIED"}
        error, script = await asked(CALLS["reserve"][0], httpx.Response(200, json=denied))
        assert type(error) is BudgetExceeded
        assert (error.reason_code, error.requested) == ("ACTION_KIND_DENIED", 5_000_000)
        assert len(script.requests) == 1

    async def test_a_grant_without_an_id_is_none(self):
        body = {key: GRANT[key] for key in GRANT if key != "reservation_id"}
        error, _ = await asked(CALLS["reserve"][0], httpx.Response(200, json=body))
        assert type(error) is LedgerMisbehaved

    async def test_a_grant_replayed_without_time_left_is_none(self):
        body = {**GRANT, "remaining_ttl_ms": 0}
        error, script = await asked(CALLS["reserve"][0], httpx.Response(200, json=body))
        assert type(error) is LedgerMisbehaved
        assert "no time left" in str(error)
        assert len(script.requests) == 1

    async def test_a_server_that_does_not_tell_the_time_left_is_believed(self):
        body = {key: GRANT[key] for key in GRANT if key != "remaining_ttl_ms"}
        granted, _ = await asked(CALLS["reserve"][0], httpx.Response(200, json=body))
        assert granted.reservation_id == "rsv_1"

    @pytest.mark.parametrize("decision", ["ALLOW", "DENY"])
    async def test_a_dry_run_answers_what_would_be_and_needs_no_reservation(self, decision):
        body = {"decision": decision, "affected_scopes": ["tenant:acme"]}
        answer, _ = await asked(lambda ledger: ledger.reserve(DRY), httpx.Response(200, json=body))
        assert answer.decision == decision

    async def test_a_denied_decision_is_an_answer(self):
        body = {"decision": "DENY", "reason_code": "BUDGET_EXCEEDED"}
        answer, _ = await asked(CALLS["decide"][0], httpx.Response(200, json=body))
        assert answer.is_denied()


class TestRefusals:
    async def test_a_denial_says_where_how_much_and_of_what(self):
        details = {"scope": "tenant:acme", "remaining": 2_000_000, "unit": "USD_MICROCENTS"}
        error, script = await asked(
            CALLS["reserve"][0], refused(409, "BUDGET_EXCEEDED", details=details)
        )
        assert type(error) is BudgetExceeded
        assert (error.status, error.error_code) == (409, "BUDGET_EXCEEDED")
        assert (error.scope, error.unit) == ("tenant:acme", usd(0).unit)
        assert (error.requested, error.remaining) == (5_000_000, 2_000_000)
        assert (error.request_id, error.details) == ("req_7", details)
        assert "the server's words" in str(error)
        assert ADDRESS in str(error)
        assert len(script.requests) == 1

    async def test_whatever_a_server_says_is_repeated_in_one_line_of_some_length(self):
        said = refused(409, "BUDGET_EXCEEDED" + "\n" * 9, "no\r\nmore " * 100_000)
        error, _ = await asked(CALLS["reserve"][0], said)
        assert f"{ADDRESS}: no more no more" in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 1_000

    @pytest.mark.parametrize("verb", CALLS)
    @pytest.mark.parametrize("said", [None, 5, True, ["no"], {"no": 1}, ""])
    async def test_a_message_or_a_code_that_is_no_text_is_not_repeated(self, verb, said):
        for body in ({"error": "INVALID_REQUEST", "message": said}, {"error": said}):
            error, _ = await asked(CALLS[verb][0], httpx.Response(400, json=body))
            assert isinstance(error, ComptrollerError)
            assert error.error_code == ("INVALID_REQUEST" if "message" in body else None)
            assert f"{verb}: " in str(error)
            assert "(400" in str(error)

    async def test_what_no_terminal_or_log_should_show_is_left_out(self):
        said = httpx.Response(400, content=b'{"message": "\\u001b[31mno\\ud800 \\u0007more"}')
        error, _ = await asked(CALLS["commit"][0], said)
        assert "commit: [31mno more (400)" in str(error)

    @pytest.mark.parametrize("details", [None, "text", [], {}, {"scope": 1, "remaining": "2"}])
    async def test_a_denial_without_usable_details_says_what_is_known(self, details):
        error, _ = await asked(
            CALLS["reserve"][0], refused(409, "BUDGET_EXCEEDED", details=details)
        )
        assert type(error) is BudgetExceeded
        assert (error.scope, error.remaining, error.requested) == (None, None, 5_000_000)

    @pytest.mark.parametrize("verb", ["reserve", "decide", "record"])
    async def test_a_missing_budget_names_the_operator(self, verb):
        """The remedy of an embedded ledger, a command, would not help here."""
        error, _ = await asked(
            CALLS[verb][0], refused(404, "NOT_FOUND", "set one with: comptroller budget set")
        )
        assert type(error) is BudgetNotFound
        assert "operator" in str(error)
        assert "tenant:acme" in str(error)
        assert ADDRESS in str(error)
        assert "comptroller budget" not in str(error)

    async def test_a_missing_reservation_is_no_missing_budget(self):
        error, _ = await asked(CALLS["commit"][0], refused(404, "NOT_FOUND"))
        assert (type(error), error.error_code) == (LedgerRefused, "NOT_FOUND")

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (400, "UNIT_MISMATCH", UnitMismatch),
            (400, "INVALID_REQUEST", LedgerRefused),
            (409, "RESERVATION_FINALIZED", LedgerRefused),
            (409, "IDEMPOTENCY_MISMATCH", LedgerRefused),
            (410, "RESERVATION_EXPIRED", LedgerRefused),
            (409, "OVERDRAFT_LIMIT_EXCEEDED", BudgetExceeded),
            (409, "SOMETHING_NEW", LedgerMisbehaved),
            (302, None, LedgerMisbehaved),
        ],
    )
    async def test_each_code_is_the_error_that_it_means(self, status, code, kind):
        answer = refused(status, code) if code else httpx.Response(status)
        error, _ = await asked(CALLS["commit"][0], answer)
        assert (type(error), error.status, error.error_code) == (kind, status, code)

    @pytest.mark.parametrize("verb", ASKED_TWICE)
    @pytest.mark.parametrize("status", [302, 409])
    async def test_what_was_understood_is_not_asked_again(self, verb, status):
        """Also a refusal that the protocol does not know: nothing was lost."""
        _, script = await asked(CALLS[verb][0], refused(status, "SOMETHING_NEW"))
        assert len(script.requests) == 1

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (401, "UNAUTHORIZED"),
            (403, "FORBIDDEN"),
            (410, "RESERVATION_EXPIRED"),
            (429, "LIMIT_EXCEEDED"),
        ],
    )
    async def test_a_gateways_page_means_what_its_status_says(self, status, code):
        """What stands before a server may replace its body."""
        error, _ = await asked(CALLS["commit"][0], httpx.Response(status, text="<html>no</html>"))
        assert (type(error), error.error_code) == (LedgerRefused, code)

    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_refused_key_names_its_tenant_and_the_address_and_not_the_key(self, status):
        error, script = await asked(CALLS["reserve"][0], refused(status, "UNAUTHORIZED"))
        assert type(error) is LedgerRefused
        assert "'acme'" in str(error)
        assert ADDRESS in str(error)
        assert "key-of-acme" not in str(error)
        assert len(script.requests) == 1

    @pytest.mark.parametrize("verb", CALLS)
    @pytest.mark.parametrize(
        ("header", "milliseconds"),
        [
            ("7", 7000),
            ("0", 0),
            ("soon", None),
            ("-1", None),
            ("9" * 30, None),
            (None, None),
            ("1000000000", 10**12),
            ("9" * 5000, None),
            ("nan", None),
            ("inf", None),
            ("1.5", None),
            ("Fri, 31 Dec 9999 23:59:59 GMT", None),
        ],
    )
    async def test_a_throttled_request_says_how_long_to_wait(self, verb, header, milliseconds):
        answer = refused(429, "LIMIT_EXCEEDED")
        if header:
            answer.headers["Retry-After"] = header
        error, script = await asked(CALLS[verb][0], answer)
        assert (type(error), error.status) == (LedgerRefused, 429)
        assert error.retry_after_ms == milliseconds
        assert len(script.requests) == 1


LOST = {
    "nothing came back": httpx.ReadError("reset"),
    "no connection": httpx.ConnectError("refused"),
    "the socket failed": OSError("broken"),
    "a failure of the server": refused(500, "INTERNAL_ERROR"),
    "a gateway's": httpx.Response(503, text="<html>"),
    "an ambiguous status": httpx.Response(202, json=GRANT),
    "an ambiguous body": httpx.Response(200, text="<html>"),
    "no answer in time": hang,
}


@pytest.mark.parametrize("lost", LOST)
class TestLostAnswers:
    @pytest.mark.parametrize("verb", ASKED_TWICE)
    async def test_are_asked_for_once_more_under_the_same_key(self, verb, lost):
        call, status, body = CALLS[verb]
        answer, script = await asked(call, LOST[lost], httpx.Response(status, json=body))
        assert answer.decision == "ALLOW"
        assert len(script.requests) == 2
        assert script.requests[0].content == script.requests[1].content

    @pytest.mark.parametrize("verb", ASKED_TWICE)
    async def test_lost_twice_surface(self, verb, lost):
        error, script = await asked(CALLS[verb][0], LOST[lost])
        assert type(error) in (LedgerUnreachable, LedgerMisbehaved)
        assert ADDRESS in str(error)
        assert len(script.requests) == 2

    @pytest.mark.parametrize("verb", ASKED_ONCE)
    async def test_of_other_requests_are_the_callers_to_ask_for(self, verb, lost):
        error, script = await asked(CALLS[verb][0], LOST[lost])
        assert type(error) in (LedgerUnreachable, LedgerMisbehaved)
        assert len(script.requests) == 1

    async def test_are_not_logged(self, lost, caplog):
        """Whether it matters is known by who decides on the retry."""
        await asked(CALLS["commit"][0], LOST[lost])
        assert [one for one in caplog.records if one.name.startswith("runcycles")] == []


class TestTime:
    @pytest.mark.parametrize("verb", CALLS)
    async def test_a_request_lasts_no_longer_than_its_time_out(self, verb):
        began = anyio.current_time()
        error, script = await asked(CALLS[verb][0], hang, request_timeout=3)
        lasted = anyio.current_time() - began
        assert (type(error), error.status) == (LedgerUnreachable, -1)
        assert "no answer within 3 s" in str(error)
        assert lasted == pytest.approx(3 * len(script.requests), abs=0.5)

    async def test_no_more_requests_are_under_way_than_may_be(self):
        """Those that wait are let through in turn."""
        under_way = most = 0

        async def slow(request):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await anyio.sleep(0.1)
            under_way -= 1
            return httpx.Response(200, json=CALLS["commit"][2])

        async with ledger_of(slow, in_flight=3) as ledger, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(CALLS["commit"][0], ledger)
        assert most == 3

    async def test_waiting_for_a_place_counts(self):
        """A heartbeat is promised its bound, whatever else is going on."""
        errors = []

        async def extend(ledger):
            try:
                await CALLS["extend"][0](ledger)
            except LedgerUnreachable as error:
                errors.append(str(error))

        async with ledger_of(Script(hang), in_flight=1, request_timeout=2) as ledger:
            began = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(extend, ledger)
                tasks.start_soon(extend, ledger)
            assert anyio.current_time() - began == pytest.approx(2, abs=0.5)
        assert any("no answer within 2 s" in error for error in errors)
        assert any("no place among 1 requests in flight within 2 s" in error for error in errors)

    async def test_a_key_that_does_not_come_is_not_waited_for_longer(self):
        async def slow(tenant):
            await anyio.sleep_forever()

        error, script = await asked(CALLS["commit"][0], hang, api_key=slow, request_timeout=1)
        assert type(error) is LedgerUnreachable
        assert "no API key within 1 s" in str(error)
        assert script.requests == []

    async def test_a_cancelled_request_gives_its_place_back(self):
        script = Script(hang, httpx.Response(200, json=CALLS["commit"][2]))
        async with ledger_of(script, in_flight=1) as ledger:
            with anyio.move_on_after(1) as scope:
                await CALLS["commit"][0](ledger)
            assert scope.cancelled_caught
            answer = await CALLS["commit"][0](ledger)
        assert answer.status == "COMMITTED"


class TestKeys:
    async def keys_used(self, api_key, tenants):
        script = Script(httpx.Response(200, json=CALLS["commit"][2]))
        async with ledger_of(script, api_key=api_key) as ledger:
            for tenant in tenants:
                await ledger.commit("rsv_1", COMMIT, tenant=tenant)
        return script.keys

    async def test_one_key_is_everybodys(self):
        assert await self.keys_used("only", ["acme", "globex", None]) == ["only"] * 3

    async def test_a_mapping_has_one_for_each_tenant(self):
        keys = {"acme": "a", "globex": "g"}
        assert await self.keys_used(keys, ["acme", "globex", "acme"]) == ["a", "g", "a"]

    async def test_a_callable_is_asked_and_a_rotated_key_is_taken_up(self):
        issued = iter(["old", "new"])

        async def key_of(tenant):
            return f"{next(issued)}-{tenant}"

        assert await self.keys_used(key_of, ["acme", "acme"]) == ["old-acme", "new-acme"]

    async def test_the_newline_at_a_files_end_is_no_part_of_a_key(self):
        assert await self.keys_used("key\n", ["acme"]) == ["key"]

    async def test_the_subjects_tenant_says_whose_key_is_used(self):
        keys = {"acme": "a", "globex": "g"}
        _, script = await asked(CALLS["reserve"][0], httpx.Response(200, json=GRANT), api_key=keys)
        assert script.keys == ["a"]

    @pytest.mark.parametrize("verb", CALLS)
    @pytest.mark.parametrize("api_key", [None, {}, {"globex": "g"}, {"acme": ""}, " "])
    async def test_a_missing_key_names_tenant_address_and_remedy(self, verb, api_key):
        error, script = await asked(CALLS[verb][0], hang, api_key=api_key)
        assert type(error) is CredentialsMissing
        assert "'acme'" in str(error)
        assert ADDRESS in str(error)
        assert "api_key" in str(error)
        assert script.requests == []

    async def test_a_request_of_nobody_has_no_key_in_a_mapping(self):
        error, _ = await asked(
            lambda ledger: ledger.commit("r", COMMIT), hang, api_key={"acme": "a"}
        )
        assert type(error) is CredentialsMissing
        assert "no tenant" in str(error)

    async def test_a_callable_that_knows_no_key_or_fails_is_a_missing_key(self):
        async def none(tenant):
            return None

        async def failing(tenant):
            raise KeyError(tenant)

        for api_key in (none, failing):
            error, _ = await asked(CALLS["commit"][0], hang, api_key=api_key)
            assert type(error) is CredentialsMissing
            assert "'acme'" in str(error)
        assert isinstance(error.__cause__, KeyError)

    @pytest.mark.parametrize("key", ["sch\u00fcssel", "two\nlines"])
    async def test_a_key_that_no_header_can_carry_is_not_repeated(self, key):
        error, _ = await asked(CALLS["commit"][0], hang, api_key=key)
        assert type(error) is CredentialsMissing
        assert key not in str(error)
        assert "header" in str(error)

    @pytest.mark.parametrize("key", [b"key", 7])
    async def test_a_key_that_is_no_string_says_so(self, key):
        error, _ = await asked(CALLS["commit"][0], hang, api_key={"acme": key})
        assert type(error) is CredentialsMissing
        assert "'acme'" in str(error)
        assert "no string" in str(error)


class TestOpening:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "cycles.example.com:7878",
            "http//cycles.example.com",
            "ftp://cycles.example.com",
            "http://",
            "http://:7878",
            "http:/cycles.example.com",
            "http://two words:7878",
            "http://host:7878 ",
            "http://host/a path",
            "http://host:port",
            "http://host:0",
            "http://host:70000",
            "http://host/?tenant=acme",
            "http://host/#top",
            "http://host\n",
        ],
    )
    async def test_an_address_that_is_none_is_one_line_that_shows_one(self, url):
        with pytest.raises(ValueError, match="http://localhost:7878") as caught:
            await open_cycles(url).__aenter__()
        assert "\n" not in str(caught.value)

    async def test_a_password_in_an_address_is_refused_and_not_repeated(self):
        with pytest.raises(ValueError, match="api_key") as caught:
            await open_cycles("http://me:secret@host").__aenter__()
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("HTTP://Cycles.Example.com/", "http://cycles.example.com"),
            ("https://host/cycles/", "https://host/cycles"),
            ("http://[::1]:7878", "http://[::1]:7878"),
        ],
    )
    async def test_a_ledger_is_named_by_its_address(self, url, name):
        script = Script(httpx.Response(200, json=CALLS["commit"][2]))
        async with open_cycles(url, api_key="k", transport=httpx.MockTransport(script)) as ledger:
            await CALLS["commit"][0](ledger)
        assert ledger.name == name
        assert str(script.requests[0].url).startswith(f"{name}/v1/")

    @pytest.mark.parametrize(
        "setting",
        [
            {"request_timeout": 0},
            {"request_timeout": -1},
            {"request_timeout": float("nan")},
            {"request_timeout": float("inf")},
            {"connect_timeout": 0},
            {"in_flight": 0},
        ],
    )
    async def test_a_setting_that_makes_no_sense_is_one_line(self, setting):
        with pytest.raises(ValueError, match=next(iter(setting))):
            await open_cycles(ADDRESS, **setting).__aenter__()

    async def test_what_is_told_about_a_ledger_is_what_it_is(self):
        async with ledger_of(Script(hang), request_timeout=7) as opened:
            ledger: Ledger = opened
            assert (ledger.remote, ledger.request_timeout, ledger.name) == (True, 7, ADDRESS)

    async def test_after_its_block_a_ledger_says_that_it_is_closed(self):
        script = Script(hang)
        async with ledger_of(script) as ledger:
            pass
        with pytest.raises(ComptrollerError, match="closed"):
            await CALLS["commit"][0](ledger)
        assert script.requests == []

    async def test_another_event_loop_is_told_to_open_the_ledger_itself(self):
        script = Script(hang)
        async with ledger_of(script) as ledger:

            def elsewhere():
                with pytest.raises(ComptrollerError, match="another event loop"):
                    anyio.run(CALLS["commit"][0], ledger)

            await anyio.to_thread.run_sync(elsewhere)
        assert script.requests == []

    @pytest.mark.parametrize("ends", ["normally", "by an error", "by cancellation"])
    async def test_the_connections_are_closed_however_the_block_ends(self, ends):
        closed = []

        class Transport(httpx.MockTransport):
            async def aclose(self):
                await anyio.lowlevel.checkpoint()
                closed.append(ends)

        with anyio.CancelScope() as scope:
            try:
                async with ledger_of(Script(hang), transport=Transport(Script(hang))):
                    if ends == "by an error":
                        raise ZeroDivisionError
                    if ends == "by cancellation":
                        scope.cancel()
                        await anyio.sleep_forever()
            except ZeroDivisionError:
                pass
        assert closed == [ends]

    async def test_closing_is_not_waited_for_longer_than_a_second(self):
        class Stuck(httpx.MockTransport):
            async def aclose(self):
                await anyio.sleep_forever()

        began = anyio.current_time()
        async with ledger_of(Script(hang), transport=Stuck(Script(hang))):
            pass
        assert anyio.current_time() - began == pytest.approx(1, abs=0.5)
