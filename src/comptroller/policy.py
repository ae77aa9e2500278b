"""What a run may spend and what happens when it may not: `Policy`, `Limits`, tool estimates.

All of them are values, checked when they are made: a wrong setting fails where it is written.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol

import attrs
from attrs import field, validators
from runcycles import Amount, CommitOveragePolicy, Unit

from .money import amount

ActualFunction = Callable[[Any, Any], Amount]
"""`(arguments, result) -> Amount`: what a tool call really cost."""


class LlmEstimate(Protocol):
    """A strategy of `decide.estimates`: what to reserve for one LLM call."""

    def estimate(self, call: Any, prices: Any, /) -> Amount | None:
        """The amount to reserve, or None where it cannot tell (an unknown price)."""


def _whole(what: str, given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{what}: {given!r} is not a whole number: write an int")
    if given < 0:
        raise ValueError(f"{what}: {given!r} is negative: the least is 0")
    return given


@attrs.frozen
class ToolEstimateConfig:
    """What one tool costs.

    Attributes:
        estimate: what a call reserves, in `unit` (an `Amount` carries its own unit).
        action_kind: the action kind to send; None means `tool.invoke`.
        unit: the unit of a bare int; None means the map's default unit.
        actual: what a call really cost, from its arguments and its result; None: the estimate.
    """

    estimate: int | Amount
    action_kind: str | None = None
    unit: Unit | None = None
    actual: ActualFunction | None = None

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.estimate, Amount):
            _whole("a tool's estimate", self.estimate)


@attrs.frozen
class ToolCost:
    """`ToolEstimateConfig` with everything filled in: what one call of a tool reserves."""

    estimate: Amount
    action_kind: str
    actual: ActualFunction | None = None


class ToolEstimateMap:
    """Tool name to estimate. A tool that is not in the map costs the default.

    Args:
        mapping: name to an int, an `Amount` or a `ToolEstimateConfig`.
        default_estimate: what an unlisted tool costs, in `default_unit`.
        default_unit: the unit of bare ints.

    Raises:
        TypeError: an estimate is a bool or a float.
        ValueError: an estimate is negative.
    """

    def __init__(
        self,
        mapping: Mapping[str, int | Amount | ToolEstimateConfig] | None = None,
        default_estimate: int = 1,
        default_unit: Unit = Unit.RISK_POINTS,
    ) -> None:
        self.default_unit = default_unit
        self.default_estimate = _whole("default_estimate", default_estimate)
        self._costs = {name: self._cost(given) for name, given in (mapping or {}).items()}
        self._default = self._cost(default_estimate)

    def _cost(self, given: int | Amount | ToolEstimateConfig) -> ToolCost:
        config = given if isinstance(given, ToolEstimateConfig) else ToolEstimateConfig(given)
        estimate = config.estimate
        if not isinstance(estimate, Amount):
            estimate = amount(config.unit or self.default_unit, estimate)
        return ToolCost(estimate, config.action_kind or "tool.invoke", config.actual)

    def cost(self, tool: str) -> ToolCost:
        """What one call of `tool` costs."""
        return self._costs.get(tool, self._default)


UNPRICED_TOOLS = ToolEstimateMap(default_estimate=0)
"""No map given: tool calls are counted and limited, and reserve nothing."""


def _tools(given: ToolEstimateMap | Mapping[str, Any] | None) -> ToolEstimateMap:
    if given is None:
        return UNPRICED_TOOLS
    return given if isinstance(given, ToolEstimateMap) else ToolEstimateMap(given)


def _llm_estimate(given: Any) -> Any:
    if given is None or isinstance(given, Amount) or callable(getattr(given, "estimate", None)):
        return given
    hint = f'usd("{given}")' if isinstance(given, float) else 'usd("0.05") or tokens(4000)'
    raise TypeError(f"llm_estimate: {given!r} is not an amount or a strategy: write {hint}")


def _positive(instance: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    del instance
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name}: {value!r} is not a number of seconds")
    if not value > 0:
        raise ValueError(f"{attribute.name}: {value!r}: give more than 0 seconds")


@attrs.frozen(kw_only=True)
class Policy:
    """How calls are reserved and settled.

    Attributes:
        llm_estimate: what an LLM call reserves: an `Amount`, or a strategy such as `WorstCase()`.
            None: `WorstCase()` where the model's price is known, else $0.005.
        prices: a price book, or aliases (model name to the name it is priced as).
        tools: a `ToolEstimateMap`, or a mapping for one. None: tools reserve nothing.
        on_tool_denied: a refused tool call ends the run (`stop`), or is answered to the model
            as a rejected call (`tell_model`).
        fail_open: let calls through when the ledger does not answer or answers 5xx. A denial,
            or any 4xx, always stops.
        on_abandoned: work that was dispatched and given up is charged (what is known of it, at
            most what was reserved), or released.
        ttl_ms: the lease of a reservation, in milliseconds (protocol: 1 000 to 86 400 000).
        overage_policy: what the ledger does when an actual exceeds its estimate.
        dry_run: evaluate, stop nothing, charge nothing; the receipt says `would_deny`.
        teardown_timeout: seconds to wait for the SDK's own tear-down when a scope ends.
        settle_timeout: seconds to wait for settlements when a scope ends.
    """

    llm_estimate: Amount | LlmEstimate | None = field(default=None, converter=_llm_estimate)
    prices: Any = None
    tools: ToolEstimateMap = field(default=None, converter=_tools)
    on_tool_denied: Literal["stop", "tell_model"] = field(
        default="stop", validator=validators.in_(("stop", "tell_model"))
    )
    fail_open: bool = field(default=False, validator=validators.instance_of(bool))
    on_abandoned: Literal["charge", "release"] = field(
        default="charge", validator=validators.in_(("charge", "release"))
    )
    ttl_ms: int = field(
        default=60_000,
        validator=[
            validators.instance_of(int),
            validators.ge(1_000),
            validators.le(86_400_000),
        ],
    )
    overage_policy: CommitOveragePolicy = field(
        default=CommitOveragePolicy.ALLOW_IF_AVAILABLE, converter=CommitOveragePolicy
    )
    dry_run: bool = field(default=False, validator=validators.instance_of(bool))
    teardown_timeout: float = field(default=5.0, validator=_positive)
    settle_timeout: float = field(default=5.0, validator=_positive)


def _seconds(given: float | timedelta | None) -> float | None:
    return given.total_seconds() if isinstance(given, timedelta) else given


def _count(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    del instance
    if isinstance(value, Mapping):
        for name, most in value.items():
            _whole(f"{attribute.name}[{name!r}]", most)
    elif value is not None:
        _whole(attribute.name, value)


@attrs.frozen(kw_only=True)
class Limits:
    """Ceilings of one run, checked before a call without asking the ledger.

    Attributes:
        llm_calls: how many LLM calls may begin.
        tool_calls: how many tool calls may begin, in all or by tool name.
        tokens: how many tokens (in and out) may be used; checked against finished calls.
        spend: what may be spent in its unit, an `Amount`; what is in flight counts.
        seconds: how long the run may last, a number or a timedelta.
    """

    llm_calls: int | None = field(default=None, validator=_count)
    tool_calls: int | Mapping[str, int] | None = field(default=None, validator=_count)
    tokens: int | None = field(default=None, validator=_count)
    spend: Amount | None = field(
        default=None, validator=validators.optional(validators.instance_of(Amount))
    )
    seconds: float | None = field(
        default=None, converter=_seconds, validator=validators.optional(_positive)
    )
