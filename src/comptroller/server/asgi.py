"""HTTP as ASGI has it: a body read message by message, an answer written in two."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

import anyio

from comptroller.server.request import invalid

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

MAX_BODY_BYTES = 2**20
"""The longest body that is read, unless told otherwise."""
BODY_TIMEOUT = 30.0
"""Seconds within which a body that has begun has to end."""


class ClientDisconnect(Exception):
    """The caller is gone: nobody waits for an answer."""


async def read(receive: Receive, most_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        ClientDisconnect: the caller hung up before its end.
        LedgerRefused: it is longer than `most_bytes`, and was read no further; or it has not ended
            within `BODY_TIMEOUT`.
    """
    body, more = await _piece(receive)
    if more:
        with anyio.move_on_after(BODY_TIMEOUT):
            while more and len(body) <= most_bytes:
                piece, more = await _piece(receive)
                body += piece
    if len(body) > most_bytes:
        raise invalid(f"the body has more than {most_bytes} bytes")
    if more:
        raise invalid(f"the body did not end within {BODY_TIMEOUT:g} seconds")
    return body


async def _piece(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def write(send: Send, status: int, headers: Headers, content: bytes) -> None:
    """Answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def live(receive: Receive, send: Send) -> None:
    """Take part in the server's start and stop; the ledger is its opener's to close."""
    message: Message = {"type": ""}
    while message["type"] != "lifespan.shutdown":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
