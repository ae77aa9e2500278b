"""A run without an SDK: calls are opened, told and watched by hand.

Money is tokens here: an LLM call reserves 100 and costs what it used; a tool costs 7 points.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
from runcycles import Subject, Unit

from comptroller.core.call_lifecycle import Outcome
from comptroller.core.estimates import LlmRequest
from comptroller.core.pricing import TokenCount
from comptroller.core.settlement import Finished
from comptroller.ledger.embedded.memory import MemoryLedger, open_memory
from comptroller.money import risk_points, tokens
from comptroller.policy import Limits, Policy, ToolEstimateMap
from comptroller.receipts import CallReceipt
from comptroller.runtime.actor import Actor
from comptroller.runtime.call import Answer, CallGrant, CallRequest
from comptroller.runtime.portal import Condition, LoopPortal
from comptroller.runtime.registry import RunRegistry
from comptroller.runtime.run import Run
from comptroller.testing import spent

EPOCH_MS = 1_700_000_000_000
ESTIMATE = tokens(100)
TOOLS = ToolEstimateMap({"search": risk_points(7)})
USED = TokenCount(input=20, output=10)
DONE = Finished(USED)


def policy(**changes: Any) -> Policy:
    return Policy(**({"llm_estimate": ESTIMATE, "tools": TOOLS} | changes))


def llm(*, episode: str = "1", agent: str = "triage", **more: Any) -> CallRequest:
    request = LlmRequest("openai:gpt", agent, input_characters=40)
    return CallRequest(
        kind="llm", name="openai:gpt", agent=agent, episode=episode, request=request, **more
    )


def tool(name: str = "search", **more: Any) -> CallRequest:
    return CallRequest(kind="tool", name=name, agent="triage", episode="1", **more)


@asynccontextmanager
async def funded(limit: int = 1_000, points: int = 100) -> AsyncIterator[MemoryLedger]:
    """A ledger whose clock is the loop's, with budgets for the tenant acme."""
    async with open_memory(now=lambda: EPOCH_MS + round(anyio.current_time() * 1000)) as ledger:
        await ledger.set_budget("tenant:acme", tokens(limit))
        await ledger.set_budget("tenant:acme", risk_points(points))
        yield ledger


@attrs.define
class Asked:
    """A call that was opened, and its answers (there must be one)."""

    actor: Actor
    answers: list[Answer]
    change: Condition

    async def answer(self) -> Answer:
        await self.change.until(lambda: bool(self.answers))
        assert len(self.answers) == 1
        return self.answers[0]

    @property
    def line(self) -> CallReceipt:
        return self.actor.line


class Bench:
    """A hub with one run on it."""

    def __init__(self, hub: RunRegistry, run: Run) -> None:
        self.hub, self.run = hub, run
        self.calls: list[Asked] = []

    def open(self, draft: CallRequest) -> Asked:
        """Open a call and do not wait."""
        answers: list[Answer] = []
        change = Condition()

        def answer(given: Answer) -> None:
            answers.append(given)
            change.notify()

        asked = Asked(self.run.open(draft, answer), answers, change)
        self.calls.append(asked)
        return asked

    async def granted(self, draft: CallRequest | None = None) -> Asked:
        """Open a call which is granted."""
        asked = self.open(draft or llm())
        assert isinstance(await asked.answer(), CallGrant)
        return asked

    async def refused(self, draft: CallRequest | None = None) -> BaseException:
        """Open a call which is refused."""
        answer = await self.open(draft or llm()).answer()
        assert isinstance(answer, BaseException), answer
        return answer

    async def whole(self, draft: CallRequest | None = None, end: Any = DONE) -> CallReceipt:
        """One call from its beginning to its end."""
        asked = await self.granted(draft)
        asked.actor.tell(end)
        await self.over(asked)
        return asked.line

    async def over(self, asked: Asked) -> None:
        """Wait until this call has ended."""
        await self.run._change.until(lambda: asked.actor not in self.run._live)

    async def idle(self) -> None:
        """Wait until no call lives."""
        await self.run._change.until(lambda: not self.run._live)

    async def close(self, why: str = "its scope was left") -> BaseException | None:
        interrupted = await self.run.close(why)
        self.hub.ended(self.run, "completed")
        return interrupted


@attrs.frozen
class Named:
    """The least that a hub wants of a handle."""

    id: str
    status: str = "running"
    receipt: Any = None

    def cancel(self, reason: str = "cancelled") -> None:
        """Nothing to cancel."""


_ids = iter(range(10**9))


@asynccontextmanager
async def bench(
    ledger: Any,
    *,
    limits: Limits | None = None,
    run_id: str | None = None,
    outbox: Any = None,
    **changes: Any,
) -> AsyncIterator[Bench]:
    """A run on `ledger`, closed at the end, whose actors were all answered exactly once."""
    async with LoopPortal() as home:
        hub = RunRegistry(home, ledger, outbox=outbox)
        run_id = run_id or f"run-{next(_ids)}"
        hub.register(Named(run_id))
        run = hub.new_run(run_id, Subject(tenant="acme"), policy(**changes), limits or Limits())
        hub.begin(run)
        made = Bench(hub, run)
        try:
            yield made
        finally:
            await made.close()
        await anyio.lowlevel.checkpoint()
        assert [len(asked.answers) for asked in made.calls] == [1] * len(made.calls)
        assert not any(line.open for line in run.receipt.calls)


class Kept:
    """An outbox that writes down what it is given."""

    def __init__(self, attempts: int = 1) -> None:
        self.attempts, self.owed = attempts, []
        self.ahead: dict[str, Any] = {}

    async def write_ahead(self, owed: Any) -> None:
        self.ahead[owed.key] = owed

    def keep(self, owed: Any) -> None:
        self.owed.append(owed)

    def settled(self, key: str) -> None:
        del self.ahead[key]

    def rejected(self, key: str, why: str) -> None:
        del self.ahead[key]


async def tokens_spent(ledger: Any) -> int:
    return (await spent(ledger, "acme"))[Unit.TOKENS]


async def reserved(ledger: Any, unit: Unit = Unit.TOKENS) -> int:
    balances = (await ledger.balances(tenant="acme")).balances
    return sum(b.reserved.amount for b in balances if b.reserved and b.reserved.unit is unit)


def outcomes(run: Run) -> list[Outcome]:
    return [line.outcome for line in run.receipt.calls]
