"""The SDK's values turned into ours: usage to token counts, models to names.

Images, sounds and files inside an input: a model does not read their base64 as text.

A photograph of 4 MB has some thousand tokens, not the million that its characters would be. What
is reserved for them, like any estimate, is replaced by the usage that the model reports.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import reduce
from operator import index
from pathlib import PurePath
from typing import Any

from agents import Model
from agents.items import TResponseInputItem
from agents.tool import Tool

from comptroller.core.estimates import CHARACTERS_PER_TOKEN
from comptroller.core.identifiers import truncate_utf8
from comptroller.core.pricing import TokenCount

_LOCAL_CALLS = frozenset(
    {"function_call", "custom_tool_call", "shell_call", "local_shell_call", "computer_call",
     "apply_patch_call"}
)  # fmt: skip
_PROGRAM = "programmatic_tool_calling"  # the SDK's name of the tool that such items are of
_SENT_OF_A_TOOL = ("name", "description", "params_json_schema")
_NAMED = 200  # characters of a model's name; a ledger's metadata has room for 256
_MOST_WRAPPED = 8  # models in models: a mock has an attribute `model` however deep one looks


def field_of(thing: Any, name: str) -> Any:
    """A field of what a model gave, be it an object, a dict, or nonsense; None: it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


_Paths = tuple[tuple[str, ...], ...]


def _both(*names: str) -> _Paths:
    """What Responses API and Chat Completions count of what was read."""
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
    """What an answer used; None where nothing was reported.

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
    """The first count that is there; most members of a usage are not, and are not looked into."""
    for known in members:
        for head, *rest in paths:
            found = known[head]
            if found is not None and (count := whole_number(reduce(field_of, rest, found))):
                return count
    return 0


def whole_number(given: Any) -> int:
    """The count that somebody's number stands for, whatever its type; 0 where it is none.

    Models count with numpy and torch, and what JavaScript has counted comes as `1000.0`.
    """
    if given is None or isinstance(given, bool | str | bytes):
        return 0
    try:
        count = index(given) if hasattr(given, "__index__") else int(given)
        return max(0, count) if hasattr(given, "__index__") or count == given else 0
    except Exception:  # noqa: BLE001 - no number, or somebody else's arithmetic
        return 0


def model_name(model: Model, asked_for: str | None) -> str:
    """`provider:model`, as it stands in action names and receipts.

    `asked_for` is the name by which the SDK resolved it; None where an instance was given.
    """
    named, name = _named(model)
    module = str(type(named).__module__)
    provider = module.rpartition(".")[2].removesuffix("_model")
    if module.startswith("agents.models.openai"):
        provider = "openai"
    return truncate_utf8(f"{provider}:{name or asked_for or type(named).__name__}", _NAMED)


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
    texts = [system, *(field_of(tool, name) for tool in tools for name in _SENT_OF_A_TOOL)]
    return sum(map(_characters, texts)) + sum(_characters(i, characters) for i in items)


def _characters(part: Any, count: Callable[[Any], int] = lambda part: len(str(part))) -> int:
    """Of whatever is sent: some models take more than texts, and this is a guess anyway."""
    try:
        return 0 if part is None else count(part)
    except Exception:  # noqa: BLE001 - somebody else's `__str__`
        return 0


def streamed_tokens(event: Any) -> int:
    """Output tokens in one stream event: its delta's characters, rounded up."""
    delta = field_of(event, "delta")
    if not isinstance(delta, str) or not str(field_of(event, "type")).endswith(".delta"):
        return 0
    return -(-len(delta) // CHARACTERS_PER_TOKEN)


def hosted_tools(output: Any) -> list[str]:
    """The tools that the provider ran inside the call (`web_search`, `code_interpreter`, ...)."""
    return [kind for kind, _ in _hosted_calls(output)]


def _hosted_calls(output: Any) -> Iterator[tuple[str, Any]]:
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
    """The calls of the provider's tools that are billed as such, by unit."""
    return Counter(
        UNITS_OF_TOOLS[kind]
        for kind, item in _hosted_calls(output)
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


_IMAGE_TOKENS = {"low": 700, "high": 4_000, "auto": 4_000, "original": 10_000}
"""Tokens of an image, by its `detail`: OpenAI's guide "Images and vision", on how models size it.

It is scaled until it has so many patches of 32 pixels squared: 256 (`low`), 2,500 (`high`), or
1,536, each of which counts 2.46 tokens in the smallest models; 10,000 (`original`). Models that
count tiles stay below that (1,445 tokens), but for gpt-4o-mini, whose tokens are the cheapest. The
latest models keep an image's own size unless they are told `low` or `high`: a photograph of more
than four million pixels has more tokens than this says.
"""

_AUDIO_CHARACTERS = 133
"""Base64 of 100 ms, which is one token (OpenAI, "Realtime costs"), at 8 kbit/s, mp3's least."""

_MAX_FILE_TOKENS = 1_050_000
"""The longest context of OpenAI's models: what is longer is refused, and costs nothing."""


def characters(item: object) -> int:
    """The length of an input item, in which attachments count as long as their tokens would be."""
    return len(str(item)) + sum(
        tokens * CHARACTERS_PER_TOKEN - len(data)
        for part in _parts(item)
        for data, tokens in _attached(part)
    )


def _parts(item: object) -> Iterator[Mapping[Any, Any]]:
    """The item and everything in it that has fields."""
    if isinstance(item, Mapping):
        yield item
        item = list(item.values())
    if isinstance(item, list):
        for each in item:
            yield from _parts(each)


def _attached(part: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    """The characters of an attachment, and its tokens: none or one."""
    match part:
        case {"type": "input_image" | "computer_screenshot"}:
            yield _text(part.get("image_url")), _image_tokens(part)
        case {"type": "image_url", "image_url": {"url": str(image)}}:  # as Chat Completions has it
            yield image, _image_tokens(part["image_url"])
        case {"type": "image_generation_call", "result": str(image)}:
            yield image, _image_tokens(part)
        case {"type": "input_audio", "input_audio": {"data": str(sound)}}:
            yield sound, -(-len(sound) // _AUDIO_CHARACTERS)
        case {"type": "input_file", "file_data": str(file)}:
            size = len(file) * 3 // 4  # base64
            yield file, min(-(-size // CHARACTERS_PER_TOKEN), _MAX_FILE_TOKENS)


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def _image_tokens(part: Mapping[Any, Any]) -> int:
    return _IMAGE_TOKENS.get(_text(part.get("detail")), _IMAGE_TOKENS["auto"])
