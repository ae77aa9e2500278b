"""What the operator of an embedded ledger does: set, fund, freeze, unfreeze and close budgets.

Each act stands in the event log, with who did it.
"""

from functools import partial

import attrs
from pydantic import BaseModel
from runcycles import Amount, Balance, Unit

from comptroller.core import budgets
from comptroller.core.accounts import Account, Denial
from comptroller.core.budgets import Funding, Terms, checked_amount
from comptroller.core.scopes import ancestor_scopes, parse_scope
from comptroller.errors import ComptrollerError, refusal
from comptroller.ledger.engine import responses
from comptroller.ledger.engine.denial_errors import denied, unknown
from comptroller.ledger.engine.engine import Engine
from comptroller.ledger.engine.idempotency import IdempotencyKey, key_of
from comptroller.ledger.engine.records import StoredResponse
from comptroller.ledger.engine.responses import ResponseFactory
from comptroller.ledger.models import Kind, RequestOrigin

_VERBS: dict[Funding, Kind] = {
    Funding.CREDIT: "fund",
    Funding.DEBIT: "debit",
    Funding.REPAY_DEBT: "repay",
}


def set_budget(
    book: Engine, scope: str, allocated: Amount, given: Terms, now_ms: int
) -> ResponseFactory[Balance]:
    """Set what `scope` may spend in all, or in each period; terms that are not given stay.

    Raises:
        TypeError, ValueError: a malformed scope, an amount or terms that make no sense.
    """
    path, allocated = parse_scope(scope), checked_amount(allocated)
    known = book.store.at(path).get(allocated.unit)
    if known is not None:
        known = book.renewed(known, now_ms)
    terms = budgets.amended(known, allocated, given)
    account = budgets.apply_terms(known, path, terms, now_ms)
    if known is not None:
        account = book.apart(known, account)
    account = book.told(account, now_ms)
    book.set(account, now_ms)
    return partial(responses.budget, account)


def fund(
    book: Engine,
    scope: str,
    amount: Amount,
    now_ms: int,
    *,
    operation: Funding = Funding.CREDIT,
    idempotency_key: str | None = None,
) -> ResponseFactory[Balance]:
    """Move money to, from or for a budget: see `Funding`. Under one key it is moved once.

    Raises:
        TypeError, ValueError: a malformed scope, an amount that is none.
        BudgetNotFound: no budget was set for this scope and unit.
        BudgetExceeded: a DEBIT of more than remains.
    """
    path, amount = parse_scope(scope), checked_amount(amount)
    operation = Funding(operation)
    known = book.store.at(path).get(amount.unit)
    if known is None:
        raise _unknown(book, path, amount.unit)
    key = _key(book, path, amount, operation, idempotency_key)
    if key is not None and (answer := key.recalled()) is not None:
        return partial(responses.budget, answer.accounts[0])
    before = book.renewed(known, now_ms)
    account = budgets.fund(before, amount.amount, operation)
    if isinstance(account, Denial):
        raise denied(account, book.name)
    account = book.told(account, now_ms)
    book.save((account,), now_ms)
    book.log(
        _VERBS[operation],
        account,
        now_ms,
        amount=account.allocated - before.allocated,
        debt=account.debt - before.debt,
        origin=book.origin or RequestOrigin(),
    )
    if key is not None:
        key.remember(StoredResponse(key.fingerprint, accounts=(account,)))
    return partial(responses.budget, account)


class _Fund(BaseModel):
    """What an idempotency key of `fund` stands for."""

    scope: str
    amount: Amount
    operation: Funding


def _key(
    book: Engine, path: str, amount: Amount, operation: Funding, idempotency_key: str | None
) -> IdempotencyKey | None:
    if idempotency_key is None:
        return None
    request = _Fund(scope=path, amount=amount, operation=operation)
    return key_of(book, ancestor_scopes(path)[0], "fund", request, idempotency_key)


def freeze(
    book: Engine, scope: str, unit: Unit | None, now_ms: int, *, frozen: bool
) -> ResponseFactory[None]:
    """Freeze the budget of a scope in `unit`, or in every unit where that is None; or end that.

    Raises:
        TypeError, ValueError: a malformed scope or unit.
        BudgetNotFound: no budget was set for this scope.
        UnitMismatch: none was set in this unit.
    """
    path = parse_scope(scope)
    accounts = book.store.at(path)
    wanted = list(accounts) if unit is None else [Unit(unit)]
    if not wanted or wanted[0] not in accounts:
        raise _unknown(book, path, wanted[0] if wanted else Unit.USD_MICROCENTS)
    for account in [accounts[one] for one in wanted]:
        book.store.save(attrs.evolve(account, frozen=frozen))
        kind: Kind = "freeze" if frozen else "unfreeze"
        book.log(kind, account, now_ms, origin=book.origin or RequestOrigin())
    return responses.nothing


def close(book: Engine, scope: str, now_ms: int) -> ResponseFactory[None]:
    """Close a scope, in every unit. Where only scopes within it have budgets, it gets one of 0.

    So nothing within it is granted, and no default budget begins it anew; what it was stays.

    Raises:
        TypeError, ValueError: a malformed scope.
        BudgetNotFound: neither it nor a scope within it has a budget.
    """
    path = parse_scope(scope)
    accounts = list(book.store.at(path).values())
    if not accounts:
        accounts = [Account(path, unit, 0) for unit in book.store.units_within(path)]
        for account in accounts:
            book.set(account, now_ms)
    if not accounts:
        raise _unknown(book, path, Unit.USD_MICROCENTS)
    for account in accounts:
        book.store.save(attrs.evolve(account, closed=True))
        book.log("close", account, now_ms, origin=book.origin or RequestOrigin())
    return responses.nothing


def _unknown(book: Engine, path: str, unit: Unit) -> ComptrollerError:
    units = tuple(book.store.at(path))
    if units:
        mismatch = Denial("UNIT_MISMATCH", path, unit, 0, expected_units=units)
        return denied(mismatch, book.name)
    return refusal(
        unknown(path, path, unit, book.name),
        status=404,
        error_code="NOT_FOUND",
        asks_for_budget=True,
    )
