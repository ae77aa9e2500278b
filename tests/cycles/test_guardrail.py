"""The guardrail asks before the first token, and `governed_run(check=)` asks the same."""

import itertools

import pytest
from agents import InputGuardrailTripwireTriggered, RunContextWrapper, Runner
from runcycles import Unit

from comptroller import (
    BudgetExceeded,
    BudgetNotFound,
    Denied,
    Policy,
    UnitMismatch,
    as_client,
    governed_run,
    open_supervisor,
    tokens,
    usd,
)
from comptroller.cycles import CyclesRunHooks, cycles_budget_guardrail
from comptroller.testing import ScriptedLedger, lost_request, refused, server_error
from support.hooks_fixture import answers, client_over, funded, talker

pytestmark = pytest.mark.anyio

DOLLAR = 10**8


def guarded(client, **settings):
    guardrail = cycles_budget_guardrail(client=client, tenant="acme", **settings)
    return talker(input_guardrails=[guardrail])


async def read_to_the_end(*args, **options):
    async for _ in Runner.run_streamed(*args, **options).stream_events():
        pass


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("with_hooks", [False, True])
async def test_a_denied_run_costs_no_token(streamed, with_hooks):
    async with funded(dollars="1") as ledger:
        agent, model = guarded(as_client(ledger), estimate=2 * DOLLAR)
        options = {"hooks": CyclesRunHooks(as_client(ledger), tenant="acme")} if with_hooks else {}
        with pytest.raises(InputGuardrailTripwireTriggered) as caught:
            await (read_to_the_end if streamed else Runner.run)(agent, "hi", **options)
        assert model.dispatches == 0
        told = caught.value.guardrail_result.output.output_info
        assert told == {"decision": "DENY", "reason": "BUDGET_EXCEEDED"}


async def test_what_fits_is_allowed_and_nothing_is_locked():
    async with funded(dollars="1") as ledger:
        agent, model = guarded(as_client(ledger), estimate=DOLLAR)
        await Runner.run(agent, "hi")
        assert model.dispatches == 1
        assert (await ledger.reservations(tenant="acme")).reservations == []


def test_it_does_not_run_beside_the_model():
    guardrail = cycles_budget_guardrail(client=as_client(_Named()), tenant="acme")
    assert (guardrail.name, guardrail.run_in_parallel) == ("cycles_budget", False)


class _Named:
    name = "nowhere"


@pytest.mark.parametrize("fault", [lost_request(), server_error(502)])
@pytest.mark.parametrize("fail_open", [True, False])
async def test_fail_open_is_its_default_and_covers_no_answer_and_5xx(fault, fail_open):
    async with funded() as ledger:
        silent = ScriptedLedger(ledger, {"decide": itertools.repeat(fault)})
        settings = {} if fail_open else {"fail_open": False}
        agent, model = guarded(as_client(silent), **settings)
        if fail_open:
            await Runner.run(agent, "hi")
        else:
            with pytest.raises(InputGuardrailTripwireTriggered):
                await Runner.run(agent, "hi")
        assert model.dispatches == int(fail_open)


async def test_a_4xx_trips_it_whatever_fail_open_says():
    async with funded() as ledger:
        closed = ScriptedLedger(ledger, {"decide": [refused(403, "FORBIDDEN")]})
        agent, model = guarded(as_client(closed))
        with pytest.raises(InputGuardrailTripwireTriggered):
            await Runner.run(agent, "hi")
        assert model.dispatches == 0


@pytest.mark.parametrize(
    ("status", "body", "tripped"),
    [
        (200, {"decision": "ALLOW"}, False),
        (200, {"decision": "ALLOW_WITH_CAPS", "caps": {"max_tokens": 5}}, False),
        (200, {"decision": "DENY", "reason_code": "BUDGET_FROZEN"}, True),
        (404, {"error": "NOT_FOUND", "message": "no budget"}, True),
        (0, None, False),
    ],
)
async def test_a_servers_answer_is_understood(status, body, tripped):
    guardrail = cycles_budget_guardrail(client=client_over(answers(status, body)), tenant="acme")
    agent, _ = talker()
    outcome = await guardrail.guardrail_function(RunContextWrapper(None), agent, "hi")
    assert outcome.tripwire_triggered is tripped


async def test_what_is_asked_says_who_and_how_much():
    async with funded() as ledger:
        heard = ScriptedLedger(ledger, {})
        guardrail = cycles_budget_guardrail(
            client=as_client(heard), tenant="acme", workspace="prod", app="chat", estimate=7,
            unit=Unit.RISK_POINTS,
        )  # fmt: skip
        await guardrail.guardrail_function(RunContextWrapper(None), talker()[0], "hi")
        (asked,) = heard.asked("decide")
        assert (asked.body.action.kind, asked.body.action.name) == ("agent.run", "Triage agent")
        assert asked.body.subject.model_dump(exclude_none=True) == {
            "tenant": "acme", "workspace": "prod", "app": "chat",
        }  # fmt: skip
        assert (asked.body.estimate.amount, asked.body.estimate.unit) == (7, Unit.RISK_POINTS)


@pytest.mark.parametrize("estimate", [-1, 0.5, True, "5"])
def test_a_wrong_estimate_fails_where_it_is_written(estimate):
    with pytest.raises((TypeError, ValueError), match="estimate"):
        cycles_budget_guardrail(client=as_client(_Named()), estimate=estimate)


# -- governed_run(check=)


async def test_a_check_that_fails_ends_the_run_before_its_first_token():
    async with funded(dollars="1") as ledger:
        agent, model = talker()
        async with governed_run(agent, "acme", ledger=ledger, check=usd("2")) as run:
            for _ in range(2):
                with pytest.raises(BudgetExceeded, match=r"\$2\.00 requested for a run of agent"):
                    await run("hi")
            with pytest.raises(BudgetExceeded):
                await Runner.run(agent, "hi")
        assert model.dispatches == 0
        (line,) = run.receipt.calls
        assert (line.kind, line.outcome, line.charged) == ("agent.run", "denied", None)


async def test_a_check_that_fits_leaves_no_trace():
    async with funded(dollars="1") as ledger:
        agent, model = talker()
        async with governed_run(agent, "acme", ledger=ledger, check=usd("1")) as run:
            await run("hi")
        assert model.dispatches == 1
        assert [line.kind for line in run.receipt.calls] == ["llm.completion"]


async def test_a_check_where_no_budget_is_says_how_to_set_one():
    async with funded() as ledger:
        agent, model = talker()
        async with governed_run(agent, "globex", ledger=ledger, check=usd("1")) as run:
            with pytest.raises(BudgetNotFound, match="no budget for globex in memory:: set one"):
                await run("hi")
        async with governed_run(agent, "acme", ledger=ledger, check=tokens(1)) as run:
            with pytest.raises(UnitMismatch, match="none in TOKENS"):
                await run("hi")
        assert model.dispatches == 0


@pytest.mark.parametrize("settings", [{"fail_open": True}, {"dry_run": True}])
async def test_policy_may_let_a_run_begin_that_the_ledger_did_not_allow(settings):
    async with funded() as ledger:
        silent = ScriptedLedger(ledger, {"decide": itertools.repeat(lost_request())})
        agent, model = talker()
        async with governed_run(
            agent, "acme", ledger=silent, check=usd("1"), policy=Policy(**settings)
        ) as run:
            await run("hi")
        assert model.dispatches == 1
        first = run.receipt.calls[0]
        assert (first.kind, first.outcome) == ("agent.run", "unreserved")


@pytest.mark.parametrize("check", [5, "1", 0.5])
def test_a_check_is_an_amount(check):
    with pytest.raises(TypeError, match="check="):
        governed_run(talker()[0], "acme", ledger=_Named(), check=check)


async def test_a_supervisor_checks_too():
    async with funded(dollars="1") as ledger, open_supervisor(ledger=ledger) as supervisor:
        agent, model = talker()
        started = supervisor.start(agent, "hi", tenant="acme", check=usd("2"))
        assert isinstance(await started.outcome(), Denied)
        async with supervisor.run(agent, "acme", check=usd("2")) as run:
            with pytest.raises(BudgetExceeded):
                await run("hi")
        assert model.dispatches == 0
