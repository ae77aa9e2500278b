"""Webhooks: an alert as an HTTP request that its receiver can believe.

Requests are those of Standard Webhooks (https://www.standardwebhooks.com), for which receivers have
verifiers in most languages: `standardwebhooks.Webhook(secret).verify(body, headers)`. One may
come twice, where an answer got lost; its `webhook-id` is the same then. A receiver is given
`MOST_SECONDS` for all of it, and of its answer nothing is read but the head: whatever it does, it
holds nobody up.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import attrs
import httpx
import standardwebhooks

from comptroller.ledger.models import LogEntry
from comptroller.ledger.proxies import proxy_for

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
MOST_SECONDS = 10.0
"""For one delivery as a whole, from the look-up of its address to the head of its answer."""
_PREFIX = "whsec_"
_KEY_BYTES = 32
"""Of 24 to 64 (Standard Webhooks, "Symmetric")."""


@attrs.frozen
class Webhook:
    """A place that is told of alerts.

    Attributes:
        url: where they are posted.
        secret: what they are signed with: `whsec_` and the base64 of the key; a text that is not of
            that form is the key itself.
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

    @secret.validator
    def _is_one(self, _: Any, secret: str) -> None:
        if not isinstance(secret, str) or not secret:
            raise ValueError("the secret of a webhook is empty: anybody could sign with it")


def new_secret() -> str:
    """Return a secret that nobody knows yet."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        with suppress(ValueError):
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True) or secret.encode()
    return secret.encode()


def delivery_id(entry: LogEntry) -> str:
    """Return what a receiver knows a delivery by, also when it comes twice."""
    return f"alert_{entry.number:x}_{entry.at_ms:x}"


def body_of(entry: LogEntry, ledger: str) -> bytes:
    """Return an alert as it is posted."""
    payload = {
        "type": "budget.alert",
        "timestamp": _iso(entry.at_ms),
        "data": {
            "ledger": ledger,
            "scope": entry.scope,
            "unit": entry.unit.value if entry.unit else None,
            "share": entry.details.get("share"),
            "spent": entry.amount,
            "allocated": entry.details.get("allocated"),
            "period_since": _iso(entry.since_ms) if entry.since_ms else None,
        },
    }
    return json.dumps(payload, separators=(",", ":")).encode()


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def headers_of(entry: LogEntry, body: bytes, secret: str, now: int) -> Mapping[str, str]:
    """Return the headers that go with a body; `now` is in epoch seconds."""
    at = datetime.fromtimestamp(now, UTC)
    signature = standardwebhooks.Webhook(_key(secret)).sign(delivery_id(entry), at, body.decode())
    return {
        "content-type": "application/json",
        ID: delivery_id(entry),
        TIMESTAMP: str(now),
        SIGNATURE: signature,
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
