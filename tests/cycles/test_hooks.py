"""`CyclesRunHooks`: what its users wrote goes on, and what they were promised holds."""

import asyncio
import inspect
import itertools

import anyio
import httpx
import pytest
from agents import Agent, RunHooks, Runner
from agents.testing import function_call
from runcycles import BudgetExceededError, Caps, CommitOveragePolicy, CyclesConfig, Unit

from comptroller import LedgerRefused, ToolDenied, as_client, governed_run, tokens, usd
from comptroller.cycles import (
    CyclesRunHooks,
    CyclesRunResultStreaming,
    LedgerUnreachable,
    ToolEstimateConfig,
    ToolEstimateMap,
)
from comptroller.ledger.remote.ledger import open_cycles
from comptroller.server import serve_ledger
from comptroller.testing import (
    BlockedModel,
    CountingModel,
    FailingModel,
    ScriptedLedger,
    StalledLedger,
    StreamingModel,
    lost_request,
    no_task_left,
    open_reservations,
    refused,
    server_error,
    spent,
)
from openai_agents.scenarios.agents import own_loop
from support.hooks_fixture import (
    answers,
    client_over,
    funded,
    hooks_on,
    searcher,
    served,
    statuses,
    talker,
)
from support.hooks_scenarios import Watched

pytestmark = pytest.mark.anyio

DEFAULTS = {  # runcycles-openai-agents 0.3.0
    "client": None, "config": None, "tenant": None, "workspace": None, "app": None,
    "workflow": None, "agent": None, "toolset": None, "tool_estimates": None,
    "default_tool_estimate": 1, "llm_estimate": 500_000, "llm_unit": Unit.USD_MICROCENTS,
    "fail_open": False, "ttl_ms": 60_000, "heartbeat_max_age_ms": 600_000,
    "heartbeat_max_extensions": None, "commit_max_attempts": 2,
    "overage_policy": CommitOveragePolicy.ALLOW_IF_AVAILABLE, "dry_run": False,
    "retry_engine": None,
}  # fmt: skip


# -- settings


def test_the_constructor_takes_what_it_took_in_the_same_order():
    parameters = inspect.signature(CyclesRunHooks).parameters
    assert {name: each.default for name, each in parameters.items() if name in DEFAULTS} == DEFAULTS
    positional = [each for each in parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert [each.name for each in positional] == list(DEFAULTS)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"heartbeat_max_age_ms": 0}, "heartbeat_max_age_ms"),
        ({"heartbeat_max_extensions": 0}, "heartbeat_max_extensions"),
        ({"commit_max_attempts": 0}, "commit_max_attempts"),
        ({"commit_max_attempts": True}, "commit_max_attempts"),
        ({"ttl_ms": 10}, "ttl_ms"),
        ({"llm_estimate": -1}, "llm_estimate"),
        ({"llm_estimate": 0.5}, "llm_estimate"),
        ({"llm_unit": "EUR"}, "EUR"),
        ({"tool_estimates": {"a": True}}, "tools"),
        ({"default_tool_estimate": -1}, "default_estimate"),
        ({"overage_policy": "MAYBE"}, "MAYBE"),
        ({"tenant": "two words"}, "tenant"),
        ({"tenant": ""}, "tenant"),
    ],
)
def test_a_wrong_setting_fails_where_it_is_written(settings, line):
    with pytest.raises((TypeError, ValueError), match=line):
        CyclesRunHooks(config=CyclesConfig("http://cycles", "key"), **settings)


def test_without_a_server_the_error_says_what_to_give():
    with pytest.raises(ValueError, match=r"CYCLES_BASE_URL .*as_client\(ledger\)"):
        CyclesRunHooks(tenant="acme")


async def test_what_the_environment_says_fills_unset_fields(monkeypatch):
    for name, value in {
        "BASE_URL": "http://127.0.0.1:1", "API_KEY": "key", "TENANT": "acme", "APP": "chat",
        "JOURNAL_ENABLED": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CYCLES_{name}", value)
    hooks = CyclesRunHooks(app="support")
    assert (hooks._subject.tenant, hooks._subject.app) == ("acme", "support")
    agent, model = talker()
    with pytest.raises(LedgerUnreachable, match=r"127\.0\.0\.1:1"):
        await hooks.run(agent, "hi")
    assert model.dispatches == 0


class TestToolEstimates:
    def test_a_config_has_a_value_for_everything(self):
        config = ToolEstimateConfig()
        assert (config.estimate, config.action_kind) == (0, "tool.invoke")
        assert config.unit is Unit.RISK_POINTS

    def test_a_map_is_looked_up(self):
        own = ToolEstimateConfig(10, action_kind="tool.crm.update")
        tools = ToolEstimateMap({"mail": 50, "crm": own, "search": 0}, default_estimate=5)
        assert tools.get("crm") is own
        assert [tools.get(name).estimate for name in ("mail", "search", "other")] == [50, 0, 5]
        assert tools.get("mail").unit is Unit.RISK_POINTS
        assert tools.default.estimate == 5
        assert set(tools.mapping) == {"mail", "crm", "search"}
        assert tools.is_zero_estimate("search")
        assert not tools.is_zero_estimate("other")

    def test_ints_are_in_the_maps_unit_and_a_config_in_its_own(self):
        tools = ToolEstimateMap({"a": 10, "b": ToolEstimateConfig(5)}, default_unit=Unit.CREDITS)
        units = [tools.get("a").unit, tools.default.unit, tools.get("b").unit]
        assert units == [Unit.CREDITS, Unit.CREDITS, Unit.RISK_POINTS]


# -- what is sent


async def test_a_run_is_charged_what_it_used_with_its_tokens_and_names():
    async with hooks_on(
        tool_estimates={"search": ToolEstimateConfig(7, action_kind="tool.search")},
        llm_estimate=1_000, llm_unit=Unit.RISK_POINTS, points=5_000, app="chat", toolset="desk",
    ) as (hooks, ledger):  # fmt: skip
        agent, model = searcher()
        result = await hooks.run(agent, "look")
        assert result.final_output == "found it"
        assert result.last_agent is agent
        listed = (await ledger.reservations(tenant="acme")).reservations
        tool = next(each for each in listed if each.action.name == "search")
        assert (tool.action.kind, tool.reserved.amount) == ("tool.search", 7)
        assert (tool.subject.agent, tool.subject.toolset) == ("Triage-agent", "search")
        first = await ledger.reservation(listed[-1].reservation_id)
        assert first.action.kind == "llm.completion"
        assert first.action.name.endswith(":CountingModel")
        assert (first.subject.app, first.subject.toolset) == ("chat", "desk")
        assert first.metadata["agent"] == "Triage agent"
        assert model.dispatches == 2
        assert (await spent(ledger, "acme"))[Unit.RISK_POINTS] == 2_007


async def test_tokens_are_charged_and_told():
    requests = []

    class Hearing(StalledLedger):
        async def commit(self, reservation_id, request, *, tenant=None):
            requests.append(request)
            return await super().commit(reservation_id, request, tenant=tenant)

    async with hooks_on(
        lambda ledger: Hearing(ledger, []), llm_estimate=100, llm_unit=Unit.TOKENS
    ) as (hooks, ledger):
        await ledger.set_budget("tenant:acme", tokens(1_000))
        agent, _ = talker()
        await Runner.run(agent, "hi", hooks=hooks)
        (commit,) = requests
        assert commit.actual == tokens(15)
        assert (commit.metrics.tokens_input, commit.metrics.tokens_output) == (10, 5)


async def test_a_handoff_is_an_event():
    async with hooks_on() as (hooks, _):
        second = Agent(name="Desk two", model=CountingModel("done"))
        turn = [function_call("transfer_to_desk_two", {}, call_id="h")]
        agent, _ = talker(turn, handoffs=[second])
        result = await hooks.run(agent, "hi")
        assert result.last_agent is second
        (event,) = [line for line in hooks.receipt.calls if line.kind == "agent.handoff"]
        assert (event.name, event.agent, event.outcome) == ("Desk two", "Triage agent", "recorded")
        assert (event.reserved.amount, event.reserved.unit) == (0, Unit.USD_MICROCENTS)


# -- refusals


@pytest.mark.parametrize("start", ["run", "plain", "streamed", "plain streamed"])
async def test_a_denied_llm_call_is_a_budget_exceeded_error(start):
    async with hooks_on(dollars="0.001") as (hooks, _):
        agent, model = talker()
        with pytest.raises(BudgetExceededError, match="requested") as caught:
            await started(hooks, agent, start)
        assert model.dispatches == 0
        assert caught.value.error_code == "BUDGET_EXCEEDED"
        assert caught.value.run_id == hooks.runs[0].id


@pytest.mark.parametrize("start", ["run", "plain", "streamed", "plain streamed"])
async def test_a_denied_tool_call_is_one_too_and_the_tool_does_not_run(start):
    async with hooks_on(points=3, tool_estimates={"search": 4}) as (hooks, ledger):
        agent, model = searcher()
        with pytest.raises(BudgetExceededError, match="tool search"):
            await started(hooks, agent, start)
        assert model.dispatches == 1
        assert await statuses(ledger) == [("llm.completion", "COMMITTED")]


async def started(hooks, agent, start):
    if start == "run":
        return await hooks.run(agent, "hi")
    if start == "plain":
        return await Runner.run(agent, "hi", hooks=hooks)
    if start == "streamed":
        result = hooks.run_streamed(agent, "hi")
    else:
        result = Runner.run_streamed(agent, "hi", hooks=hooks)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("fault", [lost_request(), server_error(503)])
async def test_an_unreachable_ledger_is_told_apart_and_caught_all_the_same(fault):
    script = {"reserve": itertools.repeat(fault)}
    async with hooks_on(lambda ledger: ScriptedLedger(ledger, script)) as (hooks, _):
        agent, model = talker()
        with pytest.raises(LedgerUnreachable) as caught:
            await Runner.run(agent, "hi", hooks=hooks)
        assert isinstance(caught.value, BudgetExceededError)
        assert caught.value.status == fault.status
        code = "TRANSPORT_ERROR" if fault.status < 0 else "INTERNAL_ERROR"
        assert caught.value.error_code == code
        assert caught.value.receipt.calls
        assert model.dispatches == 0


async def test_a_client_that_raises_has_not_answered():
    async with hooks_on() as (_, ledger):
        client = as_client(ledger)
        wrapped = type("Raising", (), {"create_reservation": client.list_reservations})()
        hooks = CyclesRunHooks(wrapped, tenant="acme")
        with pytest.raises(LedgerUnreachable, match="TypeError"):
            await hooks.run(talker()[0], "hi")


async def test_fail_open_covers_no_answer_and_5xx():
    script = {"reserve": [lost_request(), server_error(500)]}
    async with hooks_on(lambda it: ScriptedLedger(it, script), fail_open=True) as (hooks, _):
        agent, model = searcher()
        await hooks.run(agent, "hi")
        assert model.dispatches == 2
        reasons = [line.reason.partition(":")[0] for line in hooks.receipt.calls]
        assert reasons[:2] == ["fail-open", "fail-open"]


async def test_fail_open_lets_no_denial_and_no_4xx_through():
    async with hooks_on(dollars="0", fail_open=True) as (hooks, _):
        agent, model = talker()
        with pytest.raises(BudgetExceededError):
            await hooks.run(agent, "hi")
        assert model.dispatches == 0
    script = {"reserve": [refused(401, "UNAUTHORIZED")]}
    async with hooks_on(lambda it: ScriptedLedger(it, script), fail_open=True) as (hooks, _):
        with pytest.raises(LedgerRefused):
            await hooks.run(agent, "hi")
        assert model.dispatches == 0


async def test_a_tool_that_a_cap_forbids_is_caught_as_a_denial():
    async with hooks_on() as (hooks, ledger):
        await ledger.set_budget("tenant:acme", usd("10"), caps=Caps(tool_denylist=["search"]))
        with pytest.raises(BudgetExceededError) as caught:
            await hooks.run(searcher()[0], "hi")
        assert isinstance(caught.value, ToolDenied)


async def test_dry_run_stops_and_charges_nothing():
    async with hooks_on(dollars="0", dry_run=True) as (hooks, ledger):
        agent, model = searcher()
        await hooks.run(agent, "hi")
        assert model.dispatches == 2
        assert set((await spent(ledger, "acme")).values()) == {0}
        assert any(line.would_deny for line in hooks.receipt.calls)


# -- over HTTP, as the Cycles SDK speaks it


async def test_a_ledger_that_was_given_stays_open_for_its_giver():
    """A server's, too: what others opened, the hooks do not close."""
    async with funded() as behind:
        transport = httpx.ASGITransport(serve_ledger(behind, {"key": "acme"}))
        async with open_cycles("http://cycles", api_key="key", transport=transport) as ledger:
            hooks = CyclesRunHooks(as_client(ledger), tenant="acme")
            for _ in range(2):
                agent, model = talker()
                await hooks.run(agent, "go")
                assert model.dispatches == 1
            assert (await spent(ledger, "acme"))[Unit.USD_MICROCENTS] == 1_000_000


async def test_a_client_of_the_cycles_sdk_may_be_given():
    async with funded() as ledger:
        hooks = Watched(served(ledger), tenant="acme")
        await hooks.run(searcher()[0], "hi")
        assert [status for _, status in await statuses(ledger)] == ["COMMITTED"] * 3


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        (answers(0), LedgerUnreachable),
        (answers(500, {"error": "INTERNAL_ERROR"}), LedgerUnreachable),
        (answers(409, {"error": "BUDGET_EXCEEDED", "message": "no"}), BudgetExceededError),
        (answers(200, {"decision": "DENY", "reason_code": "BUDGET_EXCEEDED",
                       "affected_scopes": []}), BudgetExceededError),
    ],
)  # fmt: skip
async def test_a_servers_answers_are_understood(transport, kind):
    agent, model = talker()
    with pytest.raises(kind):
        await CyclesRunHooks(client_over(transport), tenant="acme").run(agent, "hi")
    assert model.dispatches == 0


async def test_a_success_without_a_reservation_is_no_grant():
    """Nothing proceeds unreserved."""
    agent, model = talker()
    hooks = CyclesRunHooks(
        client_over(answers(200, {"decision": "ALLOW", "affected_scopes": []})), tenant="acme"
    )
    with pytest.raises(Exception, match="without a reservation"):
        await hooks.run(agent, "hi")
    assert model.dispatches == 0


# -- failures, and what they leave


@pytest.mark.parametrize("start", ["run", "plain", "streamed", "plain streamed"])
async def test_a_model_that_fails_leaves_nothing_and_comes_out_as_it_is(start):
    async with hooks_on() as (hooks, ledger), no_task_left():
        agent = Agent(name="A", model=FailingModel(ConnectionResetError("cut")))
        with pytest.raises(ConnectionResetError, match="cut"):
            await started(hooks, agent, start)
        assert await open_reservations(ledger) == []
        assert await statuses(ledger) == [("llm.completion", "COMMITTED")]  # given up, and charged


async def test_a_cancelled_run_is_settled_before_its_cancellation_goes_on():
    async with hooks_on() as (hooks, ledger), no_task_left():
        model = BlockedModel()
        task = asyncio.create_task(hooks.run(Agent(name="A", model=model), "hi"))
        await model.started()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await open_reservations(ledger) == []
        assert hooks._carried == {}


async def test_many_runs_share_one_hooks_object():
    async with hooks_on() as (hooks, ledger), no_task_left():
        async with anyio.create_task_group() as group:
            for _ in range(30):
                agent, _ = searcher()
                group.start_soon(hooks.run, agent, "hi")
        assert len({run.id for run in hooks.runs}) == 30
        assert [status for _, status in await statuses(ledger)] == ["COMMITTED"] * 90


async def test_a_run_id_names_the_run_and_is_in_use_while_it_runs():
    async with hooks_on() as (hooks, _):
        model = BlockedModel()
        agent = Agent(name="A", model=model)
        async with anyio.create_task_group() as group:

            async def first():
                await hooks.run(agent, "hi", run_id="case-42")

            group.start_soon(first)
            await model.started()
            with pytest.raises(ValueError, match="case-42"):
                await hooks.run(agent, "hi", run_id="case-42")
            model.release()
        assert [run.id for run in hooks.runs] == ["case-42"]
        await hooks.run(talker()[0], "hi", run_id="case-42")  # free again


async def test_hooks_used_in_several_loops_one_after_another():
    """`asyncio.run` twice, and `Runner.run_sync`."""
    async with hooks_on() as (hooks, ledger):

        def twice():
            for _ in range(2):
                asyncio.run(Runner.run(talker()[0], "hi", hooks=hooks))
            with own_loop():
                Runner.run_sync(talker()[0], "hi", hooks=hooks)

        await anyio.to_thread.run_sync(twice)
        assert [status for _, status in await statuses(ledger)] == ["COMMITTED"] * 3


async def test_hooks_is_not_an_argument_of_run():
    async with hooks_on() as (hooks, _):
        with pytest.raises(ValueError, match="manages the hooks"):
            await hooks.run(talker()[0], "hi", hooks=RunHooks())
        with pytest.raises(ValueError, match="manages the hooks"):
            hooks.run_streamed(talker()[0], "hi", hooks=RunHooks())


async def test_inside_a_governed_scope_the_scope_governs():
    """A call is reserved once, whoever's hooks are given."""
    async with hooks_on() as (hooks, ledger):
        agent, _ = searcher()
        async with governed_run(agent, "acme", ledger=ledger) as run:
            await Runner.run(agent, "hi", hooks=hooks)
        assert hooks.runs == []
        assert len(run.receipt.calls) == 3


async def test_what_is_overridden_is_called():
    heard = []

    class Loud(Watched):
        async def on_tool_start(self, context, agent, tool):
            heard.append(tool.name)
            await super().on_tool_start(context, agent, tool)

    async with funded() as ledger:
        hooks = Loud(as_client(ledger), tenant="acme")
        await Runner.run(searcher()[0], "hi", hooks=hooks)
        assert heard == ["search"]
        assert len(await statuses(ledger)) == 3


# -- streams


async def test_a_stream_is_settled_when_its_events_have_ended():
    async with hooks_on() as (hooks, ledger), no_task_left():
        result = hooks.run_streamed(searcher()[0], "hi")
        assert isinstance(result, CyclesRunResultStreaming)
        kinds = [event.type async for event in result.stream_events()]
        assert "raw_response_event" in kinds
        assert result.final_output == "found it"
        assert await open_reservations(ledger) == []
        assert hooks._carried == {}


@pytest.mark.parametrize("how", ["cancel", "break", "consumer"])
async def test_a_stream_that_is_left_is_cancelled_and_settled(how):
    async with hooks_on() as (hooks, ledger), no_task_left():
        model = StreamingModel("one ", "two ", "three ", pause=1.0)
        result = hooks.run_streamed(Agent(name="A", model=model), "hi")
        await leave(result, model, how)
        with anyio.fail_after(5):
            await hooks.runs[0]._change.until(lambda: hooks._carried == {})
        assert await open_reservations(ledger) == []
        (line,) = hooks.receipt.calls
        assert line.outcome == "abandoned"


async def leave(result, model, how):
    events = result.stream_events()
    if how == "consumer":

        async def consume():
            async for _ in events:
                pass

        task = asyncio.create_task(consume())
        await model.started()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return
    async for event in events:
        if event.type == "raw_response_event":
            if how == "cancel":
                result.cancel()
            else:
                break
    await events.aclose()


# -- giving up


async def test_release_pending_gives_up_what_was_dispatched_and_the_run_goes_on():
    async with hooks_on() as (hooks, ledger):
        model = BlockedModel()
        async with anyio.create_task_group() as group:

            async def run():
                await hooks.run(Agent(name="A", model=model), "hi")

            group.start_soon(run)
            await model.started()
            await hooks.release_pending("the user left")
            assert await open_reservations(ledger) == []
            (line,) = hooks.receipt.calls
            assert (line.outcome, line.reason) == ("abandoned", "the user left")
            model.release()


async def test_release_pending_releases_what_never_began():
    async with funded() as ledger:
        stalled = StalledLedger(ledger, ["reserve"])
        hooks = Watched(as_client(stalled), tenant="acme")
        agent, model = talker()
        async with anyio.create_task_group() as group:

            async def run():
                with pytest.raises(Exception, match="given up"):
                    await hooks.run(agent, "hi")

            group.start_soon(run)
            await stalled.reached()
            group.start_soon(hooks.release_pending, "never mind")
            await anyio.wait_all_tasks_blocked()
            stalled.resume()
        assert model.dispatches == 0
        assert await statuses(ledger) == [("llm.completion", "RELEASED")]


async def test_release_pending_does_not_guess():
    async with hooks_on() as (hooks, ledger):
        models = [BlockedModel(), BlockedModel()]
        await hooks.release_pending("nothing is there")
        async with anyio.create_task_group() as group:
            for number, model in enumerate(models):

                async def run(number=number, model=model):
                    await hooks.run(Agent(name="A", model=model), "hi", run_id=f"run-{number}")

                group.start_soon(run)
                await model.started()
            with pytest.raises(RuntimeError, match="2 runs"):
                await hooks.release_pending("which?")
            await hooks.release_pending("this one", run_id="run-1")
            assert len(await open_reservations(ledger)) == 1
            await hooks.release_all_pending("shutting down")
            assert await open_reservations(ledger) == []
            for model in models:
                model.release()
