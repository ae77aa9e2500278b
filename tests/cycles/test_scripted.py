"""A whole program against a Cycles server that answers from a script: what it is sent, in order."""

import json

import httpx
import pytest
from agents import InputGuardrailTripwireTriggered
from runcycles import BudgetExceededError

from comptroller.cycles import CyclesRunHooks, cycles_budget_guardrail
from support.hooks_fixture import client_over, searcher

pytestmark = pytest.mark.anyio

MICROCENTS = "USD_MICROCENTS"


class Server(httpx.AsyncBaseTransport):
    """Grants everything, unless a path has other answers in its script; notes what it is asked."""

    def __init__(self, **script):
        self.asked = []
        self._script = {f"/v1/{path}": list(answers) for path, answers in script.items()}

    async def handle_async_request(self, request):
        body = json.loads(await request.aread())
        path = request.url.path
        self.asked.append((path, body, request.headers["X-Cycles-API-Key"]))
        scripted = self._script.get(path)
        status, answer = scripted.pop(0) if scripted else self._granted(path, body)
        return httpx.Response(status, json=answer)

    def _granted(self, path, body):
        if path == "/v1/decide":
            return 200, {"decision": "ALLOW", "affected_scopes": ["tenant:acme"]}
        if path == "/v1/events":
            return 201, {"status": "APPLIED", "event_id": f"evt_{len(self.asked)}"}
        if path == "/v1/reservations":
            return 200, {
                "decision": "ALLOW",
                "reservation_id": f"rsv_{len(self.asked)}",
                "affected_scopes": ["tenant:acme"],
                "expires_at_ms": 2_000_000_000_000,
                "remaining_ttl_ms": 60_000,
                "scope_path": "tenant:acme",
                "reserved": body["estimate"],
            }
        if path.endswith("/commit"):
            return 200, {"status": "COMMITTED", "charged": body["actual"]}
        return 200, {"status": "RELEASED", "released": {"unit": MICROCENTS, "amount": 0}}

    @property
    def paths(self):
        return [path.rpartition("/")[2] for path, *_ in self.asked]


def program(server, **settings):
    """Guardrail, hooks, an agent with a tool: the quick start of the Cycles hooks."""
    client = client_over(server)
    agent, model = searcher()
    agent.input_guardrails = [
        cycles_budget_guardrail(client=client, tenant="acme", estimate=5_000_000)
    ]
    hooks = CyclesRunHooks(
        client=client, tenant="acme", app="desk", tool_estimates={"search": 50}, **settings
    )
    return hooks, agent, model


async def test_every_call_is_reserved_before_and_committed_after():
    server = Server()
    hooks, agent, model = program(server)
    result = await hooks.run(agent, input="help")
    assert (result.final_output, model.dispatches) == ("found it", 2)
    assert server.paths[:2] == ["decide", "reservations"]
    assert sorted(server.paths) == ["commit"] * 3 + ["decide"] + ["reservations"] * 3
    assert {key for *_, key in server.asked} == {"key"}
    reserves = [body for path, body, _ in server.asked if path == "/v1/reservations"]
    assert [(each["action"]["kind"], each["estimate"]["amount"]) for each in reserves] == [
        ("llm.completion", 500_000), ("tool.invoke", 50), ("llm.completion", 500_000),
    ]  # fmt: skip
    assert reserves[1]["subject"] == {
        "tenant": "acme", "app": "desk", "agent": "Triage-agent", "toolset": "search",
    }  # fmt: skip
    keys = [body["idempotency_key"] for _, body, _ in server.asked]
    assert len(set(keys)) == len(keys)
    commits = [body for path, body, _ in server.asked if path.endswith("/commit")]
    tokens = [each["metrics"] for each in commits if each["actual"]["unit"] == MICROCENTS]
    assert all((each["tokens_input"], each["tokens_output"]) == (10, 5) for each in tokens)


async def test_a_decision_of_deny_costs_no_token_and_no_reservation():
    server = Server(decide=[(200, {"decision": "DENY", "reason_code": "BUDGET_EXCEEDED"})])
    hooks, agent, model = program(server)
    with pytest.raises(InputGuardrailTripwireTriggered):
        await hooks.run(agent, input="help")
    assert (model.dispatches, server.paths) == (0, ["decide"])


async def test_a_denied_tool_stops_the_agent_and_what_ran_is_committed():
    granted = Server()._granted("/v1/reservations", {"estimate": {"unit": MICROCENTS, "amount": 1}})
    refused = (409, {"error": "BUDGET_EXCEEDED", "message": "spent", "request_id": "r",
                     "trace_id": "0" * 31 + "1"})  # fmt: skip
    server = Server(reservations=[granted, refused, refused])
    hooks, agent, model = program(server)
    with pytest.raises(BudgetExceededError) as caught:
        await hooks.run(agent, input="help")
    assert caught.value.error_code == "BUDGET_EXCEEDED"
    assert (model.dispatches, server.paths.count("commit")) == (1, 1)
    assert "release" not in server.paths


async def test_a_server_that_fails_stops_the_agent_unless_it_may_go_on():
    down = [(503, {"error": "INTERNAL_ERROR", "message": "down", "request_id": "r"})]
    hooks, agent, model = program(Server(reservations=down * 9))
    with pytest.raises(BudgetExceededError) as caught:
        await hooks.run(agent, input="help")
    assert (caught.value.status, model.dispatches) == (503, 0)
    hooks, agent, model = program(Server(reservations=down * 9), fail_open=True)
    assert (await hooks.run(agent, input="help")).final_output == "found it"
