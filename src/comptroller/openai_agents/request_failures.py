"""How a request to a model failed: whether work may have begun (law 3).

Client libraries wrap what happened, some under a status that no server gave: all that stands
behind an error counts, its causes, its contexts, the members of groups. It is released only where
something says that nothing was sent, or that it was refused, and nothing says that work may have
run, such as an earlier attempt of the client's own that broke off after sending.
"""

import asyncio
import socket
import ssl
import sys
from http import HTTPStatus
from typing import Any

from agents import UserError

from comptroller.core.identifiers import truncate_utf8
from comptroller.core.settlement import Abandoned, NotStarted, refused_before_work

_NOT_CONNECTED = frozenset(
    {
        # httpx, httpcore, requests
        "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
        "InvalidURL",
        # aiohttp
        "ClientConnectorError", "ConnectionTimeoutError", "ClientConnectorCertificateError",
        # urllib3, botocore
        "NewConnectionError", "ConnectTimeoutError", "EndpointConnectionError",
        # websockets: the request follows the handshake
        "InvalidHandshake", "InvalidURI",
    }
)  # fmt: skip
"""Errors of client libraries, by name, that say: there was no connection to send anything on."""

_SENT = frozenset(
    {
        # httpx, httpcore, requests
        "ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "RemoteProtocolError",
        "DecodingError", "ChunkedEncodingError",
        # aiohttp
        "ServerDisconnectedError", "SocketTimeoutError", "ClientPayloadError",
        # urllib3, botocore, websockets
        "ReadTimeoutError", "ProtocolError", "IncompleteRead", "ConnectionClosed",
        # an answer that was read, and was no good
        "ModelBehaviorError", "APIResponseValidationError", "JSONDecodeError", "ValidationError",
    }
)  # fmt: skip
"""Those that say: the request was on its way, or answered."""

_CUT = frozenset(
    {
        "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError", "TimeoutError",
        "CancelledError", "EOFError", "BrokenResourceError", "ClosedResourceError",
    }
)  # fmt: skip
"""Those that say so too, unless they are why there was no connection."""

_HANDSHAKE = frozenset(
    {
        "WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE",
        "SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_PROTOCOL_VERSION",
    }
)  # fmt: skip
_CONNECTING = ("Connect call failed", "connection attempts failed", "attempts to connect to")
"""How asyncio, anyio and trio word an OSError of several addresses."""
_DESCRIBED = 200  # characters; a ledger's metadata has room for 256


class Attempt:
    """One request to a model, from the moment before it.

    Attributes:
        heard: something of its answer has come.
    """

    def __init__(self, *, heard: bool = False) -> None:
        self.heard = heard
        self._around = sys.exception()  # handled by whoever asks: it becomes a context of ours
        self._waited = False
        asyncio.get_running_loop().call_soon(self._has_waited)

    def _has_waited(self) -> None:
        self._waited = True

    def end_of(self, error: BaseException, why: BaseException | None) -> NotStarted | Abandoned:
        """How it ended that raised `error`. `why`: what ended its run, if anything did."""
        if isinstance(error, asyncio.CancelledError):
            return Abandoned(str(why or "cancelled in flight"))
        if isinstance(error, GeneratorExit):
            return Abandoned(str(why or "the stream was closed"))
        # A use of the SDK that it refuses before it has waited for anything was not sent.
        refused = isinstance(error, UserError) and not self._waited
        if not self.heard and (refused or never_began(error, self._around)):
            return NotStarted(describe_error(error))
        return Abandoned(describe_error(error))


def never_began(error: BaseException, around: BaseException | None = None) -> bool:
    """Whether a request that raised `error` was not sent, or was refused before any work.

    `around`: an exception that was being handled when it was made, and says nothing about it.
    """
    return _never_began(error, {id(around)})


def _never_began(error: BaseException, seen: set[int]) -> bool:
    never, todo = False, [(error, False)]
    while todo:
        found, connecting = todo.pop()
        if id(found) in seen:  # causes may go round in a circle
            continue
        seen.add(id(found))
        connecting = connecting or _is_named(found, _NOT_CONNECTED)
        if _may_have_run(found, connecting):
            return False
        if isinstance(found, BaseExceptionGroup):
            if connecting:
                todo += [(member, True) for member in found.exceptions]
            elif not all(_never_began(member, seen) for member in found.exceptions):
                return False
            never = True
        never = never or connecting or _was_not_sent(found)
        never = never or refused_before_work(_status(found))
        links = (found.__cause__, found.__context__)
        todo += [(link, connecting) for link in links if link is not None]
    return never


def _may_have_run(error: BaseException, connecting: bool) -> bool:
    if _is_named(error, _SENT) or not (connecting or _is_a_failure(error)):
        return True
    status = _status(error)
    return status is not None and not refused_before_work(status) and _was_answered(error)


def _is_a_failure(error: BaseException) -> bool:
    """Whether it is no sign of a request that was cut off, or of a process that ends."""
    ordinary = isinstance(error, Exception | BaseExceptionGroup)
    return ordinary and not _is_named(error, _CUT)


def _was_not_sent(error: BaseException) -> bool:
    if isinstance(error, ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError):
        return True
    if isinstance(error, ssl.SSLError):
        return error.reason in _HANDSHAKE
    return isinstance(error, OSError) and any(words in _text(error) for words in _CONNECTING)


def _is_named(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error that an answer brought, or that a library has made up."""
    for thing in (error, _got(error, "response")):
        for name in ("status_code", "status", "code"):
            found = _got(thing, name)
            if isinstance(found, int) and HTTPStatus.BAD_REQUEST <= found < 600:  # noqa: PLR2004
                return int(found)
    return None


def _was_answered(error: BaseException) -> bool:
    """Whether its status came over the wire: a response that was made up has no headers."""
    return bool(_got(_got(error, "response"), "headers"))


def _got(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - somebody else's property
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - somebody else's `__str__`
        return "(it has no text)"


def describe_error(error: BaseException) -> str:
    """Return the error in a line that any ledger takes, whatever its own text is like."""
    return truncate_utf8(f"{type(error).__name__}: {_text(error)}", _DESCRIBED)
