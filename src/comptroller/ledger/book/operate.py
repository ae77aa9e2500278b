"""What the operator of an embedded ledger does: set, fund, freeze and unfreeze budgets.

Each act stands in the event log, with who did it.
"""

from functools import partial

import attrs
from runcycles import Amount, Balance, Unit

from comptroller.decide import funding
from comptroller.decide.admission import Denial
from comptroller.decide.funding import Funding
from comptroller.decide.scopes import parse_scope
from comptroller.decide.terms import BudgetTerms, checked_amount
from comptroller.errors import ComptrollerError, refusal
from comptroller.ledger.book import answers
from comptroller.ledger.book.answers import Answer
from comptroller.ledger.book.book import Book
from comptroller.ledger.book.journal import Kind, Origin
from comptroller.ledger.book.refusals import denied, unknown

_VERBS: dict[Funding, Kind] = {
    Funding.CREDIT: "fund",
    Funding.DEBIT: "debit",
    Funding.REPAY_DEBT: "repay",
}


def set_budget(book: Book, scope: str, terms: BudgetTerms, now_ms: int) -> Answer[Balance]:
    """Set what `scope` may spend in all, or in each period.

    Raises:
        TypeError, ValueError: a malformed scope.
    """
    path = parse_scope(scope)
    known = book.store.at(path).get(terms.allocated.unit)
    if known is not None:
        known = funding.renewed(known, now_ms)
    account = book.told(funding.budget(known, path, terms, now_ms), now_ms)
    book.set(account, now_ms)
    return partial(answers.balance, account)


def fund(
    book: Book,
    scope: str,
    amount: Amount,
    now_ms: int,
    *,
    operation: Funding = Funding.CREDIT,
) -> Answer[Balance]:
    """Move money to, from or for a budget: see `Funding`.

    Raises:
        TypeError, ValueError: a malformed scope, an amount that is none.
        BudgetNotFound: no budget was set for this scope and unit.
        BudgetExceeded: a DEBIT of more than remains.
    """
    path, amount = parse_scope(scope), checked_amount(amount)
    known = book.store.at(path).get(amount.unit)
    if known is None:
        raise _unknown(book, path, amount.unit)
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
    return partial(answers.balance, account)


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
