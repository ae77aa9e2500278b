"""How many leases can one process hold? Each heartbeat in time, or not.

    python benchmarks/leases.py [--leases 10000] [--seconds 130]

So many calls are granted and then run for so long, on a ledger in memory that answers as late as a
remote one and takes as many requests at once. A beat is late if, when the ledger takes it up, there
is no longer room in its lease for an attempt that fails and another one.
"""

import argparse
import logging
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
from runcycles import Subject

from comptroller import Limits, Policy, risk_points
from comptroller.core.settlement import Finished
from comptroller.ledger.embedded.memory import open_memory
from comptroller.runtime.call import Answer, CallGrant, CallRequest
from comptroller.runtime.portal import Condition, LoopPortal
from comptroller.runtime.registry import RunRegistry
from comptroller.runtime.run import Run
from comptroller.testing import RecordingLedger

TTL_MS = 60_000
ANSWERS_AFTER = 0.02
IN_FLIGHT = 100


class Office(RecordingLedger):
    """A ledger with a counter: so many are served at once, and serving takes its time.

    Attributes:
        beats: extensions that were asked for.
        late: those of them that came late.
        least_ms: the least that was left of a lease when its extension was taken up.
    """

    def __init__(self, inner: Any, now: Callable[[], int]) -> None:
        super().__init__(inner, remote=True, request_timeout=5.0)
        self._now, self._counter = now, anyio.CapacityLimiter(IN_FLIGHT)
        self._ends: dict[str, int] = {}
        self.beats = self.late = 0
        self.least_ms = TTL_MS

    async def _take(self, request: Any, forward: Callable[[], Awaitable[Any]]) -> Any:
        async with self._counter:
            await anyio.sleep(ANSWERS_AFTER)
            if request.verb == "extend":
                self._look(self._ends[request.reservation_id] - self._now())
            answer = await forward()
        if request.verb in ("reserve", "extend"):
            self._ends[request.reservation_id or answer.reservation_id] = answer.expires_at_ms
        return answer

    def _look(self, left_ms: int) -> None:
        self.beats += 1
        self.late += left_ms < 2 * self.request_timeout * 1000
        self.least_ms = min(self.least_ms, left_ms)


@attrs.frozen
class Held:
    """What came of it. `ends`: how many calls ended how; `stopped`: heartbeats that gave up."""

    beats: int
    late: int
    least_ms: int
    stopped: int
    ends: dict[str, int]


@attrs.frozen
class Handle:
    """The least that a hub wants."""

    id: str = "leases"
    status: str = "running"
    receipt: Any = None

    def cancel(self, reason: str = "cancelled") -> None:
        """Nobody does."""


@asynccontextmanager
async def one_run(ledger: Any) -> AsyncIterator[Run]:
    """A run on the runtime alone, closed at the end."""
    policy = Policy(tools={"work": risk_points(1)}, ttl_ms=TTL_MS, settle_timeout=120)
    async with LoopPortal() as home:
        hub = RunRegistry(home, ledger)
        hub.register(Handle())
        run = hub.new_run("leases", Subject(tenant="acme"), policy, Limits())
        hub.begin(run)
        try:
            yield run
        finally:
            await run.close("the measurement is over")
            hub.ended(run, "completed")


async def hold(leases: int, seconds: float, now: Callable[[], int]) -> Held:
    """So many calls at once, each granted and told its end so many seconds later."""
    async with open_memory(now=now) as behind:
        await behind.set_budget("tenant:acme", risk_points(leases))
        office, answers, change = Office(behind, now), list[Answer](), Condition()
        draft = CallRequest(kind="tool", name="work", agent="holder", episode="1")

        def answer(given: Answer) -> None:
            answers.append(given)
            change.notify()

        async with one_run(office) as run:
            actors = []
            for count in range(leases):  # as many unanswered as the ledger serves at once
                await change.until(lambda count=count: count - len(answers) < IN_FLIGHT)
                actors.append(run.open(draft, answer))
            await change.until(lambda: len(answers) == leases)
            assert all(isinstance(each, CallGrant) for each in answers), answers[:3]
            await anyio.sleep(seconds)
            for actor in actors:
                actor.tell(Finished())
        receipt = run.receipt
    stopped = sum(line.heartbeat is not None for line in receipt.calls)
    ends = {outcome.value: count for outcome, count in receipt.outcomes.items()}
    return Held(office.beats, office.late, office.least_ms, stopped, ends)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("--leases", type=int, default=10_000)
    given.add_argument("--seconds", type=float, default=130)
    options = given.parse_args()
    began = time.monotonic()
    logging.disable()  # what gives up is counted
    held = anyio.run(hold, options.leases, options.seconds, lambda: time.time_ns() // 1_000_000)
    took, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    print(f"{options.leases} leases, {options.seconds:g} s: {held.beats} beats, {held.late} late")
    print(
        f"  least left of a lease of {TTL_MS / 1000:g} s at its beat: {held.least_ms / 1000:.1f} s"
    )
    print(f"  heartbeats that gave up: {held.stopped}; calls: {held.ends}")
    print(f"  {took:.0f} s, {used.ru_utime:.0f} s of CPU, {used.ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
