"""The interface of `runcycles-openai-agents` 0.3.0, on Comptroller's runtime.

Change the import, `from comptroller.cycles import CyclesRunHooks`, and nothing else:

==================  ==========================================================================
`hooks`             `CyclesRunHooks`: settings, `run`, `run_streamed`, `release_pending`
`streams`           what `run_streamed` gives
`guardrail`         `cycles_budget_guardrail`: asked before the first token
`estimates`         `ToolEstimateConfig` with that package's defaults
`lending`           a client, a config or the environment as a ledger, one for each event loop
`journal`           the retry engine of `runcycles`, which keeps what a server has not accepted
`errors`            the refusals, so that `except BudgetExceededError` catches them
==================  ==========================================================================

The hooks have no life cycle of their own: they bring a governed run along (`background_run`), and
what the SDK calls back becomes a message to the same actors as under `governed_run`.
"""

from comptroller.cycles.config import ToolEstimateConfig
from comptroller.cycles.errors import LedgerUnreachable
from comptroller.cycles.guardrail import cycles_budget_guardrail
from comptroller.cycles.hooks import CyclesRunHooks, CyclesRunResultStreaming
from comptroller.policy import ToolEstimateMap

__all__ = [
    "CyclesRunHooks",
    "CyclesRunResultStreaming",
    "LedgerUnreachable",
    "ToolEstimateConfig",
    "ToolEstimateMap",
    "cycles_budget_guardrail",
]
