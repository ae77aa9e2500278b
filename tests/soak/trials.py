"""A plot: some runs at once on one ledger, through faults, and the reckoning afterwards.

Everything about a plot follows from its seed, so that a failure can be seen again.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import anyio
import attrs
from runcycles import Unit

from comptroller import Outcome, Receipt, open_supervisor, risk_points, tokens
from comptroller.runtime.portal import LoopPortal
from comptroller.runtime.registry import RunRegistry
from comptroller.testing import Faults, no_task_left, open_reservations, virtual_backend
from soak.agent_trees import Played, played
from soak.audited_ledgers import LEDGERS, Books
from soak.call_trees import Growing, grown
from support.random_agents import POINTS

TENANTS = {"ample": 1_000, "scant": 40, "poor": 8}
"""Tenants, and for about how many calls their budgets are enough."""

UNSURE = (Outcome.UNSETTLED, Outcome.OUTBOXED)
"""Charges that the ledger may not have taken: sent again at the end, as an outbox would."""


@attrs.define
class Tally:
    """What became of the runs of a plot, or of many plots."""

    trees: int = 0
    calls: int = 0
    consumed: Counter[Unit] = attrs.field(factory=Counter)
    charged: Counter[Unit] = attrs.field(factory=Counter)
    shortfall: Counter[Unit] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    faults: Counter[str] = attrs.field(factory=Counter)
    sent_again: int = 0
    overspent: list[str] = attrs.field(factory=list)
    leaks: list[str] = attrs.field(factory=list)
    duplicates: list[str] = attrs.field(factory=list)
    untrue: list[str] = attrs.field(factory=list)

    @property
    def wrong(self) -> list[str]:
        """Everything that a promise does not allow."""
        kinds = ("overspent", "leaks", "duplicates", "untrue")
        return [f"{kind}: {each}" for kind in kinds for each in getattr(self, kind)]

    def add(self, other: "Tally") -> None:
        for name in attrs.fields_dict(Tally):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@attrs.frozen
class Plot:
    """How many runs of what kind, on what ledger, on what loop."""

    seed: str
    trees: int
    ledger: str = "memory"
    backend: str = "asyncio"
    sdk: bool = False
    rate: float = 0.1

    def play(self) -> Tally:
        """Run it on virtual time."""
        name, options = virtual_backend(self.backend)
        if name == "trio":
            _same_order_again(self.seed)
        tally: Tally = anyio.run(self._main, backend=name, backend_options=options)
        return tally

    async def _main(self) -> Tally:
        tally = Tally(trees=self.trees)
        faults = Faults(seed=self.seed, rate=self.rate, slowest=3.0)
        async with LEDGERS[self.ledger](faults) as books:
            for tenant, calls in TENANTS.items():
                await self._fund(books, tenant, calls)
            try:
                async with no_task_left():
                    runs = await (self._played if self.sdk else self._grown)(books)
            except AssertionError as error:
                tally.leaks.append(str(error))
                return tally
            await books.calm()
            tally.faults += faults.thrown
            reckon = _reckon_played if self.sdk else _reckon_grown
            for run in runs:
                await reckon(books, run, tally)
            await self._audit(books, tally)
        return tally

    async def _fund(self, books: Books, tenant: str, calls: int) -> None:
        scope, behind = f"tenant:{tenant}", books.witness.inner
        await behind.set_budget(scope, risk_points(calls * POINTS))
        if self.sdk:
            await behind.set_budget(scope, tokens(calls * 100))
        else:
            cents = calls * 500_000
            await behind.set_budget(scope, tokens(1).model_copy(
                update={"unit": Unit.USD_MICROCENTS, "amount": cents}))  # fmt: skip

    async def _grown(self, books: Books) -> list[Growing]:
        async with LoopPortal() as home:
            hub = RunRegistry(home, books.ledger)
            runs = await self._all(lambda *named: grown(hub, *named))
            assert not hub._settling.under_way()
        return runs

    async def _played(self, books: Books) -> list[Played]:
        async with open_supervisor(ledger=books.ledger) as supervisor:
            return await self._all(lambda *named: played(supervisor, *named))

    async def _all(self, one: Callable[..., Any]) -> list[Any]:
        """Every run of it, all at once."""
        runs: list[Any] = []

        async def run(number: int) -> None:
            dice = Random(f"{self.seed} {number}")
            await anyio.sleep(dice.uniform(0, 10))
            tenant = dice.choice(list(TENANTS))
            runs.append(await one(f"{self.seed}-{number}", tenant, dice))

        async with anyio.create_task_group() as group:
            for number in range(self.trees):
                group.start_soon(run, number)
        return runs

    async def _audit(self, books: Books, tally: Tally) -> None:
        """The ledger against the sum of what the runs say."""
        tally.overspent += books.witness.overspent
        tally.duplicates += books.witness.duplicates
        for tenant in TENANTS:
            left = await open_reservations(books.witness, tenant=tenant)
            tally.leaks += [f"reservation of {each.idempotency_key}" for each in left]
        spent: Counter[Unit] = Counter()
        for budget in await books.witness.budgets():
            spent[Unit(budget.spent.unit)] += budget.spent.amount
            if budget.reserved.amount:
                tally.leaks.append(f"{budget.scope} holds {budget.reserved}")
        if +spent != +tally.charged:
            tally.untrue.append(f"the ledger spent {spent}, the runs were charged {tally.charged}")


async def _reckon_grown(books: Books, growing: Growing, tally: Tally) -> None:
    """Call by call: charged + shortfall = consumed."""
    receipt = growing.run.receipt
    if growing.run._live:
        tally.leaks.append(f"{receipt.run_id}: calls that have not ended")
    for line in receipt.calls:
        consumed = growing.truth.get(line.id, 0)
        charged = await _charged(books, receipt, line, tally)
        unit = Unit(line.reserved.unit)
        short = 0 if line.actual is None else line.actual.amount - charged
        tally.consumed[unit] += consumed
        tally.shortfall[unit] += short
        if charged + short != consumed or short < 0:
            tally.untrue.append(
                f"{receipt.run_id} {line.id} {line.outcome.value} ({line.reason}): consumed"
                f" {consumed}, charged {charged}, short {short}"
            )
        if short and receipt.tenant == "ample":
            tally.untrue.append(f"{receipt.run_id} {line.id}: short {short} of an ample budget")


async def _reckon_played(books: Books, run: Played, tally: Tally) -> None:
    """Run by run: the SDK decides in which order its tools begin, and which of them do."""
    receipt, truth = run.handle.receipt, run.truth
    charged: Counter[Unit] = Counter()
    for line in receipt.calls:
        unit = Unit(line.reserved.unit)
        took = await _charged(books, receipt, line, tally)
        charged[unit] += took
        tally.consumed[unit] += 0 if line.actual is None else line.actual.amount
        tally.shortfall[unit] += 0 if line.actual is None else line.actual.amount - took
    worked = charged[Unit.RISK_POINTS] / POINTS
    if charged[Unit.TOKENS] != truth.tokens:
        tally.untrue.append(f"{receipt.run_id}: {truth.tokens} tokens, charged {charged}")
    if not truth.tools_begun <= worked <= truth.tools_dispatched:
        tally.untrue.append(f"{receipt.run_id}: {truth.tools_begun} tools, charged {worked}")


async def _charged(books: Books, receipt: Receipt, line: Any, tally: Tally) -> int:
    """What the ledger took for a call, once everything has been said."""
    tally.calls += 1
    tally.outcomes[line.outcome.value] += 1
    if line.open:
        tally.leaks.append(f"{receipt.run_id} {line.id} is {line.outcome.value}")
    if line.outcome in UNSURE:
        tally.sent_again += 1
        took = await books.sent_again((receipt.run_id, line.id), receipt.tenant, line.actual)
    else:
        took = line.charged.amount if line.charged is not None else 0
    tally.charged[Unit(line.reserved.unit)] += took
    return took


SIZE = 25
"""Runs of a plot."""

KINDS: Mapping[int, Mapping[str, Any]] = {
    1: {"ledger": "http"},
    2: {"sdk": True},
    3: {"backend": "trio"},
    5: {"ledger": "sqlite"},
    7: {"sdk": True, "ledger": "http"},
    9: {"sdk": True, "backend": "trio"},
}
"""Of every dozen plots, those that are not the runtime alone, on asyncio, a ledger in memory."""


def plot(seed: int, number: int, rate: float = 0.1) -> Plot:
    """One plot of a soak."""
    return Plot(f"{seed}.{number}", SIZE, rate=rate, **KINDS.get(number % 12, {}))


def _same_order_again(seed: str) -> None:
    """Trio shuffles the tasks that are ready, so that nobody relies on their order."""
    import trio._core._run as inside

    inside._ALLOW_DETERMINISTIC_SCHEDULING = True
    inside._r = Random(seed)
