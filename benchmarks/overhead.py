"""What does governing a call cost? Time for its caller, and CPU with many runs at once.

    python benchmarks/overhead.py

Scripted LLM calls, each a `Runner.run` of its own, one after another: timed ungoverned and
governed, in turns, and the medians compared. The remote ledger is a Cycles server in a process of
its own with an artificial delay; a round trip is what a bare request through the same client takes.
CPU is this process's, settlements included, with many such sequences at once.
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
from agents import Agent, Runner, Usage, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message
from rich.console import Console
from rich.table import Table

from comptroller import Policy, governed_run, open_ledger, open_supervisor, tokens

CALLS = 10
"""Calls of a sequence whose caller's time is measured."""

CALLS_AT_ONCE = 4
"""Calls of each sequence where CPU is measured."""

SEQUENCES = 100
"""Sequences at once, where CPU is measured: each in a governed run of its own."""

REPEATS = 15

POLICY = Policy(llm_estimate=tokens(200))
BUDGET = 2**50


def agent(calls: int) -> Agent[Any]:
    usage = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)
    model = ScriptedModel([[assistant_message("done")]] * calls, default_usage=usage)
    return Agent(name="bench", model=model)


async def sequence(calls: int) -> None:
    """`calls` LLM calls, governed where the caller's context is."""
    bench = agent(calls)
    for _ in range(calls):
        await Runner.run(bench, "go")


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

    async def look() -> None:
        await ledger.balances(tenant="acme")

    async def governed() -> float:
        async with governed_run(agent(1), "acme", ledger=ledger, policy=POLICY):
            return await timed(lambda: sequence(CALLS))

    await governed()  # connections, prices, imports
    extra, trips = [], []
    for _ in range(REPEATS):
        without = await timed(lambda: sequence(CALLS))
        extra.append((await governed() - without) / CALLS)
        trips += [await timed(look) for _ in range(10)]
    return statistics.median(extra), statistics.median(trips)


async def cpu_cost(ledger: Any) -> float:
    """Seconds of CPU that governing adds to a call, with many sequences at once: the median."""

    async def plain() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(SEQUENCES):
                group.start_soon(sequence, CALLS_AT_ONCE)

    async def governed() -> None:
        async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:

            async def one() -> None:
                async with supervisor.run(agent(1), "acme"):
                    await sequence(CALLS_AT_ONCE)

            async with anyio.create_task_group() as group:
                for _ in range(SEQUENCES):
                    group.start_soon(one)

    async def cpu(work: Callable[[], Awaitable[None]]) -> float:
        began = time.process_time()
        await work()
        return time.process_time() - began

    await governed()
    costs = [await cpu(governed) - await cpu(plain) for _ in range(5)]
    return statistics.median(costs) / (SEQUENCES * CALLS_AT_ONCE)


async def main() -> None:
    set_tracing_disabled(True)
    table = Table(title="what governing adds to a call")
    table.add_column("ledger")
    for heading in ("round trip", "for its caller", "in round trips", f"CPU, {SEQUENCES} at once"):
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
