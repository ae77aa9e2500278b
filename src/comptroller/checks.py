"""Arguments that make no sense are refused where they are given, in a line that says what to write.

(The validators of attrs would raise tuples of four.)
"""

from types import UnionType


def must_be(name: str, given: object, kind: type | UnionType, hint: str) -> None:
    """Raise `TypeError` where the argument `name` is no `kind`: give `hint`."""
    if not isinstance(given, kind):
        raise TypeError(f"{name}={given!r}: give {hint}")


def must_offer(name: str, given: object, method: str, hint: str) -> None:
    """Raise `TypeError` where the argument `name` has no such method: give `hint`."""
    if not callable(getattr(given, method, None)):
        raise TypeError(f"{name}={given!r}: give {hint}")


def whole(name: str, given: object, least: int = 0) -> int:
    """The number that was given. Raise `TypeError` or `ValueError` unless it is a whole one."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name}: {given!r} is not a whole number: write an int")
    if given < least:
        raise ValueError(f"{name}: {given!r}: the least is {least}")
    return given
