"""The SDK's values turned into ours: usage to token counts, models to names."""

from collections.abc import Callable, Mapping
from typing import Any

from agents import Model
from agents.items import TResponseInputItem
from agents.tool import Tool

from comptroller.decide.estimates import CHARACTERS_PER_TOKEN
from comptroller.decide.pricing import TokenCount

from . import attachments

_LOCAL_CALLS = frozenset(
    {"function_call", "custom_tool_call", "shell_call", "local_shell_call", "computer_call",
     "apply_patch_call"}
)  # fmt: skip
_PROGRAM = "programmatic_tool_calling"  # the SDK's name of the tool that such items are of
_SENT_OF_A_TOOL = ("name", "description", "params_json_schema")


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
    name = getattr(model, "model", None) or asked_for
    provider = type(model).__module__.rpartition(".")[2].removesuffix("_model")
    if type(model).__module__.startswith("agents.models.openai"):
        provider = "openai"
    return f"{provider}:{name}" if name else f"{provider}:{type(model).__name__}"


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
    kinds = [(str(told(item, "type")), item) for item in items]
    outputs = [told(item, "call_id") for kind, item in kinds if kind.endswith("_call_output")]
    return [
        _PROGRAM if kind == "program" else kind.removesuffix("_call")
        for kind, item in kinds
        if kind == "program" or (kind.endswith("_call") and _ran_there(kind, item, outputs))
    ]


def _ran_there(kind: str, call: Any, outputs: list[Any]) -> bool:
    """Whether the provider ran a call that it shows.

    Some kinds run here or there: a shell says where by its environment, a search among tools by who
    executes it, and what has its output beside it has run.
    """
    if told(call, "execution") == "client":
        return False
    if kind not in _LOCAL_CALLS:
        return True
    where = told(told(call, "environment"), "type")
    return where not in (None, "local") or (
        told(call, "call_id") is not None and told(call, "call_id") in outputs
    )
