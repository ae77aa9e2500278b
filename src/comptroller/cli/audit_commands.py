"""The commands of whoever wants to know, or to be sure: `report`, `events`, `verify`, `backup`."""

from pathlib import Path
from typing import Annotated

import typer

from comptroller.cli.options import Json, LedgerFile, Wide

Tenant = Annotated[str | None, typer.Option(help="Of one tenant.")]
_TIME = "Such as yesterday, today, 3h, 7d, 2025-06-15."


def report(
    since: Annotated[str | None, typer.Option(metavar="TIME", help=_TIME)] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="As --since.")] = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="WHAT,...",
            help="Any of tenant, workspace, app, workflow, agent, tool, model, day, run,"
            " and labels of runs such as dimension:user.",
        ),
    ] = "tenant",
    tenant: Tenant = None,
    zone: Annotated[
        str, typer.Option(metavar="NAME", help="Whose days: UTC, or such as Europe/Berlin.")
    ] = "UTC",
    shown: Annotated[
        str | None, typer.Option("--format", metavar="table|csv|json", help="How it is shown.")
    ] = None,
    ledger: LedgerFile = None,
    wide: Wide = False,
    as_json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
) -> None:
    """Report what was charged, reserved, abandoned and denied, and the tokens.

    A call belongs to the time of its reservation, taken to the quarter of an hour.
    """
    from comptroller.cli.budgets import at_file
    from comptroller.cli.report import Order, format_of
    from comptroller.cli.report import report as reported

    how = format_of(shown, as_json)
    at_file("report", ledger, reported, Order(by, since, until, tenant, zone, how, wide))


def events(
    tenant: Tenant = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="A kind, such as alert, or a group: operator (set, fund, freeze, ...), request"
            " (reserve, commit, ... over HTTP), all. Repeatable. Left out: all but requests.",
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=_TIME)] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="And every further one, until Ctrl-C.")
    ] = False,
    ledger: LedgerFile = None,
    wide: Wide = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines: a JSON line each.")
    ] = False,
) -> None:
    """Show the event log: what operators did, what budgets did, what was denied, who asked."""
    from comptroller.cli.audit import Order, kinds
    from comptroller.cli.audit import events as shown
    from comptroller.cli.budgets import at_file

    order = Order(tenant, kinds(kind or ()), since, limit, follow, as_json, wide)
    raise typer.Exit(at_file("events", ledger, shown, order))


def verify(ledger: LedgerFile = None, as_json: Json = False) -> None:
    """Recompute every balance from the log and the reservations; ends with 1 if any differs."""
    from comptroller.cli.audit import verify as verified
    from comptroller.cli.budgets import at_file

    raise typer.Exit(at_file("verify", ledger, verified, as_json))


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace it if it is there, once the new one is whole.")
    ] = False,
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """Copy an embedded ledger while it is in use: one whole file, checked, as of one moment.

    Ends with 1 if a balance of it is not what its history comes to.
    """
    from comptroller.cli.backup import back_up

    raise typer.Exit(back_up(ledger, file, force, as_json))
