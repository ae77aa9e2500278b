"""What a call costs: what was asked of whom, and what the answer says that it used.

The usages of many providers become one `TokenCount`; the tools that a provider has run in the call
are found in its output; a cost that the provider states itself is read.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from functools import reduce
from operator import index
from typing import Any

import attrs
from agents import Model, ModelSettings
from runcycles import Amount

from comptroller.core.estimates import Answered
from comptroller.core.pricing import Billing, TokenCount
from comptroller.core.settlement import Finished
from comptroller.money import usd

_TERMS = ("service_tier", "speed")  # what prices depend on: OpenAI's and Google's, Anthropic's
_LEFT_OPEN = "auto"  # a tier that says nothing: the answer names the one that was taken
_LOCAL_CALLS = frozenset(
    {"function_call", "custom_tool_call", "shell_call", "local_shell_call", "computer_call",
     "apply_patch_call"}
)  # fmt: skip
_PROGRAM = "programmatic_tool_calling"  # the SDK's name of the tool that such items are of
_UPSTREAM_COST = "upstream_usage_cost"
_HTTP = re.compile(r"(?:http|ws)s?://", re.IGNORECASE)
_MOST_INSIDE = 8  # wrappers of wrappers; one of them may wrap itself
_FLOAT = Context(prec=15)  # the digits that a float holds: 0.1 + 0.2 is 0.3
_TICKS = Decimal(10) ** -10  # xAI counts its costs in them: docs.x.ai, "Cost tracking"


def field_of(thing: Any, name: str) -> Any:
    """Return a field of what a model gave, an object, a dict, or nonsense; None: it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def asked(model: Any, settings: ModelSettings) -> Billing:
    """Return what decides the price of asking `model`, or a client, now."""
    sent = sent_beside(settings)
    return Billing(url=base_url(model), context=_terms(sent), at=datetime.now(UTC))


def sent_beside(settings: ModelSettings) -> dict[str, Any]:
    """Return what goes to the provider beside the settings that have a name."""
    body = settings.extra_body if isinstance(settings.extra_body, dict) else {}
    return {**(settings.extra_args or {}), **body}


def base_url(model: Any) -> str | None:
    """Return the address that serves `model`, or the model that it wraps; None: not known."""
    for owner in _inside(model):
        for holder in (owner, _attribute(owner, "_client")):
            if _HTTP.match(url := str(_attribute(holder, "base_url"))):
                return url
    return None


def _inside(model: Any) -> Iterator[Any]:
    """`model`, and what wrappers keep in their attribute `model`."""
    yield model
    for _ in range(_MOST_INSIDE):
        model = _attribute(model, "model")
        if not isinstance(model, Model):
            return
        yield model


def _attribute(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - somebody else's property
        return None


def _terms(*sources: Any) -> Mapping[str, str]:
    """Return the terms that the sources name; the later ones win."""
    found = {}
    for source in sources:
        for name in _TERMS:
            said = field_of(source, name)
            if isinstance(said, str) and said not in ("", _LEFT_OPEN):
                found[name] = said
    return found


class RawAnswer:
    """What has been overheard of one answer. Of a stream, the latest that its chunks said.

    Attributes:
        usage: as the provider sent it.
        service_tier: on which terms it was answered.
        model: who has answered.
        upstream: the cost that the provider has reported, in place of a usage's own. LiteLLM writes
            what it has calculated itself into the usage of a stream, and keeps the other aside.
        whole: whether it came at once, and not in chunks.
    """

    def __init__(self) -> None:
        self.usage: Any = None
        self.service_tier: Any = None
        self.model: Any = None
        self.upstream: dict[str, Any] | None = None
        self.whole = False

    def note(self, part: Any) -> None:
        """Note an answer, or a chunk of one."""
        for name in ("usage", "service_tier", "model"):
            if (said := field_of(part, name)) is not None:
                setattr(self, name, said)
        kept = field_of(part, "_hidden_params")
        if isinstance(kept, Mapping) and _UPSTREAM_COST in kept:
            self.upstream = {"cost": kept[_UPSTREAM_COST]}


def finished(
    response: Any, raw: RawAnswer, asked_for: str, output: Any, apart: Collection[str] = ()
) -> Finished:
    """Return the end of a call that was answered: what it used, and what that costs.

    Args:
        response: the SDK's `ModelResponse`, or a `Response` of the Responses API.
        raw: what was overheard of it.
        asked_for: the model (`provider:model`), as it stands in action names.
        output: what it consists of.
        apart: the provider's tools that the user's map has a price for: they are not counted here.
    """
    usages = (field_of(response, "usage"), field_of(response, "raw_usage"), raw.usage)
    used = token_count(*usages)
    if used is not None:
        extras = Counter(used.extras) | hosted_units(output)
        for tool in apart:
            extras.pop(UNITS_OF_TOOLS.get(tool, ""), None)
        used = attrs.evolve(used, extras=dict(extras))
    stated = usages if raw.upstream is None else (raw.upstream,)
    costs = (cost for each in stated if (cost := reported_cost(each)) is not None)
    model = raw.model or field_of(response, "model")
    provider = asked_for.partition(":")[0]
    said = Answered(
        cost=next(costs, None),
        model=f"{provider}:{model}" if isinstance(model, str) and model else None,
        context=_terms(*usages, response, raw),
    )
    return Finished(used, said=said)


def reported_cost(used: Any) -> Amount | None:
    """Return what the provider itself says that the call cost; None where it does not.

    OpenRouter reports `cost` in USD; with a key of one's own that is its fee, and the provider's
    bill stands beside it. Perplexity has a `cost` with a total; xAI counts `cost_in_usd_ticks`.
    """
    cost = field_of(used, "cost")
    total = field_of(cost, "total_cost")
    dollars = _decimal(cost if total is None else total)
    if dollars is None:
        ticks = _decimal(field_of(used, "cost_in_usd_ticks"))
        dollars = None if ticks is None else ticks * _TICKS
    elif field_of(used, "is_byok") is True:
        dollars += (
            _decimal(field_of(field_of(used, "cost_details"), "upstream_inference_cost")) or 0
        )
    with suppress(TypeError, ValueError):  # below 0, or beyond all reason
        return None if dollars is None else usd(dollars)
    return None


def _decimal(number: Any) -> Decimal | None:
    """Read a number as what was meant by it, not as the float nearest to that."""
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        return None
    with suppress(InvalidOperation):
        return _FLOAT.create_decimal(str(number)) if isinstance(number, float) else Decimal(number)
    return None


# -- what an answer says that it used


_Paths = tuple[tuple[str, ...], ...]


def _both(*names: str) -> _Paths:
    """Return what Responses API and Chat Completions count of what was read."""
    return (("input_tokens_details", *names), ("prompt_tokens_details", *names))


def _made(name: str) -> _Paths:
    return (("output_tokens_details", name), ("completion_tokens_details", name))


_TOKENS: dict[str, _Paths] = {
    "input": (("input_tokens",), ("prompt_tokens",)),
    "output": (("output_tokens",), ("completion_tokens",)),
    "total": (("total_tokens",),),
    "cached": (*_both("cached_tokens"), ("cached_input_tokens",)),
    "cache_write": (*_both("cache_write_tokens"), *_both("cache_creation_tokens"),
                    ("cache_creation_input_tokens",)),
    "reasoning": _made("reasoning_tokens"),
}  # fmt: skip
"""Where a usage may have a count: the first that is there is it."""

_BY_SERVER = "server_side_tool_usage_details"  # xAI's
_HOUR = "ephemeral_1h_input_tokens"
_EXTRAS: dict[str, _Paths] = {
    "cache_write_1h_tokens": (("cache_creation", _HOUR),
                              *_both("cache_creation_token_details", _HOUR)),
    **{f"input_{kind}_tokens": _both(f"{kind}_tokens") for kind in ("audio", "image", "video")},
    **{f"output_{kind}_tokens": _made(f"{kind}_tokens") for kind in ("audio", "image", "video")},
    **{f"cache_{kind}_read_tokens": _both("cached_tokens_details", f"{kind}_tokens")
       for kind in ("audio", "image", "video")},
    "output_citation_tokens": (("citation_tokens",),),
    "web_searches": (("server_tool_use", "web_search_requests"), *_both("web_search_requests"),
                     (_BY_SERVER, "web_search_calls"), ("num_search_queries",)),
    "social_searches": ((_BY_SERVER, "x_search_calls"),),
    "storage_searches": ((_BY_SERVER, "file_search_calls"), (_BY_SERVER, "document_search_calls")),
    "code_executions": ((_BY_SERVER, "code_interpreter_calls"),),
}  # fmt: skip
"""The same for what has a price of its own, by the name that `genai-prices` has for it."""
_HEADS = frozenset(path[0] for paths in (*_TOKENS.values(), *_EXTRAS.values()) for path in paths)


def token_count(*usages: Any) -> TokenCount | None:
    """Return what an answer used; None where nothing was reported.

    A usage of zero tokens is "not reported": no model answers without reading anything. What only
    the total shows is output, such as the reasoning that xAI and Gemini count beside
    `completion_tokens`; unless it is what was read from a cache or written to it, where a provider
    counts that beside the input.

    Args:
        usages: an SDK `Usage`, an OpenAI `ResponseUsage` or `CompletionUsage`, or a provider's own,
            object or mapping: each count is taken from the first that has it.
    """
    told = [usage for usage in usages if usage is not None]
    members = [{head: field_of(usage, head) for head in _HEADS} for usage in told]
    seen = {name: _first(members, paths) for name, paths in _TOKENS.items()}
    if not any(seen[name] for name in ("input", "output", "total")):
        return None
    beside = max(0, seen.pop("total") - seen["input"] - seen["output"])
    from_cache = beside == seen["cached"] + seen["cache_write"] != seen["reasoning"]
    seen["input" if from_cache else "output"] += beside
    extras = {unit: _first(members, paths) for unit, paths in _EXTRAS.items()}
    return TokenCount(**seen, extras={unit: count for unit, count in extras.items() if count})


def _first(members: list[dict[str, Any]], paths: _Paths) -> int:
    """Return the first count that is there; members that are missing are not looked into."""
    for known in members:
        for head, *rest in paths:
            found = known[head]
            if found is not None and (count := whole_number(reduce(field_of, rest, found))):
                return count
    return 0


def whole_number(given: Any) -> int:
    """Return the count that somebody's number stands for, whatever its type; 0 where it is none.

    Models count with numpy and torch, and what JavaScript has counted comes as `1000.0`.
    """
    if given is None or isinstance(given, bool | str | bytes):
        return 0
    try:
        count = index(given) if hasattr(given, "__index__") else int(given)
        return max(0, count) if hasattr(given, "__index__") or count == given else 0
    except Exception:  # noqa: BLE001 - no number, or somebody else's arithmetic
        return 0


# -- the tools that the provider has run


def hosted_calls(output: Any) -> Iterator[tuple[str, Any]]:
    """Yield the calls of tools that the provider ran inside the call: the tool, and the item."""
    items = output if isinstance(output, list | tuple) else ()
    kinds = [(str(field_of(item, "type")), item) for item in items]
    outputs = [field_of(item, "call_id") for kind, item in kinds if kind.endswith("_call_output")]
    for kind, item in kinds:
        if kind == "program":
            yield _PROGRAM, item
        elif kind.endswith("_call") and _ran_there(kind, item, outputs):
            yield kind.removesuffix("_call"), item


UNITS_OF_TOOLS = {
    "web_search": "web_searches",
    "x_search": "social_searches",
    "file_search": "storage_searches",
    "code_interpreter": "code_executions",
}
"""The provider's tools that it may bill by the call, and the unit that `genai-prices` has."""

_NO_SEARCH = ("open_page", "find_in_page", "find")  # what a reasoning model does with a page it has


def hosted_units(output: Any) -> Counter[str]:
    """Return the calls of the provider's tools that are billed as such, by unit."""
    return Counter(
        UNITS_OF_TOOLS[kind]
        for kind, item in hosted_calls(output)
        if kind in UNITS_OF_TOOLS and field_of(field_of(item, "action"), "type") not in _NO_SEARCH
    )


def _ran_there(kind: str, call: Any, outputs: list[Any]) -> bool:
    """Whether the provider ran a call that it shows.

    Some kinds run here or there: a shell says where by its environment, a search among tools by who
    executes it, and what has its output beside it has run.
    """
    if field_of(call, "execution") == "client":
        return False
    if kind not in _LOCAL_CALLS:
        return True
    where = field_of(field_of(call, "environment"), "type")
    return where not in (None, "local") or (
        field_of(call, "call_id") is not None and field_of(call, "call_id") in outputs
    )
