"""Governed runs in a trio program: nurseries, cancel scopes and all.

The SDK is asyncio code. Inside `governed_run` it is carried on trio's loop, and a cancel scope of
trio's ends a run as it ends anything else. Needs: pip install "comptroller[trio]"
"""

from typing import Any

import trio
from _common import account, ledger, model
from agents import Agent

from comptroller import governed_run, usd

STORY = "Once upon a time a ledger and a language model shared a house by the lake. " * 40


async def ask(books: Any, question: str) -> None:
    agent = Agent(
        name="Guide",
        instructions="Answer in one sentence.",
        model=model("gpt-4.1-mini", "Rivers bend because they wear away their outer banks."),
    )
    async with governed_run(agent, "acme", ledger=books) as run:
        result = await run(question)
    print(f"{question} {result.final_output}")


async def listen_for_a_while(books: Any) -> None:
    agent = Agent(
        name="Storyteller",
        instructions="Tell stories at length.",
        model=model("gpt-4.1-mini", STORY, pause=0.02),
    )
    events = 0
    with trio.CancelScope() as patience:
        async with governed_run(agent, "acme", ledger=books) as run:
            patience.deadline = trio.current_time() + 0.5
            async for _ in run.stream("Tell me a story."):
                events += 1
    print(f"patience ended: {patience.cancelled_caught}, events: {events}, run: {run.status}")
    print(run.receipt)


async def main() -> None:
    async with ledger(acme=usd("0.50")) as books:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, books, "Why do rivers bend?")
            nursery.start_soon(ask, books, "Why do rivers meander?")
            nursery.start_soon(listen_for_a_while, books)
        print(await account(books, "acme"))


if __name__ == "__main__":
    trio.run(main)
