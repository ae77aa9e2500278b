"""The command line: the commands, their arguments and their help.

What the commands do stands in the modules beside this one and is imported when a command runs:
`--help` and completion wait for nothing. Whatever goes wrong is told in one place, `OneLine`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from comptroller.cli import audit_commands, exit_codes
from comptroller.cli.budget_commands import budget_app
from comptroller.cli.options import BUDGETS, LOOK, OPERATE, START, Json, KeyVariable, Ledger, Wide
from comptroller.cli.server_commands import key_app, serve
from comptroller.cli.webhook_commands import webhook_app

EXIT_CODES = (
    "Exit codes: 0 done; 1 the run failed; 2 bad input; 3 denied by a budget or a limit;"
    " 130 and 143 interrupted (Ctrl-C, SIGTERM), with what was used settled."
)


class OneLine(TyperGroup):
    """Commands in groups, whose errors are one line on stderr, and an exit code."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """As Typer's, but errors are told as `exit_codes` says."""
        exit_codes.understand_environment()
        code = exit_codes.told(super().main, *args, **{**settings, "standalone_mode": False})
        raise SystemExit(code)

    def list_commands(self, ctx: Any) -> list[str]:
        """Group by group, in the order of use."""
        groups = (START, BUDGETS, LOOK, OPERATE)

        def place(name: str) -> int:
            return groups.index(getattr(self.commands[name], "rich_help_panel", OPERATE))

        return sorted(super().list_commands(ctx), key=place)


app = typer.Typer(
    cls=OneLine,
    help="Budgets that hold for runs of the OpenAI Agents SDK.",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(budget_app, name="budget", rich_help_panel=BUDGETS)
app.command(rich_help_panel=LOOK)(audit_commands.report)
app.command(rich_help_panel=LOOK)(audit_commands.events)
app.command(rich_help_panel=OPERATE)(serve)
app.add_typer(key_app, name="key", rich_help_panel=OPERATE)
app.add_typer(webhook_app, name="webhook", rich_help_panel=OPERATE)
app.command(rich_help_panel=OPERATE)(audit_commands.verify)
app.command(rich_help_panel=OPERATE)(audit_commands.backup)
outbox_app = typer.Typer(help="Charges that a Cycles server has not accepted yet.")
app.add_typer(outbox_app, name="outbox", rich_help_panel=OPERATE)

Directory = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="The outbox. Left out: what COMPTROLLER_OUTBOX names, else yours.",
    ),
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.")] = False,
) -> None:
    """Budgets that hold for runs of the OpenAI Agents SDK."""
    if version:
        show_version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(rich_help_panel=START)
def demo(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A real model instead of scripted ones; needs OPENAI_API_KEY, and is billed.",
        ),
    ] = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Several tenants' agents at once, offline: budgets, a denial, a cancellation, the receipts.

    Ends with 1 if the ledger differs from what the models and tools themselves counted.
    """
    from comptroller.demo.main import show

    raise typer.Exit(show(model, as_json=as_json, wide=wide))


@app.command(epilog=EXIT_CODES, rich_help_panel=START)
def run(
    agent: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:AGENT",
            help="Where the agent stands: an Agent, or a function that returns one.",
        ),
    ],
    given: Annotated[str, typer.Argument(metavar="INPUT", help="What the agent is told.")],
    *,
    tenant: Annotated[str, typer.Option(help="Who spends.")],
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="The tenant's budget, where it has none yet."),
    ] = None,
    workspace: Annotated[str | None, typer.Option(help="Whose budget counts, too.")] = None,
    app: Annotated[str | None, typer.Option(help="As --workspace.")] = None,
    workflow: Annotated[str | None, typer.Option(help="As --workspace.")] = None,
    llm_estimate: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="What an LLM call reserves (else its worst case)."),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="How long it may last.")] = None,
    max_llm_calls: Annotated[int | None, typer.Option(min=0, help="How many LLM calls.")] = None,
    max_tool_calls: Annotated[int | None, typer.Option(min=0, help="How many tool calls.")] = None,
    max_spend: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="What this run may spend.")
    ] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="How many turns (10).")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    wide: Wide = False,
    as_json: Json = False,
    debug: Annotated[
        bool, typer.Option("--debug", "-v", help="With the traceback of an error.")
    ] = False,
) -> None:
    """Run one agent under its tenant's budget; print the answer and the receipt.

    Ctrl-C and SIGTERM cancel the run, settle what it used, and print the receipt.
    """
    order = locals()
    from comptroller.cli.run import Order, carry_out

    raise typer.Exit(carry_out(Order(**order)))


@app.command(rich_help_panel=LOOK)
def reservations(
    tenant: Annotated[
        str | None, typer.Option(help="Of one tenant; a Cycles server wants one.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="active, committed, released or expired."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """List the reservations, newest first."""
    from comptroller.cli.budgets import list_reservations, with_ledger

    with_ledger(ledger, api_key_env, list_reservations, tenant, status, limit, as_json, wide)


@app.command(rich_help_panel=OPERATE)
def recover(
    on_abandoned: Annotated[
        str, typer.Option(metavar="charge|release", help="What becomes of what was in flight.")
    ] = "charge",
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Settle what dead processes of this host have left reserved, instead of waiting for expiry.

    Ends with 1 if the ledger did not accept something.
    """
    from comptroller.cli.outbox import recover

    raise typer.Exit(recover(ledger, api_key_env, on_abandoned, as_json))


@outbox_app.command("list")
def list_owed(directory: Directory = None, wide: Wide = False, as_json: Json = False) -> None:
    """List what is owed, to any ledger, and what was set aside."""
    from comptroller.cli.outbox import list_owed

    list_owed(directory, as_json, wide)


@outbox_app.command("show")
def show_owed(
    charge: Annotated[str, typer.Argument(metavar="CHARGE", help="As the list names it.")],
    directory: Directory = None,
    as_json: Annotated[bool, typer.Option("--json", help="As without: it is JSON.")] = False,
) -> None:
    """One charge, whole, as JSON."""
    del as_json
    from comptroller.cli.outbox import show_owed

    show_owed(charge, directory)


@outbox_app.command()
def replay(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for it.")] = 30.0,
    directory: Directory = None,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Send what is owed to a ledger now. Ends with 1 if something is left."""
    from comptroller.cli.outbox import replay

    raise typer.Exit(replay(ledger, api_key_env, directory, timeout, as_json))


@app.command("version", hidden=True, rich_help_panel=START)
def show_version(as_json: Json = False) -> None:
    """Show the version of Comptroller, as --version does."""
    from importlib.metadata import version as installed

    found = installed("comptroller")
    typer.echo(f'{{"comptroller": "{found}"}}' if as_json else f"comptroller {found}")


def main() -> None:
    """Run the command `comptroller`."""
    exit_codes.write_anything()
    app(prog_name="comptroller")
