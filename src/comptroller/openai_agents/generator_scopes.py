"""Scopes that stand in async generators: such a generator has no context of its own (PEP 568).

What it sets in a context variable, its reader sees when it is suspended, and so do the other
generators that the same code reads. So the scope remembers its generator and the code that reads
it. While that code runs and the generator does not, the scope's run does not govern.

Not every suspended generator is read: some are scopes themselves (those of `asynccontextmanager`,
fixtures of tests), whose body is governed. Where in doubt, the context variable is believed.
"""

import inspect
import sys
from types import CodeType, FrameType

import attrs

_RUNNERS = frozenset({"anyio", "pytest_asyncio", "pytest_trio"})
"""Who steps through fixtures: what runs between two steps is the fixture's body."""


@attrs.frozen(eq=False)
class Place:
    """Where a scope stands: in an async generator which `reader` steps through.

    Known by the ids of their frames, and their codes, since an id is given again: a frame that was
    kept would keep a generator that its reader has left.
    """

    generator: tuple[int, CodeType]
    reader: tuple[int, CodeType]

    def is_elsewhere(self) -> bool:
        """Whether the code that runs now is the reader's own: the generator is suspended."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _mark(frame) != self.generator:
            if _mark(frame) == self.reader:
                return True
            frame = frame.f_back
        return False


def place_of_scope() -> Place | None:
    """Where the scope stands that is being entered; None: in no generator that is read."""
    frame = _beyond(sys._getframe(1), "comptroller", "contextlib")
    while frame is not None and frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
        reader = _beyond(frame.f_back, "asyncio")  # `wait_for`
        if reader is None or _package(reader) in _RUNNERS:
            return None
        if _package(reader) != "contextlib":
            return Place(_mark(frame), _mark(reader))
        frame = _beyond(reader, "contextlib")  # it is a scope of this one
    return None


def _mark(frame: FrameType) -> tuple[int, CodeType]:
    return id(frame), frame.f_code


def _beyond(frame: FrameType | None, *packages: str) -> FrameType | None:
    """Return the first frame, outwards, of another package."""
    while frame is not None and _package(frame) in packages:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]
