"""What an operator does with webhooks: add, list and remove those of an embedded ledger."""

import os
from datetime import UTC, datetime
from typing import Any

from comptroller.cli import output
from comptroller.cli.budgets import require_embedded
from comptroller.cli.exit_codes import shown_before
from comptroller.cli.tables import Table
from comptroller.ledger.embedded.base import wall_clock
from comptroller.ledger.factory import open_webhooks
from comptroller.ledger.interface import EmbeddedLedger, Ledger
from comptroller.ledger.webhooks import Webhook, new_secret


async def add(ledger: Ledger, url: str, secret_variable: str | None, as_json: bool) -> None:
    """Add a webhook; a secret that was generated for it is shown this once."""
    given = _secret(secret_variable) if secret_variable else None
    webhook = Webhook(url, given or new_secret(), wall_clock())
    with open_webhooks(require_embedded(ledger)) as webhooks:
        with shown_before("no webhook was added"):
            if as_json:
                secret = {} if given else {"secret": webhook.secret}
                output.write_json({**_plain(webhook), **secret})
            elif given is None:
                output.write_text(webhook.secret)
        webhooks.add(webhook)
    if as_json:
        return
    output.write(
        f"{url} is told of every alert of {ledger.name} from now on, signed with"
        f" {'that secret' if given else 'this secret, which is shown this once'}",
        stderr=True,
    )


async def show(ledger: Ledger, as_json: bool, wide: bool) -> None:
    """Every webhook, and how it takes what it is told."""
    owner = require_embedded(ledger)
    with open_webhooks(owner) as webhooks:
        found = webhooks.all()
    since = {webhook.url: await _failing_since(owner, webhook) for webhook in found}
    if as_json:
        output.write_json(
            [{**_plain(webhook), "failing_since_ms": since[webhook.url]} for webhook in found]
        )
    elif found:
        table = Table("webhook", "since (UTC)", "state", prose=("since (UTC)", "state"))
        for webhook in found:
            state = _state(webhook, since[webhook.url])
            table.add_row(output.plain(webhook.url), _moment(webhook.created_ms), state)
        output.write(table, wide=wide)
    else:
        output.write(f"no webhook in {ledger.name}")


async def remove(ledger: Ledger, url: str, as_json: bool) -> None:
    """End a webhook."""
    with open_webhooks(require_embedded(ledger)) as webhooks:
        webhooks.remove(url)
    if as_json:
        output.write_json({"url": url})
    else:
        output.write(f"{url} is told nothing any more")


def _secret(variable: str) -> str:
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ValueError(f"no secret: set it with: export {variable}=...")
    return secret


async def _failing_since(ledger: EmbeddedLedger, webhook: Webhook) -> int | None:
    """When the first alert was that it has not taken; None where it takes what it is told."""
    if not webhook.failures:
        return None
    waiting = await ledger.events(kinds=["alert"], after=webhook.told, limit=1)
    return waiting[0].at_ms if waiting else webhook.created_ms


def _state(webhook: Webhook, since_ms: int | None) -> str:
    if since_ms is None:
        return "delivering"
    times = "once" if webhook.failures == 1 else f"{webhook.failures} times"
    return output.plain(f"failing since {_moment(since_ms)}, {times}: {webhook.problem}")


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"


def _plain(webhook: Webhook) -> dict[str, Any]:
    return {
        "url": webhook.url,
        "created_at_ms": webhook.created_ms,
        "failures": webhook.failures,
        "problem": webhook.problem,
    }
