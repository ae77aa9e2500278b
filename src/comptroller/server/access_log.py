"""What is told of each request: to a meter, and line by line to the logger `comptroller.access`.

A line is one JSON object, which begins as those of the server's own log do. It holds no secret: no
header, no query, no body; of a key its id.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Protocol

from pydantic_core import to_json

from comptroller.server.request import RequestContext

access = logging.getLogger("comptroller.access")

_ROUTELESS = "none"


class RequestMetrics(Protocol):
    """What counts requests, such as `metrics.Metrics`."""

    content_type: str

    def began(self) -> None:
        """Count a request that has come."""

    def ended(self) -> None:
        """Count it out: it was answered, or its caller is gone."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""

    async def text(self) -> bytes:
        """All counts, as their reader reads them."""


def observed(
    exchange: RequestContext, meter: RequestMetrics | None, status: int, seconds: float
) -> None:
    """Tell of an answered request."""
    if meter is not None:
        route = exchange.route or _ROUTELESS
        meter.answered(exchange.method if exchange.route else _ROUTELESS, route, status, seconds)
    if access.isEnabledFor(logging.INFO):
        access.info("%s", line(exchange, status, seconds))


def line(exchange: RequestContext, status: int, seconds: float) -> str:
    """Return a line of the access log."""
    caller = exchange.caller
    at_ms = time.time_ns() // 1_000_000
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return to_json(
        {
            "at": f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z",
            "level": "info",
            "logger": access.name,
            "at_ms": at_ms,
            "method": exchange.method,
            "path": exchange.path,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "tenant": caller.tenant if caller else None,
            "key": caller.key_id if caller else None,
            "peer": exchange.peer,
            "request_id": exchange.request_id,
            "trace_id": exchange.trace_id,
        },
    ).decode()
