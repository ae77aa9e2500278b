"""How a ledger stands, in a few numbers, for monitoring: whoever asks, asks every few seconds.

What only grows (`Totals`) is added up as it happens: nobody reads a million rows for it. The rest
is read from the budgets and from what is reserved now, which are few.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs
from runcycles import ReservationStatus, Unit

from comptroller.core.accounts import Account
from comptroller.ledger.engine.records import Event, Reservation

CALLS, CHARGED, EXPIRED, DENIED = "calls", "charged", "expired", "denied:"
"""What is added up, by unit; denials by their code, which follows."""
FULL_PERCENT = 80
"""Of its budget spent, from which on a budget is worth a look."""


@attrs.frozen
class UnitStatistics:
    """How a ledger stands in one unit. Amounts are whole numbers of it.

    Attributes:
        unit: the unit.
        calls: how many calls were charged since counting began; so are the next three counted.
        charged: what they were charged, each once, however many scopes paid it.
        expired: leases that ran out, unsettled.
        denied: requests that a budget refused, by the reason's code.
        active: reservations that hold their estimate now.
        reserved: what they hold, each once.
        budgets: how many budgets there are.
        full: those of which `FULL_PERCENT` or more is spent or owed.
        in_debt: those that owe something.
        debt: what they owe in all; a call's debt is owed by every scope that it was charged to.
    """

    unit: Unit
    calls: int = 0
    charged: int = 0
    expired: int = 0
    denied: Mapping[str, int] = attrs.field(factory=dict)
    active: int = 0
    reserved: int = 0
    budgets: int = 0
    full: int = 0
    in_debt: int = 0
    debt: int = 0


@attrs.frozen
class Statistics:
    """How a ledger stands.

    Attributes:
        units: in each unit that it knows.
        tenants: the budgets of tenants as a whole, where they were asked for.
        oldest_alert_ms: when the oldest alert was made that a webhook has not taken; None: all are.
        failing_webhooks: those whose last delivery failed.
        file_bytes: the sizes of the file (`ledger`) and of the log beside it (`wal`).
    """

    units: tuple[UnitStatistics, ...] = ()
    tenants: tuple[Account, ...] = ()
    oldest_alert_ms: int | None = None
    failing_webhooks: int = 0
    file_bytes: Mapping[str, int] = attrs.field(factory=dict)


Totals = Counter[tuple[str, Unit]]
"""How much of what, in which unit."""


def add(totals: Totals, settled: Iterable[Reservation], events: Iterable[Event] = ()) -> None:
    """Count reservations that have ended, and events."""
    for one in settled:
        if one.status is ReservationStatus.COMMITTED:
            totals[CALLS, one.unit] += 1
            totals[CHARGED, one.unit] += one.charged or 0
        elif one.status is ReservationStatus.EXPIRED:
            totals[EXPIRED, one.unit] += 1
    for event in events:
        if event.charged:
            totals[CALLS, event.unit] += 1
            totals[CHARGED, event.unit] += event.charged


def is_full(account: Account, now_ms: int) -> bool:
    """Whether `FULL_PERCENT` of the budget is spent or owed in the period of `now_ms`."""
    renewal = account.renewal
    if account.allocated <= 0 or (renewal and renewal.at_ms <= now_ms):
        return False
    return 100 * (account.spent + account.debt) >= FULL_PERCENT * account.allocated


def of_units(
    totals: Mapping[tuple[str, Unit], int],
    budgets: Mapping[Unit, Mapping[str, int]],
    held: Mapping[Unit, tuple[int, int]],
) -> tuple[UnitStatistics, ...]:
    """Bring together what is known of each unit.

    Args:
        totals: what was added up.
        budgets: `budgets`, `full`, `in_debt` and `debt`.
        held: `active` and `reserved`.
    """
    units = {unit for _, unit in totals} | set(budgets) | set(held)
    return tuple(
        UnitStatistics(
            unit,
            calls=totals.get((CALLS, unit), 0),
            charged=totals.get((CHARGED, unit), 0),
            expired=totals.get((EXPIRED, unit), 0),
            denied={
                what.removeprefix(DENIED): count
                for (what, of), count in totals.items()
                if of is unit and what.startswith(DENIED)
            },
            active=held.get(unit, (0, 0))[0],
            reserved=held.get(unit, (0, 0))[1],
            **budgets.get(unit, {}),
        )
        for unit in sorted(units, key=lambda unit: unit.value)
    )
