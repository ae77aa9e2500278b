"""Records as rows of tables, and back. Balances in a remembered answer are thin: whole numbers.

What is done for every call reads an enum's `_value_`: `value` finds it through a descriptor.

What a listing wants, as SQL: filters, order and place in one statement.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any

import attrs
from runcycles import Caps, CommitOveragePolicy, ReservationStatus, Unit

from comptroller.core.accounts import Account, Alerts, Renewal
from comptroller.core.scopes import ancestor_scopes
from comptroller.ledger.engine.records import ANY_TIME, LONG, Event, Reservation, ReservationFilter

Row = tuple[Any, ...]

STATE = (
    "allocated, spent, reserved, debt, overdraft_limit, is_over_limit, frozen,"
    " closed, caps, per, renews_ms, renews_to, zone, since_ms, caps_below, alerts"
)
ACCOUNT = f"scope, unit, {STATE}"
EVENT = "id, token, tenant, created_ms, charged, request, path, held, unit, since"
RESERVATION = (
    "id, token, tenant, path, held, unit, estimate, policy, created_ms, expires_ms, ends_ms,"
    " key, request, status, charged, finalized_ms, settlement, since"
)
CHANGED = "status, expires_ms, ends_ms, charged, finalized_ms, settlement"
"""What may change of a reservation."""

_NEVER = (None, None, None, None)
_BALANCE = Struct("<7q")
_PACK = _BALANCE.pack


def marks(columns: str) -> str:
    """Return a question mark for each column."""
    return ",".join("?" * len(columns.split(",")))


def of_state(account: Account) -> Row:
    """`STATE`'s columns."""
    renewal = account.renewal
    return (
        account.allocated,
        account.spent,
        account.reserved,
        account.debt,
        account.overdraft_limit,
        account.is_over_limit,
        account.frozen,
        account.closed,
        of_caps(account.caps),
        *(attrs.astuple(renewal) if renewal else _NEVER),
        account.since_ms,
        account.caps_below,
        _of_alerts(account.alerts),
    )


def account(row: Row) -> Account:
    """Return the account of a row of `ACCOUNT`."""
    scope, unit, allocated, spent, reserved, debt, limit, over, frozen, closed, caps, *more = row
    *renewal, since_ms, caps_below, alerts = more
    return Account(
        scope,
        Unit(unit),
        allocated,
        spent,
        reserved,
        debt,
        limit,
        bool(over),
        bool(frozen),
        to_caps(caps),
        Renewal(*renewal) if renewal[0] else None,
        since_ms,
        caps_below,
        _to_alerts(alerts),
        bool(closed),
    )


def _of_alerts(alerts: Alerts | None) -> str | None:
    return json.dumps(attrs.astuple(alerts), separators=(",", ":")) if alerts else None


def _to_alerts(text: str | None) -> Alerts | None:
    return Alerts(*map(tuple, json.loads(text))) if text else None


def of_caps(caps: Caps | None) -> str | None:
    """Caps as JSON."""
    return caps.model_dump_json(exclude_none=True) if caps else None


def to_caps(text: str | None) -> Caps | None:
    """Caps from JSON."""
    return Caps.model_validate_json(text) if text else None


def of_reservation(reservation: Reservation) -> Row:
    """`RESERVATION`'s columns. `held` is a bit per scope of the path, the outermost the lowest."""
    return (
        reservation.row,
        reservation.token,
        reservation.tenant,
        reservation.path,
        _of_held(reservation.path, reservation.held),
        reservation.unit._value_,
        reservation.estimate,
        reservation.policy._value_,
        reservation.created_ms,
        reservation.expires_ms,
        reservation.ends_ms,
        reservation.key,
        reservation.request,
        reservation.status._value_,
        reservation.charged,
        reservation.finalized_ms,
        reservation.settlement,
        _of_since(reservation.since),
    )


@lru_cache(maxsize=4096)
def _of_held(path: str, held: tuple[str, ...]) -> int:
    return sum(1 << depth for depth, scope in enumerate(ancestor_scopes(path)) if scope in held)


@lru_cache(maxsize=4096)
def to_held(path: str, held: int) -> tuple[str, ...]:
    """Return the scopes of `path` whose bits are set."""
    return tuple(scope for depth, scope in enumerate(ancestor_scopes(path)) if held >> depth & 1)


def _of_since(since: tuple[int, ...]) -> str | None:
    return ",".join(map(str, since)) if since else None


def to_since(text: str | None) -> tuple[int, ...]:
    """Return the periods of the scopes that are held."""
    return tuple(map(int, text.split(","))) if text else ()


def of_changed(reservation: Reservation) -> Row:
    """Return the columns `CHANGED`."""
    return (
        reservation.status._value_,
        reservation.expires_ms,
        reservation.ends_ms,
        reservation.charged,
        reservation.finalized_ms,
        reservation.settlement,
    )


def of_event(event: Event) -> Row:
    """`EVENT`'s columns."""
    return (
        event.row,
        event.token,
        event.tenant,
        event.created_ms,
        event.charged,
        event.request,
        event.path,
        _of_held(event.path, event.held),
        event.unit._value_,
        _of_since(event.since),
    )


def event(row: Row) -> Event:
    """Return the event of a row of `EVENT`."""
    number, token, tenant, created_ms, charged, request, path, held, unit, since = row
    return Event(
        number,
        token,
        tenant,
        created_ms,
        charged,
        request,
        path,
        to_held(path, held),
        Unit(unit),
        to_since(since),
    )


def reservation(row: Row, head: str | None = None) -> Reservation:
    """Return the reservation of a row of `RESERVATION`, and of its head where that was read."""
    (number, token, tenant, path, held, unit, estimate, policy, created_ms, expires_ms, ends_ms) = (
        row[:11]
    )
    key, request, status, charged, finalized_ms, settlement, since = row[11:]
    return Reservation(
        row=number,
        token=token,
        tenant=tenant,
        path=path,
        held=to_held(path, held),
        unit=Unit(unit),
        estimate=estimate,
        policy=CommitOveragePolicy(policy),
        created_ms=created_ms,
        expires_ms=expires_ms,
        grace_ms=ends_ms - expires_ms,
        key=key,
        request=request,
        status=ReservationStatus(status),
        charged=charged,
        finalized_ms=finalized_ms,
        settlement=settlement,
        since=to_since(since),
        head=head,
    )


def of_balances(accounts: Iterable[Account], numbers: Mapping[tuple[str, Unit], int]) -> bytes:
    """Balances as they were answered; `numbers` are the rows of accounts."""
    return b"".join(
        [
            _PACK(
                numbers[one.scope, one.unit],
                one.allocated,
                one.spent,
                one.reserved,
                one.debt,
                one.overdraft_limit,
                one.is_over_limit,
            )
            for one in accounts
        ]
    )


def to_balances(packed: bytes, name_of: Callable[[int], tuple[str, Unit]]) -> tuple[Account, ...]:
    """Read the accounts as they were answered; `name_of` gives an account row's scope and unit."""
    return tuple(
        Account(*name_of(row), allocated, spent, reserved, debt, limit, bool(over))
        for row, allocated, spent, reserved, debt, limit, over in _BALANCE.iter_unpack(packed)
    )


_ORDERS = {
    "row": "id",
    "reservation_id": "printf('rsv_%x_', id) || token",
    "tenant": "coalesce(tenant, '')",
    "scope_path": "path",
    "status": "status",
    "reserved": "estimate",
    "created_at_ms": "created_ms",
    "expires_at_ms": "expires_ms",
}
"""As `records.ORDERS` has it."""


WHOLE = f"SELECT {RESERVATION}, NULL FROM reservations WHERE id = ?"
BARE = f"""
SELECT {RESERVATION.replace("request", f"iif(length(request) > {LONG}, '', request)")},
    iif(length(request) > {LONG}, json_object('subject', json_extract(request, '$.subject'),
        'action', json_extract(request, '$.action')), NULL)
FROM reservations WHERE id = ?
"""
"""One reservation as a row of `RESERVATION` and its head, whole or as a listing shows it: SQLite
finds in a long request what is shown, while Python runs on."""


def statement(wanted: ReservationFilter) -> tuple[str, dict[str, Any]]:
    """Return the statement that finds the reservations wanted: their `id`s, in the order wanted."""
    tests, given = _filters(wanted)
    order, way = _ORDERS[wanted.order], "ASC" if wanted.ascending else "DESC"
    if wanted.after is not None:
        tests.append(f"({order}, id) {'>' if wanted.ascending else '<'} (:value, :row)")
        given["value"], given["row"] = wanted.after
    text = (
        f"SELECT id FROM reservations WHERE {' AND '.join(tests) or 1}"
        f" ORDER BY {order} {way}, id {way} LIMIT :limit"
    )
    return text, given | {"limit": wanted.limit}


def _filters(wanted: ReservationFilter) -> tuple[list[str], dict[str, Any]]:
    tests, given = [], dict[str, Any]()
    for name in ("tenant", "key"):
        if (value := getattr(wanted, name)) is not None:
            tests.append(f"{name} = :{name}")
            given[name] = value
    if wanted.status is not None:
        tests.append(f"status = '{wanted.status.value}'")  # spelled out: its index has it so
    for number, segment in enumerate(wanted.segments):
        tests.append(f"instr('/' || path || '/', :segment{number})")
        given[f"segment{number}"] = f"/{segment}/"
    for name in ("created", "expires", "finalized"):
        bounds = getattr(wanted, name)
        for sign, bound in zip((">=", "<="), bounds if bounds != ANY_TIME else (), strict=False):
            if bound is not None:
                tests.append(f"{name}_ms {sign} {bound:d}")
    return tests, given


def scopes_of(tenant: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the test that a scope is a tenant's, as a range that the index of scopes serves."""
    if tenant is None:
        return "1", ()
    scope = f"tenant:{tenant}"
    return "scope = ? OR (scope > ? AND scope < ?)", (scope, f"{scope}/", f"{scope}0")
