"""Random trees of calls on the runtime alone: what the SDK would do, without its cost.

Each call has a provider that writes down what it really consumed, in microcents or risk points, by
arithmetic of its own.
"""

from random import Random
from typing import Any

import anyio
import attrs
from runcycles import Amount, Subject, Unit

from comptroller import Limits, Policy, Price, PriceBook, TokenCount, risk_points
from comptroller.core.estimates import LlmRequest
from comptroller.core.settlement import Abandoned, Finished, NotStarted
from comptroller.errors import ComptrollerError
from comptroller.runtime.call import Answer, CallGrant, CallRequest
from comptroller.runtime.registry import RunRegistry
from comptroller.runtime.run import Run

MODEL, AGENT = "openai:gpt", "triage"
INPUT, CACHED, OUTPUT = 300, 30, 1_500  # microcents a token: $3.00, $0.30 and $15.00 a million
PRICES = PriceBook({MODEL: Price("3", "15", cached="0.3")})
ESTIMATE = Amount(unit=Unit.USD_MICROCENTS, amount=500_000)
POINTS = 7
TOOLS = {"work": risk_points(POINTS), "ask": risk_points(0)}

Truth = dict[str, int]
"""What each call of a run consumed, in the unit of its estimate."""


def policy(dice: Random) -> Policy:
    """Mostly as by default; half let calls through, some give back what was given up."""
    return Policy(
        llm_estimate=ESTIMATE,
        prices=PRICES,
        tools=TOOLS,
        fail_open=dice.random() < 1 / 2,
        on_abandoned="release" if dice.random() < 1 / 5 else "charge",
        ttl_ms=dice.choice((5_000, 20_000, 60_000)),
        settle_timeout=dice.choice((1, 5, 20)),
    )


class Episode:
    """One agent at work; `stop` cancels what it does."""

    def __init__(self, name: str) -> None:
        self.id, self.scope = name, anyio.CancelScope()

    def stop(self) -> None:
        self.scope.cancel("the run has ended")


@attrs.define
class Growing:
    """One run, and what its providers saw."""

    run: Run
    dice: Random
    given_back: bool
    truth: Truth = attrs.field(factory=dict)
    dispatched: int = 0

    async def agent(self, parent: str | None = None) -> None:
        """Up to five turns of a model, which asks for tools and for further agents."""
        episode = Episode(self.run.episode_id(parent))
        self.run.enter(episode)
        try:
            with episode.scope:
                for _ in range(self.dice.randint(1, 5)):
                    await self._call(self._llm(episode.id))
                    await self._asks(episode.id)
        finally:
            self.run.leave(episode)

    async def _asks(self, episode: str) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(self.dice.choice((0, 1, 2, 3))):
                group.start_soon(self._tool, episode)
            if self.dice.random() < 1 / 4 and episode.count(".") < 2:
                group.start_soon(self._nested, episode)

    async def _tool(self, episode: str) -> None:
        draft = CallRequest(kind="tool", name="work", agent=AGENT, episode=episode)
        await quiet(self._call, draft)

    async def _nested(self, episode: str) -> None:
        await quiet(self.agent, episode)

    def _llm(self, episode: str) -> CallRequest:
        request = LlmRequest(MODEL, AGENT, input_characters=40)
        return CallRequest(kind="llm", name=MODEL, agent=AGENT, episode=episode, request=request)

    async def _call(self, draft: CallRequest) -> None:
        answers: list[Answer] = []
        answered = anyio.Event()

        def answer(given: Answer) -> None:
            answers.append(given)
            answered.set()

        seconds = self.dice.choice((0.0, 0.2, 1.0, 3.0, 15.0))
        end, cost = self._end(draft)
        actor = self.run.open(draft, answer)
        told: Any = NotStarted("given up before its grant")
        consumed = 0
        try:
            await answered.wait()
            if not isinstance(answers[0], CallGrant):
                raise answers[0]
            self.dispatched += 1
            told = Abandoned("in flight")
            consumed = 0 if self.given_back else actor.call.estimate.amount
            await anyio.sleep(seconds)
            told, consumed = end, cost
        finally:
            actor.tell(told)
            self.truth[actor.call.id] = consumed

    def _end(self, draft: CallRequest) -> tuple[Any, int]:
        """How a provider answers, and what that consumed."""
        dice, chance = self.dice, self.dice.random()
        estimate = POINTS if draft.kind == "tool" else ESTIMATE.amount
        if chance < 1 / 20:
            return Abandoned("it failed"), 0 if self.given_back else estimate
        if chance < 2 / 20:
            return NotStarted("refused with 429"), 0
        if draft.kind == "tool":
            cost = dice.choice((POINTS, 0, 3, 9))
            return Finished(cost=risk_points(cost)), cost
        if chance < 3 / 20:
            return Finished(), estimate  # it did not say
        cached = dice.randint(0, 500)
        fresh, made = dice.randint(0, 1_000), dice.randint(0, 250)
        used = TokenCount(input=cached + fresh, cached=cached, output=made)
        return Finished(used), cached * CACHED + fresh * INPUT + made * OUTPUT


async def quiet(function: Any, *args: Any) -> None:
    """A refusal has ended the run; where it fell is of no concern to the others."""
    try:
        await function(*args)
    except ComptrollerError:
        return


@attrs.frozen
class _Handle:
    id: str
    status: str = "running"
    receipt: Any = None

    def cancel(self, reason: str = "cancelled") -> None:
        """The hub closes it."""


async def grown(hub: RunRegistry, run_id: str, tenant: str, dice: Random) -> Growing:
    """One run from its beginning to its end; a third of them is given up on the way."""
    rules, after = policy(dice), dice.choice((0.0, 0.3, 1.0, 4.0, 20.0))
    how = dice.choice(("handle", "leave", "limit", None, None, None, None, None))
    limits = Limits(seconds=(after or 0.1) if how == "limit" else None)
    hub.register(_Handle(run_id))
    run = hub.new_run(run_id, Subject(tenant=tenant, workflow="soak"), rules, limits)
    hub.begin(run)
    growing = Growing(run, dice, given_back=rules.on_abandoned == "release")
    try:
        async with anyio.create_task_group() as group:
            if how == "handle":
                group.start_soon(_cancelled, run, after)
            with anyio.move_on_after(after if how == "leave" else None):
                await quiet(growing.agent)
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await run.close("its scope was left")
            hub.ended(run, "completed")
    return growing


async def _cancelled(run: Run, after: float) -> None:
    await anyio.sleep(after)
    run.cancel("its user closed the tab")
