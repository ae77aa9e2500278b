"""Names that fit the protocol: subject values match `^[a-zA-Z0-9_.-]{1,128}$`.

What the SDK brings (agents are called "Triage agent") is made to fit; what a person wrote (tenant,
workspace, app, workflow) is checked, and refused with the way to write it.
"""

import hashlib
import re
from collections.abc import Mapping

from comptroller._validation import check_type

MAX_IDENTIFIER_LENGTH = 128
"""The longest value of a subject field (protocol, Subject)."""

_FITS = re.compile(r"[a-zA-Z0-9_.-]+\Z")
_OTHERS = re.compile(r"[^a-zA-Z0-9_.-]+")
_HASHED = 8  # hex digits of the hash that keeps shortened names apart


def is_identifier(text: str, most: int = MAX_IDENTIFIER_LENGTH) -> bool:
    """Whether `text` may stand in a subject as it is."""
    return len(text) <= most and _FITS.match(text) is not None


def normalize_identifier(text: str, most: int = MAX_IDENTIFIER_LENGTH) -> str:
    """`text` as a subject value of at most `most` (16 or more) characters.

    Other characters become `-`, runs of them one; where too much or nothing is left, a short hash
    of the original is part of it. What fits already comes back as it is.
    """
    if is_identifier(text, most):
        return text
    kept = _OTHERS.sub("-", text)
    if kept.strip("-") and len(kept) <= most:
        return kept
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:_HASHED]
    return f"{kept[: most - _HASHED - 1].strip('-')}-{digest}".lstrip("-")


def truncate_utf8(text: str, most: int = 256) -> str:
    """Return what a message can carry of a name or reason: `most` characters at most, all of
    which UTF-8 has. Half of a surrogate pair, which it has not, is written out.
    """
    return text.encode(errors="backslashreplace").decode()[:most]


def normalize_filter(name: str, given: str | None) -> str | None:
    """Return the value of the filter `name`, as scopes have it.

    Raise `TypeError` where it is no text.
    """
    if not given:
        return None
    check_type(name, given, str, "a string")
    return given.lower()


def checked(what: str, text: str) -> str:
    """`text`, the value somebody gave for `what` ("tenant", "workspace", ...).

    Raises:
        TypeError: not a string.
        ValueError: empty, longer than 128, or with characters that the protocol does not carry.
    """
    check_type(what, text, str, "a string")
    if is_identifier(text):
        return text
    if not text:
        raise ValueError(f"{what}='': it cannot be empty")
    raise ValueError(
        f"{what}={text!r}: use at most {MAX_IDENTIFIER_LENGTH} letters, digits, `_`, `.` and `-`,"
        f" for example {normalize_identifier(text)!r}"
    )


MAX_RUN_ID_LENGTH = 128
"""The longest run id: the idempotency keys made of it stay within the protocol's 256."""

_PRINTABLE = re.compile(r"[\x21-\x7e]+\Z")
_MAX_DIMENSIONS = 16
_DIMENSION_LENGTH = 256


def checked_run_id(text: str) -> str:
    """`text`, a run id that somebody gave: it becomes part of headers and idempotency keys.

    Raises:
        TypeError: not a string.
        ValueError: empty, longer than 128, or with anything but printable ASCII.
    """
    check_type("run_id", text, str, "a string")
    if len(text) > MAX_RUN_ID_LENGTH or _PRINTABLE.match(text) is None:
        raise ValueError(
            f"run_id={text!r}: use 1 to {MAX_RUN_ID_LENGTH} printable ASCII characters, no spaces"
        )
    return text


def checked_dimensions(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, a subject's own dimensions (protocol, Subject).

    Raises:
        TypeError: no mapping, or a key or value that is not a string.
        ValueError: more than 16, or a value longer than 256.
    """
    check_type("dimensions", given, Mapping, 'a mapping such as {"customer": "42"}')
    if len(given) > _MAX_DIMENSIONS:
        raise ValueError(f"dimensions: {len(given)} given, at most {_MAX_DIMENSIONS} fit")
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"dimensions[{key!r}]={value!r}: give strings")
        if len(value) > _DIMENSION_LENGTH:
            raise ValueError(
                f"dimensions[{key!r}]: {len(value)} characters, at most {_DIMENSION_LENGTH} fit"
            )
    return dict(given)
