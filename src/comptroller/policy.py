"""What a run may spend and what happens when it may not: `Policy`, `Limits`, tool estimates.

All of them are values, checked when they are made: a wrong setting fails where it is written, with
one line that says what to write.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeAlias

import attrs
from attrs import field
from runcycles import Amount, CommitOveragePolicy, Unit

from comptroller._validation import check_int, must_return_at_once, one_of
from comptroller.core.pricing import price_book
from comptroller.money import amount

ActualFunction = Callable[[Any, Any], Amount]
"""`(arguments, result) -> Amount`: what a tool call really cost. No async function."""

Field: TypeAlias = "attrs.Attribute[Any]"

_MAX_SECONDS = 10**9  # some thirty years: timers cannot hold everything that a number can
_MIN_LEASE_MS, _MAX_LEASE_MS = 1_000, 86_400_000  # protocol, ReservationCreateRequest.ttl_ms
_MAX_KIND_LENGTH = 64  # characters; protocol, Action.kind


class LlmEstimate(Protocol):
    """A strategy of `decide.estimates`: what to reserve for one LLM call."""

    def estimate(self, call: Any, prices: Any, /) -> Amount | None:
        """Return the amount to reserve, or None where it cannot tell (an unknown price)."""


def _flag(_: object, attribute: Field, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name}: {value!r} is neither True nor False")


def _seconds_long(_: object, attribute: Field, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{attribute.name}: {value!r} is not a number of seconds")
    if not 0 < value <= _MAX_SECONDS:
        most = f"at most {_MAX_SECONDS}"
        raise ValueError(f"{attribute.name}: {value!r}: give more than 0 seconds, {most}")


def _lease(_: object, attribute: Field, value: Any) -> None:
    if not _MIN_LEASE_MS <= check_int(attribute.name, value) <= _MAX_LEASE_MS:
        span = f"{_MIN_LEASE_MS} to {_MAX_LEASE_MS}"
        raise ValueError(f"{attribute.name}: {value!r}: a lease lasts {span} milliseconds")


def _unit(_: object, attribute: Field, value: Any) -> None:
    _unit_of_tools(attribute.name, value)


def _unit_of_tools(what: str, value: object) -> None:
    if not isinstance(value, Unit):
        raise TypeError(f"{what}: {value!r} is no unit: write Unit.RISK_POINTS or the like")


def _at_least_one(_: object, attribute: Field, value: Any) -> None:
    if value is not None:
        check_int(attribute.name, value, least=1)


def _kind(_: object, attribute: Field, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: {value!r} is not a string")
    if not 1 <= len(value) <= _MAX_KIND_LENGTH:
        raise ValueError(f"{attribute.name}: {value!r}: write 1 to {_MAX_KIND_LENGTH} characters")


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
    action_kind: str | None = field(default=None, validator=attrs.validators.optional(_kind))
    unit: Unit | None = field(default=None, validator=attrs.validators.optional(_unit))
    actual: ActualFunction | None = None

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.estimate, Amount):
            check_int("a tool's estimate", self.estimate)
        if self.actual is None:
            return
        if not callable(self.actual):
            raise TypeError(f"actual: {self.actual!r} is no function (arguments, result) -> Amount")
        must_return_at_once("actual", self.actual, "a plain function (arguments, result) -> Amount")


@attrs.frozen
class ToolCost:
    """What one call of a tool reserves: a `ToolEstimateConfig` with nothing left out."""

    estimate: Amount
    action_kind: str
    actual: ActualFunction | None = None


ToolEstimate = int | Amount | ToolEstimateConfig


def _checked_estimate(name: str, given: object) -> ToolEstimate:
    if isinstance(given, Amount | ToolEstimateConfig):
        return given
    return check_int(f"tools[{name!r}]", given)


def _by_tool(what: str, given: Any) -> dict[str, Any]:
    """Our own copy: what the caller does to theirs afterwards changes no run."""
    if not isinstance(given, Mapping):
        raise TypeError(f'{what}: {given!r} is no mapping: write {{"tool name": 5}}')
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"{what}: {name!r} is no tool's name: write a string")
    return dict(given)


@attrs.frozen(eq=False, init=False, repr=False)
class ToolEstimateMap:
    """Tool name to estimate. A tool that is not in the map costs the default.

    Args:
        mapping: name to an int, an `Amount` or a `ToolEstimateConfig`.
        default_estimate: what an unlisted tool costs, in `default_unit`.
        default_unit: the unit of bare ints.

    Attributes:
        mapping: name to `ToolEstimateConfig`, its unit and action kind filled in.
        default: the config of every other tool.

    Raises:
        TypeError: an estimate is a bool or a float.
        ValueError: an estimate is negative.
    """

    _mapping: Mapping[str, ToolEstimateConfig]
    default: ToolEstimateConfig
    _costs: Mapping[str, ToolCost]
    _default_cost: ToolCost

    def __init__(
        self,
        mapping: Mapping[str, ToolEstimate] | None = None,
        default_estimate: int = 1,
        default_unit: Unit = Unit.RISK_POINTS,
    ) -> None:
        _unit_of_tools("default_unit", default_unit)
        given = _by_tool("tools", {} if mapping is None else mapping)
        filled = {
            name: _filled(_checked_estimate(name, estimate), default_unit)
            for name, estimate in given.items()
        }
        default = _filled(check_int("default_estimate", default_estimate), default_unit)
        costs = {name: _cost(config) for name, config in filled.items()}
        self.__attrs_init__(filled, default, costs, _cost(default))

    def get(self, tool: str) -> ToolEstimateConfig:
        """Return the config of `tool`, or the default."""
        return self._mapping.get(tool, self.default)

    @property
    def mapping(self) -> dict[str, ToolEstimateConfig]:
        """A copy of what is in it."""
        return dict(self._mapping)

    def __repr__(self) -> str:
        return f"ToolEstimateMap(mapping={self._mapping!r}, default={self.default!r})"

    def is_zero_estimate(self, tool: str) -> bool:
        """Whether a call of `tool` reserves nothing."""
        return self.cost(tool).estimate.amount == 0

    def __contains__(self, tool: str) -> bool:
        """Whether `tool` is listed, so does not cost the default."""
        return tool in self._mapping

    def cost(self, tool: str) -> ToolCost:
        """Return what one call of `tool` reserves."""
        return self._costs.get(tool, self._default_cost)


def tools_with_price(tools: ToolEstimateMap, names: Iterable[str]) -> frozenset[str]:
    """Return those of `names` for which `tools` has a price in money."""
    costs = ((name, tools._costs.get(name, tools._default_cost).estimate) for name in names)
    return frozenset(
        name for name, cost in costs if cost.unit is Unit.USD_MICROCENTS and cost.amount > 0
    )


def _filled(given: ToolEstimate, default_unit: Unit) -> ToolEstimateConfig:
    """Return the config with nothing left out; one that is complete stays itself."""
    config = given if isinstance(given, ToolEstimateConfig) else ToolEstimateConfig(given)
    carried = config.estimate.unit if isinstance(config.estimate, Amount) else default_unit
    if config.unit is None or config.action_kind is None:
        config = attrs.evolve(
            config,
            unit=config.unit or Unit(carried),
            action_kind=config.action_kind or "tool.invoke",
        )
    return config


def _cost(config: ToolEstimateConfig) -> ToolCost:
    estimate = config.estimate
    if not isinstance(estimate, Amount):
        estimate = amount(config.unit or Unit.RISK_POINTS, estimate)
    return ToolCost(estimate, config.action_kind or "tool.invoke", config.actual)


UNPRICED_TOOLS = ToolEstimateMap(default_estimate=0)
"""No map given: tool calls are counted and limited, and reserve nothing."""


def _tools(given: ToolEstimateMap | Mapping[str, ToolEstimate] | None) -> ToolEstimateMap:
    if given is None:
        return UNPRICED_TOOLS
    if isinstance(given, ToolEstimateMap):
        return given
    # Where no price is in the map's own unit, a default in it asks for a budget nobody spoke of.
    in_its_unit = any(map(_lacks_unit, _by_tool("tools", given).values()))
    return ToolEstimateMap(given, default_estimate=1 if in_its_unit else 0)


def _lacks_unit(given: ToolEstimate) -> bool:
    """Whether an estimate is a bare number, whose unit is the map's default one."""
    if isinstance(given, ToolEstimateConfig):
        return given.unit is None and not isinstance(given.estimate, Amount)
    return not isinstance(given, Amount)


def amount_or_strategy(_: object, attribute: Field, given: Any) -> None:
    """Raise TypeError where what an LLM call is to reserve is neither."""
    name = attribute.name
    if isinstance(given, type):
        raise TypeError(f"{name}: {given.__name__} is a class: write {given.__name__}()")
    if not isinstance(given, Amount) and not callable(getattr(given, "estimate", None)):
        hint = _amount_hint(given)
        raise TypeError(f"{name}: {given!r} is not an amount or a strategy: {hint}")


def _priced(_: object, attribute: Field, given: Any) -> None:
    if isinstance(given, type):
        name = given.__name__
        raise TypeError(f"{attribute.name}: {name} is a class: write {name}()")
    price_book(given)


def _amount_hint(given: object) -> str:
    return (
        f'write usd("{given}")' if isinstance(given, float) else 'write usd("0.05"), tokens(4000)'
    )


def _overage_policy(given: CommitOveragePolicy | str) -> CommitOveragePolicy:
    try:
        return CommitOveragePolicy(given)
    except ValueError:
        names = " or ".join(repr(policy.value) for policy in CommitOveragePolicy)
        raise ValueError(f"overage_policy: {given!r}: write {names}") from None


@attrs.frozen(kw_only=True)
class Policy:
    """How calls are reserved and settled.

    Attributes:
        llm_estimate: what an LLM call reserves: an `Amount`, or a strategy such as `WorstCase()`.
            None: `WorstCase()` where the model's price is known, else $0.005.
        prices: a price book, or aliases (model name to the name it is priced as).
        tools: what tools cost: a mapping of names to amounts, in which an unlisted tool is free;
            with bare numbers, or as a `ToolEstimateMap`, it costs the map's default. None: tools
            reserve nothing.
        on_tool_denied: a refused tool call ends the run (`stop`), or is answered to the model
            as a rejected call (`tell_model`).
        fail_open: let calls through when the ledger does not answer or answers 5xx. A denial,
            or any 4xx, always stops.
        on_abandoned: work that was dispatched and given up is charged (what is known of it, at
            most what was reserved), or released.
        ttl_ms: the lease of a reservation, in milliseconds (protocol: 1 000 to 86 400 000).
        heartbeat_max_age_ms: how long a lease is extended at most, in milliseconds; None: as long
            as its call runs. A call that outlasts its lease is charged as an event.
        heartbeat_max_extensions: how often it is extended at most; None: as often as needed.
        overage_policy: what the ledger does when an actual exceeds its estimate.
        dry_run: evaluate, stop nothing, charge nothing, whether a budget or one of the run's
            `Limits` says no; the receipt says `would_deny`.
        teardown_timeout: seconds to wait for the SDK's own tear-down when a scope ends.
        settle_timeout: seconds to wait for settlements when a scope ends.
    """

    llm_estimate: Amount | LlmEstimate | None = field(
        default=None, validator=attrs.validators.optional(amount_or_strategy)
    )
    prices: Any = field(default=None, validator=attrs.validators.optional(_priced))
    tools: ToolEstimateMap = field(default=None, converter=_tools)
    on_tool_denied: Literal["stop", "tell_model"] = field(
        default="stop", validator=one_of("stop", "tell_model")
    )
    fail_open: bool = field(default=False, validator=_flag)
    on_abandoned: Literal["charge", "release"] = field(
        default="charge", validator=one_of("charge", "release")
    )
    ttl_ms: int = field(default=60_000, validator=_lease)
    heartbeat_max_age_ms: int | None = field(default=None, validator=_at_least_one)
    heartbeat_max_extensions: int | None = field(default=None, validator=_at_least_one)
    overage_policy: CommitOveragePolicy = field(
        default=CommitOveragePolicy.ALLOW_IF_AVAILABLE, converter=_overage_policy
    )
    dry_run: bool = field(default=False, validator=_flag)
    teardown_timeout: float = field(default=5.0, validator=_seconds_long)
    settle_timeout: float = field(default=5.0, validator=_seconds_long)


def _seconds(given: float | timedelta | None) -> float | None:
    return given.total_seconds() if isinstance(given, timedelta) else given


def _count(_: object, attribute: Field, value: Any) -> None:
    if value is not None:
        check_int(attribute.name, value)


def _counts(given: int | Mapping[str, int] | None) -> int | dict[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return check_int("tool_calls", given)
    found = _by_tool("tool_calls", given)
    return {name: check_int(f"tool_calls[{name!r}]", most) for name, most in found.items()}


def _spend(_: object, attribute: Field, value: Any) -> None:
    if value is not None and not isinstance(value, Amount):
        raise TypeError(f"{attribute.name}: {value!r} is not an amount: {_amount_hint(value)}")


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
    tool_calls: int | Mapping[str, int] | None = field(default=None, converter=_counts)
    tokens: int | None = field(default=None, validator=_count)
    spend: Amount | None = field(default=None, validator=_spend)
    seconds: float | None = field(
        default=None, converter=_seconds, validator=attrs.validators.optional(_seconds_long)
    )
