"""The commands of whoever serves a ledger to others: `serve`, and `key` with what it does."""

from typing import Annotated

import typer

from comptroller.cli.options import Json, LedgerFile, Wide

key_app = typer.Typer(help="Create, list and revoke the API keys of an embedded ledger.")

TlsKeyPassword = Annotated[
    str | None, typer.Option(metavar="NAME", help="The variable with that key's password.")
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The operator's key sets budgets; its variable: COMPTROLLER_ADMIN_KEY unless told.",
    ),
]
LogFormat = Annotated[
    str, typer.Option(metavar="text|json", help="Of the server's own log, on stderr.")
]
LogLevel = Annotated[
    str, typer.Option(metavar="LEVEL", help="debug, info, warning or error, and above.")
]
Retention = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How long finished calls are kept, such as 30d; noted in the file, for everybody.",
    ),
]
AccessLog = Annotated[
    str | None, typer.Option(metavar="FILE", help="A line of JSON a request; '-': stderr.")
]
KeyFor = Annotated[
    list[str] | None,
    typer.Option(metavar="TENANT", help="For 'memory:': make a key, and show it."),
]
BudgetOf = Annotated[
    list[str] | None,
    typer.Option(metavar="SCOPE=AMOUNT", help="For 'memory:': set a budget."),
]
ByTenant = Annotated[
    bool,
    typer.Option(
        "--metrics-by-tenant",
        help="Name tenants and their budgets in /metrics, to whoever can reach it.",
    ),
]


def serve(
    *,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A file, or 'memory:'. Left out: what COMPTROLLER_LEDGER names, else"
            " ledger.db in your data directory.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; loopback unless told.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7878,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="A certificate, in PEM.")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its key, in PEM.")] = None,
    tls_key_password_env: TlsKeyPassword = None,
    admin_key_env: AdminKey = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second that each tenant may make.")
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="The longest body, in bytes.")] = 2**20,
    access_log: AccessLog = None,
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
    grace: Annotated[
        float,
        typer.Option(min=0, max=86_400, help="Seconds that a stop waits for what is in flight."),
    ] = 10,
    synchronous: Annotated[
        str, typer.Option(metavar="NORMAL|FULL", help="FULL survives a power cut, too.")
    ] = "NORMAL",
    retention: Retention = None,
    metrics_by_tenant: ByTenant = False,
    default_budget: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Of a tenant seen for the first time.")
    ] = None,
    key_for: KeyFor = None,
    budget: BudgetOf = None,
) -> None:
    """Serve an embedded ledger over HTTP, to every Cycles client, until Ctrl-C or SIGTERM.

    What is in flight then is answered. Also there: /healthz, and /metrics for Prometheus.
    """
    order = {name: value for name, value in locals().items() if value is not None}
    from comptroller.cli.serve import Order, carry_out

    carry_out(Order(**order))


@key_app.command("create")
def create_key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it is.")],
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """Make a key of a tenant and show it, this once: what is kept is its digest."""
    from comptroller.cli.budgets import at_file
    from comptroller.cli.keys import create

    at_file("key create", ledger, create, tenant, note, as_json, create=True)


@key_app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Of one tenant.")] = None,
    ledger: LedgerFile = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """List the keys: id, tenant, since when, active or revoked."""
    from comptroller.cli.budgets import at_file
    from comptroller.cli.keys import show

    at_file("key list", ledger, show, tenant, as_json, wide)


@key_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as 'key list' shows it.")],
    ledger: LedgerFile = None,
    as_json: Json = False,
) -> None:
    """End a key, for good. Servers that run take notice within a second."""
    from comptroller.cli.budgets import at_file
    from comptroller.cli.keys import revoke

    at_file("key revoke", ledger, revoke, key_id, as_json)
