"""What an operator does with webhooks: add, list and remove those of an embedded ledger."""

import os
import secrets
from datetime import UTC, datetime
from typing import Any

from comptroller import console
from comptroller.ledger.embedded import wall_clock
from comptroller.ledger.interface import Ledger
from comptroller.ledger.opening import open_webhooks
from comptroller.ledger.webhooks import Webhook

from .operating import own

_SECRET_BYTES = 32


async def add(ledger: Ledger, url: str, secret_variable: str | None, as_json: bool) -> None:
    """Add a webhook; a secret that was made for it is shown this once."""
    given = _secret(secret_variable) if secret_variable else None
    webhook = Webhook(url, given or f"whsec_{secrets.token_urlsafe(_SECRET_BYTES)}", wall_clock())
    with open_webhooks(own(ledger)) as webhooks:
        webhooks.add(webhook)
    if as_json:
        console.write_json({**_plain(webhook), **({} if given else {"secret": webhook.secret})})
        return
    if given is None:
        console.write_text(webhook.secret)
    console.write(
        f"{url} is told of every alert of {ledger.name} from now on, signed with"
        f" {'that secret' if given else 'this secret, which is shown this once'}",
        stderr=True,
    )


async def show(ledger: Ledger, as_json: bool) -> None:
    """Every webhook, and how it takes what it is told."""
    with open_webhooks(own(ledger)) as webhooks:
        found = webhooks.all()
    if as_json:
        console.write_json([_plain(webhook) for webhook in found])
    elif found:
        table = console.table("webhook", "since (UTC)", "state")
        for webhook in found:
            since = f"{datetime.fromtimestamp(webhook.created_ms / 1000, UTC):%Y-%m-%d %H:%M}"
            table.add_row(console.plain(webhook.url), since, _state(webhook))
        console.write(table)
    else:
        console.write(f"no webhook in {ledger.name}")


async def remove(ledger: Ledger, url: str, as_json: bool) -> None:
    """End a webhook."""
    with open_webhooks(own(ledger)) as webhooks:
        webhooks.remove(url)
    if as_json:
        console.write_json({"url": url})
    else:
        console.write(f"{url} is told nothing any more")


def _secret(variable: str) -> str:
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ValueError(f"no secret: set it with: export {variable}=...")
    return secret


def _state(webhook: Webhook) -> str:
    if webhook.failures:
        return console.plain(f"failed {webhook.failures} times: {webhook.problem}")
    return "well"


def _plain(webhook: Webhook) -> dict[str, Any]:
    return {
        "url": webhook.url,
        "created_at_ms": webhook.created_ms,
        "failures": webhook.failures,
        "problem": webhook.problem,
    }
