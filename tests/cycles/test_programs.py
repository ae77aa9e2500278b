"""Programs as users of `runcycles-openai-agents` wrote them, only the import changed.

Each runs on an embedded ledger (through `as_client`), against that ledger over HTTP (named by the
`CYCLES_*` environment), and ends as that package's README says.
"""

import socket
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
import uvicorn
from agents import Agent, InputGuardrailTripwireTriggered, function_tool
from agents.testing import function_call
from runcycles import (
    AsyncCyclesClient,
    BudgetExceededError,
    CommitOveragePolicy,
    CyclesConfig,
    Unit,
)

from comptroller import as_client, risk_points, tokens, usd
from comptroller.cycles import (
    CyclesRunHooks,
    ToolEstimateConfig,
    ToolEstimateMap,
    cycles_budget_guardrail,
)
from comptroller.ledger.embedded.memory import open_memory
from comptroller.server import serve_ledger
from comptroller.testing import CountingModel, assert_settled, spent

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"  # on the real clock: a server's


@asynccontextmanager
async def over_http(ledger):
    """The address of a server of `ledger`, in a thread and a loop of its own."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # who asks before the thread serves waits
        app = serve_ledger(ledger, {"cyc_live_1": "acme-corp"})
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await anyio.to_thread.run_sync(thread.join)


@pytest.fixture(params=["embedded", "http"])
async def place(request, monkeypatch):
    """(ledger, keyword arguments that name it for hooks and guardrails)."""
    async with open_memory() as ledger:
        if request.param == "embedded":
            yield ledger, {"client": as_client(ledger)}
        else:
            async with over_http(ledger) as address:
                monkeypatch.setenv("CYCLES_BASE_URL", address)
                monkeypatch.setenv("CYCLES_API_KEY", "cyc_live_1")
                monkeypatch.setenv("CYCLES_JOURNAL_ENABLED", "false")
                yield ledger, {}
        await assert_settled(ledger)


async def funded(ledger, dollars="10", points=1_000):
    await ledger.set_budget("tenant:acme-corp", usd(dollars))
    await ledger.set_budget("tenant:acme-corp", risk_points(points))


def bot(*turns, **fields):
    model = CountingModel(*turns)
    return Agent(name="case-resolver", model=model, **fields), model


@function_tool
def send_email(to: str) -> str:
    """Send an email."""
    return f"sent to {to}"


@function_tool
def update_crm(notes: str) -> str:
    """Write notes."""
    return f"noted {notes}"


@function_tool
def search_knowledge(query: str) -> str:
    """Search."""
    return f"about {query}"


TOOLS = [send_email, update_crm, search_knowledge]
ALL_THREE = [
    function_call("search_knowledge", {"query": "login"}, call_id="1"),
    function_call("update_crm", {"notes": "n"}, call_id="2"),
    function_call("send_email", {"to": "x@example.com"}, call_id="3"),
]


async def test_one_line(place):
    ledger, where = place
    await funded(ledger)
    agent, _ = bot()
    result = await CyclesRunHooks(tenant="acme-corp", **where).run(agent, input="hello")
    assert result.final_output == "done"
    assert (await spent(ledger, "acme-corp"))[Unit.USD_MICROCENTS] > 0


async def test_a_guardrail_hooks_and_tools_with_estimates(place):
    """A tool of estimate 0 reserves nothing; each other one costs what the map says."""
    ledger, where = place
    await funded(ledger)
    guardrail = cycles_budget_guardrail(tenant="acme-corp", estimate=5_000_000, **where)
    hooks = CyclesRunHooks(
        tenant="acme-corp",
        app="support-platform",
        tool_estimates={"send_email": 50, "update_crm": 10, "search_knowledge": 0},
        **where,
    )
    agent, model = bot(ALL_THREE, "done", tools=TOOLS, input_guardrails=[guardrail])
    result = await hooks.run(agent, input="help")
    assert (result.final_output, model.dispatches) == ("done", 2)
    assert (await spent(ledger, "acme-corp"))[Unit.RISK_POINTS] == 60
    listed = (await ledger.reservations(tenant="acme-corp")).reservations
    tools = {each.subject.toolset for each in listed if each.action.kind == "tool.invoke"}
    assert tools == {"send_email", "update_crm"}
    assert {each.subject.app for each in listed} == {"support-platform"}


async def test_the_agent_stops_when_its_budget_is_gone(place):
    ledger, where = place
    await funded(ledger, points=55)
    agent, model = bot(ALL_THREE, "done", tools=TOOLS)
    hooks = CyclesRunHooks(
        tenant="acme-corp", tool_estimates={"send_email": 50, "update_crm": 10}, **where
    )
    with pytest.raises(BudgetExceededError) as caught:
        await hooks.run(agent, input="help")
    assert model.dispatches == 1
    assert "tool" in str(caught.value)


async def test_an_exhausted_budget_keeps_the_agent_from_starting(place):
    ledger, where = place
    await funded(ledger, dollars="0.01")
    guardrail = cycles_budget_guardrail(
        tenant="acme-corp", estimate=5_000_000, unit=Unit.USD_MICROCENTS, fail_open=True, **where
    )
    agent, model = bot(input_guardrails=[guardrail])
    with pytest.raises(InputGuardrailTripwireTriggered):
        await CyclesRunHooks(tenant="acme-corp", **where).run(agent, input="help")
    assert model.dispatches == 0


async def test_a_stream(place):
    ledger, where = place
    await funded(ledger)
    agent, _ = bot(ALL_THREE, "done", tools=TOOLS)
    result = CyclesRunHooks(tenant="acme-corp", **where).run_streamed(agent, input="help")
    seen = [event async for event in result.stream_events()]
    assert seen
    assert result.final_output == "done"


async def test_a_map_with_configs_and_units(place):
    ledger, where = place
    await funded(ledger)
    hooks = CyclesRunHooks(
        tenant="acme-corp",
        tool_estimates=ToolEstimateMap(
            mapping={
                "send_email": 50,
                "update_crm": ToolEstimateConfig(
                    estimate=10, action_kind="tool.crm.update", unit=Unit.RISK_POINTS
                ),
                "search_knowledge": 0,
            },
            default_estimate=1,
            default_unit=Unit.RISK_POINTS,
        ),
        **where,
    )
    agent, _ = bot(ALL_THREE, "done", tools=TOOLS)
    await hooks.run(agent, input="help")
    listed = (await ledger.reservations(tenant="acme-corp")).reservations
    assert "tool.crm.update" in {each.action.kind for each in listed}


async def test_two_agents_share_a_budget(place):
    ledger, where = place
    await funded(ledger)
    hooks = CyclesRunHooks(
        tenant="acme-corp", app="support-platform", workflow="escalation-flow", **where
    )
    specialist = Agent(name="escalation-specialist", model=CountingModel("I am sorry."))
    guardrail = cycles_budget_guardrail(tenant="acme-corp", estimate=5_000_000, **where)
    triage, _ = bot(
        [function_call("transfer_to_escalation_specialist", {}, call_id="h")],
        handoffs=[specialist],
        input_guardrails=[guardrail],
    )
    result = await hooks.run(triage, input="charged twice!")
    assert result.last_agent is specialist
    listed = (await ledger.reservations(tenant="acme-corp")).reservations
    assert {each.subject.agent for each in listed} == {"case-resolver", "escalation-specialist"}
    assert {each.subject.workflow for each in listed} == {"escalation-flow"}


async def test_an_explicit_client_and_every_option():
    async with open_memory() as ledger, over_http(ledger) as address:
        await funded(ledger)
        await ledger.set_budget("tenant:acme-corp", tokens(10_000))
        config = CyclesConfig(base_url=address, api_key="cyc_live_1", journal_enabled=False)
        async with AsyncCyclesClient(config) as client:
            hooks = CyclesRunHooks(
                client=client, config=None, tenant="acme-corp", workspace="prod",
                app="support-platform", workflow="case-resolution", agent="case-resolver",
                toolset=None, tool_estimates={"email": 50}, default_tool_estimate=1,
                llm_estimate=5_000, llm_unit=Unit.TOKENS, fail_open=False, ttl_ms=60_000,
                heartbeat_max_age_ms=600_000, heartbeat_max_extensions=None,
                commit_max_attempts=2, overage_policy=CommitOveragePolicy.ALLOW_IF_AVAILABLE,
                dry_run=False, retry_engine=None,
            )  # fmt: skip
            agent, _ = bot()
            await hooks.run(agent, input="hello")
        assert (await spent(ledger, "acme-corp"))[Unit.TOKENS] == 15


async def test_a_server_that_is_down_stops_the_agent_and_fail_open_does_not():
    config = CyclesConfig(base_url="http://127.0.0.1:9", api_key="k", journal_enabled=False)
    agent, model = bot()
    with pytest.raises(BudgetExceededError) as caught:
        await CyclesRunHooks(config=config, tenant="acme").run(agent, input="hello")
    assert caught.value.error_code == "TRANSPORT_ERROR"
    assert model.dispatches == 0
    hooks = CyclesRunHooks(config=config, tenant="acme", fail_open=True)
    assert (await hooks.run(agent, input="hello")).final_output == "done"
