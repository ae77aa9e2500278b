"""What a listing wants, as SQL: filters, order and place in one statement."""

from typing import Any

from comptroller.ledger.book.records import ANY_TIME, LONG, Wanted
from comptroller.ledger.sqlite import rows

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


WHOLE = f"SELECT {rows.RESERVATION}, NULL FROM reservations WHERE id = ?"
BARE = f"""
SELECT {rows.RESERVATION.replace("request", f"iif(length(request) > {LONG}, '', request)")},
    iif(length(request) > {LONG}, json_object('subject', json_extract(request, '$.subject'),
        'action', json_extract(request, '$.action')), NULL)
FROM reservations WHERE id = ?
"""
"""One reservation as a row of `RESERVATION` and its head, whole or as a listing shows it: SQLite
finds in a long request what is shown, while Python runs on."""


def statement(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """The statement that finds the reservations wanted: their `id`s, in the order wanted."""
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


def _filters(wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
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
    """The test that a scope is a tenant's, as a range that the index of scopes serves."""
    if tenant is None:
        return "1", ()
    scope = f"tenant:{tenant}"
    return "scope = ? OR (scope > ? AND scope < ?)", (scope, f"{scope}/", f"{scope}0")
