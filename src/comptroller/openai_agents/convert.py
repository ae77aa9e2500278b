"""What a model is sent, turned into estimates: its name, the size of its input, what it streams.

Images, sounds and files inside an input: a model does not read their base64 as text.

A photograph of 4 MB has some thousand tokens, not the million that its characters would be. What
is reserved for them, like any estimate, is replaced by the usage that the model reports.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from agents import Model
from agents.items import TResponseInputItem
from agents.tool import Tool

from comptroller.core.estimates import CHARACTERS_PER_TOKEN
from comptroller.core.identifiers import truncate_utf8
from comptroller.openai_agents.billing import field_of

_SENT_OF_A_TOOL = ("name", "description", "params_json_schema")
_NAMED = 200  # characters of a model's name; a ledger's metadata has room for 256
_MOST_WRAPPED = 8  # models in models: a mock has an attribute `model` however deep one looks


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
    """Return the model that has a name in its attribute `model`, and that name.

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
    """Return the length of an input item, in which attachments count by their tokens."""
    return len(str(item)) + sum(
        tokens * CHARACTERS_PER_TOKEN - len(data)
        for part in _parts(item)
        for data, tokens in _attached(part)
    )


def _parts(item: object) -> Iterator[Mapping[Any, Any]]:
    """Yield the item and everything in it that has fields."""
    if isinstance(item, Mapping):
        yield item
        item = list(item.values())
    if isinstance(item, list):
        for each in item:
            yield from _parts(each)


def _attached(part: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    """Yield the characters of an attachment, and its tokens: none or one."""
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
