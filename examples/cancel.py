"""Three ways to end a run before its time; each time what was in flight is settled.

`run.cancel(reason)` comes from anywhere, a deadline from the run's limits, and a cancelled task or
an expired timeout of asyncio ends the runs in it like anything else.
"""

import asyncio
from typing import Any

from _common import account, ledger, model
from agents import Agent

from comptroller import GovernedRun, LimitReached, Limits, RunCancelled, governed_run, usd

STORY = "Once upon a time a ledger and a language model shared a house by the lake. " * 40


def storyteller() -> Agent[Any]:
    return Agent(
        name="Storyteller",
        instructions="Tell stories at length.",
        model=model("gpt-4.1", STORY, pause=0.02),  # some ten seconds
    )


async def close_the_tab(reading: asyncio.Event, run: GovernedRun) -> None:
    await reading.wait()
    run.cancel("the user closed the tab")


async def from_another_task(books: Any) -> None:
    """Whoever holds the run may cancel it: another task, loop or thread."""
    reading = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        async with governed_run(storyteller(), "acme", ledger=books) as run:
            tasks.create_task(close_the_tab(reading, run))
            try:
                async for event in run.stream("Tell me a story."):
                    if event.type == "raw_response_event":
                        reading.set()
            except RunCancelled as cancelled:
                print(f"cancelled: {cancelled.reason}")
    print(run.receipt)


async def by_a_deadline(books: Any) -> None:
    """The run has been given so many seconds."""
    limits = Limits(seconds=0.5)
    async with governed_run(storyteller(), "acme", ledger=books, limits=limits) as run:
        try:
            await run("Tell me a story.")
        except LimitReached as reached:
            print(f"stopped: {reached}")
    print(run.receipt)


async def by_a_timeout_around_it(books: Any) -> None:
    """Nothing here knows of the run: the exception is asyncio's own."""
    try:
        async with asyncio.timeout(0.5):
            async with governed_run(storyteller(), "acme", ledger=books) as run:
                await run("Tell me a story.")
    except TimeoutError:
        print("timed out")
    print(run.receipt)


async def main() -> None:
    async with ledger(acme=usd("1")) as books:
        for way in (from_another_task, by_a_deadline, by_a_timeout_around_it):
            print(f"-- {way.__name__}")
            await way(books)
        print("-- in the ledger")
        print(await account(books, "acme"))


if __name__ == "__main__":
    asyncio.run(main())
