"""A ledger with more than enough, and governed runs on it that are known afterwards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
from agents import Agent
from runcycles import Amount, ReservationSummary

from comptroller.core.budgets import Terms
from comptroller.ledger.embedded.memory import MemoryLedger
from comptroller.ledger.engine import admin, queries
from comptroller.ledger.interface import Ledger
from comptroller.money import risk_points, tokens, usd
from comptroller.runs import GovernedRun, governed_run
from comptroller.testing.assertions import innermost, open_lines

EPOCH_MS = 1_700_000_000_000

PLENTY: Mapping[str, Sequence[Amount]] = {
    "tenant:acme": (usd("1000000"), tokens(10**12), risk_points(10**9))
}
"""More than any test spends, for the tenant `acme`."""


def loops_clock() -> int:
    """Epoch milliseconds on the running loop's clock, so that leases last in its time."""
    return EPOCH_MS + round(anyio.current_time() * 1000)


class FundedLedger(MemoryLedger):
    """A ledger in memory on the loop's clock, made and looked into without a loop.

    `budgets`: scope to amounts.
    """

    def __init__(self, budgets: Mapping[str, Sequence[Amount]] = PLENTY) -> None:
        super().__init__(loops_clock)
        for scope, amounts in budgets.items():
            for allocated in amounts:
                admin.set_budget(self._book, scope, allocated, Terms(), EPOCH_MS)()

    def open_reservations(self) -> list[ReservationSummary]:
        """Those that are active; the newest 200."""
        return queries.reservations(status="ACTIVE", limit=200)(self._store).reservations


class Governing:
    """`governed_run` on one ledger: `async with governed(agent) as run`.

    Attributes:
        runs: those that were opened, in order.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.runs: list[GovernedRun] = []

    def __call__(self, agent: Agent[Any], tenant: str = "acme", **settings: Any) -> governed_run:
        """Return the scope of a run; `settings` are `governed_run`'s."""
        return _Noted(self.runs.append, agent, tenant, **({"ledger": self.ledger} | settings))

    def check_ended(self) -> None:
        """Raise AssertionError naming what the runs that have ended have left.

        It needs no loop: calls are read from the receipts, reservations from a `FundedLedger`.
        """
        ended = [run for run in self.runs if run.status != "running"]
        lines = [line for run in ended for line in open_lines(run.id, run.receipt)]
        behind = innermost(self.ledger)
        if isinstance(behind, FundedLedger):
            keys = tuple(f"{run.id}/" for run in ended)
            active = behind.open_reservations()
            lines += [
                f"reservation {each.reservation_id} of {each.idempotency_key}"
                for each in active
                if (each.idempotency_key or "").startswith(keys)
            ]
        if lines:
            raise AssertionError(f"left behind: {'; '.join(lines)}")


class _Noted(governed_run):
    def __init__(
        self, note: Callable[[GovernedRun], object], agent: Agent[Any], tenant: str, **settings: Any
    ) -> None:
        super().__init__(agent, tenant, **settings)
        self._note = note

    async def __aenter__(self) -> GovernedRun:
        run = await super().__aenter__()
        self._note(run)
        return run
