"""Which run governs this context, and how an SDK callback asks for a call.

A context variable holds the run: it survives into the SDK's tasks, tool threads and nested runs.
Callbacks are asyncio code, in whatever loop; the run lives at its home, which may be elsewhere.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial

from comptroller.core.settlement import NotStarted
from comptroller.errors import without_traceback
from comptroller.openai_agents.generator_scopes import Place, place_of_scope
from comptroller.runtime.actor import Actor
from comptroller.runtime.call import Answer, CallGrant, CallRequest
from comptroller.runtime.run import Run

current_run: ContextVar[Run | None] = ContextVar("comptroller_run", default=None)


_CHOSEN: ContextVar[Run | None] = ContextVar("comptroller_chosen_run", default=None)
"""The run that a `Runner.run` around this context has found, or was told: no question is left."""


@contextmanager
def run_scope(run: Run | None) -> Iterator[None]:
    """Let `run`, or none, govern this context for a while.

    The context is set once, by the outermost of scopes that agree: `run(...)`, or the runner that
    the user has called. It is set back by value: tokens belong to one task.
    """
    before = current_run.get(), _CHOSEN.get()
    if before == (run, run):
        yield
        return
    current_run.set(run)
    _CHOSEN.set(run)
    try:
        yield
    finally:
        current_run.set(before[0])
        _CHOSEN.set(before[1])


def push_run(run: Run) -> None:
    """`run` governs this context from now on."""
    run.outer, run.place = current_run.get(), place_of_scope()
    current_run.set(run)


def pop_run(run: Run) -> None:
    """Take `run` out of this context, in whatever order its scopes are left."""
    inner = current_run.get()
    if inner is run:
        current_run.set(run.outer)
    while inner is not None and inner.outer is not run:
        inner = inner.outer
    if inner is not None:
        inner.outer = run.outer
    run.outer = run.place = None


def is_elsewhere(run: Run) -> bool:
    """Whether the scope of `run` stands in a generator that is not what runs here now."""
    return run is not _CHOSEN.get() and isinstance(run.place, Place) and run.place.is_elsewhere()


async def request_grant(run: Run, draft: CallRequest) -> tuple[Actor, CallGrant]:
    """Ask for a call, and wait for its grant (law 6: a hook waits for nothing else).

    Cancelled meanwhile, the actor is told that the call never began, and we leave at once.

    Raises:
        ComptrollerError: the refusal.
    """
    asked: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    actor = run.open(draft, partial(_answer, asked))
    try:
        granted = await asked
    except asyncio.CancelledError:
        actor.tell(NotStarted(str(run.ended or "given up before it was granted")))
        raise
    if isinstance(granted, BaseException):
        raise granted
    if run.ended is not None:  # while the grant was on its way to this task
        actor.tell(NotStarted(str(run.ended)))
        raise without_traceback(run.ended)
    return actor, granted


def _answer(asked: asyncio.Future[Answer], answer: Answer) -> None:
    """Answer whoever awaits `asked`. Called at the run's home, which may be another loop."""
    loop = asked.get_loop()
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:  # home is trio
        here = False
    if not here:
        with suppress(RuntimeError):  # the asking loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set_result, asked, answer)
    else:
        _set_result(asked, answer)


def _set_result(asked: asyncio.Future[Answer], answer: Answer) -> None:
    if not asked.done():  # else who asked was cancelled
        asked.set_result(answer)
