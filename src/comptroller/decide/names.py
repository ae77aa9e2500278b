"""Names that fit the protocol: subject values match `^[a-zA-Z0-9_.-]{1,128}$`.

What the SDK brings (agents are called "Triage agent") is made to fit; what a person wrote (tenant,
workspace, app, workflow) is checked, and refused with the way to write it.
"""

import hashlib
import re

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


def checked(what: str, text: str) -> str:
    """`text`, the value somebody gave for `what` ("tenant", "workspace", ...).

    Raises:
        TypeError: not a string.
        ValueError: empty, longer than 128, or with characters that the protocol does not carry.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what}={text!r}: give a string")
    if fits(text):
        return text
    if not text:
        raise ValueError(f"{what}='': it cannot be empty")
    raise ValueError(
        f"{what}={text!r}: use at most {MOST} letters, digits, `_`, `.` and `-`,"
        f" for example {fitted(text)!r}"
    )
