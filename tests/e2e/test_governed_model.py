"""Governed runs of a real language model: the ledger charges what the model's server counted.

Three counts that know nothing of each other have to agree: what the ledger charged, what the SDK
was told as usage, and what the server counted where it evaluated the tokens.
"""

import sys
from pathlib import Path

import anyio
import pytest
from runcycles import Unit

from comptroller import BudgetExceeded, BudgetNotFound, governed_run, open_supervisor, tokens
from e2e.constants import ESTIMATE, POLICY, spent
from e2e.language_model import Tokens

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

NOTHING = Tokens(0, 0, 0)


async def test_a_run_is_charged_what_the_server_counted(speaker, count, ledger):
    """Plain, and the result is the SDK's own."""
    await ledger.set_budget("tenant:acme", tokens(10_000))
    agent = speaker(24)
    with anyio.fail_after(30):
        async with governed_run(agent, "acme", ledger=ledger, policy=POLICY) as run:
            result = await run("Name three rivers.")
        counted = await count()
    assert counted.generated == 24
    assert result.last_agent is agent
    assert result.context_wrapper.usage.total_tokens == counted.total
    assert await spent(ledger) == counted.total


async def test_a_streamed_run_is_charged_what_the_server_counted(speaker, count, ledger):
    """Chat Completions reports the usage of a stream where `include_usage` asks for it."""
    await ledger.set_budget("tenant:acme", tokens(10_000))
    with anyio.fail_after(30):
        async with governed_run(speaker(24), "acme", ledger=ledger, policy=POLICY) as run:
            stream = run.stream("Name three seas.")
            events = [event.type async for event in stream]
        counted = await count()
    assert counted.generated == 24
    assert events.count("raw_response_event") > 10
    assert stream.context_wrapper.usage.total_tokens == counted.total
    assert await spent(ledger) == counted.total


async def test_a_receipt_shows_each_calls_tokens(speaker, count, ledger):
    """Two questions in one scope: two lines, each with its estimate, usage and charge."""
    await ledger.set_budget("tenant:acme", tokens(10_000))
    with anyio.fail_after(30):
        async with governed_run(speaker(24), "acme", ledger=ledger, policy=POLICY) as run:
            first = await run("Name three rivers.")
            await run([*first.to_input_list(), {"role": "user", "content": "Which is longest?"}])
        counted = await count()
    lines = run.receipt.calls
    assert [line.reserved for line in lines] == [tokens(ESTIMATE)] * 2
    assert [(line.outcome, line.actual_source) for line in lines] == [("committed", "usage")] * 2
    assert [line.tokens.output for line in lines] == [24, 24]
    assert [line.charged for line in lines] == [tokens(line.tokens.total) for line in lines]
    assert run.receipt.charged == {Unit.TOKENS: counted.total}


async def test_eight_tenants_at_once_are_each_charged_their_own(speaker, count, ledger):
    """Their answers differ in length, so that a call charged to another tenant would show."""
    lengths = {f"tenant-{n}": 16 + 4 * n for n in range(8)}
    for tenant in lengths:
        await ledger.set_budget(f"tenant:{tenant}", tokens(10_000))
    with anyio.fail_after(60):
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:
            handles = {
                tenant: supervisor.start(speaker(length), "Tell me a story.", tenant=tenant)
                for tenant, length in lengths.items()
            }
            results = {tenant: await handle for tenant, handle in handles.items()}
        counted = await count()
    usages = {tenant: result.context_wrapper.usage for tenant, result in results.items()}
    assert {tenant: usage.output_tokens for tenant, usage in usages.items()} == lengths
    charged = {tenant: await spent(ledger, tenant) for tenant in lengths}
    assert charged == {tenant: usage.total_tokens for tenant, usage in usages.items()}
    assert sum(charged.values()) == counted.total


async def test_a_tenants_budget_holds_when_eight_of_its_runs_start_at_once(speaker, count, ledger):
    """Two estimates fit at a time: the others are denied, and the model never hears of them."""
    budget = 2 * ESTIMATE + 500
    await ledger.set_budget("tenant:acme", tokens(budget))
    with anyio.fail_after(60):
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:
            handles = [
                supervisor.start(speaker(100), "Tell me a story.", tenant="acme") for _ in range(8)
            ]
            outcomes = [type(await handle.outcome()).__name__ for handle in handles]
        counted = await count()
    completed = outcomes.count("Completed")
    assert 2 <= completed < 8
    assert outcomes.count("Denied") == 8 - completed
    assert counted.generated == 100 * completed
    assert await spent(ledger) == counted.total <= budget


async def test_a_budget_too_small_denies_before_the_first_token(speaker, count, ledger):
    """The server has counted nothing, and the error says what was asked and what was left."""
    await ledger.set_budget("tenant:acme", tokens(100))
    with anyio.fail_after(30):
        async with governed_run(speaker(24), "acme", ledger=ledger, policy=POLICY) as run:
            with pytest.raises(BudgetExceeded) as caught:
                await run("Name three rivers.")
        assert await count() == NOTHING
    denial = caught.value
    assert (denial.requested, denial.remaining) == (ESTIMATE, 100)
    assert denial.scope == "tenant:acme"
    assert [line.outcome for line in run.receipt.calls] == ["denied"]
    assert await spent(ledger) == 0


async def test_no_budget_denies_before_the_first_token(speaker, count, ledger):
    """Streamed: the stream raises, and yields no word of the model before."""
    with anyio.fail_after(30):
        async with governed_run(speaker(24), "acme", ledger=ledger, policy=POLICY) as run:
            with pytest.raises(BudgetNotFound):
                assert [e async for e in run.stream("Hi") if e.type == "raw_response_event"] == []
        assert await count() == NOTHING


async def test_a_denied_tenant_does_not_disturb_the_others(speaker, count, ledger):
    """Under one supervisor, one of two tenants cannot afford a call."""
    await ledger.set_budget("tenant:rich", tokens(10_000))
    await ledger.set_budget("tenant:poor", tokens(100))
    with anyio.fail_after(30):
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:
            rich, poor = (
                supervisor.start(speaker(24), "Tell me a story.", tenant=tenant)
                for tenant in ("rich", "poor")
            )
            outcomes = [type(await handle.outcome()).__name__ for handle in (rich, poor)]
        counted = await count()
    assert outcomes == ["Completed", "Denied"]
    assert counted.generated == 24
    assert (await spent(ledger, "rich"), await spent(ledger, "poor")) == (counted.total, 0)


async def test_a_program_on_trio_is_charged_what_the_server_counted(server, count):
    """In a process of its own: the SDK and its client are asyncio code that trio carries."""
    with anyio.fail_after(60):
        program = await anyio.run_process(
            [sys.executable, "-m", "e2e.trio_program", server.address],
            cwd=Path(__file__).parents[1],
        )
        counted = await count()
    assert counted.generated == 2 * 24
    assert int(program.stdout) == counted.total
