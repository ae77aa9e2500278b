"""How the Cycles interface is meant to be typed: checked by mypy, never run."""

from typing import Any, assert_type

from agents import Agent, InputGuardrail, RunResult
from runcycles import Unit

from comptroller import as_client
from comptroller.cycles import (
    CyclesRunHooks,
    CyclesRunResultStreaming,
    ToolEstimateConfig,
    ToolEstimateMap,
    cycles_budget_guardrail,
)
from comptroller.ledger.interface import EmbeddedLedger


async def run(agent: Agent[None], ledger: EmbeddedLedger) -> None:
    hooks: CyclesRunHooks[None] = CyclesRunHooks(
        client=as_client(ledger),
        tenant="acme",
        tool_estimates={"mail": 50, "crm": ToolEstimateConfig(estimate=10)},
    )
    assert_type(await hooks.run(agent, "hi", run_id="case-1", max_turns=3), RunResult)
    stream = hooks.run_streamed(agent, "hi")
    assert_type(stream, CyclesRunResultStreaming)
    async for _ in stream.stream_events():
        stream.cancel(mode="after_turn")
    await hooks.release_pending("done", run_id="case-1")
    await hooks.release_all_pending()
    CyclesRunHooks(llm_unit="TOKENS")  # type: ignore[arg-type]


assert_type(cycles_budget_guardrail(tenant="acme", estimate=5), InputGuardrail[Any])
assert_type(ToolEstimateMap({"mail": 5}).is_zero_estimate("mail"), bool)
assert_type(ToolEstimateConfig().unit, Unit)
