"""Plays a scenario under hooks: given to a plain `Runner.run`, or behind hooks of one's own."""

from typing import Any

import anyio
from agents import RunHooks, Runner
from runcycles import Unit

from comptroller import Receipt, as_client, risk_points
from comptroller.cycles import CyclesRunHooks
from comptroller.testing import no_task_left, open_reservations
from support.governed_vs_plain import (
    ESTIMATES,
    PRICES,
    TOOLS,
    Governed,
    Stage,
    cast_for,
    open_ledgers,
    perform,
    snapshot,
)


class Watched(CyclesRunHooks):
    """Hooks whose runs a test can look at afterwards."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.runs: list[Any] = []

    def carry(self, run_id: str | None = None) -> Any:
        carried = super().carry(run_id)
        self.runs.append(carried.run)
        return carried

    @property
    def receipt(self) -> Receipt:
        """The lines of all runs."""
        calls = tuple(line for run in self.runs for line in run.receipt.calls)
        return Receipt(run_id="all", tenant="acme", calls=calls)


class Beside(RunHooks):
    """Hooks of the user's own that hand on to others: a `Runner.run` cannot tell what they are."""

    def __init__(self, *heard: RunHooks) -> None:
        self.heard = [hooks for hooks in heard if hooks is not None]


def _handing_on(name: str) -> Any:
    async def heard(self: Beside, *args: Any, **named: Any) -> None:
        for hooks in self.heard:
            await getattr(hooks, name)(*args, **named)

    return heard


for _name in ("agent_start", "agent_end", "llm_start", "llm_end", "tool_start", "tool_end",
              "handoff"):  # fmt: skip
    setattr(Beside, f"on_{_name}", _handing_on(f"on_{_name}"))


class HookedStage(Stage):
    """A stage where each `run` is a plain `Runner.run` with hooks."""

    def __init__(self, stage: Stage, hooks: RunHooks, *, beside: bool) -> None:
        options = dict(stage._options)
        own = options.pop("hooks", None)
        options["hooks"] = Beside(own, hooks) if beside or own is not None else hooks
        super().__init__(stage.agent, options, stage.way, None)

    @property
    def aio(self) -> Any:
        return lambda function: function

    async def run(self, given: Any, **options: Any) -> Any:
        options = {**self._options, **options}
        if self.way.streamed:
            return await self._consume(given, options)
        return await Runner.run(self.agent, given, **options)


async def hooked(scenario: Any, way: Any, *, beside: bool = False, **settings: Any) -> Governed:
    """The scenario under hooks, the lines of its runs, and the ledger's own books."""
    trace, play, stage = cast_for(scenario, way)
    async with open_ledgers(remote=False) as (ledger, _):
        for budget in (ESTIMATES[way.unit].model_copy(update={"amount": 10**12}),
                       risk_points(10**6)):  # fmt: skip
            await ledger.set_budget("tenant:acme", budget)
        hooks = Watched(
            as_client(ledger),
            tenant="acme",
            tool_estimates=TOOLS,
            llm_estimate=ESTIMATES[way.unit].amount,
            llm_unit=way.unit,
            prices=PRICES,
            **settings,
        )
        before = snapshot(trace, play)
        async with no_task_left():
            with anyio.fail_after(600):
                outcome = await perform(trace, play, HookedStage(stage, hooks, beside=beside))
        assert snapshot(trace, play) == before
        assert await open_reservations(ledger) == []
        details = [
            await ledger.reservation(line.reservation_id)
            for line in hooks.receipt.calls
            if line.reservation_id is not None
        ]
        listed = await ledger.reservations(tenant="acme", limit=200)
        assert len(listed.reservations) == len(details)
        balances = (await ledger.balances(tenant="acme")).balances
        spent = {Unit(b.spent.unit): b.spent.amount for b in balances}
    assert hooks._carried == hooks._begun == {}
    return Governed(outcome, hooks.receipt, details, spent)
