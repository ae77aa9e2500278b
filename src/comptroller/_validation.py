"""Arguments that make no sense are refused where they are given, in a line that says what to write.

(The validators of attrs would raise tuples of four.)
"""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any

_MAX_SHOWN = 80  # characters: an agent has hundreds, and the hint comes after them


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def check_type(name: str, given: object, kind: type | UnionType, hint: str) -> None:
    """Raise `TypeError` where the argument `name` is no `kind`: give `hint`."""
    if not isinstance(given, kind):
        raise TypeError(f"{name}={_shown(given)}: give {hint}")


def check_attribute(name: str, given: object, member: str, hint: str) -> None:
    """Raise `TypeError` where the argument `name` has no such member: give `hint`."""
    if not hasattr(given, member):
        raise TypeError(f"{name}={_shown(given)}: give {hint}")


def must_return_at_once(name: str, given: Callable[..., object], hint: str) -> None:
    """Raise `TypeError` where the function is an async one, which nobody would await: give `hint`.

    So is an object whose `__call__` is.
    """
    if any(map(inspect.iscoroutinefunction, (given, type(given).__call__))):
        raise TypeError(f"{name}: nobody awaits an async function: give {hint}")


def expand_path(given: str | os.PathLike[str], wrong: str) -> Path:
    """Return the path that a person means now, wherever the process goes later: `~` is a home.

    Raises:
        ValueError: it is nobody's, or the directory that it is relative to is gone.
    """
    try:
        return Path(given).expanduser().absolute()
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"{os.fspath(given)!r} {wrong}: {error}") from None


def check_int(name: str, given: object, least: int = 0) -> int:
    """Return the number that was given. Raise `TypeError` or `ValueError` unless it is whole."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name}: {given!r} is not a whole number: write an int")
    if given < least:
        raise ValueError(f"{name}: {given!r}: the least is {least}")
    return given


Validator = Callable[[object, Any, Any], None]
"""As attrs calls it: with the instance, the attribute and what was given for it."""


def at_least(least: int) -> Validator:
    """Make a validator of whole numbers from `least` on."""

    def check(_: object, attribute: Any, given: object) -> None:
        check_int(attribute.name, given, least)

    return check


def within(least: float, most: float) -> Validator:
    """Make a validator of numbers from `least` to `most`."""

    def check(_: object, attribute: Any, given: object) -> None:
        if not isinstance(given, int | float) or not least <= given <= most:
            raise ValueError(f"{attribute.name}: {given!r}: a number from {least:g} to {most:g}")

    return check


def one_of(*words: str) -> Validator:
    """One of these."""

    def check(_: object, attribute: Any, given: object) -> None:
        if given not in words:
            raise ValueError(f"{attribute.name}: {given!r}: write {' or '.join(map(repr, words))}")

    return check
