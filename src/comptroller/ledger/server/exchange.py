"""One request, what it is known by, and what is wrong with it in the protocol's words."""

import itertools
import re
import secrets
from collections.abc import Mapping, MutableMapping
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import to_json
from runcycles import ErrorCode

from comptroller.errors import BudgetExceeded, ComptrollerError, refusal
from comptroller.ledger import wire
from comptroller.ledger.server.callers import Caller

_REFUSALS = range(400, 500)
_CONFLICT, _FAILED = 409, 500
_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACE_ID = re.compile(rb"(?!0{32})([0-9a-f]{32})")
_DETAILS = wire.DETAILS.lower().encode()
_PROCESS = secrets.token_hex(6)
_NUMBERS = itertools.count(1)


class Exchange:
    """One request, and what its answer is known by."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self._scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))  # if mounted
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.request_id = f"req_{_PROCESS}{next(_NUMBERS):06x}"
        self.trace_id = _trace(self.headers)
        self.route = ""
        """The path with its names left open, once it was found."""
        self.caller: Caller | None = None
        self.remaining: int | None = None
        """Requests that the caller's rate leaves, where there is one."""

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The parameters; of several of one name, the last."""
        text = self._scope["query_string"].decode("latin-1")
        return dict(parse_qsl(text, keep_blank_values=True)) if text else {}

    @property
    def peer(self) -> str | None:
        """The address that it came from."""
        client = self._scope.get("client")
        return client[0] if client else None


def _trace(headers: Mapping[bytes, bytes]) -> str:
    """The caller's trace id, else a new one (protocol, CORRELATION AND TRACING)."""
    for name, pattern in ((b"traceparent", _TRACEPARENT), (b"x-cycles-trace-id", _TRACE_ID)):
        if (text := headers.get(name)) and (given := pattern.fullmatch(text)):
            return given[1].decode()
    return secrets.token_hex(16)


def refused(exchange: Exchange, error: ComptrollerError) -> tuple[int, bytes]:
    """The status and body of an error; one that the protocol does not know is the server's own."""
    code = getattr(error, "error_code", None)
    status = _CONFLICT if isinstance(error, BudgetExceeded) else getattr(error, "status", _FAILED)
    if code not in ErrorCode.__members__ or status not in _REFUSALS:
        code, status = "INTERNAL_ERROR", _FAILED
    body: dict[str, Any] = {
        "error": code,
        "message": str(error),
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
    }
    details = getattr(error, "details", None)
    if details and (code == "UNIT_MISMATCH" or _DETAILS in exchange.headers):
        body["details"] = details
    return status, to_json(body)


def invalid(message: str) -> ComptrollerError:
    """400: the request itself is wrong."""
    return problem(message, 400, "INVALID_REQUEST")


def problem(
    message: str, status: int, code: str, *, retry_after_ms: int | None = None
) -> ComptrollerError:
    """An error of the server's own finding."""
    return refusal(
        message,
        status=status,
        error_code=code,
        asks_for_budget=False,
        retry_after_ms=retry_after_ms,
    )
