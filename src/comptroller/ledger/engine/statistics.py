"""How a ledger stands, in a few numbers, for monitoring: whoever asks, asks every few seconds.

What only grows (`Totals`) is added up as it happens: nobody reads a million rows for it. The rest
is read from the budgets and from what is reserved now, which are few.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from runcycles import ReservationStatus, Unit

from comptroller.core.accounts import Account
from comptroller.ledger.engine.records import Event, Reservation
from comptroller.ledger.models import UnitStatistics

CALLS, CHARGED, EXPIRED, DENIED = "calls", "charged", "expired", "denied:"
"""What is added up, by unit; denials by their code, which follows."""
FULL_PERCENT = 80
"""Of its budget spent, from which on a budget is worth a look."""


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
