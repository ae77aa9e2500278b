"""Whether the ledger agrees with what models and tools say they used. It need not: it is asked.

Three accounts of the same work are compared, for each tenant and unit: what was counted by who did
it (priced here), what the receipts say was charged, and what the ledger's file says was spent.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import attrs
from runcycles import Balance, Unit

from comptroller import CallReceipt, Outcome, PriceBook, Receipt
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.testing import asyncio_tasks_left, open_reservations

from .scripted import Tally, Work

Account = tuple[str, Unit]
"""A tenant's budget in one unit."""


@attrs.frozen
class Line:
    """Three figures that ought to be one."""

    tenant: str
    unit: Unit
    counted: int
    charged: int
    spent: int

    @property
    def agrees(self) -> bool:
        """Whether they are."""
        return self.counted == self.charged == self.spent


@attrs.frozen
class Audit:
    """What was found.

    Attributes:
        lines: money and points.
        worked: the calls that models and priced tools say they did.
        reserved: the reservations that the ledger says were charged.
        active: reservations that are still active.
        tasks: tasks that are left of all the runs.
    """

    lines: tuple[Line, ...]
    worked: int
    reserved: int
    active: int
    tasks: int

    @property
    def holds(self) -> bool:
        """Whether everything agrees, and nothing is left."""
        calls = self.worked == self.reserved
        return calls and not (self.active or self.tasks) and all(one.agrees for one in self.lines)


async def audit(
    ledger: EmbeddedLedger, receipts: Sequence[Receipt], tally: Tally, *, scripted: bool = True
) -> Audit:
    """Compare. `scripted`: what a cut-off answer cost is known; of a real one nobody says it."""
    left_out = [] if scripted else list(_cut_off(receipts))
    counted = _counted(tally.work)
    charged = _charged((one.tenant, call) for one in receipts for call in one.calls)
    spent = _spent(await ledger.budgets())
    for account, amount in _charged(left_out).items():
        charged[account] -= amount
        spent[account] -= amount
    accounts = sorted({*counted, *charged, *spent})
    committed = await ledger.reservations(status="COMMITTED", limit=200)
    return Audit(
        lines=tuple(Line(*one, counted[one], charged[one], spent[one]) for one in accounts),
        worked=len(tally.work),
        reserved=len(committed.reservations) - len(left_out),
        active=len(await open_reservations(ledger)),
        tasks=len(asyncio_tasks_left()),
    )


def _counted(work: Iterable[Work]) -> Counter[Account]:
    prices, total = PriceBook(), Counter[Account]()
    for each in work:
        cost = each.cost if each.tokens is None else prices.price(each.name, each.tokens)
        if cost is not None:
            total[each.tenant, Unit(cost.unit)] += cost.amount
    return total


def _charged(calls: Iterable[tuple[str, CallReceipt]]) -> Counter[Account]:
    total = Counter[Account]()
    for tenant, call in calls:
        if call.charged is not None and call.charged.amount:
            total[tenant, Unit(call.charged.unit)] += call.charged.amount
    return total


def _spent(budgets: Iterable[Balance]) -> Counter[Account]:
    total = Counter[Account]()
    for one in budgets:
        if one.spent is not None:
            total[one.scope_path.removeprefix("tenant:"), Unit(one.spent.unit)] = one.spent.amount
    return total


def _cut_off(receipts: Iterable[Receipt]) -> Iterator[tuple[str, CallReceipt]]:
    for receipt in receipts:
        yield from (
            (receipt.tenant, call)
            for call in receipt.calls
            if call.outcome is Outcome.ABANDONED and call.reservation_id
        )
