"""Ledgers that fail on demand, around one that works: what becomes of money without an answer.

`StalledLedger` hangs until it is told to go on. `ScriptedLedger` has a fault for the n-th request
of a verb, `FaultyLedger` throws dice. All record what they were asked (`RecordingLedger`), on
asyncio and trio alike, and are used on one loop: they are not for several threads.

Faults for the n-th call: `ledger.plan(deny_at(2), lose_answer(1))`.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress

import anyio
import attrs
from runcycles import ReleaseRequest

from comptroller._validation import at_least
from comptroller.errors import ComptrollerError, LedgerMisbehaved, refusal
from comptroller.ledger.interface import Ledger
from comptroller.testing.faults import Fault, Faults, lost_answer, refused
from comptroller.testing.recording import Answer, RecordingLedger, Request, checked_verbs


class StalledLedger(RecordingLedger):
    """Hangs in the given verbs until `resume()`.

    Args:
        inner: the ledger that does the work.
        verbs: one verb or several.
        answers_only: what is asked is done at once and only its answer hangs. Otherwise the
            request itself hangs, and one that is given up meanwhile was never made.
        remote: see `RecordingLedger`.
        request_timeout: see `RecordingLedger`. A ledger that times out by itself is scripted.

    Attributes:
        stalled: how many requests hang at this moment.
    """

    def __init__(
        self,
        inner: Ledger,
        verbs: Iterable[str],
        *,
        answers_only: bool = False,
        remote: bool | None = None,
        request_timeout: float | None = None,
    ) -> None:
        super().__init__(inner, remote=remote, request_timeout=request_timeout)
        self.stalled = 0
        self._verbs = checked_verbs(verbs)
        self._answers_only = answers_only
        self._resumed = anyio.Event()
        self._watched: list[tuple[int, anyio.Event]] = []

    def resume(self) -> None:
        """Let go of what hangs; nothing hangs from now on, until `stall`."""
        self._verbs = frozenset()
        self._resumed.set()
        self._resumed = anyio.Event()

    def stall(self, verbs: Iterable[str]) -> None:
        """Hang in these verbs from now on, in place of the former ones."""
        self._verbs = checked_verbs(verbs)

    async def reached(self, count: int = 1) -> None:
        """Wait until `count` requests hang."""
        if self.stalled < count:
            event = anyio.Event()
            self._watched.append((count, event))
            await event.wait()

    async def _handle(self, request: Request, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        if request.verb not in self._verbs:
            return await forward()
        if not self._answers_only:
            await self._hang()
            return await forward()
        answer = await forward()
        await self._hang()
        return answer

    async def _hang(self) -> None:
        self.stalled += 1
        for count, event in self._watched:
            if self.stalled >= count:
                event.set()
        try:
            await self._resumed.wait()
        finally:
            self.stalled -= 1


class FailingLedger(RecordingLedger, ABC):
    """Performs the fault that `_fault` has for a request: what the others below are made of."""

    def __init__(
        self, inner: Ledger, *, remote: bool | None = None, request_timeout: float | None = None
    ) -> None:
        super().__init__(inner, remote=remote, request_timeout=request_timeout)
        self._late: list[_Late] = []

    @abstractmethod
    def _fault(self, request: Request) -> Fault | None:
        """Return what befalls this request; None: nothing."""

    async def arrive(self) -> None:
        """Let everything arrive that was overtaken."""
        while self._late:
            await self._late.pop(0).arrive()

    async def _handle(self, request: Request, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        fault = self._fault(request) or Fault()
        if fault.after:
            await anyio.sleep(fault.after)
        if fault.lapses and request.reservation_id:
            await self._lapse(request.reservation_id, request.tenant)
        if fault.overtaken_by:
            self._late.append(_Late(fault.overtaken_by, forward))
        elif fault.reaches:
            if fault.twice:
                await _Late(0, forward).arrive()
            try:
                answer = await forward()
            finally:
                await self._let_pass()
            if fault.status is None:
                return answer
        raise self._error(request, fault, -1 if fault.status is None else fault.status)

    async def _lapse(self, reservation_id: str, tenant: str | None) -> None:
        lapse = ReleaseRequest(
            idempotency_key=f"{reservation_id}/lapsed", reason="the lease has run out"
        )
        await self.inner.release(reservation_id, lapse, tenant=tenant)

    async def _let_pass(self) -> None:
        """One more request has arrived: those that it was the last to overtake do so, too."""
        for late in self._late:
            late.behind -= 1
        due = [late for late in self._late if late.behind <= 0]
        self._late = [late for late in self._late if late.behind > 0]
        for late in due:
            await late.arrive()

    def _error(self, request: Request, fault: Fault, status: int) -> ComptrollerError:
        asked = f"{self.name}: {request.verb}"
        if status == 200:  # noqa: PLR2004 - HTTP's own figure
            return LedgerMisbehaved(f"{asked}: 200 with a body that is no answer", status=status)
        problem = "no answer" if status < 0 else f"{status} {fault.error_code}"
        return refusal(
            f"{asked}: {problem} (made up)",
            status=status,
            error_code=fault.error_code,
            asks_for_budget=request.verb in ("reserve", "decide", "record"),
            retry_after_ms=fault.retry_after_ms,
        )


@attrs.define
class _Late:
    """A request whose sender has been answered already; `behind`: so many are still before it."""

    behind: int
    forward: Callable[[], Awaitable[object]]

    async def arrive(self) -> None:
        """Have it done; nobody learns what came of it."""
        with suppress(ComptrollerError):
            await self.forward()


class ScriptedLedger(FailingLedger):
    """Answers from a script: verb -> what happens to its first, second, third request, ...

    None is a request that is left alone, and so is every request after the script's end. For one
    that never ends there is `itertools.repeat(lost_answer())`::

        ScriptedLedger(ledger, {"commit": [lost_answer(), None, rate_limited(2_000)]})

    Errors are those that a real ledger raises (`comptroller.errors`).
    """

    def __init__(
        self,
        inner: Ledger,
        script: Mapping[str, Iterable[Fault | None]],
        *,
        remote: bool | None = None,
        request_timeout: float | None = None,
    ) -> None:
        super().__init__(inner, remote=remote, request_timeout=request_timeout)
        checked_verbs(script)
        self._script = {verb: iter(faults) for verb, faults in script.items()}

    def _fault(self, request: Request) -> Fault | None:
        return next(self._script.get(request.verb, iter(())), None)


class FaultyLedger(FailingLedger):
    """Meets faults by chance: `FaultyLedger(ledger, Faults(seed=7, rate=0.1))`.

    It says that it is remote, since that is what its faults are. A request that was overtaken
    arrives with those that follow it; `arrive()` has the last ones arrive.
    """

    def __init__(
        self,
        inner: Ledger,
        faults: Faults,
        *,
        remote: bool | None = True,
        request_timeout: float | None = None,
    ) -> None:
        super().__init__(inner, remote=remote, request_timeout=request_timeout)
        self.faults = faults

    def _fault(self, request: Request) -> Fault | None:
        return self.faults.fault(request.verb, request.key)


@attrs.frozen
class PlannedFault:
    """What befalls one message.

    Attributes:
        verb: of the ledger.
        number: which of this verb's messages, counted from 1; a retry is no new message.
        fault: what happens to it.
        always: also to its retries; otherwise to its first attempt only.
    """

    verb: str
    number: int = attrs.field(validator=at_least(1))
    fault: Fault
    always: bool = False


def deny_at(number: int) -> PlannedFault:
    """Deny the n-th call that asks, as a budget does that is used up."""
    return PlannedFault("reserve", number, refused(409, "BUDGET_EXCEEDED"), always=True)


def lose_answer(number: int, *, verb: str = "commit") -> PlannedFault:
    """Do the n-th commit (or other `verb`), and lose its first answer."""
    return PlannedFault(verb, number, lost_answer())


class PlannedLedger(FailingLedger):
    """Does what `inner` does, but for what was planned.

    Args:
        inner: the ledger that does the work.
        planned: see `plan`.
    """

    def __init__(self, inner: Ledger, *planned: PlannedFault) -> None:
        super().__init__(inner)
        self._planned: list[PlannedFault] = []
        self._messages: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.plan(*planned)

    def plan(self, *planned: PlannedFault) -> None:
        """Add to the plan. Messages are counted from this ledger's first."""
        checked_verbs(each.verb for each in planned)
        self._planned += planned

    def messages(self, verb: str) -> int:
        """How many of this verb there were, retries not counted."""
        return len(self._messages[checked_verb(verb)])

    def _fault(self, request: Request) -> Fault | None:
        seen = self._messages[request.verb]
        message = _message(request, len(seen))
        first = message not in seen
        number = seen.setdefault(message, len(seen) + 1)
        return next(
            (
                each.fault
                for each in self._planned
                if (each.verb, each.number) == (request.verb, number) and (first or each.always)
            ),
            None,
        )


def checked_verb(verb: str) -> str:
    """`verb`. Raises ValueError where no ledger has it."""
    checked_verbs([verb])
    return verb


def _message(request: Request, seen: int) -> str:
    """Return what tells a message from others.

    A denial that is asked once more is the same call's.
    """
    if request.key is None:
        return str(seen)
    return (
        request.key.rpartition("/")[0] or request.key if request.verb == "reserve" else request.key
    )
