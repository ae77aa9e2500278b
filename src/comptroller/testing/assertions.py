"""What must be left when a run's scope has ended: no open reservation, no task (law 4).

What a loop leaves when it has closed: threads, open files, errors in the log.
"""

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.lowlevel import current_token
from runcycles import ReservationSummary, Unit

from comptroller.core.call_lifecycle import Outcome
from comptroller.ledger.interface import Ledger
from comptroller.receipts import CallReceipt, Receipt
from comptroller.runtime.registry import RunHandle

_PAGE = 200
_NOT_IN_THE_LEDGER = (Outcome.OUTBOXED, Outcome.LAPSING, Outcome.UNSETTLED)


async def open_reservations(
    ledger: Ledger, *, tenant: str | None = None
) -> list[ReservationSummary]:
    """Return the active reservations, newest first; of all tenants unless one is given."""
    found: list[ReservationSummary] = []
    cursor: str | None = None
    while True:
        page = await ledger.reservations(tenant=tenant, status="ACTIVE", limit=_PAGE, cursor=cursor)
        found += page.reservations
        cursor = page.next_cursor
        if not page.has_more or cursor is None:
            return found


async def settled(ledger: Ledger, *, tenant: str | None = None) -> bool:
    """Whether no reservation is active."""
    return not await open_reservations(ledger, tenant=tenant)


async def assert_settled(what: Ledger | RunHandle, *, tenant: str | None = None) -> None:
    """Raise AssertionError unless everything is settled; the text names what is not.

    Args:
        what: a ledger: no reservation may be active. Or a run, or a started run, whose scope has
            been left: each of its calls must have ended, with its charge in the ledger: not
            `outboxed`, `lapsing` or `unsettled`.
        tenant: of a ledger, only this tenant's reservations.
    """
    if isinstance(receipt := getattr(what, "receipt", None), Receipt):
        lines = [*open_lines(receipt.run_id, receipt), *_unsettled_lines(receipt)]
        if lines:
            raise AssertionError("; ".join(lines))
        return
    if not hasattr(what, "reservations"):
        raise TypeError(f"{what!r} is no ledger, no run and no started run")
    ledger = cast("Ledger", what)
    left = await open_reservations(ledger, tenant=tenant)
    lines = [
        f"{each.reservation_id} of {each.action.name}, key {each.idempotency_key}" for each in left
    ]
    if left:
        raise AssertionError(f"open on {ledger.name}: {'; '.join(lines)}")


def open_lines(run_id: str, receipt: Receipt) -> list[str]:
    """Return the calls of a receipt that have not ended, in words."""
    return [f"run {run_id}: {_told(line)} has not ended" for line in receipt.calls if line.open]


def _unsettled_lines(receipt: Receipt) -> list[str]:
    return [
        f"run {receipt.run_id}: {_told(line)} is not settled: {line.reason}"
        for line in receipt.calls
        if line.outcome in _NOT_IN_THE_LEDGER
    ]


def _told(line: CallReceipt) -> str:
    return f"{line.id} ({line.name} by {line.agent}, {line.outcome.value})"


def innermost(ledger: Any) -> Ledger:
    """Return the ledger behind those that only pass requests on (they have an `inner`)."""
    while (inner := getattr(ledger, "inner", None)) is not None:
        ledger = inner
    found: Ledger = ledger
    return found


_TURNS_OF_TRIO = 10
"""In which an asyncio loop on it surely turns once."""


async def spent(ledger: Ledger, tenant: str) -> dict[Unit, int]:
    """Return what the tenant's own budgets say was spent, by unit."""
    balances = (await ledger.balances(tenant=tenant)).balances
    return {
        balance.spent.unit: balance.spent.amount
        for balance in balances
        if balance.spent and balance.scope_path == f"tenant:{tenant}"
    }


def asyncio_tasks_left() -> set[asyncio.Task[Any]]:
    """Return the asyncio tasks that are not done, but for the calling one. Call it on asyncio."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def trio_tasks_left() -> set[Any]:
    """Return this run's trio tasks, but for the calling one, and those of an asyncio loop on it.

    Trio's own are among them: compare with what was there before. Not among them are those that
    run the program's asyncio loop, which goes on to its end. Call it on trio.
    """
    import trio

    found: set[Any] = set()
    kept = sys.modules.get("comptroller._trio_loop")
    keeper = kept.program_loop() if kept else None
    root = trio.lowlevel.current_root_task()
    above = [root] if root else []
    while above:
        task = above.pop()
        if keeper is not None and task is keeper.task:
            continue
        found.add(task)
        above += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    loops = {keeper.loop} if keeper is not None else set()
    if carried := sys.modules.get("trio_asyncio"):
        loops.add(carried.current_loop.get())
    for loop in loops - {None}:
        found |= asyncio.all_tasks(loop)
    return found - {trio.lowlevel.current_task()}


def tasks_left() -> set[Any]:
    """`asyncio_tasks_left` or `trio_tasks_left`, after the loop that runs."""
    return asyncio_tasks_left() if _on_asyncio() else trio_tasks_left()


def _on_asyncio() -> bool:
    return isinstance(current_token().native_token, asyncio.AbstractEventLoop)


@asynccontextmanager
async def no_task_left(*, turns: int = 3) -> AsyncIterator[None]:
    """Check that the block leaves no task that was not there before.

    Args:
        turns: how often the loop may turn until then: a task that has ended is forgotten only
            when the loop has told its waiters, and a generator that nobody reads any more is
            closed in a task. On trio it is the asyncio loop there that turns so often.

    Raises:
        AssertionError: names each task that is left.
    """
    before = tasks_left()
    yield
    for _ in range(turns if _on_asyncio() else turns * _TURNS_OF_TRIO):
        await anyio.lowlevel.checkpoint()
    if left := tasks_left() - before:
        raise AssertionError(f"tasks left: {'; '.join(sorted(map(repr, left)))}")


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
