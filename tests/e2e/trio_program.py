"""A program that knows trio alone: a plain and a streamed run; prints the tokens it was charged.

python -m e2e.trio_program http://127.0.0.1:8080
"""

import sys

import agents
import trio
from openai import AsyncOpenAI
from trio_asyncio import aio_as_trio

from comptroller import governed_run, open_ledger, tokens
from e2e.constants import POLICY, exactly, spent


async def main(address):
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    model = agents.OpenAIChatCompletionsModel(model="smollm2", openai_client=client)
    agent = agents.Agent("Speaker", model=model, model_settings=exactly(24))
    async with open_ledger("memory:") as ledger:
        await ledger.set_budget("tenant:acme", tokens(10_000))
        async with governed_run(agent, "acme", ledger=ledger, policy=POLICY) as run:
            await run("Name three rivers.")
            async for _ in run.stream("Name three seas."):
                pass
            await aio_as_trio(client.close)()
        print(await spent(ledger))  # noqa: T201 - its answer to the test


if __name__ == "__main__":
    agents.set_tracing_disabled(True)
    trio.run(main, *sys.argv[1:])
