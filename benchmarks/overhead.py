"""What does governing a call cost? Time for its caller, and CPU with many runs at once.

    python benchmarks/overhead.py

A run of scripted LLM calls (each asks for a tool that does nothing, so that the next follows at
once) is timed ungoverned and governed, in turns, and the medians compared. The remote ledger is a
Cycles server in a process of its own with an artificial delay; a round trip is what a bare request
through the same client takes. CPU is this process's, settlements included.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from agents import Agent, Runner, Usage, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call
from rich.console import Console
from rich.table import Table

from comptroller import Policy, governed_run, open_ledger, open_supervisor, tokens

CALLS = 10
"""LLM calls in a run whose caller's time is measured."""

CALLS_AT_ONCE = 4
"""LLM calls in each of the runs whose CPU is measured."""

RUNS = 100
"""Runs at once, where CPU is measured."""

REPEATS = 9

POLICY = Policy(llm_estimate=tokens(200))
BUDGET = 2**50


@function_tool
async def nothing() -> str:
    """Does nothing."""
    return "done"


def agent(calls: int = CALLS) -> Agent[Any]:
    steps = [[function_call("nothing", "{}", call_id=f"c{i}")] for i in range(calls - 1)]
    usage = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)
    model = ScriptedModel([*steps, [assistant_message("done")]], default_usage=usage)
    return Agent(name="bench", model=model, tools=[nothing])


@asynccontextmanager
async def remote(delay_ms: int) -> AsyncIterator[Any]:
    """A ledger across a real socket, whose server answers `delay_ms` late."""
    script = Path(__file__).with_name("cycles_server.py")
    budgets = json.dumps({"tenant:acme": {"TOKENS": BUDGET}})
    server = subprocess.Popen(
        [sys.executable, str(script), "--delay-ms", str(delay_ms), "--budgets", budgets],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = json.loads(server.stdout.readline())["url"]
        async with open_ledger(url, api_key="key") as ledger:
            yield ledger
    finally:
        server.stdin.close()
        server.wait(timeout=10)


@asynccontextmanager
async def embedded(address: str) -> AsyncIterator[Any]:
    async with open_ledger(address) as ledger:
        await ledger.set_budget("tenant:acme", tokens(BUDGET))
        yield ledger


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def caller_cost(ledger: Any) -> tuple[float, float]:
    """(seconds that governing adds to a call, seconds of a round trip): medians."""

    async def plain() -> None:
        await Runner.run(agent(), "go", max_turns=CALLS + 1)

    async def look() -> None:
        await ledger.balances(tenant="acme")

    extra, trips = [], []
    async with governed_run(agent(), "acme", ledger=ledger, policy=POLICY):
        pass  # connections, prices, imports
    for _ in range(REPEATS):
        without = await timed(plain)
        async with governed_run(agent(), "acme", ledger=ledger, policy=POLICY) as run:
            with_it = await timed(lambda run=run: run("go", max_turns=CALLS + 1))
        extra.append((with_it - without) / CALLS)
        trips += [await timed(look) for _ in range(20)]
    return statistics.median(extra), statistics.median(trips)


async def cpu_cost(ledger: Any) -> float:
    """Seconds of CPU that governing adds to a call, with `RUNS` runs at once: the median."""

    async def plain() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(RUNS):
                group.start_soon(Runner.run, agent(CALLS_AT_ONCE), "go")

    async def governed() -> None:
        async with open_supervisor(ledger=ledger, policy=POLICY, max_concurrency=RUNS) as group:
            for _ in range(RUNS):
                group.start(agent(CALLS_AT_ONCE), "go", tenant="acme")

    async def cpu(work: Callable[[], Awaitable[None]]) -> float:
        began = time.process_time()
        await work()
        return time.process_time() - began

    await governed()
    costs = [(-await cpu(plain) + await cpu(governed)) / (RUNS * CALLS_AT_ONCE) for _ in range(3)]
    return statistics.median(costs)


async def main() -> None:
    set_tracing_disabled(True)
    table = Table(title=f"what governing adds to a call ({CALLS} calls a run)")
    table.add_column("ledger")
    for heading in ("round trip", "for its caller", "in round trips", f"CPU, {RUNS} runs"):
        table.add_column(heading, justify="right")
    with TemporaryDirectory() as directory:
        cases = [(f"remote, {ms} ms", remote(ms)) for ms in (0, 5, 20)]
        cases += [
            ("memory", embedded("memory:")),
            ("SQLite", embedded(str(Path(directory) / "ledger.db"))),
        ]
        for name, opening in cases:
            async with opening as ledger:
                extra, trip = await caller_cost(ledger)
                cpu = await cpu_cost(ledger)
            far = name.startswith("remote")
            table.add_row(
                name,
                f"{trip * 1e3:.2f} ms" if far else "-",
                f"{extra * 1e3:.2f} ms",
                f"{extra / trip:.2f}" if far else "-",
                f"{cpu * 1e3:.2f} ms",
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    anyio.run(main)
