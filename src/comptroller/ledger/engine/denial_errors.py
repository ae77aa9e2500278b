"""Denials and bad requests as the typed errors of `comptroller.errors`.

A text says what was asked, what is left and where, and the command or call that mends it.
"""

import shlex

from runcycles import Amount, Unit

from comptroller.core.accounts import Denial
from comptroller.errors import ComptrollerError, refusal
from comptroller.money import MAX_AMOUNT, formatted

MEMORY = "memory:"
SERVED = "this ledger"
"""How a ledger is named to who asks over HTTP: its path and its commands are its operator's."""

_STATUS = {"UNIT_MISMATCH": 400, "INVALID_REQUEST": 400, "BUDGET_NOT_FOUND": 404}
_TROUBLES = {"OVERDRAFT_LIMIT_EXCEEDED": "over its limit", "DEBT_OUTSTANDING": "in debt"}
_SAMPLE = {
    Unit.USD_MICROCENTS: ("10usd", 'usd("10")'),
    Unit.TOKENS: ("100000tokens", "tokens(100000)"),
    Unit.RISK_POINTS: ("100risk_points", "risk_points(100)"),
    Unit.CREDITS: ("100credits", "Amount(unit=Unit.CREDITS, amount=100)"),
}


def invalid(message: str) -> ComptrollerError:
    """400 INVALID_REQUEST: the request itself is wrong."""
    return refusal(message, status=400, error_code="INVALID_REQUEST", asks_for_budget=False)


def must_be_possible(given: Amount) -> None:
    """Refuse an amount below 0, or beyond the protocol's, however its value was made.

    Raises:
        LedgerRefused: it does not (INVALID_REQUEST).
    """
    if type(given.amount) is not int or not 0 <= given.amount <= MAX_AMOUNT:
        raise invalid(f"amount={given.amount!r}: a whole number from 0 to {MAX_AMOUNT}")


def forbidden(message: str) -> ComptrollerError:
    """403 FORBIDDEN: another tenant's."""
    return refusal(message, status=403, error_code="FORBIDDEN", asks_for_budget=False)


def denied(denial: Denial, ledger: str, text: str | None = None) -> ComptrollerError:
    """Return the error of a denial, with all that is known of it; `text` in place of ours."""
    code = "NOT_FOUND" if denial.code == "BUDGET_NOT_FOUND" else denial.code
    status = _STATUS.get(denial.code, 409)
    text = text or _text(denial, ledger)
    if status != 409:  # noqa: PLR2004 - the protocol's status for a conflict with the budget
        return refusal(
            text, status=status, error_code=code, asks_for_budget=True, details=_details(denial)
        )
    return refusal(
        text,
        status=status,
        error_code=code,
        asks_for_budget=True,
        scope=denial.scope,
        unit=denial.unit,
        requested=denial.requested,
        remaining=denial.remaining,
        details=_details(denial),
    )


def _details(denial: Denial) -> dict[str, object]:
    if denial.code == "UNIT_MISMATCH":
        return {
            "scope": denial.scope,
            "requested_unit": denial.unit.value,
            "expected_units": [unit.value for unit in denial.expected_units],
        }
    if denial.remaining is None:
        return {}
    renews = {} if denial.renews_at_ms is None else {"renews_at_ms": denial.renews_at_ms}
    return {
        "scope": denial.scope,
        "unit": denial.unit.value,
        "requested": denial.requested,
        "remaining": denial.remaining,
        "allocated": denial.allocated,
        **renews,
    }


def _text(denial: Denial, ledger: str) -> str:
    scope, unit = denial.scope, denial.unit
    if denial.code == "BUDGET_NOT_FOUND":
        outermost = scope.partition("/")[0]
        return unknown(outermost.replace("tenant:", "tenant "), outermost, unit, ledger)
    if denial.code == "UNIT_MISMATCH":
        units = ", ".join(one.value for one in denial.expected_units)
        return (
            f"{scope} has a budget in {units}, none in {unit.value}: ask in one of these units,"
            f" or {_cure('set one', 'set', scope, unit, ledger)}"
        )
    left = (
        f"{formatted(unit, denial.remaining or 0)} left of {formatted(unit, denial.allocated or 0)}"
    )
    if denial.code in ("BUDGET_CLOSED", "TENANT_CLOSED"):
        return f"{scope} is closed; {_cure('open it again', 'set', scope, unit, ledger)}"
    if denial.code == "BUDGET_FROZEN":
        return f"{scope} is frozen, {left}; {_cure('open it', 'unfreeze', scope, None, ledger)}"
    if trouble := _TROUBLES.get(denial.code):
        return f"{scope} is {trouble}, {left}; {_fund(denial, ledger)}"
    return f"{scope}: {formatted(unit, denial.requested)} requested, {left}"


def unknown(whom: str, scope: str, unit: Unit, ledger: str) -> str:
    """Say that there is no budget for `whom`, and how `scope` gets one."""
    return f"no budget for {whom} in {ledger}; {_cure('set one', 'set', scope, unit, ledger)}"


def _fund(denial: Denial, ledger: str) -> str:
    return _cure("fund it", "fund", denial.scope, denial.unit, ledger)


def _cure(what: str, verb: str, scope: str, unit: Unit | None, ledger: str) -> str:
    """Return what mends it, or to who asks over HTTP only who can."""
    if ledger == SERVED:
        return f"its operator can {what}"
    return f"{what} with: {remedy(verb, scope, unit, ledger)}"


def remedy(verb: str, scope: str, unit: Unit | None, ledger: str) -> str:
    """Return the command (or, for a ledger in memory, the call) that mends a denial."""
    if ledger.startswith(MEMORY):
        call = "set_budget" if verb == "set" else verb
        sample = f", {_SAMPLE[unit][1]}" if unit else ""
        return f'await ledger.{call}("{scope}"{sample})'
    sample = f" {_SAMPLE[unit][0]}" if unit else ""
    return f"comptroller budget {verb} {scope}{sample} --ledger {shlex.quote(ledger)}"
