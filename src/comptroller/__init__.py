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
