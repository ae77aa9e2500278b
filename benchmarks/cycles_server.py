"""A Cycles server in a process of its own: any client's other end, with a delay to taste.

    python benchmarks/cycles_server.py --delay-ms 5 --keys '{"key-of-acme": "acme"}'
        --budgets '{"tenant:acme": {"USD_MICROCENTS": 1000000}}'

It serves a ledger, in memory unless another is named, on a free port of loopback, prints one line
of JSON when it is ready (`{"url": "http://127.0.0.1:40123", "pid": 4711}`) and ends when its
standard input closes, so it cannot outlive the process that started it. uvloop and httptools are
used where they are installed.
"""

import argparse
import importlib.util
import json
import os
import socket
import sys

import anyio
import anyio.to_thread
import uvicorn
from runcycles import Amount, Unit

from comptroller import open_ledger
from comptroller.server import Application, Message, Receive, Send, serve_ledger


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay-ms", type=float, default=0, help="added to every request")
    parser.add_argument("--keys", type=json.loads, default={"key": "acme"}, help="key -> tenant")
    parser.add_argument("--ledger", default="memory:", help="as `open_ledger` takes it")
    parser.add_argument("--synchronous", default="NORMAL", choices=["NORMAL", "FULL"])
    parser.add_argument(
        "--budgets", type=json.loads, default={}, help="scope -> {unit: allocated amount}"
    )
    return parser.parse_args()


def delayed(application: Application, seconds: float) -> Application:
    """`application`, each of whose requests takes `seconds` longer."""

    async def wait_first(scope: Message, receive: Receive, send: Send) -> None:
        await anyio.sleep(seconds)
        await application(scope, receive, send)

    return wait_first if seconds else application


async def serve(asked: argparse.Namespace) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    # asyncio spares only sockets of a stated protocol the wait for a full packet (40 ms an answer)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with open_ledger(asked.ledger, synchronous=asked.synchronous) as ledger:
        for scope, amounts in asked.budgets.items():
            for unit, amount in amounts.items():
                await ledger.set_budget(scope, Amount(unit=Unit(unit), amount=amount))
        application = delayed(serve_ledger(ledger, asked.keys), asked.delay_ms / 1000)
        server = uvicorn.Server(
            uvicorn.Config(
                application, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
            )
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            print(json.dumps({"url": url(listener), "pid": os.getpid()}), flush=True)
            await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
            server.should_exit = True


def url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    fast = importlib.util.find_spec("uvloop") is not None
    anyio.run(serve, arguments(), backend_options={"use_uvloop": fast})
