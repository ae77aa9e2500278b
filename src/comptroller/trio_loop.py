"""The asyncio loop that trio carries for the SDK: imported under trio alone.

Importing trio-asyncio changes the event loop policy.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio
import trio_asyncio
from trio_asyncio._base import TrioAsyncioExit

from .interrupts import UNINTERRUPTED

carry = trio_asyncio.aio_as_trio
"""Makes an asyncio function awaitable from trio."""


@asynccontextmanager
async def carrying() -> AsyncIterator[None]:
    """The loop that is open here already, else one for this scope.

    Raises:
        KeyboardInterrupt, SystemExit: an asyncio task has raised it, in a loop of this scope.
    """
    loop: Any = trio_asyncio.current_loop.get()
    if loop is not None:
        _endure(loop)
        yield
        return
    failure: Exception | None = None
    try:
        with anyio.CancelScope() as shelter:
            async with trio_asyncio.open_loop() as loop:
                _endure(loop)
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - its nurseries would make a group of it
                    failure = error
                finally:
                    shelter.shield = True  # an outer cancellation would come out of closing it
    except BaseExceptionGroup as group:
        raise _ending(group) or group from None
    if failure is not None:
        raise failure


def _endure(loop: Any) -> None:
    """Let the loop go on where KeyboardInterrupt or SystemExit would end it on the spot.

    What cleans up would wait for it for ever, for nobody runs it again, as asyncio.run does. So the
    first such error comes out of the loop's scope, which cancels what stands in it; and a Ctrl-C is
    not raised in asyncio code, but where the program's main task waits.
    """
    for function in (type(loop)._main_loop, *UNINTERRUPTED):
        trio.lowlevel.enable_ki_protection(function)
    if "_main_loop_one" in vars(loop):
        return
    step, ending = loop._main_loop_one, list[BaseException]()

    async def raise_it() -> None:
        raise ending[0]

    async def enduring(no_wait: bool = False) -> None:
        try:
            await step(no_wait)
        except TrioAsyncioExit:
            raise  # its own: it is told to stop
        except (KeyboardInterrupt, SystemExit) as error:
            ending.append(error)  # each task that waits for the one that failed raises it again
            if len(ending) == 1:
                loop.run_trio_task(raise_it)

    loop._main_loop_one = enduring


def _ending(group: BaseExceptionGroup[Any]) -> BaseException | None:
    """The error in `group` that ends the program, alone, as asyncio hands it on; None: there is
    none.
    """
    found: BaseException | None = group.subgroup((KeyboardInterrupt, SystemExit))
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
