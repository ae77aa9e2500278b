"""`ToolEstimateConfig` as `runcycles-openai-agents` has it: every field has a value."""

import attrs
from runcycles import Amount, Unit

from comptroller import policy


@attrs.frozen
class ToolEstimateConfig(policy.ToolEstimateConfig):
    """What one tool costs: `comptroller.ToolEstimateConfig` with other defaults.

    Attributes:
        estimate: what a call reserves, in `unit`; 0: nothing.
        action_kind: the action kind to send.
        unit: the unit of `estimate`, whatever the map's default is.
        actual: what a call really cost, from its arguments and its result; None: the estimate.
    """

    estimate: int | Amount = 0
    action_kind: str = "tool.invoke"
    unit: Unit = Unit.RISK_POINTS
    actual: policy.ActualFunction | None = None
