"""The caps of several scopes as one: whatever one of them forbids is forbidden."""

from collections.abc import Iterable
from itertools import chain

from runcycles import Caps


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
