"""What a loop leaves when it has closed: threads, open files, errors in the log."""

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENDING = 5.0
"""Seconds that a thread which has been told to end may take."""


class _Errors(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self._found.append(f"logged by {record.name}: {record.getMessage()}")


@contextmanager
def residue(found: list[str]) -> Iterator[None]:
    """Add to `found` what the block has logged as an error, and what is left of it afterwards."""
    threads, files = set(threading.enumerate()), open_files()
    errors, root = _Errors(found), logging.getLogger()
    root.addHandler(errors)
    try:
        yield
    finally:
        root.removeHandler(errors)
        found += [f"thread left: {thread.name}" for thread in _threads_left(threads)]
        if open_files() > files:
            gc.collect()  # what nobody refers to any more is closed by Python
            if (more := open_files() - files) > 0:
                found.append(f"files left open: {more}")


def _threads_left(before: set[threading.Thread]) -> list[threading.Thread]:
    """Those that have not ended; daemons are waited for no more than others."""
    new = [thread for thread in threading.enumerate() if thread not in before and not _idle(thread)]
    for thread in new:
        thread.join(_ENDING)
    return [thread for thread in new if thread.is_alive()]


def _idle(thread: threading.Thread) -> bool:
    """Whether it is one of those that trio keeps for the next job, of whatever loop."""
    return thread.daemon and thread.name.startswith("Trio thread ")


def open_files() -> int:
    """How many files, sockets and pipes this process has open; 0 where the system does not say."""
    for place in ("/proc/self/fd", "/dev/fd"):
        if Path(place).is_dir():
            return sum(1 for _ in Path(place).iterdir())
    return 0
