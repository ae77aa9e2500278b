"""Arguments that several commands take."""

from typing import Annotated

import typer

START, BUDGETS, LOOK, OPERATE = "Start", "Budgets", "Look", "Operate"
"""The groups in which help shows the commands."""

Ledger = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A file, 'memory:', or the address of a Cycles server. Left out: what"
        " CYCLES_BASE_URL or COMPTROLLER_LEDGER names, else ledger.db in your data directory.",
    ),
]
LedgerFile = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="The ledger's file. Left out: what COMPTROLLER_LEDGER names, else ledger.db in your"
        " data directory.",
    ),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="The variable that holds a Cycles server's key (CYCLES_API_KEY).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For machines: JSON, and nothing else.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Every column, however wide the terminal is, as in a pipe.")
]
Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="Such as tenant:acme or 'tenant:acme/agent:Triage'.")
]
AMOUNT = "Such as 10usd, '$0.50', 5000tokens or 50points."
Money = Annotated[str, typer.Argument(metavar="AMOUNT", help=AMOUNT)]
