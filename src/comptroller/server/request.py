"""One request, what it is known by, and what is wrong with it."""

import itertools
import re
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from comptroller.errors import ComptrollerError, refusal
from comptroller.server.auth import Caller

_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACE_ID = re.compile(rb"(?!0{32})([0-9a-f]{32})")
_PROCESS = secrets.token_hex(6)
_NUMBERS = itertools.count(1)


class RequestContext:
    """One request, and what its answer is known by."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self._scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))  # if mounted
        text = scope["query_string"].decode("latin-1")
        self.query: Mapping[str, str] = (
            dict(parse_qsl(text, keep_blank_values=True)) if text else {}
        )
        """The parameters; of several of one name, the last."""
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.request_id = f"req_{_PROCESS}{next(_NUMBERS):06x}"
        self.trace_id = _trace(self.headers)
        self.route = ""
        """The path with its names left open, once it was found."""
        self.caller: Caller | None = None
        self.remaining: int | None = None
        """Requests that the caller's rate leaves, where there is one."""

    @property
    def peer(self) -> str | None:
        """The address that it came from."""
        client = self._scope.get("client")
        return client[0] if client else None


def _trace(headers: Mapping[bytes, bytes]) -> str:
    """Return the caller's trace id, else a new one (protocol, CORRELATION AND TRACING)."""
    for name, pattern in ((b"traceparent", _TRACEPARENT), (b"x-cycles-trace-id", _TRACE_ID)):
        if (text := headers.get(name)) and (given := pattern.fullmatch(text)):
            return given[1].decode()
    return secrets.token_hex(16)


def invalid(message: str) -> ComptrollerError:
    """400: the request itself is wrong."""
    return problem(message, 400, "INVALID_REQUEST")


def problem(
    message: str, status: int, code: str, *, retry_after_ms: int | None = None
) -> ComptrollerError:
    """Return an error of the server's own finding."""
    return refusal(
        message,
        status=status,
        error_code=code,
        asks_for_budget=False,
        retry_after_ms=retry_after_ms,
    )
