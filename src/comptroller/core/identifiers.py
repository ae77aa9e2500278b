"""Names that fit the protocol: subject values match `^[a-zA-Z0-9_.-]{1,128}$`.

What the SDK brings (agents are called "Triage agent") is made to fit; what a person wrote (tenant,
workspace, app, workflow) is checked, and refused with the way to write it.
"""

import hashlib
import re
from collections.abc import Mapping

from comptroller._validation import must_be

MOST = 128
"""The longest value of a subject field (protocol, Subject)."""

_FITS = re.compile(r"[a-zA-Z0-9_.-]+\Z")
_OTHERS = re.compile(r"[^a-zA-Z0-9_.-]+")
_HASHED = 8  # hex digits of the hash that keeps shortened names apart


def fits(text: str, most: int = MOST) -> bool:
    """Whether `text` may stand in a subject as it is."""
    return len(text) <= most and _FITS.match(text) is not None


def fitted(text: str, most: int = MOST) -> str:
    """`text` as a subject value of at most `most` (16 or more) characters.

    Other characters become `-`, runs of them one; where too much or nothing is left, a short hash
    of the original is part of it. What fits already comes back as it is.
    """
    if fits(text, most):
        return text
    kept = _OTHERS.sub("-", text)
    if kept.strip("-") and len(kept) <= most:
        return kept
    digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:_HASHED]
    return f"{kept[: most - _HASHED - 1].strip('-')}-{digest}".lstrip("-")


def carried(text: str, most: int = 256) -> str:
    """What a message can carry of a name or reason, whatever it holds: `most` characters, all of
    which UTF-8 has. Half of a surrogate pair, which it has not, is written out.
    """
    return text.encode(errors="backslashreplace").decode()[:most]


def lowered(name: str, given: str | None) -> str | None:
    """The value of the filter `name`, as scopes have it. Raise `TypeError` where it is no text."""
    if not given:
        return None
    must_be(name, given, str, "a string")
    return given.lower()


def checked(what: str, text: str) -> str:
    """`text`, the value somebody gave for `what` ("tenant", "workspace", ...).

    Raises:
        TypeError: not a string.
        ValueError: empty, longer than 128, or with characters that the protocol does not carry.
    """
    must_be(what, text, str, "a string")
    if fits(text):
        return text
    if not text:
        raise ValueError(f"{what}='': it cannot be empty")
    raise ValueError(
        f"{what}={text!r}: use at most {MOST} letters, digits, `_`, `.` and `-`,"
        f" for example {fitted(text)!r}"
    )


RUN_ID_MOST = 128
"""The longest run id: the idempotency keys made of it stay within the protocol's 256."""

_PRINTABLE = re.compile(r"[\x21-\x7e]+\Z")
_DIMENSIONS_MOST = 16
_DIMENSION_LENGTH = 256


def checked_run_id(text: str) -> str:
    """`text`, a run id that somebody gave: it becomes part of headers and idempotency keys.

    Raises:
        TypeError: not a string.
        ValueError: empty, longer than 128, or with anything but printable ASCII.
    """
    must_be("run_id", text, str, "a string")
    if len(text) > RUN_ID_MOST or _PRINTABLE.match(text) is None:
        raise ValueError(
            f"run_id={text!r}: use 1 to {RUN_ID_MOST} printable ASCII characters, no spaces"
        )
    return text


def checked_dimensions(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, a subject's own dimensions (protocol, Subject).

    Raises:
        TypeError: no mapping, or a key or value that is not a string.
        ValueError: more than 16, or a value longer than 256.
    """
    must_be("dimensions", given, Mapping, 'a mapping such as {"customer": "42"}')
    if len(given) > _DIMENSIONS_MOST:
        raise ValueError(f"dimensions: {len(given)} given, at most {_DIMENSIONS_MOST} fit")
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"dimensions[{key!r}]={value!r}: give strings")
        if len(value) > _DIMENSION_LENGTH:
            raise ValueError(
                f"dimensions[{key!r}]: {len(value)} characters, at most {_DIMENSION_LENGTH} fit"
            )
    return dict(given)
