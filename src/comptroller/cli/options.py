"""Arguments that several commands take."""

from typing import Annotated

import typer

Ledger = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A file, 'memory:', or the address of a Cycles server. Left out: what"
        " CYCLES_BASE_URL or COMPTROLLER_LEDGER names, else a file of yours.",
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
Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="Such as tenant:acme or 'tenant:acme/agent:Triage'.")
]
AMOUNT = "Such as 10usd, '$0.50', 5000tokens or 50points."
Money = Annotated[str, typer.Argument(metavar="AMOUNT", help=AMOUNT)]
