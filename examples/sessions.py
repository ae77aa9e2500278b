"""A conversation over several turns: the SDK's session remembers, one governed run pays.

The run has one receipt and one set of limits, however often the agent is started in it.
"""

import asyncio
from contextlib import closing

from _common import account, ledger, model
from agents import Agent, SQLiteSession

from comptroller import Limits, governed_run, usd

QUESTIONS = ["Hello, I am Ada.", "I need a lamp for my desk.", "What is my name?"]


async def main() -> None:
    agent = Agent(
        name="Shop",
        instructions="Help customers in one sentence.",
        model=model("gpt-4.1-mini", "Hello Ada!", "Take the small one.", "You are Ada."),
    )
    async with ledger(acme=usd("0.50")) as books:
        with closing(SQLiteSession("conversation 42")) as session:  # in memory; or give it a path
            limits = Limits(llm_calls=20)  # of the whole conversation
            async with governed_run(agent, "acme", ledger=books, limits=limits) as run:
                for question in QUESTIONS:
                    result = await run(question, session=session)
                    print(f"{question} -> {result.final_output}")
            print(f"remembered: {len(await session.get_items())} items")
        print(run.receipt)
        print(await account(books, "acme"))


if __name__ == "__main__":
    asyncio.run(main())
