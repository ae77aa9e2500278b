"""What the operator of an embedded ledger does: set, fund, freeze and unfreeze budgets."""

from functools import partial

import attrs
from runcycles import Amount, Balance, Caps, Unit

from comptroller.decide import funding
from comptroller.decide.admission import Account, Denial
from comptroller.decide.funding import Funding, Period
from comptroller.decide.scopes import parse_scope
from comptroller.errors import refusal
from comptroller.ledger.book import answers
from comptroller.ledger.book.answers import Answer
from comptroller.ledger.book.records import Book
from comptroller.ledger.book.refusals import denied, unknown
from comptroller.money import amount as checked


def set_budget(
    book: Book,
    scope: str,
    allocated: Amount,
    now_ms: int,
    *,
    overdraft_limit: int = 0,
    caps: Caps | None = None,
    per: Period | None = None,
) -> Answer[Balance]:
    """Set what `scope` may spend in all, or per day or month (UTC).

    Raises:
        TypeError: an amount that is none, such as a bare number.
        ValueError: a malformed scope, a negative amount, an unknown period.
    """
    path, allocated = parse_scope(scope), _amount(allocated)
    limit = checked(allocated.unit, overdraft_limit, shown=f"overdraft_limit={overdraft_limit!r}")
    if caps is not None and not isinstance(caps, Caps):
        raise TypeError(f"caps={caps!r}: give a runcycles.Caps")
    if per not in (None, "day", "month"):
        raise ValueError(f'per={per!r}: a budget renews per "day" or per "month" (UTC), or never')
    account = funding.budget(
        book.store.at(path).get(allocated.unit),
        path,
        allocated.unit,
        allocated.amount,
        overdraft_limit=limit.amount,
        caps=caps,
        per=per,
        now_ms=now_ms,
    )
    return _saved(book, account)


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
        TypeError, ValueError: as `set_budget`.
        BudgetNotFound: no budget was set for this scope and unit.
        BudgetExceeded: a DEBIT of more than remains.
    """
    path, amount = parse_scope(scope), _amount(amount)
    account = book.store.at(path).get(amount.unit)
    if account is None:
        raise _unknown(book, path, amount.unit)
    funded = funding.fund(funding.renewed(account, now_ms), amount.amount, operation)
    if isinstance(funded, Denial):
        raise denied(funded, book.name)
    return _saved(book, funded)


def freeze(book: Book, scope: str, *, frozen: bool) -> Answer[None]:
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
    return answers.nothing


def _amount(given: Amount) -> Amount:
    if not isinstance(given, Amount):
        raise TypeError(f'{given!r} is no amount: write usd("10"), tokens(5000) or an Amount')
    return checked(given.unit, given.amount)


def _unknown(book: Book, path: str, unit: Unit) -> Exception:
    units = tuple(book.store.at(path))
    if units:
        return denied(Denial("UNIT_MISMATCH", path, unit, 0, expected_units=units), book.name)
    return refusal(
        unknown(path, path, unit, book.name),
        status=404,
        error_code="NOT_FOUND",
        asks_for_budget=True,
    )


def _saved(book: Book, account: Account) -> Answer[Balance]:
    book.store.save(account)
    return partial(answers.balance, account)
