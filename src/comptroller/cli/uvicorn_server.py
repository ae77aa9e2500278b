"""uvicorn, as a ledger is served: no signals of its own, bounded heads, the protocol's errors."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from comptroller.ledger.server import Application
from comptroller.ledger.server.asgi import PATIENCE

from .listening import Tls

MOST_HEAD = 2**16
"""Bytes of a request's head: its target and headers."""
_KEEP_ALIVE = 30  # seconds
_LONGEST = 2 * PATIENCE
"""Seconds for a whole request, and for the first one to begin. For a body that has begun the
application has less patience, and says so itself."""
_OF_THE_GRACE = 0.9
"""The part of a graceful end in which a request may still become whole."""
MOST_WAITING = 256
"""Requests of one connection that wait for the answers of those before them."""


class Joined:
    """A transport that sends together what is written in one turn of the loop.

    uvicorn writes the head of an answer and its body one after the other; each by itself costs a
    system call here and wakes its reader there, for half an answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """In everything else it is the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)

    def close(self) -> None:
        """Close it, once everything is sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._written and not self._transport.is_closing():
            self._transport.write(b"".join(self._written))
        self._written.clear()


class Protocol(HttpToolsProtocol):
    """One connection. What does not end is refused before it fills the memory: a head, what follows
    a body, more and more requests before the first ones are answered.

    A request that does not end at all is refused in time: whoever falls silent, or sends a byte now
    and then, would keep the connection for ever, and there are only so many.
    """

    _read = 0
    """Bytes since a head began, or since the last piece of a body."""
    _whole = False
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there: a request is expected."""
        super().connection_made(Joined(transport))  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. The parser keeps what belongs to a head that has not ended."""
        self._read += len(data)
        super().data_received(data)
        if self._read > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"the head has more than {MOST_HEAD} bytes")
        if len(self.pipeline) > MOST_WAITING:
            self.transport.close()
        if self._whole:
            self._wait_no_more()
        elif self._late is None:
            self._wait()

    def _wait(self) -> None:
        self._late = self.loop.call_later(_LONGEST, self._give_up)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.send_400_response(f"the request did not end within {_LONGEST:g} seconds")

    def shutdown(self) -> None:
        """The server ends. Whoever has not said all by the end of its grace is hung up on, and asks
        again elsewhere; uvicorn would break off the application, which has done nothing yet.
        """
        super().shutdown()
        grace = self.config.timeout_graceful_shutdown or 0
        if not self._whole and not self.transport.is_closing():
            self._wait_no_more()
            self._late = self.loop.call_later(_OF_THE_GRACE * grace, self.transport.close)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._read, self._whole = 0, False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._read, self._whole = 0, True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """It has ended."""
        self._read = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of it came."""
        self._read = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the protocol's own form."""
        request_id, trace_id = f"req_{secrets.token_hex(8)}", secrets.token_hex(16)
        content = to_json(
            {
                "error": "INVALID_REQUEST",
                "message": msg,
                "request_id": request_id,
                "trace_id": trace_id,
            }
        )
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n"
            f"x-request-id: {request_id}\r\nx-cycles-trace-id: {trace_id}\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that says when it is ready, and leaves signals to who runs it."""

    ready: Callable[[], None]

    async def startup(self, sockets: Any = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: `serving` receives them."""
        yield


def configured(application: Application, secured: Tls | None, grace: float) -> uvicorn.Config:
    """How uvicorn runs it: what it would say of each request, the application says better."""
    return uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(grace)),
        ssl_certfile=secured.certificate if secured else None,
        ssl_keyfile=secured.key if secured else None,
        ssl_keyfile_password=secured.password if secured else None,
    )
