"""A program whose tool ends the process: LEDGER BACKEND ERROR TOOL."""

import sys

import anyio
from agents import Agent, function_tool
from agents.testing import function_call

from comptroller import Policy, governed_run, open_ledger, tokens
from comptroller.testing import CountingModel

ERRORS = {"exit": SystemExit(7), "interrupt": KeyboardInterrupt()}


def agent(error, kind):
    @function_tool
    def in_a_thread() -> None:
        raise error

    @function_tool
    async def in_the_loop() -> None:
        raise error

    tool = {"thread": in_a_thread, "loop": in_the_loop}[kind]
    model = CountingModel([function_call(tool.name, {}, call_id="call-1")], "done")
    return Agent("Worker", model=model, tools=[tool])


async def main(ledger, error, kind):
    policy = Policy(llm_estimate=tokens(100))
    async with open_ledger(ledger) as opened:
        await opened.set_budget("tenant:acme", tokens(10_000))
        worker = agent(ERRORS[error], kind)
        async with governed_run(worker, "acme", ledger=opened, policy=policy) as run:
            await run("go")


if __name__ == "__main__":
    ledger, backend, error, kind = sys.argv[1:]
    anyio.run(main, ledger, error, kind, backend=backend)
