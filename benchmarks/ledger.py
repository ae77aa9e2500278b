"""How many calls can a ledger carry? Pairs of reserve and commit a second, and their latency.

    python benchmarks/ledger.py [--quick] [--seconds 1] [--repeats 3]

In one process and in 2 or 4 of them that share a file, and over HTTP from another process, with 1
to 1,000 callers at once; against one Lua script per operation on a Redis server, where there is
`redis-server` and the package `redis`. Every measurement runs in a process of its own, all of them
in turns, and medians are shown: figures of other machines or moments do not compare, ratios do.
The ratio is to the ledger in memory with as many callers, in process, in the same run; `least` is
what the process that got least could do, of what the one that got most could.
"""

import argparse
import gc
import importlib.util
import multiprocessing
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from ledger_load import SCOPES, Load, Measured, put
from rich.console import Console
from rich.table import Table

PLENTY_SAID = "10000000000usd"
REDIS = "Redis"
WHERE = {1: "inside", 2: "2 of them", 4: "4 of them"}


@attrs.frozen
class Case:
    """One row of the table."""

    engine: str
    callers: int
    http: bool = False
    processes: int = 1


REACH = {
    Case("NORMAL", 1): 0.35,
    Case("NORMAL", 100): 0.85,
    Case("FULL", 1): 0.06,
    Case("FULL", 100): 0.55,
    Case("NORMAL", 100, http=True): 0.25,
}
"""The ratios that the design sets."""


def cases(quick: bool) -> list[Case]:
    many = [1, 100] if quick else [1, 10, 100, 1000]
    engines = ["memory", "NORMAL", "FULL"]
    found = [Case(engine, callers) for callers in many for engine in engines]
    if has_redis():
        found += [Case(REDIS, callers) for callers in many]
    found += [
        Case(engine, callers, processes=processes)
        for processes in ([2] if quick else [2, 4])
        for callers in ([100] if quick else many)
        for engine in engines[1:]
    ]
    found += [
        Case(engine, callers, http=True)
        for callers in ([100] if quick else many)
        for engine in engines
    ]
    return found


def has_redis() -> bool:
    return bool(shutil.which("redis-server") and importlib.util.find_spec("redis"))


@contextmanager
def served(address: str, synchronous: str) -> Iterator[tuple[str, int]]:
    """Where `comptroller serve` serves the ledger, with a key of its tenant; and its process."""
    comptroller = [sys.executable, "-m", "comptroller"]
    command = [*comptroller, "serve", "--ledger", address, "--port", "0"]
    if address == "memory:":
        budgets = (word for scope in SCOPES for word in ("--budget", f"{scope}={PLENTY_SAID}"))
        command += ["--key-for", "acme", *budgets]
    else:
        command += ["--synchronous", synchronous]
        for scope in SCOPES:
            told([*comptroller, "budget", "set", scope, PLENTY_SAID, "--ledger", address])
        key = told([*comptroller, "key", "create", "acme", "--ledger", address]).split()[-1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        if address == "memory:":
            key = server.stdout.readline().split()[-1]
        url = server.stdout.readline().split()[-1]
        try:
            yield url.replace("//", f"//{key}@"), server.pid
        finally:
            server.terminate()


def told(command: list[str]) -> str:
    """What a command writes."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """The address of a Redis server that keeps what it has answered as `NORMAL` does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
    }
    command = ["redis-server", *(word for k, v in options.items() for word in (f"--{k}", v))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory) as server:
        try:
            while not listens(port) and server.poll() is None:
                time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def servers(wanted: list[Case]) -> Iterator[dict[str, str]]:
    """The addresses of all that is asked from outside, by engine."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="ledgers-")))
        found = {}
        for engine in dict.fromkeys(case.engine for case in wanted if case.http):
            address = "memory:" if engine == "memory" else str(directory / f"{engine}.db")
            found[engine], _ = stack.enter_context(served(address, synchronous(engine)))
        if any(case.engine == REDIS for case in wanted):
            found[REDIS] = stack.enter_context(redis_server(directory))
        yield found


def synchronous(engine: str) -> str:
    return "FULL" if engine == "FULL" else "NORMAL"


def measured(case: Case, seconds: float, addresses: dict[str, str]) -> Measured:
    with TemporaryDirectory(prefix="ledger-") as directory:
        address = "memory:" if case.engine == "memory" else f"{directory}/ledger.db"
        if case.http or case.engine == REDIS:
            address = addresses[case.engine]
        callers = case.callers // case.processes or 1
        load = Load(address, callers, seconds, synchronous(case.engine))
        told = run(load, case.processes)
    return Measured(
        pairs=sum(one.pairs for one in told),
        cpu=statistics.mean(one.cpu for one in told),
        waits=sorted(wait for one in told for wait in one.waits),
        least=min(one.pairs for one in told) / max(1, *(one.pairs for one in told)),
    )


def run(load: Load, processes: int) -> list[Measured]:
    """The load from several processes at once, from when all are ready."""
    forking = multiprocessing.get_context("fork")  # what was imported is there at once
    gc.freeze()  # and no collection walks through it, copying every page: 0.2 s each
    pipes = []
    for _ in range(processes):
        ours, theirs = forking.Pipe()
        forking.Process(target=put, args=(load, theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("go")
    told = [pipe.recv() for pipe in pipes]
    for process in multiprocessing.active_children():
        process.join()
    return told


def table(results: dict[Case, list[Measured]]) -> Table:
    shown = Table(title="pairs of reserve and commit, three scopes: medians")
    for heading in ("ledger", "where"):
        shown.add_column(heading)
    for heading in ("callers", "pairs/s", "p50", "p99", "CPU", "least", "ratio", "goal"):
        shown.add_column(heading, justify="right")
    pairs = {case: statistics.median(one.pairs for one in runs) for case, runs in results.items()}
    for case, runs in results.items():
        where = "HTTP" if case.http else WHERE[case.processes]
        memory = pairs[Case("memory", case.callers)]
        reach = REACH.get(case)
        shown.add_row(
            case.engine,
            where,
            f"{case.callers:,}",
            f"{pairs[case]:,.0f}",
            *(milliseconds(runs, share) for share in (0.5, 0.99)),
            f"{statistics.median(one.cpu for one in runs) * 1e6:,.0f} µs",
            f"{statistics.median(one.least for one in runs):.2f}" if case.processes > 1 else "",
            f"{pairs[case] / memory:.2f}",
            f"{reach:.2f}" if reach else "",
        )
    return shown


def milliseconds(runs: list[Measured], share: float) -> str:
    """How long a grant was waited for, by this share of the callers at most."""
    waits = [one.waits[int(share * (len(one.waits) - 1))] for one in runs if one.waits]
    return f"{statistics.median(waits) / 1000:,.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the figures to reach, in a minute")
    parser.add_argument("--seconds", type=float, help="of each measurement (1; quick: 0.5)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each row (3)")
    asked = parser.parse_args()
    seconds = asked.seconds or (0.5 if asked.quick else 1)
    wanted = cases(asked.quick)
    results: dict[Case, list[Measured]] = defaultdict(list)
    with servers(wanted) as addresses:
        for _ in range(asked.repeats):
            for case in wanted:
                results[case].append(measured(case, seconds, addresses))
    console = Console(width=100)
    console.print(table(results))
    if not has_redis():
        console.print("Redis was left out: install redis-server and the package redis.")
        return
    ours, theirs = (
        statistics.median(one.pairs for one in results[Case(engine, 100)])
        for engine in ("NORMAL", REDIS)
    )
    console.print(f"NORMAL with 100 callers: {ours / theirs:.1f} times Redis (to reach: 5)")


if __name__ == "__main__":
    main()
