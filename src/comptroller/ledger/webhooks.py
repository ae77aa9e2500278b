"""Webhooks: an alert as an HTTP request that its receiver can believe.

A body is signed with the webhook's secret (HMAC-SHA256 over the time and the body), so a receiver
knows that it is ours, unchanged and new: `verify_signature`. It may come twice, where an answer got
lost; its id is the same then. A receiver is given `MOST_SECONDS` for all of it, and of its answer
nothing is read but the head: whatever it does, it holds nobody up.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

import anyio
import attrs
import httpx

from comptroller.ledger.models import LogEntry
from comptroller.ledger.proxies import proxy_for

SIGNATURE = "X-Comptroller-Signature"
DELIVERY = "X-Comptroller-Delivery"
_SIGNATURE = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})")
MOST_SECONDS = 10.0
"""For one delivery as a whole, from the look-up of its address to the head of its answer."""
_TOLERANCE = 300
"""Seconds that a request may be old."""


@attrs.frozen
class Webhook:
    """A place that is told of alerts.

    Attributes:
        url: where they are posted.
        secret: what they are signed with.
        created_ms: since when.
        told: the number of the last entry of the log that it has taken.
        failures: how often in a row it has not taken the next one.
        not_before_ms: when it is tried again.
        problem: what went wrong last.
    """

    url: str = attrs.field()
    secret: str = attrs.field(repr=False)
    created_ms: int = 0
    told: int = 0
    failures: int = 0
    not_before_ms: int = 0
    problem: str | None = None

    @url.validator
    def _is_an_address(self, _: Any, url: str) -> None:
        try:
            parts = httpx.URL(url)
            valid = parts.scheme in ("http", "https") and bool(parts.host) and not parts.userinfo
        except (httpx.InvalidURL, TypeError):
            valid = False
        if not valid:
            raise ValueError(
                f"{url!r} is no address of a webhook: write it like https://example.com/alerts,"
                " without a name or password"
            )


def delivery_id(entry: LogEntry) -> str:
    """What a receiver knows a delivery by, also when it comes twice."""
    return f"alert_{entry.number:x}_{entry.at_ms:x}"


def body_of(entry: LogEntry, ledger: str) -> bytes:
    """An alert as it is posted."""
    told = {
        "id": delivery_id(entry),
        "type": "budget.alert",
        "at_ms": entry.at_ms,
        "ledger": ledger,
        "scope": entry.scope,
        "unit": entry.unit.value if entry.unit else None,
        "share": entry.details.get("share"),
        "spent": entry.amount,
        "allocated": entry.details.get("allocated"),
        "period_since_ms": entry.since_ms or None,
    }
    return json.dumps(told, separators=(",", ":")).encode()


def headers_of(entry: LogEntry, body: bytes, secret: str, now: int) -> Mapping[str, str]:
    """The headers that go with a body; `now` is in epoch seconds."""
    return {
        "Content-Type": "application/json",
        DELIVERY: delivery_id(entry),
        SIGNATURE: f"t={now},v1={_digest(secret, now, body)}",
    }


def post(url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
    """Deliver: what went wrong, or None. Blocks, in a thread without an event loop."""
    return anyio.run(_post, url, body, headers)


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
    try:
        with anyio.fail_after(MOST_SECONDS):
            through = httpx.AsyncHTTPTransport(proxy=proxy_for(httpx.URL(url)))
            async with (
                httpx.AsyncClient(transport=through, timeout=None) as http,  # noqa: S113 - above
                http.stream("POST", url, content=body, headers=headers) as answer,
            ):
                return None if answer.is_success else f"answered {answer.status_code}"
    except TimeoutError:
        return f"did not answer within {MOST_SECONDS:g} seconds"
    except Exception as error:  # noqa: BLE001 - proxies and certificates of the environment, too
        return str(error) or type(error).__name__


def verify_signature(
    secret: str, header: str, body: bytes, now: float, tolerance: float = _TOLERANCE
) -> bool:
    """Whether `body` came with `header` from whoever has `secret`, in the last `tolerance` seconds.

    For receivers: `header` is the request's `X-Comptroller-Signature`, `now` is `time.time()`.
    """
    given = _SIGNATURE.fullmatch(header)
    if given is None or abs(now - int(given[1])) > tolerance:
        return False
    return hmac.compare_digest(given[2], _digest(secret, int(given[1]), body))


def _digest(secret: str, at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
