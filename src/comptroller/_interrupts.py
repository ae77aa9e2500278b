"""Where a Ctrl-C must not be raised: in what keeps the books, between any two of its steps.

asyncio never raises it there: it cancels its main task. trio raises KeyboardInterrupt wherever its
program stands, unless that is protected; then its main task gets it, where it waits.
"""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

UNINTERRUPTED: list[Callable[..., Any]] = []
"""To be protected once trio is there, by `comptroller._trio_loop`."""


def uninterrupted(function: Function) -> Function:
    """Under trio, no KeyboardInterrupt is raised in `function` or in what it calls, but where the
    program's main task waits.
    """
    UNINTERRUPTED.append(function)
    return function
