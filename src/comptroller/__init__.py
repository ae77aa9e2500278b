"""Comptroller: budgets that hold for runs of the OpenAI Agents SDK.

How it is laid out; imports point downwards only:

    cli, console                  arguments to calls, statistics to what a person reads
    cycles                        the interface of runcycles-openai-agents, on the same runtime
    governed, scope, supervision  the public scopes: host, ledger, run and seam brought together
    carried                       a run without a frame, which hooks bring along
    host                          asyncio, or trio carrying the SDK's asyncio
    openai_agents/                the seam: a callback of the SDK becomes a message to an actor
    runtime/                      one actor per call; runs, their home, their receipts (on anyio)
    ledger/                       the interface; memory, SQLite, and remote (Cycles) ledgers
    decide/                       pure tables: life cycle, settlement, heartbeat, admission, prices
    policy, money, errors         values

A call flows: the SDK calls back, `openai_agents` opens a call on its run, the run starts an actor,
the actor reserves and answers; the SDK goes on, and what it tells later the actor settles.
"""

from .decide.estimates import Fixed, Learned, WorstCase
from .decide.lifecycle import Outcome
from .decide.pricing import Billing, Price, PriceBook, TokenCount
from .decide.terms import BudgetTerms
from .errors import (
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
from .governed import governed_run
from .ledger.client import as_client
from .ledger.opening import open_ledger
from .money import risk_points, show, tokens, usd
from .policy import Limits, Policy, ToolEstimateConfig, ToolEstimateMap
from .runtime.hub import Statistics
from .runtime.outcomes import Cancelled, Completed, Denied, Failed
from .runtime.receipts import CallReceipt, Receipt
from .scope import GovernedRun, GovernedStream
from .supervision import StartedRun, Supervisor, open_supervisor

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
