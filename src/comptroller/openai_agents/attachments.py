"""Images, sounds and files inside an input: a model does not read their base64 as text.

A photograph of 4 MB has some thousand tokens, not the million that its characters would be. What
is reserved for them, like any estimate, is replaced by the usage that the model reports.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from comptroller.decide.estimates import CHARACTERS_PER_TOKEN

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

_MOST_FILE_TOKENS = 1_050_000
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
            yield file, min(-(-size // CHARACTERS_PER_TOKEN), _MOST_FILE_TOKENS)


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def _image_tokens(part: Mapping[Any, Any]) -> int:
    return _IMAGE_TOKENS.get(_text(part.get("detail")), _IMAGE_TOKENS["auto"])
