"""The command line: the commands, their arguments and their help.

What the commands do stands in the modules beside this one and is imported when a command runs:
`--help` and completion wait for nothing. Whatever goes wrong is told in one place, `OneLine`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import audit_commands, exits
from .options import Json, KeyVariable, Ledger, Money, Scope
from .server_commands import key_app, serve
from .webhook_commands import webhook_app

EXIT_CODES = (
    "Exit codes: 0 done; 1 the run failed; 2 bad input; 3 denied by a budget or a limit;"
    " 130 and 143 interrupted (Ctrl-C, SIGTERM), with what was used settled."
)


class OneLine(TyperGroup):
    """Commands whose errors are one line on stderr, and an exit code."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """As Typer's, but errors are told as `exits` says."""
        code = exits.told(super().main, *args, **{**settings, "standalone_mode": False})
        raise SystemExit(code)


app = typer.Typer(
    cls=OneLine,
    help="Budgets that hold for runs of the OpenAI Agents SDK.",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)
budget_app = typer.Typer(help="Set, fund, freeze and list the budgets of an embedded ledger.")
app.add_typer(budget_app, name="budget")
app.command()(serve)
app.add_typer(webhook_app, name="webhook")
app.command()(audit_commands.report)
app.command()(audit_commands.events)
app.command()(audit_commands.verify)
app.command()(audit_commands.backup)
app.add_typer(key_app, name="key")
outbox_app = typer.Typer(help="Charges that a Cycles server has not accepted yet.")
app.add_typer(outbox_app, name="outbox")

Directory = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Where the outbox is (COMPTROLLER_OUTBOX, else yours)."),
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Budgets that hold for runs of the OpenAI Agents SDK."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"comptroller {installed('comptroller')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A real model instead of scripted ones; needs OPENAI_API_KEY, and is billed.",
        ),
    ] = None,
) -> None:
    """Several tenants' agents at once, offline: budgets, a denial, a cancellation, the receipts.

    Ends with 1 if the ledger differs from what the models and tools themselves counted.
    """
    from .demo.play import show

    raise typer.Exit(show(model))


@app.command(epilog=EXIT_CODES)
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
    as_json: Json = False,
    debug: Annotated[
        bool, typer.Option("--debug", "-v", help="With the traceback of an error.")
    ] = False,
) -> None:
    """Run one agent under its tenant's budget; print the answer and the receipt.

    Ctrl-C and SIGTERM cancel the run, settle what it used, and print the receipt.
    """
    order = locals()
    from .running import Order, carry_out

    raise typer.Exit(carry_out(Order(**order)))


@budget_app.command("set")
def set_budget(
    scope: Scope,
    amount: Money,
    *,
    per: Annotated[
        str | None, typer.Option(metavar="day|month", help="Anew in every day or month.")
    ] = None,
    zone: Annotated[
        str, typer.Option(metavar="NAME", help="Whose days: UTC, or such as Europe/Berlin.")
    ] = "UTC",
    overdraft: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="What calls that ask for it may owe.")
    ] = None,
    alert: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARE", help="Tell when so much is spent: 80%; repeatable."),
    ] = None,
    caps_below: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="The caps hold while less than this remains: 20%."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="A cap: output tokens of an LLM call.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=0, help="A cap: calls that may follow in a run.")
    ] = None,
    cooldown: Annotated[
        int | None, typer.Option(min=0, metavar="MS", help="A cap: milliseconds between calls.")
    ] = None,
    allow_tool: Annotated[
        list[str] | None, typer.Option(metavar="TOOL", help="A cap: no other tool; repeatable.")
    ] = None,
    deny_tool: Annotated[
        list[str] | None, typer.Option(metavar="TOOL", help="A cap: not this tool; repeatable.")
    ] = None,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Set what a scope may spend. What it has spent and reserved stays."""
    from .operating import BudgetOrder, at, caps_of, set_budget

    caps = caps_of(max_tokens, max_steps, cooldown, allow_tool, deny_tool)
    alerts = tuple(alert or ())
    order = BudgetOrder(scope, amount, per, zone, overdraft, alerts, caps_below, caps)
    at(ledger, api_key_env, set_budget, order, as_json, create=True)


@budget_app.command()
def fund(
    scope: Scope,
    amount: Money,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Add to a budget; a debt is repaid first."""
    from .operating import at, fund

    at(ledger, api_key_env, fund, scope, amount, as_json)


@budget_app.command()
def freeze(
    scope: Scope, ledger: Ledger = None, api_key_env: KeyVariable = None, as_json: Json = False
) -> None:
    """Refuse new spend at a scope; what is reserved settles as ever."""
    from .operating import at, freeze

    at(ledger, api_key_env, freeze, scope, True, as_json)


@budget_app.command()
def unfreeze(
    scope: Scope, ledger: Ledger = None, api_key_env: KeyVariable = None, as_json: Json = False
) -> None:
    """End a freeze."""
    from .operating import at, freeze

    at(ledger, api_key_env, freeze, scope, False, as_json)


@budget_app.command()
def close(
    scope: Scope, ledger: Ledger = None, api_key_env: KeyVariable = None, as_json: Json = False
) -> None:
    """Grant nothing more at a scope, such as a tenant that has gone; budget set opens it again."""
    from .operating import at, close

    at(ledger, api_key_env, close, scope, as_json)


@budget_app.command("list")
def list_budgets(
    tenant: Annotated[
        str | None, typer.Option(help="Of one tenant; a Cycles server wants one.")
    ] = None,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """The budgets: allocated, spent, reserved, remaining, debt, state."""
    from .operating import at, list_budgets

    at(ledger, api_key_env, list_budgets, tenant, as_json)


@app.command()
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
    as_json: Json = False,
) -> None:
    """The reservations, newest first."""
    from .operating import at, list_reservations

    at(ledger, api_key_env, list_reservations, tenant, status, limit, as_json)


@app.command()
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
    from .owing import recover

    raise typer.Exit(recover(ledger, api_key_env, on_abandoned, as_json))


@outbox_app.command("list")
def list_owed(directory: Directory = None, as_json: Json = False) -> None:
    """What is owed, to any ledger, and what was set aside."""
    from .owing import list_owed

    list_owed(directory, as_json)


@outbox_app.command("show")
def show_owed(
    charge: Annotated[str, typer.Argument(metavar="CHARGE", help="As the list names it.")],
    directory: Directory = None,
) -> None:
    """One charge, whole, as JSON."""
    from .owing import show_owed

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
    from .owing import replay

    raise typer.Exit(replay(ledger, api_key_env, directory, timeout, as_json))


def main() -> None:
    """The entry point `comptroller`."""
    exits.write_anything()
    app(prog_name="comptroller")
