"""What dead processes of this host have left reserved, settled under its old keys.

Law 7: what was decided before a crash is settled under its old keys. What the outbox holds is sent
first, since there the actual is known. Of the rest nobody can tell how far it came, so it counts as
abandoned, as policy says: charged with its estimate, or released. Without this the leases would run
out by themselves, and nothing would be charged.
"""

import logging
import re
from collections.abc import AsyncIterator, Callable, Container, Iterable, Sequence
from typing import Any, Literal

import attrs
from runcycles import Amount, CommitRequest, ReleaseRequest
from runcycles.models import ReservationSummary

from comptroller.core.settlement import SettlementAction, next_action
from comptroller.errors import ComptrollerError
from comptroller.ledger.interface import Ledger
from comptroller.runtime.process_registry import dead, mark_of

log = logging.getLogger("comptroller")

WHY = "its process died"
_PAGE = 200  # the most of one page (protocol, listReservations)
_KEY = re.compile(r"(?P<base>.+/(?P<execution>[^/]+)/[^/]+)/reserve(-again)?", re.DOTALL)

OnAbandoned = Literal["charge", "release"]


@attrs.frozen
class RecoveredReservation:
    """One reservation of a dead process.

    Attributes:
        reservation_id: the ledger's.
        tenant: whose.
        key: run / execution / call, as it was then.
        reserved: its estimate.
        outcome: `charged`, `released`, or `left`: the ledger did not accept it.
        reason: why it was left.
    """

    reservation_id: str
    tenant: str
    key: str
    reserved: Amount
    outcome: Literal["charged", "released", "left"]
    reason: str = ""


async def recover(
    ledger: Ledger, on_abandoned: Callable[[str], OnAbandoned], *, drain_timeout: float = 5.0
) -> list[RecoveredReservation]:
    """Settle what dead processes of this host hold in `ledger`, and say what that was.

    Args:
        ledger: where they spent.
        on_abandoned: what policy says, by tenant.
        drain_timeout: seconds that the outbox is waited for before.

    Raises:
        ComptrollerError: the ledger could not say what is reserved, or the outbox what is owed.
    """
    marks = dead()
    kept = await _still_owed(ledger, drain_timeout)
    found = []
    for tenant in _tenants(ledger, marks.values()):
        async for each in _active(ledger, tenant):
            base = _base(each, marks)
            if base is not None and each.reservation_id not in kept:
                whose = each.subject.tenant or tenant or ""
                found.append(await _settle(ledger, each, whose, base, on_abandoned(whose)))
    return found


def looks_at(ledger: Ledger) -> bool:
    """Whether `recover` would ask `ledger` what is reserved: a server only for known tenants."""
    return bool(_tenants(ledger, dead().values()))


async def _still_owed(ledger: Ledger, seconds: float) -> set[str]:
    """Return the reservations whose actual is known, and not accepted yet."""
    outbox: Any = getattr(ledger, "outbox", None)
    if outbox is None:
        return set()
    await outbox.look()  # a process may have died since the ledger was opened
    await outbox.drain(seconds)
    if outbox.unread:
        raise ComptrollerError(
            f"the outbox of {ledger.name} holds what cannot be read now: what it knows of the dead"
            " is charged before anything is estimated, so mend that first (comptroller outbox list)"
        )
    return {entry.key for entry in outbox.left}


def _tenants(ledger: Ledger, used: Iterable[set[tuple[str, str]]]) -> Sequence[str | None]:
    """Whose reservations are looked at; an embedded ledger shows everybody's at once."""
    if not ledger.remote:
        return [None]
    return sorted({tenant for pairs in used for name, tenant in pairs if name == ledger.name})


async def _active(ledger: Ledger, tenant: str | None) -> AsyncIterator[ReservationSummary]:
    """Read whole before the first is settled: pages move when their rows do."""
    rows: list[ReservationSummary] = []
    cursor, more = None, True
    while more:
        page = await ledger.reservations(tenant=tenant, status="ACTIVE", limit=_PAGE, cursor=cursor)
        rows += page.reservations
        cursor, more = page.next_cursor, bool(page.has_more and page.next_cursor)
    for row in rows:
        yield row


def _base(each: ReservationSummary, marks: Container[str | None]) -> str | None:
    """Run / execution / call of a dead process's reservation; None for any other."""
    key = _KEY.fullmatch(each.idempotency_key or "")
    if key is None or mark_of(key["execution"]) not in marks:
        return None
    return key["base"]


async def _settle(
    ledger: Ledger, each: ReservationSummary, tenant: str, base: str, how: OnAbandoned
) -> RecoveredReservation:
    done = RecoveredReservation(each.reservation_id, tenant, base, each.reserved, "charged")
    try:
        if how == "charge":
            charge = CommitRequest(
                idempotency_key=f"{base}/commit",
                actual=each.reserved,
                metadata={"actual_source": "estimate", "abandoned": WHY},
            )
            await ledger.commit(each.reservation_id, charge, tenant=tenant)
        else:
            release = ReleaseRequest(idempotency_key=f"{base}/release", reason=WHY)
            await ledger.release(each.reservation_id, release, tenant=tenant)
            done = attrs.evolve(done, outcome="released")
    except ComptrollerError as error:
        if next_action(error) is not SettlementAction.SETTLED:  # by another one that recovers
            done = attrs.evolve(done, outcome="left", reason=str(error))
    log.warning(
        "reservation %s of a dead process is %s %s", done.reservation_id, done.outcome, done.reason
    )
    return done
