"""A handoff between two agents on one budget, and a question to the ledger before either begins.

Where the budget is not expected to last for the run, no model is asked: it costs no token.
"""

import asyncio
from typing import Any

from _common import account, ledger, model
from agents import Agent, InputGuardrailTripwireTriggered
from agents.testing import function_call
from runcycles import BudgetExceededError

from comptroller import as_client, governed_run, usd
from comptroller.cycles import CyclesRunHooks, cycles_budget_guardrail

COMPLAINT = "My account was charged twice. I want my money back, now!"


def triage(**options: Any) -> Agent[Any]:
    escalation = Agent[Any](
        name="Escalation",
        instructions="Answer escalated cases with empathy.",
        model=model("gpt-4.1", "We are sorry. Your money is on its way back."),
    )
    return Agent(
        name="Triage",
        instructions="Hand difficult cases over to Escalation.",
        handoffs=[escalation],
        model=model("gpt-4.1-mini", [function_call("transfer_to_escalation", {}, call_id="1")]),
        **options,
    )


async def with_hooks(books: Any, tenant: str) -> None:
    client = as_client(books)
    guardrail = cycles_budget_guardrail(client=client, tenant=tenant, estimate=5_000_000)  # $0.05
    hooks = CyclesRunHooks(client=client, tenant=tenant, app="support", workflow="escalation")
    try:
        result = await hooks.run(triage(input_guardrails=[guardrail]), COMPLAINT)
        print(f"{result.last_agent.name}: {result.final_output}")
    except InputGuardrailTripwireTriggered as tripped:
        print(f"not begun: {tripped.guardrail_result.output.output_info}")


async def with_governed_run(books: Any, tenant: str) -> None:
    scope = governed_run(
        triage(), tenant, ledger=books, app="support", workflow="escalation", check=usd("0.05")
    )
    async with scope as run:
        try:
            result = await run(COMPLAINT)
            print(f"{result.last_agent.name}: {result.final_output}")
        except BudgetExceededError as denial:
            print(f"not begun: {denial}")
    print(run.receipt)


async def main() -> None:
    async with ledger(acme=usd("0.50"), globex=usd("0.04")) as books:
        for style in (with_hooks, with_governed_run):
            for tenant in ("acme", "globex"):
                print(f"-- {style.__name__}, {tenant}")
                await style(books, tenant)
        print("-- in the ledger")
        for tenant in ("acme", "globex"):
            print(await account(books, tenant))


if __name__ == "__main__":
    asyncio.run(main())
