"""The commands of `webhook`: where alerts are sent."""

from typing import Annotated

import typer

from comptroller.cli.options import Json, LedgerFile, Wide

webhook_app = typer.Typer(help="Where the alerts of an embedded ledger are sent.")

Url = Annotated[str, typer.Argument(metavar="URL", help="Such as https://example.com/alerts.")]


@webhook_app.command("add")
def add_webhook(
    url: Url,
    secret_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The variable with the secret; else one is made."),
    ] = None,
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """Send every alert from now on there, signed and retried.

    A generated secret is shown this once.
    """
    from comptroller.cli.budgets import at_file
    from comptroller.cli.webhooks import add

    at_file("webhook add", ledger, add, url, secret_env, as_json, create=True)


@webhook_app.command("list")
def list_webhooks(ledger: LedgerFile = None, wide: Wide = False, as_json: Json = False) -> None:
    """List the webhooks, and whether they are delivering or failing."""
    from comptroller.cli.budgets import at_file
    from comptroller.cli.webhooks import show

    at_file("webhook list", ledger, show, as_json, wide)


@webhook_app.command("remove")
def remove_webhook(url: Url, ledger: LedgerFile = None, as_json: Json = False) -> None:
    """Send nothing there any more."""
    from comptroller.cli.budgets import at_file
    from comptroller.cli.webhooks import remove

    at_file("webhook remove", ledger, remove, url, as_json)
