"""What does governing a call cost? Time for its caller, and CPU with one run and with many at once.

    python benchmarks/overhead.py [--quick]

Scripted LLM calls, each a `Runner.run` of its own, one after another: timed ungoverned and
governed, in turns, and the medians compared. The remote ledger is a Cycles server in a process of
its own with an artificial delay; a round trip is what a bare request through the same client takes.
CPU is this process's, settlements included, of one such sequence and of many at once. The outbox is
on tmpfs, where there is one: what a disk costs is the disk's.

With `pip install runcycles-openai-agents` beside it, the hooks of that package are measured in
turns with ours, on the same server. `--quick`: the remote ledger without delay and the peer alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
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

AT_ONCE = ((1, 200), (100, 4))
"""Sequences at once, and calls of each, where CPU is measured: each in a run of its own."""

ROUNDS = 5
"""Of which the medians are taken, where CPU is measured."""

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


Sequence = Callable[[int], Awaitable[None]]
"""Makes so many calls one after another."""


@asynccontextmanager
async def ours(ledger: Any) -> AsyncIterator[Sequence]:
    """Sequences of calls that are governed by `ledger`, each in a run of its own."""
    async with open_supervisor(ledger=ledger, policy=POLICY) as supervisor:

        async def governed(calls: int) -> None:
            async with supervisor.run(agent(1), "acme"):
                await sequence(calls)

        yield governed


@asynccontextmanager
async def theirs(url: str) -> AsyncIterator[Sequence]:
    """The same by the peer package. Raises ModuleNotFoundError: it is not installed."""
    from runcycles import AsyncCyclesClient, CyclesConfig, Unit
    from runcycles_openai_agents import CyclesRunHooks

    async with AsyncCyclesClient(CyclesConfig(base_url=url, api_key="key")) as client:

        async def governed(calls: int) -> None:
            hooks = CyclesRunHooks(
                client=client, tenant="acme", llm_estimate=200, llm_unit=Unit.TOKENS
            )
            bench = agent(calls)
            for _ in range(calls):
                await hooks.run(bench, "go")

        yield governed


async def cpu_costs(contenders: dict[str, Sequence]) -> dict[str, list[float]]:
    """Seconds of CPU that each adds to a call, for each of `AT_ONCE`: medians, in turns."""

    async def cpu(work: Sequence, sequences: int, calls: int) -> float:
        began = time.process_time()
        async with anyio.create_task_group() as group:
            for _ in range(sequences):
                group.start_soon(work, calls)
        await anyio.sleep(0.1)  # settlements that come after their runs
        return time.process_time() - began

    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for sequences, calls in AT_ONCE:
        measured: dict[str, list[float]] = {name: [] for name in contenders}
        for work in contenders.values():
            await cpu(work, sequences, calls)  # connections, prices, imports
        for _ in range(ROUNDS):
            plain = await cpu(sequence, sequences, calls)
            for name, work in contenders.items():
                measured[name].append(await cpu(work, sequences, calls) - plain)
        for name, seconds in measured.items():
            costs[name].append(statistics.median(seconds) / (sequences * calls))
    return costs


async def measured(quick: bool) -> tuple[Table, dict[str, list[float]]]:
    """The table, and the CPU of ours and of the peer, where it is installed."""
    table = Table(title="what governing adds to a call")
    table.add_column("ledger")
    headings = ["round trip", "for its caller", "in round trips"]
    headings += [f"CPU, {runs} run{'s' * (runs > 1)}" for runs, _ in AT_ONCE]
    for heading in headings:
        table.add_column(heading, justify="right")
    beside: dict[str, list[float]] = {}
    with TemporaryDirectory() as directory:
        cases = [(f"remote, {ms} ms", remote(ms)) for ms in ((0,) if quick else (0, 5, 20))]
        if not quick:
            cases += [
                ("memory", embedded("memory:")),
                ("SQLite", embedded(str(Path(directory) / "ledger.db"))),
            ]
        for name, opening in cases:
            async with opening as ledger, AsyncExitStack() as stack:
                extra, trip = await caller_cost(ledger)
                contenders = {"ours": await stack.enter_async_context(ours(ledger))}
                if name == "remote, 0 ms":
                    with suppress(ModuleNotFoundError):
                        contenders["peer"] = await stack.enter_async_context(theirs(ledger.name))
                costs = await cpu_costs(contenders)
                beside = beside or costs
            far = name.startswith("remote")
            table.add_row(
                name,
                f"{trip * 1e3:.2f} ms" if far else "-",
                f"{extra * 1e3:.2f} ms",
                f"{extra / trip:.2f}" if far else "-",
                *(f"{cost * 1e3:.2f} ms" for cost in costs["ours"]),
            )
            if "peer" in costs:
                cells = (f"{cost * 1e3:.2f} ms" for cost in costs["peer"])
                table.add_row("runcycles-openai-agents", "-", "-", "-", *cells)
    return table, beside


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the remote ledger and the peer alone")
    asked = parser.parse_args()
    set_tracing_disabled(True)
    shared = "/dev/shm"  # noqa: S108 - a directory of its own is made in it
    with TemporaryDirectory(dir=shared if os.path.isdir(shared) else None) as data:  # noqa: PTH112
        os.environ["XDG_DATA_HOME"] = data
        table, costs = anyio.run(measured, asked.quick)
    out = Console(width=110)
    out.print(table)
    if "peer" in costs:
        shares = [mine / other for mine, other in zip(costs["ours"], costs["peer"], strict=True)]
        told = ", ".join(
            f"{share:.2f} with {runs}" for share, (runs, _) in zip(shares, AT_ONCE, strict=True)
        )
        out.print(f"CPU beside runcycles-openai-agents, by runs at once: {told}")


if __name__ == "__main__":
    main()
