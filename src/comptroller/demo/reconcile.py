"""Whether the ledger agrees with what models and tools say they used. It need not: it is asked.

Three accounts of the same work are compared, for each tenant and unit: what was counted by who did
it (priced here), what the receipts say was charged, and what the ledger's file says was spent.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import attrs
from runcycles import Balance, Unit

from comptroller import PriceBook, Receipt
from comptroller.demo.models import Work, WorkLog
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.money import dollars
from comptroller.testing import asyncio_tasks_left, open_reservations

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

    def plain(self) -> dict[str, Any]:
        """For machines; money in dollars, too."""
        figures = {"counted": self.counted, "charged": self.charged, "spent": self.spent}
        told = {"tenant": self.tenant, "unit": self.unit.value, **figures, "agrees": self.agrees}
        if self.unit is Unit.USD_MICROCENTS:
            told |= {f"{name}_usd": dollars(amount) for name, amount in figures.items()}
        return told


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
    ledger: EmbeddedLedger, receipts: Iterable[Receipt], tally: WorkLog, leave_out: Collection[str]
) -> Audit:
    """Compare. `leave_out`: tenants whose work nobody has counted."""
    counted, charged = _counted(tally.work), _charged(receipts)
    spent = _spent(await ledger.budgets())
    accounts = sorted(
        account for account in {*counted, *charged, *spent} if account[0] not in leave_out
    )
    committed = await ledger.reservations(status="COMMITTED", limit=200)
    tenants = [one.subject.tenant for one in committed.reservations]
    return Audit(
        lines=tuple(Line(*one, counted[one], charged[one], spent[one]) for one in accounts),
        worked=sum(each.tenant not in leave_out for each in tally.work),
        reserved=sum(tenant not in leave_out for tenant in tenants),
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


def _charged(receipts: Iterable[Receipt]) -> Counter[Account]:
    total = Counter[Account]()
    for receipt in receipts:
        for unit, amount in receipt.charged.items():
            total[receipt.tenant, unit] += amount
    return total


def _spent(budgets: Iterable[Balance]) -> Counter[Account]:
    total = Counter[Account]()
    for one in budgets:
        if one.spent is not None:
            total[one.scope_path.removeprefix("tenant:"), Unit(one.spent.unit)] = one.spent.amount
    return total
