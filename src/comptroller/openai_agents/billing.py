"""What decides the price of a call: what was asked of whom, and what the answer says of it."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import attrs
from agents import Model, ModelSettings
from runcycles import Amount

from comptroller.core.estimates import Answered
from comptroller.core.pricing import Billing
from comptroller.core.settlement import Finished
from comptroller.money import usd
from comptroller.openai_agents import convert
from comptroller.openai_agents.convert import field_of
from comptroller.openai_agents.raw_responses import RawAnswer

_TERMS = ("service_tier", "speed")  # what prices depend on: OpenAI's and Google's, Anthropic's
_LEFT_OPEN = "auto"  # a tier that says nothing: the answer names the one that was taken
_HTTP = re.compile(r"(?:http|ws)s?://", re.IGNORECASE)
_MOST_INSIDE = 8  # wrappers of wrappers; one of them may wrap itself
_FLOAT = Context(prec=15)  # the digits that a float holds: 0.1 + 0.2 is 0.3
_TICKS = Decimal(10) ** -10  # xAI counts its costs in them: docs.x.ai, "Cost tracking"


def asked(model: Any, settings: ModelSettings) -> Billing:
    """Return what decides the price of asking `model`, or a client, now."""
    sent = sent_beside(settings)
    return Billing(url=base_url(model), context=_terms(sent), at=datetime.now(UTC))


def sent_beside(settings: ModelSettings) -> dict[str, Any]:
    """What goes to the provider beside the settings that have a name."""
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
    """The terms that the sources name; the later ones win."""
    found = {}
    for source in sources:
        for name in _TERMS:
            said = field_of(source, name)
            if isinstance(said, str) and said not in ("", _LEFT_OPEN):
                found[name] = said
    return found


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
    used = convert.token_count(*usages)
    if used is not None:
        extras = Counter(used.extras) | convert.hosted_units(output)
        for tool in apart:
            extras.pop(convert.UNITS_OF_TOOLS.get(tool, ""), None)
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
    """A number as what was meant by it, not as the float nearest to that."""
    if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
        return None
    with suppress(InvalidOperation):
        return _FLOAT.create_decimal(str(number)) if isinstance(number, float) else Decimal(number)
    return None
