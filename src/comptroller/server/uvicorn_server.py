"""uvicorn, as a ledger is served: no signals of its own, bounded heads, the protocol's errors."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httptools
import uvicorn
from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from comptroller.server import Application
from comptroller.server.asgi import BODY_TIMEOUT
from comptroller.server.listen import Tls

MAX_HEAD_BYTES = 2**16
"""Bytes of a request's head: its target and headers."""
_KEEP_ALIVE = 30  # seconds
_MAX_REQUEST_SECONDS = 2 * BODY_TIMEOUT
"""Seconds for a whole request, for the first one to begin, and for what was written to be read. For
a body that has begun the application has less patience, and says so itself."""
_OF_THE_GRACE = 0.9
"""The part of a graceful end in which a request may still become whole."""
MAX_PIPELINED = 256
"""Requests of one connection that wait for the answers of those before them."""


class CoalescingTransport:
    """A transport that sends together what is written in one turn of the loop, and really closes.

    uvicorn writes the head of an answer and its body one after the other; each by itself costs a
    system call here and wakes its reader there, for half an answer. And a transport that is closed
    first sends what it holds: for ever, where nobody reads that.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []
        self._unread: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        """In everything else it is the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)

    def close(self) -> None:
        """Close it, once everything is sent, or within `_MAX_REQUEST_SECONDS` seconds."""
        self._send()
        if not self._transport.is_closing():
            self.must_be_read()
        self._transport.close()

    def must_be_read(self) -> None:
        """Hang up in `_MAX_REQUEST_SECONDS` seconds, unless `was_read` is called before."""
        if self._unread is None:
            self._unread = self._loop.call_later(_MAX_REQUEST_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        self._transport.abort()

    def was_read(self) -> None:
        """Note that what was written is on its way, or that nobody is there any more."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _send(self) -> None:
        if self._written and not self._transport.is_closing():
            self._transport.write(b"".join(self._written))
        self._written.clear()


class Protocol(HttpToolsProtocol):
    """One connection, bounded in memory and in time, whatever was sent before.

    What does not end is refused before it fills the memory: a head, what follows a body, more and
    more requests before the first ones are answered. Whoever falls silent, sends a byte now and
    then, or does not read its answers, loses the connection: there are only so many.

    - A request has `_MAX_REQUEST_SECONDS` from its first byte to its last; the first one of a
      connection as many to begin, a later one `_KEEP_ALIVE`. Line ends between two requests begin
      none.
    - What was written has to be read within `_MAX_REQUEST_SECONDS` seconds.
    - A refusal is sent after the answers of the requests before it: it answers none of these.
    - Trailers are no headers (RFC 9110, 6.5.1), and an upgrade is ignored (7.8).
    """

    transport: CoalescingTransport  # type: ignore[assignment]

    _part: Literal["none", "head", "body"] = "none"
    """Of the request that is being read."""
    _read = 0
    """Bytes since a head began, or since the last piece of a body."""
    _late: asyncio.TimerHandle | None = None
    _upgrade = False
    """The head that has ended asks for another protocol: it is read once more, without that."""
    _refusal: str | None = None
    """What is said instead of reading on, once the requests before are answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there: a request is expected."""
        super().connection_made(CoalescingTransport(transport))  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is."""
        self._wait_no_more()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self.transport.was_read()

    def data_received(self, data: bytes) -> None:
        """Bytes came. The parser keeps what belongs to a head that has not ended."""
        if self._refusal is not None:
            return
        self._read += len(data)
        try:
            while data:
                data = self._parsed(data)
        except httptools.HttpParserError:
            self._refuse("Invalid HTTP request received.")
        if self._read > MAX_HEAD_BYTES:
            self._refuse(f"the head has more than {MAX_HEAD_BYTES} bytes")
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.close()

    def _parsed(self, data: bytes) -> bytes:
        """Parse `data`: what is left of it after a head that asks for another protocol.

        The parser ends there and takes the request for one without a body. What Java's client and
        `curl --http2` send by themselves is an ordinary request to who does not know `h2c`.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (end,) = upgrade.args
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            headers = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
            self._upgrade = False
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            self.parser.feed_data(b"%b %b HTTP/%b\r\n" % (method, self.url, version))
            self.parser.feed_data(b"".join(headers) + b"\r\n")
            return data[end:]
        return b""

    def _wait(self) -> None:
        self._wait_no_more()
        self._late = self.loop.call_later(_MAX_REQUEST_SECONDS, self._give_up)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._refuse(f"the request did not end within {_MAX_REQUEST_SECONDS:g} seconds")

    def _refuse(self, why: str) -> None:
        """Refuse what is being read. Nothing is read any more."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = why
        self._wait_no_more()
        if self._part != "body":
            answered = self.cycle is None or self.cycle.response_complete
        elif self.pipeline and self.pipeline[0][0] is self.cycle:  # not begun, and never will be
            self.pipeline.popleft()
            answered = False
        elif self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # in the middle of an answer that did not wait for the body
            return
        else:
            answered = True
        if answered:
            self.send_400_response(why)

    def on_response_complete(self) -> None:
        """Let the next request begin: this one is answered."""
        last = not self.pipeline
        super().on_response_complete()
        if self._part != "none":  # it has begun already
            self._unset_keepalive_if_required()
        if last and self._refusal is not None and not self.transport.is_closing():
            self.send_400_response(self._refusal)

    def pause_writing(self) -> None:
        """More is written than is read."""
        super().pause_writing()
        self.transport.must_be_read()

    def resume_writing(self) -> None:
        """Most of it was read."""
        super().resume_writing()
        self.transport.was_read()

    def shutdown(self) -> None:
        """End with the server. Who has not said all by the end of its grace is hung up on, and asks
        again elsewhere; uvicorn would break off the application, which has done nothing yet.
        """
        super().shutdown()
        grace = self.config.timeout_graceful_shutdown or 0
        if self._part != "none" and not self.transport.is_closing():
            self._wait_no_more()
            self._late = self.loop.call_later(_OF_THE_GRACE * grace, self.transport.close)

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._read, self._part = 0, "head"
        self._unset_keepalive_if_required()
        self._wait()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head; one that follows a body says nothing here."""
        if self._part == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head."""
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")  # the parser makes it an HttpParserError
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            super().on_headers_complete()
            self._read, self._part = 0, "body"

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._read = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        if not self._upgrade:
            self._read, self._part = 0, "none"
            self._wait_no_more()
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the protocol's own form."""
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
