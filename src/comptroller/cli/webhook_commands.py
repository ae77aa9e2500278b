"""The commands of `webhook`: where alerts are sent."""

from typing import Annotated

import typer

from .options import Json, Ledger

webhook_app = typer.Typer(help="Where the alerts of an embedded ledger are sent.")

Url = Annotated[str, typer.Argument(metavar="URL", help="Such as https://example.com/alerts.")]


@webhook_app.command("add")
def add_webhook(
    url: Url,
    secret_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The variable with the secret; left out: one is made."),
    ] = None,
    ledger: Ledger = None,
    as_json: Json = False,
) -> None:
    """Send every alert from now on there, signed and retried; a made secret is shown this once."""
    from .operating import at
    from .webhooks import add

    at(ledger, None, add, url, secret_env, as_json, create=True)


@webhook_app.command("list")
def list_webhooks(ledger: Ledger = None, as_json: Json = False) -> None:
    """The webhooks, and whether they take what they are told."""
    from .operating import at
    from .webhooks import show

    at(ledger, None, show, as_json)


@webhook_app.command("remove")
def remove_webhook(url: Url, ledger: Ledger = None, as_json: Json = False) -> None:
    """Send nothing there any more."""
    from .operating import at
    from .webhooks import remove

    at(ledger, None, remove, url, as_json)
