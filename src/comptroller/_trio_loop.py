"""The asyncio loop that trio carries for the SDK: imported under trio alone.

A program has one, however many scopes it opens: what asyncio code keeps beyond a scope, such as the
connections of a client, belongs to the loop that it was made in. A system task of trio's holds it:
it ends when the program's main task has ended. Where the program has opened a loop itself, that is
the one.

Importing trio-asyncio changes the event loop policy.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import trio_asyncio
from trio_asyncio._base import TrioAsyncioExit

from comptroller._interrupts import UNINTERRUPTED

log = logging.getLogger("comptroller")

carry = trio_asyncio.aio_as_trio
"""Makes an asyncio function awaitable from trio."""


@asynccontextmanager
async def carrying() -> AsyncIterator[None]:
    """Use the loop that is open here already, else the program's, opened by the first who asks.

    Raises:
        KeyboardInterrupt, SystemExit: an asyncio task has raised it, in the program's loop.
    """
    around: Any = trio_asyncio.current_loop.get()
    keeper = program_loop()
    if around is not None and (keeper is None or around is not keeper.loop):
        _endure(around, _raised_by(around))
        yield
        return
    keeper = await _kept_loop()
    ended: BaseException | None = None
    try:
        with trio.CancelScope() as scope:
            keeper.scopes[scope] = None
            trio_asyncio.current_loop.set(keeper.loop)
            try:
                yield
            finally:
                trio_asyncio.current_loop.set(around)  # by value: tokens belong to one context
                ended = keeper.scopes.pop(scope)
    except BaseExceptionGroup as group:
        raise _ending(group) or group from None
    if ended is not None:
        raise ended


class Keeper:
    """The program's loop, in a system task.

    Attributes:
        task: the system task.
        scopes: those that use the loop now, and what has ended each, if anything has.
    """

    def __init__(self) -> None:
        self.loop: Any = None
        self.opened, self.closed = trio.Event(), False
        self.scopes: dict[trio.CancelScope, BaseException | None] = {}
        self.task = trio.lowlevel.spawn_system_task(self._keep, name="comptroller asyncio loop")

    async def _keep(self) -> None:
        try:
            async with trio_asyncio.open_loop() as self.loop:
                _endure(self.loop, self.end)
                # trio-asyncio ends the loop with any error that nobody has asked for; this one is
                # not the scope's in which that happened, so it is logged, as asyncio does it
                self.loop.set_exception_handler(asyncio.BaseEventLoop.default_exception_handler)
                self.opened.set()
                with suppress(trio.Cancelled):  # the program's main task has ended
                    await trio.sleep_forever()
        except* trio.Cancelled:  # it has before the loop was open
            pass
        except* _ERRORS as group:  # a system task's would end trio itself
            self.end(_ending(group) or group)
        finally:
            self.closed = True
            self.opened.set()

    def end(self, error: BaseException) -> None:
        """End every scope with `error`: it would have ended their loop."""
        if not self.scopes:
            log.error("raised in an asyncio task outside every scope", exc_info=error)
        for scope, known in self.scopes.items():
            self.scopes[scope] = known or error
            scope.cancel()


_ERRORS = (Exception, KeyboardInterrupt, SystemExit, asyncio.CancelledError)
"""What may come out of a loop; `trio.Cancelled` is no error."""

_KEEPER: trio.lowlevel.RunVar[Keeper] = trio.lowlevel.RunVar("comptroller_asyncio_loop")


def program_loop() -> Keeper | None:
    """Who keeps the program's loop; None: nobody has asked for it yet."""
    try:
        return _KEEPER.get()
    except LookupError:
        return None


async def _kept_loop() -> Keeper:
    keeper = program_loop()
    if keeper is None or keeper.closed:
        keeper = Keeper()
        _KEEPER.set(keeper)
    await keeper.opened.wait()
    return keeper


def _raised_by(loop: Any) -> Callable[[BaseException], None]:
    """Make what raises the first error it is told of out of the scope of a loop."""
    ending = list[BaseException]()

    async def raise_it() -> None:
        raise ending[0]

    def end(error: BaseException) -> None:
        ending.append(error)  # each task that waits for the one that failed raises it again
        if len(ending) == 1:
            loop.run_trio_task(raise_it)

    return end


def _endure(loop: Any, end: Callable[[BaseException], None]) -> None:
    """Let the loop go on where KeyboardInterrupt or SystemExit would end it on the spot.

    What cleans up would wait for it for ever, for nobody runs it again, as asyncio.run does. So
    `end` is told of such an error, and cancels what stands on the loop; and a Ctrl-C is not raised
    in asyncio code, but where the program's main task waits.
    """
    for function in (type(loop)._main_loop, type(loop)._io_task, *UNINTERRUPTED):
        trio.lowlevel.enable_ki_protection(function)
    if "_main_loop_one" in vars(loop):
        return
    step = loop._main_loop_one

    async def enduring(no_wait: bool = False) -> None:
        try:
            await step(no_wait)
        except TrioAsyncioExit:
            raise  # its own: it is told to stop
        except (KeyboardInterrupt, SystemExit) as error:
            end(error)

    loop._main_loop_one = enduring


def _ending(group: BaseExceptionGroup[Any]) -> BaseException | None:
    """Return the error in `group` that ends the program, alone, as asyncio hands it on;
    None: there is none.
    """
    found: BaseException | None = group.subgroup((KeyboardInterrupt, SystemExit))
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
