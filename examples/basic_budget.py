"""A tenant's agent under a budget, and a tenant whose budget is too small.

Every LLM call is reserved before it is made and charged afterwards for what it used. The call that
does not fit is not made.
"""

import asyncio
from typing import Any

from _common import account, ledger, model
from agents import Agent
from runcycles import BudgetExceededError

from comptroller import as_client, governed_run, usd
from comptroller.cycles import CyclesRunHooks

QUESTION = "What is the capital of France?"


def assistant() -> Agent[Any]:
    return Agent(
        name="Assistant",
        instructions="Answer in one sentence.",
        model=model("gpt-4.1-mini", "The capital of France is Paris."),
    )


async def with_hooks(books: Any, tenant: str) -> None:
    hooks = CyclesRunHooks(
        client=as_client(books),  # left out: the server that CYCLES_BASE_URL names
        tenant=tenant,
        app="chatbot",
        # each LLM call reserves 500_000 microcents, half a cent: llm_estimate= says otherwise
    )
    try:
        result = await hooks.run(assistant(), QUESTION)
        print(result.final_output)
    except BudgetExceededError as denial:
        print(f"denied: {denial}")


async def with_governed_run(books: Any, tenant: str) -> None:
    # no estimate is given: what the call can cost at most is reserved
    async with governed_run(assistant(), tenant, ledger=books, app="chatbot") as run:
        try:
            result = await run(QUESTION)
            print(result.final_output)
        except BudgetExceededError as denial:
            print(f"denied: {denial}")
    print(run.receipt)


async def main() -> None:
    async with ledger(acme=usd("0.50"), globex=usd("0.00001")) as books:
        for style in (with_hooks, with_governed_run):
            for tenant in ("acme", "globex"):
                print(f"-- {style.__name__}, {tenant}")
                await style(books, tenant)
        print("-- in the ledger")
        for tenant in ("acme", "globex"):
            print(await account(books, tenant))


if __name__ == "__main__":
    asyncio.run(main())
