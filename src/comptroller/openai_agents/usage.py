"""The SDK's values turned into ours: usage to token counts, models to names, errors to facts."""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from agents import Model
from agents.items import TResponseInputItem
from agents.tool import Tool

from comptroller.decide.estimates import CHARACTERS_PER_TOKEN
from comptroller.decide.names import carried
from comptroller.decide.pricing import TokenCount

from . import attachments

_LOCAL_CALLS = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "shell_call",
        "local_shell_call",
        "computer_call",
        "apply_patch_call",
    }
)
_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_SENT_OF_A_TOOL = ("name", "description", "params_json_schema")
_DESCRIBED = 200  # characters; a ledger's metadata has room for 256
_NAMED = 200  # the same, of a model
_MOST_WRAPPED = 8  # models in models: a mock has an attribute `model` however deep one looks


def told(thing: Any, name: str) -> Any:
    """A field of what a model gave, be it an object, a dict, or nonsense; None: it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def token_count(usage: Any) -> TokenCount | None:
    """Tokens of an SDK `Usage` or an OpenAI `ResponseUsage`; None where nothing was reported.

    A usage of zero tokens is "not reported": no model answers without reading anything.
    """
    given, made = _int(usage, "input_tokens"), _int(usage, "output_tokens")
    if not given + made:
        return None
    read = told(usage, "input_tokens_details")
    return TokenCount(
        input=given,
        cached=_int(read, "cached_tokens"),
        cache_write=_int(read, "cache_write_tokens"),
        output=made,
        reasoning=_int(told(usage, "output_tokens_details"), "reasoning_tokens"),
    )


def _int(value: Any, name: str) -> int:
    found = told(value, name)
    return found if isinstance(found, int) and found > 0 else 0


def model_name(model: Model, asked_for: str | None) -> str:
    """`provider:model`, as it stands in action names and receipts.

    `asked_for` is the name by which the SDK resolved it; None where an instance was given.
    """
    named, name = _named(model)
    module = str(type(named).__module__)
    provider = module.rpartition(".")[2].removesuffix("_model")
    if module.startswith("agents.models.openai"):
        provider = "openai"
    return carried(f"{provider}:{name or asked_for or type(named).__name__}", _NAMED)


def _named(model: object) -> tuple[object, str | None]:
    """The model that has a name in its attribute `model`, and that name.

    What a model keeps there is its own business: a name, an enum of names, the model that it wraps,
    weights, what raises when it is looked at. Whatever has no name in the end is called after its
    class, never after its text: that may be long, or another one every time.
    """
    inner = model
    for _ in range(_MOST_WRAPPED):
        try:
            kept = getattr(inner, "model", None)
            text = kept.value if isinstance(kept, Enum) else kept
            if isinstance(text, str):
                return inner, str.__str__(text) or None
            if isinstance(text, PurePath):
                return inner, text.name or None
        except Exception:  # noqa: BLE001 - somebody else's property
            break
        if kept is None:
            break
        inner = kept
    return model, None


def input_characters(
    system: str | None, given: str | list[TResponseInputItem], tools: list[Tool]
) -> int:
    """Roughly what is sent: instructions, items with what is attached, the schemas of the tools."""
    items = [given] if isinstance(given, str) else given
    texts = [system, *(told(tool, name) for tool in tools for name in _SENT_OF_A_TOOL)]
    return sum(map(_characters, texts)) + sum(_characters(i, attachments.characters) for i in items)


def _characters(part: Any, count: Callable[[Any], int] = lambda part: len(str(part))) -> int:
    """Of whatever is sent: some models take more than texts, and this is a guess anyway."""
    try:
        return 0 if part is None else count(part)
    except Exception:  # noqa: BLE001 - somebody else's `__str__`
        return 0


def streamed_tokens(event: Any) -> int:
    """Output tokens in one stream event: its delta's characters, rounded up."""
    delta = told(event, "delta")
    if not isinstance(delta, str) or not str(told(event, "type")).endswith(".delta"):
        return 0
    return -(-len(delta) // CHARACTERS_PER_TOKEN)


def hosted_tools(output: Any) -> list[str]:
    """The tools that the provider ran inside the call (`web_search`, `code_interpreter`, ...)."""
    items = output if isinstance(output, list | tuple) else ()
    kinds = [str(told(item, "type")) for item in items]
    return [
        kind.removesuffix("_call")
        for kind in kinds
        if kind.endswith("_call") and kind not in _LOCAL_CALLS
    ]


def why_failed(error: BaseException) -> tuple[int | None, bool]:
    """(HTTP status, never sent) of a model's exception. Client libraries wrap: causes count."""
    seen: list[BaseException | None] = [None]
    cause: BaseException | None = error
    while cause not in seen:  # causes may go round in a circle
        seen.append(cause)
        status = getattr(cause, "status_code", None)
        if isinstance(status, int):
            return status, False
        if isinstance(cause, ConnectionRefusedError) or type(cause).__name__ in _NOT_SENT:
            return None, True
        cause = getattr(cause, "__cause__", None)
    return None, False


def described(error: BaseException) -> str:
    """The error in a line that any ledger takes, whatever its own text is like."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - somebody else's `__str__`
        text = "(it has no text)"
    return carried(f"{type(error).__name__}: {text}", _DESCRIBED)
