"""The server that `comptroller serve` runs, on a free port of loopback, inside a test."""

import socket
from contextlib import asynccontextmanager

import anyio

from comptroller.server.uvicorn_server import Server, configured


@asynccontextmanager
async def listening(application, secured=None):
    """The address at which `application` is served (asyncio only, as uvicorn is)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server, ready = Server(configured(application, secured, 1)), anyio.Event()
        server.ready = ready.set
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            await ready.wait()
            scheme = "https" if secured else "http"
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True
