"""The commands of `budget`: what scopes may spend."""

from typing import Annotated

import typer

from comptroller.cli.options import Json, KeyVariable, Ledger, Money, Scope, Wide

budget_app = typer.Typer(
    help="Set, fund, freeze, close and list budgets. Those of a server: with its operator's key in"
    " COMPTROLLER_ADMIN_KEY."
)


Per = Annotated[
    str | None,
    typer.Option(metavar="day|month|never", help="Anew in every day or month, or never."),
]
Zone = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose days: UTC, or such as Europe/Berlin."),
]
Overdraft = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="What calls that ask for it may owe; 0usd: nothing."),
]
Alerts = Annotated[
    list[str] | None,
    typer.Option(metavar="SHARE", help="Tell when so much is spent: 80%; repeatable."),
]
NoAlerts = Annotated[
    bool, typer.Option("--no-alerts", help="Tell nothing any more but what --alert says.")
]
CapsBelow = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="The caps hold while less than this remains: 20%."),
]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="A cap: output tokens of an LLM call.")]
MaxSteps = Annotated[int | None, typer.Option(min=0, help="A cap: calls that may follow in a run.")]
Cooldown = Annotated[
    int | None, typer.Option(min=0, metavar="MS", help="A cap: milliseconds between calls.")
]
AllowedTools = Annotated[
    list[str] | None, typer.Option(metavar="TOOL", help="A cap: no other tool; repeatable.")
]
DeniedTools = Annotated[
    list[str] | None, typer.Option(metavar="TOOL", help="A cap: not this tool; repeatable.")
]
NoCaps = Annotated[
    bool, typer.Option("--no-caps", help="No cap any more but those that are given here.")
]
OneUnit = Annotated[
    str | None,
    typer.Option(metavar="usd|tokens|points", help="Its budget in this unit alone."),
]


@budget_app.command("set")
def set_budget(
    scope: Scope,
    amount: Money,
    *,
    per: Per = None,
    zone: Zone = None,
    overdraft: Overdraft = None,
    alert: Alerts = None,
    no_alerts: NoAlerts = False,
    caps_below: CapsBelow = None,
    max_tokens: MaxTokens = None,
    max_steps: MaxSteps = None,
    cooldown: Cooldown = None,
    allow_tool: AllowedTools = None,
    deny_tool: DeniedTools = None,
    no_caps: NoCaps = False,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Set what a scope may spend. What it has spent and reserved stays, and so do terms not named.

    --per never, --no-alerts, --no-caps and --overdraft 0usd end them.
    """
    from runcycles import Caps

    from comptroller.cli.budgets import BudgetOrder, as_operator, set_budget

    order = BudgetOrder(
        scope=scope,
        amount=amount,
        per=per,
        zone=zone,
        overdraft=overdraft,
        alerts=tuple(alert or ()) if alert or no_alerts else None,
        caps_below=caps_below,
        caps=Caps(
            max_tokens=max_tokens,
            max_steps_remaining=max_steps,
            cooldown_ms=cooldown,
            tool_allowlist=allow_tool or None,
            tool_denylist=deny_tool or None,
        ),
        no_caps=no_caps,
    )
    as_operator(ledger, api_key_env, set_budget, order, as_json, create=True)


@budget_app.command()
def fund(
    scope: Scope,
    amount: Money,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Add to a budget; a debt is repaid first. One that renews has it until its period ends."""
    from comptroller.cli.budgets import as_operator, fund

    as_operator(ledger, api_key_env, fund, scope, amount, as_json)


@budget_app.command()
def freeze(
    scope: Scope,
    unit: OneUnit = None,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """Refuse new spend at a scope; what is reserved settles as ever."""
    from comptroller.cli.budgets import as_operator, freeze

    as_operator(ledger, api_key_env, freeze, scope, unit, True, as_json)


@budget_app.command()
def unfreeze(
    scope: Scope,
    unit: OneUnit = None,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    as_json: Json = False,
) -> None:
    """End a freeze."""
    from comptroller.cli.budgets import as_operator, freeze

    as_operator(ledger, api_key_env, freeze, scope, unit, False, as_json)


@budget_app.command()
def close(
    scope: Scope, ledger: Ledger = None, api_key_env: KeyVariable = None, as_json: Json = False
) -> None:
    """Grant nothing more at a scope, such as a tenant that has gone; budget set opens it again."""
    from comptroller.cli.budgets import as_operator, close

    as_operator(ledger, api_key_env, close, scope, as_json)


@budget_app.command("list")
def list_budgets(
    tenant: Annotated[
        str | None, typer.Option(help="Of one tenant; a Cycles server wants one.")
    ] = None,
    ledger: Ledger = None,
    api_key_env: KeyVariable = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """List the budgets: allocated, spent, reserved, remaining, debt, state."""
    from comptroller.cli.budgets import budgets

    budgets(ledger, api_key_env, tenant, as_json, wide)
