"""Supervisors to be killed: `victim.py` imports everything once and forks a victim for each order.

It reads an order from its standard input, a line of JSON, and kills that victim when the next line
comes. Victims tell on the standard output what happens, a line each: what is written there is
outside of them, and the truth about their calls whenever they die. `gone` is the last line of each.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import attrs
from agents import Agent, Usage, function_tool, set_tracing_disabled
from agents.testing import function_call

from comptroller import (
    Policy,
    ToolEstimateConfig,
    ToolEstimateMap,
    open_ledger,
    open_supervisor,
)
from comptroller.money import risk_points, tokens
from comptroller.testing import CountingModel

TENANTS = ("acme", "globex")
RUNS = 2
"""Of each tenant, at once, beside a stream of the first one's."""
ESTIMATE, POINTS = 10_000, 5_000
"""Of an LLM call in tokens and of a tool call in risk points: more than any of them costs."""
TOOLS = ("look", "fetch", "write")


def tell(**what: Any) -> None:
    """One line, whole: what was written before a SIGKILL stays written."""
    os.write(1, (json.dumps(what) + "\n").encode())


@attrs.frozen
class Provider:
    """Who does the work of one run, and tells of each call that it began and what it cost."""

    run: str
    dice: random.Random
    costs: Iterator[int]

    async def works(self, caller: str) -> int:
        """A call from its arrival to its answer: what it cost, which no other call does."""
        tell(run=self.run, caller=caller, cost=None)
        await asyncio.sleep(self.dice.choice((0, self.dice.uniform(0, 0.01))))
        cost = next(self.costs)
        tell(run=self.run, caller=caller, cost=cost)
        return cost


class Told(CountingModel):
    """A model that answers with what its provider worked for."""

    def __init__(self, provider: Provider, caller: str, *answers: Any) -> None:
        super().__init__(*answers)
        self._provider, self._caller = provider, caller

    async def _before(self, turn: int) -> None:
        self._cost = await self._provider.works(self._caller)

    def _reported(self) -> Usage:
        return Usage(requests=1, input_tokens=self._cost, total_tokens=self._cost)


def tool(provider: Provider, name: str) -> Any:
    async def work() -> int:
        return await provider.works(name)

    return function_tool(work, name_override=name)


def agent(provider: Provider) -> Agent[Any]:
    """Three turns: all tools and a nested agent at once, two tools, the answer."""
    inner = Agent("inner", model=Told(provider, "inner", "done"))
    tools = [tool(provider, name) for name in TOOLS]

    def asks(turn: int, *names: str) -> list[Any]:
        return [function_call(name, {}, call_id=f"{turn}-{name}") for name in names]

    nested = function_call("ask", {"input": "?"}, call_id="ask")
    model = Told(provider, "outer", [*asks(1, *TOOLS), nested], asks(2, *TOOLS[:2]), "done")
    return Agent("outer", model=model, tools=[*tools, inner.as_tool("ask", "asks")])


def policy(on_abandoned: Any) -> Policy:
    work = ToolEstimateConfig(POINTS, actual=lambda _, result: risk_points(int(result)))
    return Policy(
        llm_estimate=tokens(ESTIMATE),
        tools=ToolEstimateMap(dict.fromkeys(TOOLS, work), default_estimate=0),
        on_abandoned=on_abandoned,
    )


async def main(order: dict[str, Any]) -> None:
    """Every run of every tenant at once, from the ledger's opening to its end."""
    costs = itertools.count(1)

    def provider(run: str) -> Provider:
        return Provider(run, random.Random(f"{order['seed']} {run}"), costs)

    async with open_ledger(order["ledger"], **order["settings"]) as ledger:
        tell(stage="opened")
        async with open_supervisor(
            ledger=ledger, policy=policy(order["on_abandoned"])
        ) as supervisor:
            for tenant in TENANTS:
                for run in [f"{tenant}-{number}" for number in range(RUNS)]:
                    supervisor.start(agent(provider(run)), "go", tenant=tenant, run_id=run)
            streaming = provider("stream")
            async with supervisor.run(agent(streaming), TENANTS[0], run_id="stream") as run:
                async for _ in run.stream("go"):
                    pass
        tell(stage="settled")
    tell(stage="closed")


def victim(order: dict[str, Any]) -> None:
    """In the fork: it never returns."""
    try:
        os.environ.update(order["environment"])
        anyio.run(main, order, backend=order["backend"])
    finally:
        os._exit(0)


def zygote() -> None:
    """Until the standard input closes."""
    set_tracing_disabled(True)
    tell(stage="ready")
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            victim(json.loads(line))
        sys.stdin.readline()
        os.kill(pid, signal.SIGKILL)  # it is not waited for yet: the number is still its own
        os.waitpid(pid, 0)
        tell(stage="gone")


if __name__ == "__main__":
    zygote()
