"""`ToolEstimateConfig` as `runcycles-openai-agents` has it: every field has a value."""

from typing import Any

import attrs
from runcycles import Amount, Unit

from comptroller import policy

_ITS: Any = attrs.fields(policy.ToolEstimateConfig)


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
    action_kind: str = attrs.field(default="tool.invoke", validator=_ITS.action_kind.validator)
    unit: Unit = attrs.field(default=Unit.RISK_POINTS, validator=_ITS.unit.validator)
    actual: policy.ActualFunction | None = None
