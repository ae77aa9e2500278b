"""The caller's ceilings and the ledger's caps: may this call even be asked for? No round trip.

Counts are of calls that began to ask; tokens of calls that have finished; spend is what was
charged plus what is in flight.

The caps of several scopes as one: whatever one of them forbids is forbidden.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

import attrs
from runcycles import Amount, Caps, Unit

from comptroller.money import formatted, show
from comptroller.policy import Limits


@attrs.define
class UsageTotals:
    """What a run has used so far. `spend` is by unit: charged, plus reserved in flight."""

    calls: Counter[str] = attrs.Factory(Counter)  # by kind, and by "tool:name"
    tokens: int = 0
    spend: Counter[Unit] = attrs.Factory(Counter)


@attrs.frozen
class LimitBreach:
    """Why a call may not begin.

    Attributes:
        by_caps: the ledger's cap forbids it; otherwise one of the run's own limits.
        text: what was reached, for people.
        unit, requested, remaining: the amounts, where amounts are what ran out.
    """

    text: str
    by_caps: bool = False
    unit: Unit | None = None
    requested: int | None = None
    remaining: int | None = None


def breach(
    kind: str,
    name: str,
    estimate: Amount,
    tally: UsageTotals,
    limits: Limits,
    caps: Caps | None,
    steps_left: int | None,
) -> LimitBreach | None:
    """Why a call of `kind` ("llm" or "tool") may not begin, or None.

    `caps` are those of the latest LLM grant, `steps_left` the calls it still allows.
    """
    if steps_left is not None and steps_left <= 0:
        return LimitBreach("the ledger's cap on further steps (max_steps_remaining)", by_caps=True)
    if kind == "tool" and caps is not None and not tool_allowed(caps, name):
        return LimitBreach(f"the ledger's caps forbid the tool {name}", by_caps=True)
    return (
        _count_reached(kind, name, tally, limits)
        or _tokens_reached(kind, tally, limits)
        or _spend_reached(estimate, tally, limits)
    )


def tool_allowed(caps: Caps, name: str) -> bool:
    """Protocol, Caps: a non-empty allowlist wins; names are case-sensitive.

    `Caps.is_tool_allowed` is not used: it reads an empty allowlist as "nothing is allowed".
    """
    if caps.tool_allowlist:
        return name in caps.tool_allowlist
    return name not in (caps.tool_denylist or ())


def _count_reached(kind: str, name: str, tally: UsageTotals, limits: Limits) -> LimitBreach | None:
    if kind == "llm":
        most, key, shown = limits.llm_calls, "llm", "llm_calls"
    elif isinstance(limits.tool_calls, Mapping):
        most, key, shown = limits.tool_calls.get(name), f"tool:{name}", f"tool_calls[{name}]"
    else:
        most, key, shown = limits.tool_calls, "tool", "tool_calls"
    if most is None or tally.calls[key] < most:
        return None
    return LimitBreach(f"the run's limit of {shown}={most} is reached")


def _tokens_reached(kind: str, tally: UsageTotals, limits: Limits) -> LimitBreach | None:
    if kind != "llm" or limits.tokens is None or tally.tokens < limits.tokens:
        return None
    return LimitBreach(
        f"the run's limit of {limits.tokens:,} tokens is reached ({tally.tokens:,} used)",
        unit=Unit.TOKENS,
        remaining=0,
    )


def _spend_reached(estimate: Amount, tally: UsageTotals, limits: Limits) -> LimitBreach | None:
    most = limits.spend
    if most is None or most.unit != estimate.unit or estimate.amount == 0:
        return None
    left = most.amount - tally.spend[most.unit]
    if estimate.amount <= left:
        return None
    return LimitBreach(
        f"the run's limit of {show(most)}: {show(estimate)} requested, "
        f"{formatted(most.unit, max(left, 0))} left",
        unit=most.unit,
        requested=estimate.amount,
        remaining=max(left, 0),
    )


def merged(caps: Iterable[Caps]) -> Caps | None:
    """One `Caps` as strict as all of `caps`; None where nothing is capped.

    The protocol ignores a denylist beside an allowlist, so what is denied is taken out of it. An
    allowlist that nothing is left of would mean "no restriction": it keeps one name no tool has.
    """
    given = [one for one in caps if one.model_dump(exclude_none=True)]
    if len(given) <= 1:
        return given[0] if given else None
    denied = list(dict.fromkeys(chain.from_iterable(one.tool_denylist or () for one in given)))
    lists = [one.tool_allowlist for one in given if one.tool_allowlist]
    allowed = [tool for tool in (lists[0] if lists else ()) if all(tool in one for one in lists)]
    allowed = [tool for tool in allowed if tool not in denied]
    return Caps(
        max_tokens=_least(one.max_tokens for one in given),
        max_steps_remaining=_least(one.max_steps_remaining for one in given),
        tool_allowlist=(allowed or [""]) if lists else None,
        tool_denylist=(denied or None) if not lists else None,
        cooldown_ms=max((one.cooldown_ms or 0 for one in given), default=0) or None,
    )


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
