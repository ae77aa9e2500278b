"""Comptroller: budgets that hold for runs of the OpenAI Agents SDK.

How it is laid out; imports point downwards only:

    cli, demo             the command line
    testing               virtual time, faults and checks for tests of users
    cycles                the interface of runcycles-openai-agents, on the same runtime
    runs, supervisor      the public scopes: event loop, ledger, run and seam brought together
    openai_agents/        the seam: a callback of the SDK becomes a message to an actor
    runtime/              one actor per call; runs, the loop they live on (anyio)
    server/               a ledger over HTTP
    ledger/               the interface; memory, SQLite, and remote (Cycles) ledgers
    receipts              what became of each call
    core/                 pure tables: life cycle, settlement, heartbeat, accounts, prices
    policy, money, errors values

A call flows: the SDK calls back, `openai_agents` opens a call on its run, the run starts an actor,
the actor reserves and answers; the SDK goes on, and what it tells later the actor settles.

What is public here is imported when it is first asked for: the Agents SDK alone takes a second, and
a ledger or its command line needs none of it.
"""

import importlib
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comptroller.core.budgets import BudgetTerms
    from comptroller.core.call_lifecycle import Outcome
    from comptroller.core.estimates import Fixed, Learned, WorstCase
    from comptroller.core.pricing import Billing, Price, PriceBook, TokenCount
    from comptroller.errors import (
        BudgetExceeded,
        BudgetNotFound,
        CallDenied,
        ComptrollerError,
        CredentialsMissing,
        LedgerMisbehaved,
        LedgerRefused,
        LedgerUnreachable,
        LimitReached,
        RunCancelled,
        ToolDenied,
        UnitMismatch,
    )
    from comptroller.ledger.cycles_client import as_client
    from comptroller.ledger.factory import open_ledger
    from comptroller.money import risk_points, show, tokens, usd
    from comptroller.policy import Limits, Policy, ToolEstimateConfig, ToolEstimateMap
    from comptroller.receipts import CallReceipt, Receipt
    from comptroller.runs import GovernedRun, GovernedStream, governed_run
    from comptroller.runtime.outcomes import Cancelled, Completed, Denied, Failed
    from comptroller.runtime.registry import Statistics
    from comptroller.supervisor import StartedRun, Supervisor, open_supervisor

__all__ = [
    "Billing",
    "BudgetExceeded",
    "BudgetNotFound",
    "BudgetTerms",
    "CallDenied",
    "CallReceipt",
    "Cancelled",
    "Completed",
    "ComptrollerError",
    "CredentialsMissing",
    "Denied",
    "Failed",
    "Fixed",
    "GovernedRun",
    "GovernedStream",
    "Learned",
    "LedgerMisbehaved",
    "LedgerRefused",
    "LedgerUnreachable",
    "LimitReached",
    "Limits",
    "Outcome",
    "Policy",
    "Price",
    "PriceBook",
    "Receipt",
    "RunCancelled",
    "StartedRun",
    "Statistics",
    "Supervisor",
    "TokenCount",
    "ToolDenied",
    "ToolEstimateConfig",
    "ToolEstimateMap",
    "UnitMismatch",
    "WorstCase",
    "as_client",
    "governed_run",
    "open_ledger",
    "open_supervisor",
    "risk_points",
    "show",
    "tokens",
    "usd",
]

_MODULES = {
    "core.budgets": ("BudgetTerms",),
    "core.call_lifecycle": ("Outcome",),
    "core.estimates": ("Fixed", "Learned", "WorstCase"),
    "core.pricing": ("Billing", "Price", "PriceBook", "TokenCount"),
    "errors": (
        "BudgetExceeded",
        "BudgetNotFound",
        "CallDenied",
        "ComptrollerError",
        "CredentialsMissing",
        "LedgerMisbehaved",
        "LedgerRefused",
        "LedgerUnreachable",
        "LimitReached",
        "RunCancelled",
        "ToolDenied",
        "UnitMismatch",
    ),
    "ledger.cycles_client": ("as_client",),
    "ledger.factory": ("open_ledger",),
    "money": ("risk_points", "show", "tokens", "usd"),
    "policy": ("Limits", "Policy", "ToolEstimateConfig", "ToolEstimateMap"),
    "receipts": ("CallReceipt", "Receipt"),
    "runs": ("GovernedRun", "GovernedStream", "governed_run"),
    "runtime.outcomes": ("Cancelled", "Completed", "Denied", "Failed"),
    "runtime.registry": ("Statistics",),
    "supervisor": ("StartedRun", "Supervisor", "open_supervisor"),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(home), name)
    if isinstance(found, type | FunctionType):
        found.__module__ = __name__  # the name that its users know: in `repr`, errors and pickles
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
