"""The sweep: a program is given up at every turn of its event loop, and denied at every call.

It is performed once to count the turns (or the calls), then once for each of them. After each time
it is looked for what must not be left: a call that has not ended, a reservation, a task, a thread,
an open file, an error in the log; and that the scope ended within its bound (law 4)::

    async def program(trial: Trial) -> None:
        async with trial.governed(make_agent(), policy=policy) as run:
            await run("Resolve case 42")

    def test_my_agent_leaves_nothing() -> None:
        cancel_everywhere(program).assert_clean()
        deny_everywhere(program).assert_clean()

A program is performed on a loop of its own each time, on virtual time: what it is made of (models,
tools, agents) has to be made in it, and must not reach for a network. Undisturbed it has to do its
work: a sweep over a program that is refused from the start would look at nothing.

What is found at turn 12 is found again by `cancel_everywhere(program, first=12, most=1)`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

import attrs

from comptroller._validation import one_of
from comptroller.errors import CallDenied, RunCancelled
from comptroller.ledger.interface import Ledger
from comptroller.testing.assertions import residue
from comptroller.testing.fixtures import FundedLedger
from comptroller.testing.ledgers import PlannedFault, deny_at, lose_answer
from comptroller.testing.sweep_trial import Cancellation, Program, Trial, performed
from comptroller.testing.virtual_time.counted import run_counted

OpenLedger = Callable[[], AbstractAsyncContextManager[Ledger]]

SWEEP_TIMEOUT = 60.0
"""Real seconds that one performance may take: a program that ignores its cancellation never ends,
not even on virtual time.
"""

WITHIN = 13.0
"""Seconds that a scope may take by default: `teardown_timeout` + `settle_timeout`, cutting off."""


@attrs.frozen
class Finding:
    """What was wrong.

    Attributes:
        when: what had been done to the program.
        what: what was found.
        error: the exception behind it, if there was one.
    """

    when: str
    what: str
    error: BaseException | None = attrs.field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.when}: {self.what}"


@attrs.frozen
class Report:
    """What a sweep has found.

    Attributes:
        points: how many turns or calls the undisturbed program has.
        tried: at how many of them it was disturbed.
        findings: what was wrong, in that order.
    """

    points: int
    tried: int
    findings: tuple[Finding, ...]

    def assert_clean(self) -> None:
        """Raise AssertionError that lists the findings, if there are any."""
        if self.findings:
            error = next((each.error for each in self.findings if each.error), None)
            raise AssertionError(str(self)) from error

    def __str__(self) -> str:
        head = f"{len(self.findings)} findings at {self.tried} of {self.points} points"
        return "\n".join([head, *map(str, self.findings)])


@attrs.frozen(kw_only=True)
class _Sweep:
    program: Program
    backend: str = attrs.field(validator=one_of("asyncio", "trio"))
    ledger: OpenLedger | None
    within: float
    lapse: float

    def once(
        self, way: Cancellation | None, *planned: PlannedFault
    ) -> tuple[Trial | None, list[Finding]]:
        """One performance, with what it has left."""
        when = str(way) if way is not None else "; ".join(map(_told, planned)) or "undisturbed"
        held: list[Trial] = []
        left: list[str] = []
        try:
            with residue(left):
                run_counted(
                    self.backend,
                    lambda turns: performed(
                        self.program, self.ledger or open_funded, turns, way, planned,
                        within=self.within, lapse=self.lapse, hold=held.append,
                    ),
                    SWEEP_TIMEOUT,
                )  # fmt: skip
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is a finding
            text = str(error) if isinstance(error, AssertionError) else repr(error)
            return None, [Finding(when, text, error), *(Finding(when, each) for each in left)]
        return held[0], [Finding(when, each) for each in left]

    def undisturbed(self) -> tuple[Trial | None, list[Finding]]:
        """Run the whole program. What a process opens once, and keeps, is no finding.

        On a ledger with plenty it must not be refused; what one of the caller's own does to it is
        the caller's business.
        """
        trial, findings = self.once(None)
        if findings:
            trial, findings = self.once(None)
        error = trial.error if trial is not None and self.ledger is None else None
        if error is not None and not isinstance(error, RunCancelled):  # its own deadline, say
            findings.append(Finding("undisturbed", f"raised {error!r}", error))
        return trial, findings


def cancel_everywhere(
    program: Program,
    *,
    how: Literal["scope", "task", "handle"] = "scope",
    again: int | None = None,
    backend: Literal["asyncio", "trio"] = "asyncio",
    ledger: OpenLedger | None = None,
    most: int | None = None,
    first: int = 1,
    within: float = WITHIN,
    lapse: float = 0.0,
) -> Report:
    """Give `program` up at every turn of its loop.

    Args:
        program: see the head of this module.
        how: `scope`: a cancel scope around it; `task`: its task's own `cancel()` (asyncio), which
            ignores shields; `handle`: `run.cancel(...)` of every run of the trial.
        again: give it up once more so many turns later.
        backend: what it runs on.
        ledger: opens the ledger of each trial; None: one in memory with plenty for tenant `acme`.
        most: at how many turns, evenly spread; None: at all of them.
        first: the first of these turns.
        within: seconds that it may take to end.
        lapse: seconds after which the ledger must hold nothing more: for a ledger that does not
            answer a lease has to run out.
    """
    if most is not None and most < 1:
        raise ValueError(f"most={most!r}: at least one turn has to be tried")
    if how == "task" and backend == "trio":
        raise ValueError("how='task' is for asyncio: a task of trio has no cancel()")
    Cancellation(how, first, again)
    sweep = _Sweep(program=program, backend=backend, ledger=ledger, within=within, lapse=lapse)
    whole, findings = sweep.undisturbed()
    if whole is None or findings:
        return Report(0, 0, tuple(findings))
    step = 1 if most is None else max(1, -(-whole.turns // most))
    turns = range(first, whole.turns + 1, step)
    for turn in turns:
        findings += sweep.once(Cancellation(how, turn, again))[1]
    if not turns:
        findings.append(Finding(f"from turn {first} on", f"nothing to try in {whole.turns} turns"))
    return Report(whole.turns, len(turns), tuple(findings))


def deny_everywhere(
    program: Program,
    *,
    backend: Literal["asyncio", "trio"] = "asyncio",
    ledger: OpenLedger | None = None,
    within: float = WITHIN,
) -> Report:
    """Deny each call of `program` once. It may raise the denial, or go on without the call."""
    return _at_each("reserve", deny_at, program, backend, ledger, within)


def lose_everywhere(
    program: Program,
    *,
    backend: Literal["asyncio", "trio"] = "asyncio",
    ledger: OpenLedger | None = None,
    within: float = WITHIN,
) -> Report:
    """Lose the answer to each commit of `program` once."""
    return _at_each("commit", lose_answer, program, backend, ledger, within)


def _at_each(
    verb: str,
    plan: Callable[[int], PlannedFault],
    program: Program,
    backend: str,
    ledger: OpenLedger | None,
    within: float,
) -> Report:
    sweep = _Sweep(program=program, backend=backend, ledger=ledger, within=within, lapse=0.0)
    whole, findings = sweep.undisturbed()
    if whole is None or findings:
        return Report(0, 0, tuple(findings))
    calls = whole.ledger.messages(verb)
    for number in range(1, calls + 1):
        trial, found = sweep.once(None, plan(number))
        findings += found
        error = trial.error if trial is not None else None
        if error is not None and not isinstance(error, CallDenied):
            findings.append(Finding(_told(plan(number)), f"raised {error!r}", error))
    if not calls:
        findings.append(Finding("undisturbed", f"it asked for no {verb}: there is nothing to try"))
    return Report(calls, calls, tuple(findings))


def _told(planned: PlannedFault) -> str:
    what = "denied" if planned.always else "its answer lost"
    return f"{planned.verb} {planned.number} {what}"


@asynccontextmanager
async def open_funded() -> AsyncIterator[Ledger]:
    """Open a `FundedLedger` of its own."""
    ledger = FundedLedger()
    try:
        yield ledger
    finally:
        ledger.close()
