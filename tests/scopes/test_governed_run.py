"""`governed_run`: the same program on asyncio and trio, what it is given, and what it raises."""

import contextvars
import re

import anyio
import pytest
from agents import Agent, Runner, function_tool
from agents.testing import function_call
from runcycles import Subject, Unit

from comptroller import (
    BudgetExceeded,
    BudgetNotFound,
    LimitReached,
    Limits,
    RunCancelled,
    governed_run,
    open_ledger,
    open_supervisor,
)
from comptroller.core.call_lifecycle import Outcome
from comptroller.ledger.embedded.memory import open_memory
from comptroller.money import risk_points, tokens, usd
from comptroller.openai_agents.context import current_run
from comptroller.testing import (
    BlockedModel,
    CountingModel,
    FailingModel,
    RecordingLedger,
    ScriptedLedger,
    StreamingModel,
    assert_settled,
    lost_request,
    no_task_left,
    spent,
)
from support.agent_scenarios import asking, plain, policy
from support.run_harness import funded

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@function_tool
def work() -> str:
    """Do something."""
    return "worked"


def agent(model, **fields):
    return Agent("Triage agent", model=model, **fields)


# -- the same program on both backends (the body knows nothing of them)


async def test_a_run_its_result_and_its_receipt():
    async with no_task_left(), funded() as ledger:
        async with governed_run(
            agent(CountingModel("Resolved.")), "acme", ledger=ledger, policy=policy()
        ) as run:
            assert run.status == "running"
            result = await run("Resolve case 42")
        assert result.final_output == "Resolved."
        assert run.status == "completed"
        assert run.receipt.charged == {Unit.TOKENS: 15}
        assert (await spent(ledger, "acme"))[Unit.TOKENS] == 15
        await assert_settled(ledger)


async def test_a_run_with_tools():
    async with no_task_left(), funded() as ledger:
        async with governed_run(
            agent(asking(2), tools=[work]), "acme", ledger=ledger, policy=policy()
        ) as run:
            assert (await run("go")).final_output == "done"
        assert run.receipt.charged == {Unit.TOKENS: 30, Unit.RISK_POINTS: 14}
        assert [line.name for line in run.receipt.calls if line.kind == "tool.invoke"] == [
            "work", "work",
        ]  # fmt: skip


async def test_a_stream():
    """Its events, its result, and its usage."""
    async with no_task_left(), funded() as ledger:
        async with governed_run(
            agent(StreamingModel("And ", "case ", "43.", pause=1)), "acme", ledger=ledger,
            policy=policy(),
        ) as run:  # fmt: skip
            stream = run.stream("And case 43")
            told = [
                event.data.delta
                async for event in stream
                if event.type == "raw_response_event" and event.data.type.endswith("text.delta")
            ]
        assert told == ["And ", "case ", "43."]
        assert stream.final_output == "And case 43."
        assert run.receipt.charged == {Unit.TOKENS: 15}


async def test_nested_agents_are_one_run():
    inner = Agent("Inner", model=CountingModel("inside", tokens=(20, 10)))
    outer = agent(
        CountingModel([function_call("ask", {"input": "?"}, call_id="1")], "done"),
        tools=[inner.as_tool("ask", "asks")],
    )
    async with no_task_left(), funded() as ledger:
        async with governed_run(outer, "acme", ledger=ledger, policy=policy(tools=None)) as run:
            await run("go")
        assert run.receipt.by_agent == {
            "Triage agent": {Unit.TOKENS: 30}, "Inner": {Unit.TOKENS: 30},
        }  # fmt: skip
        assert {line.episode for line in run.receipt.calls} == {"1", "1.2"}


async def test_several_runs_at_once_in_one_scope():
    async with no_task_left(), funded() as ledger:
        model = BlockedModel()
        results = []

        async def one(run, number):
            results.append((await run(f"case {number}")).final_output)

        async with governed_run(agent(model), "acme", ledger=ledger, policy=policy()) as run:
            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(one, run, number)
                await model.started(5)
                model.release()
        assert results == ["done"] * 5
        assert run.receipt.charged == {Unit.TOKENS: 75}
        assert len({line.episode for line in run.receipt.calls}) == 5


async def test_a_denial_is_one_plain_exception():
    async with no_task_left(), funded(50) as ledger:
        with pytest.raises(BudgetExceeded, match="50 tokens left of 50 tokens") as raised:
            async with governed_run(
                agent(CountingModel()), "acme", ledger=ledger, policy=policy()
            ) as run:
                await run("go")
        assert raised.value.receipt.run_id == run.id
        assert run.status == "denied"


async def test_a_models_own_error_comes_out_as_it_is():
    mine = ValueError("the model's own")
    async with funded() as ledger:
        with pytest.raises(ValueError, match="the model's own") as raised:
            async with governed_run(
                agent(FailingModel(mine)), "acme", ledger=ledger, policy=policy()
            ) as run:
                await run("go")
        assert raised.value is mine
        assert run.status == "failed"
        assert [line.outcome for line in run.receipt.calls] == [Outcome.ABANDONED]


async def test_an_error_that_is_handled_inside_leaves_a_completed_run():
    async with funded() as ledger:
        async with governed_run(
            agent(FailingModel(ValueError("once"), "better")), "acme", ledger=ledger,
            policy=policy(),
        ) as run:  # fmt: skip
            with pytest.raises(ValueError, match="once"):
                await run("go")
            assert (await run("again")).final_output == "better"
        assert run.status == "completed"


async def test_a_run_that_was_denied_stays_denied_though_it_was_caught():
    async with funded(50) as ledger:
        async with governed_run(
            agent(CountingModel()), "acme", ledger=ledger, policy=policy()
        ) as run:
            for _ in range(2):
                with pytest.raises(BudgetExceeded):
                    await run("go")
        assert run.status == "denied"
        assert len(run.receipt.calls) == 1


# -- what the scope governs


async def test_what_runs_inside_the_block_is_governed_without_being_told():
    """Existing code is governed by wrapping it; `run(...)` is not the only way in."""
    model = CountingModel()

    async def existing():
        return await Runner.run(agent(model), "go")

    async with funded() as ledger:
        async with governed_run(None, "acme", ledger=ledger, policy=policy()) as run:
            await _sdk(existing)
        assert run.receipt.charged == {Unit.TOKENS: 15}
        await _sdk(existing)
        assert model.dispatches == 2
        assert (await spent(ledger, "acme"))[Unit.TOKENS] == 15


async def _sdk(function):
    """Call asyncio code from either flavour."""
    from comptroller._eventloop import open_host

    async with open_host() as host:
        return await host.aio(function)()


async def test_the_context_is_given_back():
    """Also where scopes are nested, and left by an error."""

    async def failing(ledger):
        async with governed_run(None, "acme", ledger=ledger) as inner:
            assert current_run.get() is inner._run
            raise KeyError

    async with funded() as ledger:
        assert current_run.get() is None
        async with governed_run(None, "acme", ledger=ledger) as outer:
            with pytest.raises(KeyError):
                await failing(ledger)
            assert current_run.get() is outer._run
        assert current_run.get() is None


async def test_the_context_is_given_back_in_whatever_order_scopes_are_left():
    """Streaming generators that a task takes turns with are closed in any order."""
    async with funded() as ledger, open_supervisor(ledger=ledger) as supervisor:

        async def scoped():
            async with supervisor.run(None, "acme") as run:
                yield run

        async with supervisor.run(None, "acme") as outer:
            generators = [scoped() for _ in range(4)]
            runs = [await anext(one) for one in generators]
            for one, governs in ((0, 3), (2, 3), (3, 1)):
                await generators[one].aclose()
                assert current_run.get() is runs[governs]._run
            await generators[1].aclose()
            assert current_run.get() is outer._run
        assert current_run.get() is None


async def test_a_task_that_still_carries_a_closed_run_is_refused():
    async with funded() as ledger:
        async with governed_run(None, "acme", ledger=ledger, policy=policy()):
            carried = contextvars.copy_context()

        async def late():
            with pytest.raises(RunCancelled, match="its scope was left"):
                await Runner.run(agent(CountingModel()), "go")

        async def run_late():
            import asyncio

            await asyncio.get_running_loop().create_task(late(), context=carried)

        await _sdk(run_late)


async def test_a_closed_run_is_refused_by_its_own_name():
    async with funded() as ledger:
        async with governed_run(
            agent(CountingModel()), "acme", ledger=ledger, policy=policy()
        ) as run:
            pass
        with pytest.raises(RunCancelled, match="its scope was left"):
            await run("too late")


# -- what it is given


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tenant": "no spaces"}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"workspace": "a/b"}, "workspace"),
        ({"app": "x" * 129}, "app"),
        ({"workflow": "ü"}, "workflow"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": "x" * 300}, "run_id"),
        ({"dimensions": {"k": "v" * 257}}, "dimension"),
        ({"dimensions": ["customer"]}, "dimensions=\\['customer'\\]: give a mapping"),
        ({"policy": "strict"}, "policy"),
        ({"limits": 5}, "limits"),
        ({"policy": {}}, "policy"),
        ({"limits": 0}, "limits"),
        ({"ledger": "memory:"}, "ledger='memory:': give what `async with open_ledger"),
        ({"ledger": open_ledger("memory:")}, "ledger=.*: give what `async with open_ledger"),
        ({"tenant": Agent("Support")}, r"tenant=Agent\(name=.Support.{1,80}\.\.\.: give a string$"),
        ({"agent": "Support"}, "agent='Support': give an agents.Agent"),
        ({"check": usd(1)}, "agent=None: give an agents.Agent"),
    ],
)
def test_a_wrong_argument_fails_where_it_is_written(wrong, message):
    """Before anything is opened, in one line that names it."""
    given = {"tenant": "acme"} | wrong
    with pytest.raises((TypeError, ValueError), match=re.compile(message)) as raised:
        governed_run(given.pop("agent", None), given.pop("tenant"), **given)
    assert "\n" not in str(raised.value)


async def test_a_run_of_no_agent_governs_what_is_inside_and_says_what_it_lacks():
    async with funded() as ledger:
        async with governed_run(None, "acme", ledger=ledger, policy=policy()) as run:
            with pytest.raises(TypeError, match="agent=None: give governed_run"):
                await run("go")
            with pytest.raises(TypeError, match="agent=None: give governed_run"):
                run.stream("go")
        assert run.receipt.calls == ()


async def test_the_subject_is_what_was_given():
    async with funded() as memory:
        ledger = RecordingLedger(memory)
        async with governed_run(
            agent(CountingModel()), "acme", ledger=ledger, policy=policy(), run_id="nightly-7",
            workspace="prod", app="desk", workflow="triage", dimensions={"customer": "42"},
        ) as run:  # fmt: skip
            await run("go")
        assert run.id == "nightly-7"
        (reserve,) = ledger.asked("reserve")
        assert reserve.body.subject == Subject(
            tenant="acme", workspace="prod", app="desk", workflow="triage", agent="Triage-agent",
            dimensions={"customer": "42"},
        )  # fmt: skip


async def test_without_a_ledger_the_environments_one_is_used(tmp_path, monkeypatch):
    """And opened for the run alone."""
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("COMPTROLLER_LEDGER", str(path))
    async with open_ledger(str(path)) as ledger:
        await ledger.set_budget("tenant:acme", tokens(1_000))
    async with no_task_left():
        async with governed_run(agent(CountingModel()), "acme", policy=policy()) as run:
            await run("go")
    async with open_ledger(str(path)) as ledger:
        assert (await spent(ledger, "acme")) == {Unit.TOKENS: 15}


async def test_a_ledger_that_cannot_be_opened_is_one_plain_error(tmp_path, monkeypatch):
    path = tmp_path / "ledger.db"
    path.write_text("this is no database, and long enough to be seen as something else" * 20)
    monkeypatch.setenv("COMPTROLLER_LEDGER", str(path))
    async with no_task_left():
        with pytest.raises(Exception, match=r"ledger\.db") as raised:
            async with governed_run(agent(CountingModel()), "acme"):
                pass
        assert not isinstance(raised.value, BaseExceptionGroup)


async def test_a_first_program_needs_an_agent_a_tenant_and_one_budget():
    async with open_memory() as ledger:
        with pytest.raises(BudgetNotFound, match="set_budget"):
            async with governed_run(agent(CountingModel()), "acme", ledger=ledger) as run:
                await run("go")
        await ledger.set_budget("tenant:acme", usd("10"))
        async with governed_run(agent(CountingModel()), "acme", ledger=ledger) as run:
            assert (await run("go")).final_output == "done"
        assert run.receipt.charged == {Unit.USD_MICROCENTS: usd("0.005").amount}


async def test_limits_bind_the_run():
    async with funded() as ledger:
        with pytest.raises(LimitReached, match="llm_calls=1"):
            async with governed_run(
                agent(asking(1), tools=[work]), "acme", ledger=ledger, policy=policy(),
                limits=Limits(llm_calls=1),
            ) as run:  # fmt: skip
                await run("go")
        assert run.status == "denied"


async def test_an_id_in_use_is_refused_and_leaves_nothing():
    async with no_task_left(), funded() as ledger:
        async with governed_run(None, "acme", ledger=ledger, run_id="one"):
            with pytest.raises(ValueError, match="run_id='one': a run with this id is running"):
                async with governed_run(None, "acme", ledger=ledger, run_id="one"):
                    pass
        async with governed_run(None, "acme", ledger=ledger, run_id="one") as again:
            assert again.id == "one"


async def test_a_scope_that_is_open_is_not_opened_again_and_goes_on():
    async with no_task_left(), funded() as ledger:
        scope = governed_run(agent(CountingModel()), "acme", ledger=ledger, policy=policy())
        async with scope as run:
            with pytest.raises(ValueError, match="a run with this id is running"):
                async with scope:
                    pass
            await run("go")
        assert run.status == "completed"


async def test_a_scope_may_be_opened_again():
    """One object, one run after the other, each with a ledger's truth of its own."""
    async with funded() as ledger:
        scope = governed_run(
            agent(CountingModel()), "acme", ledger=ledger, policy=policy(), run_id="again"
        )
        receipts = []
        for _ in range(2):
            async with scope as run:
                await run("go")
            receipts.append(run.receipt)
        assert [receipt.charged for receipt in receipts] == [{Unit.TOKENS: 15}] * 2
        assert (await spent(ledger, "acme"))[Unit.TOKENS] == 30


async def test_an_outage_is_the_networks_fault_and_no_denial():
    from comptroller import LedgerUnreachable

    async with funded() as memory:
        ledger = ScriptedLedger(memory, {"reserve": [lost_request()]})
        with pytest.raises(LedgerUnreachable):
            async with governed_run(
                agent(CountingModel()), "acme", ledger=ledger, policy=policy()
            ) as run:
                await run("go")
        assert run.status == "failed"


async def test_a_receipt_may_be_read_while_the_run_goes_on():
    async with funded() as ledger:
        play = plain()
        async with governed_run(play.agent, "acme", ledger=ledger, policy=policy()) as run:
            async with anyio.create_task_group() as group:
                group.start_soon(play.act, run)
                await play.underway()
                assert [line.outcome for line in run.receipt.calls] == [Outcome.RUNNING]
                play.let_go()


async def test_tools_of_both_units_are_charged_where_they_belong():
    async with funded() as ledger:
        async with governed_run(
            agent(asking(1), tools=[work]), "acme", ledger=ledger,
            policy=policy(tools={"work": risk_points(3)}),
        ) as run:  # fmt: skip
            await run("go")
        assert await spent(ledger, "acme") == {Unit.TOKENS: 30, Unit.RISK_POINTS: 3}


def test_half_a_ledger_is_refused_with_what_it_lacks():
    """A ledger of one's own is looked at when it is given, not by the first call of a run."""

    class Half:
        name = "mine"

        async def reserve(self, request, *, tenant=None):
            raise AssertionError("it was used")

    for give in (
        lambda: governed_run(None, "acme", ledger=Half()),
        lambda: open_supervisor(ledger=Half()),
    ):
        with pytest.raises(TypeError, match=r"ledger=Half.* lacks request_timeout, .*reservation"):
            give()
