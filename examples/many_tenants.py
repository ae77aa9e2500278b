"""Many runs of several tenants at once, under one supervisor.

Each tenant has its own budget: globex's is used up, which ends globex's runs and no others.
"""

import asyncio

from _common import account, ledger, model
from agents import Agent

from comptroller import Cancelled, Completed, Denied, Failed, Limits, open_supervisor, usd

QUESTIONS = ["Where is my order?", "How do I reset my password?", "Do you ship to Norway?"]
TENANTS = ["acme", "globex", "initech"]


async def main() -> None:
    support = Agent(
        name="Support",
        instructions="Answer in one sentence.",
        model=model("gpt-4.1-mini", "It is all on the page that you came from."),
    )
    budgets = {"acme": usd("0.50"), "globex": usd("0.00001"), "initech": usd("0.50")}
    async with ledger(**budgets) as books:
        async with open_supervisor(ledger=books, max_concurrency=100) as supervisor:
            started = [
                (tenant, supervisor.start(support, q, tenant=tenant, limits=Limits(seconds=60)))
                for tenant in TENANTS
                for q in QUESTIONS
            ]
            for tenant, run in started:
                match await run.outcome():  # never raises: `await run` would
                    case Completed(result):
                        print(f"{tenant}: {result.final_output}")
                    case Denied(error) | Failed(error) | Cancelled(error):
                        print(f"{tenant} {run.status}: {error}")
            statistics = supervisor.statistics()
        for name, count in statistics.runs.items():
            print(f"runs {name}: {count}")
        for tenant in TENANTS:
            print(await account(books, tenant))


if __name__ == "__main__":
    asyncio.run(main())
