"""Ledgers that fail on demand, around one that works: what becomes of money without an answer.

`StalledLedger` hangs until it is told to go on. `ScriptedLedger` has a fault for the n-th request
of a verb. Both record what they were asked (`RecordingLedger`), on asyncio and trio alike, and are
used from the task that owns the ledger: they are not for several threads.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

import anyio
import attrs
from runcycles import ReleaseRequest

from comptroller.errors import ComptrollerError, LedgerMisbehaved, refusal
from comptroller.ledger.interface import Ledger

from .recording import Answer, RecordingLedger, Request, checked_verbs


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


@attrs.frozen(kw_only=True)
class Fault:
    """What happens to one request. The functions below make the usual ones.

    Attributes:
        after: seconds before anything else happens.
        reaches: whether the inner ledger does what was asked.
        status: what comes back in place of the answer: an HTTP status, -1 for nothing at all;
            None: the true answer.
        error_code: the protocol's `error`.
        retry_after_ms: how long the ledger asks to wait, in milliseconds.
        lapses: the reservation's lease has run out first: the inner ledger gives it back.
    """

    after: float = 0.0
    reaches: bool = True
    status: int | None = None
    error_code: str | None = None
    retry_after_ms: int | None = None
    lapses: bool = False

    def __attrs_post_init__(self) -> None:
        if self.status is None and not self.reaches:
            raise ValueError("a request that does not arrive has no answer: give a status, or -1")


def delayed(seconds: float) -> Fault:
    """Done and answered, so much later."""
    return Fault(after=seconds)


def lost_request(after: float = 0.0) -> Fault:
    """Never arrived: nothing was done, nothing comes back."""
    return Fault(after=after, reaches=False, status=-1)


def lost_answer(after: float = 0.0) -> Fault:
    """Done, but nobody learns of it."""
    return Fault(after=after, status=-1)


def malformed() -> Fault:
    """Done, and answered with 200 and a body that is no answer of the protocol."""
    return Fault(status=200)


def server_error(status: int = 500, *, reaches: bool = False) -> Fault:
    """A 5xx: by default nothing was done."""
    return Fault(reaches=reaches, status=status, error_code="INTERNAL_ERROR")


def rate_limited(retry_after_ms: int | None = 1_000) -> Fault:
    """429: not now, and when."""
    return refused(429, "LIMIT_EXCEEDED", retry_after_ms=retry_after_ms)


def expired() -> Fault:
    """410: the lease has run out, and what it held was given back."""
    return Fault(reaches=False, status=410, error_code="RESERVATION_EXPIRED", lapses=True)


def refused(status: int, error_code: str, *, retry_after_ms: int | None = None) -> Fault:
    """Understood and refused with the protocol's `error_code`; nothing was done."""
    return Fault(reaches=False, status=status, error_code=error_code, retry_after_ms=retry_after_ms)


class ScriptedLedger(RecordingLedger):
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

    async def _handle(self, request: Request, forward: Callable[[], Awaitable[Answer]]) -> Answer:
        fault = next(self._script.get(request.verb, iter(())), None) or Fault()
        if fault.after:
            await anyio.sleep(fault.after)
        if fault.lapses and request.reservation_id:
            key = f"{request.reservation_id}/lapsed"
            lapse = ReleaseRequest(idempotency_key=key, reason="the lease has run out")
            await self.inner.release(request.reservation_id, lapse, tenant=request.tenant)
        if fault.status is None:
            return await forward()
        if fault.reaches:
            await forward()
        raise self._error(request, fault, fault.status)

    def _error(self, request: Request, fault: Fault, status: int) -> ComptrollerError:
        asked = f"{self.name}: {request.verb}"
        if status == 200:  # noqa: PLR2004 - HTTP's own figure
            return LedgerMisbehaved(f"{asked}: 200 with a body that is no answer", status=status)
        problem = "no answer" if status < 0 else f"{status} {fault.error_code}"
        return refusal(
            f"{asked}: {problem} (scripted)",
            status=status,
            error_code=fault.error_code,
            asks_for_budget=request.verb in ("reserve", "decide", "record"),
            retry_after_ms=fault.retry_after_ms,
        )
