"""Loops whose turns are counted, on virtual time.

On asyncio a turn is one round of the loop, on trio one step of any task.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from comptroller.testing.virtual_time.asyncio_loop import VirtualTimeLoop
from comptroller.testing.virtual_time.steps import StepCounter

T = TypeVar("T")


def run_counted(backend: str, main: Callable[[StepCounter], Awaitable[T]], patience: float) -> T:
    """Run `main(turns)` on a loop of its own, `asyncio` or `trio`, whose turns are counted.

    Raises DidNotEnd when it has not ended after `patience` real seconds.
    """
    turns = StepCounter()
    with turns.bounded(patience):
        if backend == "trio":
            from comptroller.testing.virtual_time.trio_clock import (
                run_counted as run_on_trio,  # trio is optional
            )

            result: T = run_on_trio(turns, main)
            return result
        with asyncio.Runner(loop_factory=counted_loop(turns)) as runner:
            return runner.run(_awaited(main, turns))


async def _awaited(main: Callable[[StepCounter], Awaitable[T]], turns: StepCounter) -> T:
    return await main(turns)


def counted_loop(turns: StepCounter) -> type[VirtualTimeLoop]:
    """Return a loop on virtual time that counts into `turns`."""

    class CountedLoop(VirtualTimeLoop):
        def __init__(self) -> None:
            super().__init__()
            turns.wake = lambda: self.call_soon_threadsafe(int)  # does nothing

        def _run_once(self) -> Any:
            turns.check()
            turns.turn()
            return super()._run_once()  # type: ignore[misc]  # asyncio does not show it

    return CountedLoop
