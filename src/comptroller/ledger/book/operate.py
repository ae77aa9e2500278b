"""What the operator of an embedded ledger does: set, fund, freeze and unfreeze budgets.

Each act stands in the event log, with who did it.
"""

from functools import partial

import attrs
from pydantic import BaseModel
from runcycles import Amount, Balance, Unit

from comptroller.decide import funding
from comptroller.decide.admission import Denial
from comptroller.decide.funding import Funding
from comptroller.decide.scopes import parse_scope, within
from comptroller.decide.terms import Terms, checked_amount
from comptroller.errors import ComptrollerError, refusal
from comptroller.ledger.book import answers
from comptroller.ledger.book.answers import Answer
from comptroller.ledger.book.book import Book
from comptroller.ledger.book.idempotency import Key, key_of
from comptroller.ledger.book.journal import Kind, Origin
from comptroller.ledger.book.records import Remembered
from comptroller.ledger.book.refusals import denied, unknown

_VERBS: dict[Funding, Kind] = {
    Funding.CREDIT: "fund",
    Funding.DEBIT: "debit",
    Funding.REPAY_DEBT: "repay",
}


def set_budget(
    book: Book, scope: str, allocated: Amount, given: Terms, now_ms: int
) -> Answer[Balance]:
    """Set what `scope` may spend in all, or in each period; terms that are not given stay.

    Raises:
        TypeError, ValueError: a malformed scope, an amount or terms that make no sense.
    """
    path, allocated = parse_scope(scope), checked_amount(allocated)
    known = book.store.at(path).get(allocated.unit)
    if known is not None:
        known = funding.renewed(known, now_ms)
    terms = funding.amended(known, allocated, given)
    account = book.told(funding.budget(known, path, terms, now_ms), now_ms)
    book.set(account, now_ms)
    return partial(answers.budget, account)


def fund(
    book: Book,
    scope: str,
    amount: Amount,
    now_ms: int,
    *,
    operation: Funding = Funding.CREDIT,
    idempotency_key: str | None = None,
) -> Answer[Balance]:
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
        return partial(answers.budget, answer.accounts[0])
    before = funding.renewed(known, now_ms)
    account = funding.fund(before, amount.amount, operation)
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
        origin=book.origin or Origin(),
    )
    if key is not None:
        key.remember(Remembered(key.fingerprint, accounts=(account,)))
    return partial(answers.budget, account)


class _Fund(BaseModel):
    """What an idempotency key of `fund` stands for."""

    scope: str
    amount: Amount
    operation: Funding


def _key(
    book: Book, path: str, amount: Amount, operation: Funding, idempotency_key: str | None
) -> Key | None:
    if idempotency_key is None:
        return None
    request = _Fund(scope=path, amount=amount, operation=operation)
    return key_of(book, within(path)[0], "fund", request, idempotency_key)


def freeze(book: Book, scope: str, now_ms: int, *, frozen: bool) -> Answer[None]:
    """Freeze a scope, in every unit it has a budget in, or end that.

    Raises:
        TypeError, ValueError: a malformed scope.
        BudgetNotFound: no budget was set for this scope.
    """
    path = parse_scope(scope)
    accounts = list(book.store.at(path).values())
    if not accounts:
        raise _unknown(book, path, Unit.USD_MICROCENTS)
    for account in accounts:
        book.store.save(attrs.evolve(account, frozen=frozen))
        kind: Kind = "freeze" if frozen else "unfreeze"
        book.log(kind, account, now_ms, origin=book.origin or Origin())
    return answers.nothing


def _unknown(book: Book, path: str, unit: Unit) -> ComptrollerError:
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
