"""`ToolEstimateConfig` as `runcycles-openai-agents` has it: every field has a value.

Who spends: what was said, filled from the config where nothing was.
"""

from typing import Any

import attrs
from runcycles import Amount, CyclesConfig, Subject, Unit

from comptroller import policy
from comptroller.core.identifiers import checked

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


LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")


def subject_of(config: CyclesConfig | None, **given: str | None) -> Subject:
    """Return the subject of `given` fields; unset ones come from `config`.

    Raises:
        TypeError, ValueError: a value that cannot stand in a subject.
    """
    filled = {level: getattr(config, level, None) for level in LEVELS}
    said = {level: value for level, value in given.items() if value is not None}
    named = {level: value for level, value in {**filled, **said}.items() if value is not None}
    checked_levels: dict[str, Any] = {level: checked(level, text) for level, text in named.items()}
    return Subject(**checked_levels)
