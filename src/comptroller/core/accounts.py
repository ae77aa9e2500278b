"""What a ledger answers, decided on the accounts of the scopes concerned.

The laws kept here: every check comes before any change, over all scopes at once, so a refusal
changes nothing; concurrency never overspends, since what is reserved never exceeds what remains
(law 9); and `remaining = allocated - spent - reserved - debt`, always (protocol, Balance).

Accounts are values: a function answers the accounts as they are afterwards, or a `Denial`.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs
from runcycles import Caps, CommitOveragePolicy, Unit

from comptroller._frozen import frozen_record
from comptroller.core.limits import merged
from comptroller.core.periods import Period
from comptroller.money import MAX_AMOUNT


@frozen_record
class Renewal:
    """A budget that begins anew: `per` which period of `zone`, when next, and with how much."""

    per: Period
    at_ms: int
    allocated: int
    zone: str = "UTC"


@frozen_record
class Alerts:
    """Shares of the budget in percent, rising: `at` which to tell, and those that were `told`."""

    at: tuple[int, ...]
    told: tuple[int, ...] = ()


@frozen_record
class Account:
    """The account of one (scope, unit); all amounts are whole numbers of the unit."""

    scope: str
    unit: Unit
    allocated: int
    spent: int = 0
    reserved: int = 0
    debt: int = 0
    overdraft_limit: int = 0
    is_over_limit: bool = False
    frozen: bool = False
    caps: Caps | None = None
    renewal: Renewal | None = None
    since_ms: int = 0
    """When its period began; 0 in the first one. It tells an account's periods apart."""
    caps_below: int | None = None
    """The share of the budget, in percent, below which `caps` apply; None: always."""
    alerts: Alerts | None = None
    closed: bool = False
    """Its operator has closed it: it grants nothing more, and stays for what it has spent."""

    @property
    def used(self) -> int:
        """What is no longer free: spent, reserved and owed."""
        return self.spent + self.reserved + self.debt

    @property
    def remaining(self) -> int:
        """What a reservation may take; below zero where debt or a cut of the budget took more."""
        return self.allocated - self.used

    @property
    def available(self) -> int:
        """`remaining`, but never below zero."""
        return max(self.remaining, 0)

    def takes(self, estimate: int) -> bool:
        """Whether nothing at all speaks against `estimate`. Something may that refuses nothing."""
        return not (self.closed or self.frozen or self.is_over_limit or self.debt) and (
            estimate <= self.allocated - self.spent - self.reserved
        )

    def moved(
        self, *, spent: int = 0, reserved: int = 0, debt: int = 0, over_limit: bool = False
    ) -> "Account":
        """Return it with these amounts added; once over limit it stays so until reconciled."""
        return Account(
            self.scope,
            self.unit,
            self.allocated,
            self.spent + spent,
            self.reserved + reserved,
            self.debt + debt,
            self.overdraft_limit,
            self.is_over_limit or over_limit,
            self.frozen,
            self.caps,
            self.renewal,
            self.since_ms,
            self.caps_below,
            self.alerts,
            self.closed,
        )

    @property
    def binding(self) -> Caps | None:
        """The caps of what is granted now: with `caps_below`, only where less than that remains."""
        if self.caps_below is None or self.remaining * 100 < self.caps_below * self.allocated:
            return self.caps
        return None


Accounts = tuple[Account, ...]


@frozen_record
class Denial:
    """Why not: the protocol's code, where it struck, and what was asked for and left there."""

    code: str
    scope: str
    unit: Unit
    requested: int
    remaining: int | None = None
    allocated: int | None = None
    expected_units: tuple[Unit, ...] = ()
    renews_at_ms: int | None = None
    """When the account begins anew, where it does."""


@frozen_record
class Authorization:
    """An estimate may be locked: the accounts with it locked, and the caps that bind it."""

    accounts: Accounts
    caps: Caps | None


@frozen_record
class Charge:
    """Spend was charged: the accounts afterwards, and how much of the actual was covered."""

    accounts: Accounts
    charged: int


def budgeted(
    scopes: Sequence[str], unit: Unit, requested: int, at: Sequence[Mapping[Unit, Account]]
) -> Accounts | Denial:
    """Return the accounts of those scopes that have a budget in `unit`; `at` holds those of each.

    Scopes without a budget are skipped, but one must have one (protocol, SCOPE DERIVATION):
    UNIT_MISMATCH where budgets exist in other units only, BUDGET_NOT_FOUND where none exists.
    """
    found = tuple(units[unit] for units in at if unit in units)
    if found:
        return found
    for scope, units in zip(scopes, at, strict=True):
        if units:
            expected = tuple(one for one in Unit if one in units)
            return Denial("UNIT_MISMATCH", scope, unit, requested, expected_units=expected)
    return Denial("BUDGET_NOT_FOUND", scopes[-1], unit, requested)


def admit(accounts: Accounts, estimate: int) -> Authorization | Denial:
    """Lock `estimate` in every account, or the reason why not.

    A rule is tried on all scopes before the next one: closed, frozen, over limit, in debt (only
    where no overdraft is allowed), too little left (protocol, ERROR SEMANTICS and
    DecisionReasonCode).
    """
    locked = []
    for account in accounts:
        if not account.takes(estimate) and (denial := _why_not(accounts, estimate)):
            return denial
        locked.append(account.moved(reserved=estimate))
    capped = [caps for account in accounts if account.caps and (caps := account.binding)]
    return Authorization(tuple(locked), merged(capped) if capped else None)


def _why_not(accounts: Accounts, estimate: int) -> Denial | None:
    """Return the first rule that an account breaks, if any does."""
    if closed := _closed(accounts, estimate):
        return closed
    for code, refuses in _REFUSALS:
        for account in accounts:
            if refuses(account, estimate):
                return _denied(code, account, estimate)
    return None


_REFUSALS: tuple[tuple[str, Callable[[Account, int], bool]], ...] = (
    ("BUDGET_FROZEN", lambda account, _: account.frozen),
    ("OVERDRAFT_LIMIT_EXCEEDED", lambda account, _: account.is_over_limit),
    ("DEBT_OUTSTANDING", lambda account, _: account.debt > 0 and not account.overdraft_limit),
    ("BUDGET_EXCEEDED", lambda account, estimate: estimate > account.remaining),
)


def _closed(accounts: Accounts, requested: int) -> Denial | None:
    """Deny a tenant's own scope that is closed as the tenant (protocol, ErrorCode)."""
    for account in accounts:
        if account.closed:
            code = "BUDGET_CLOSED" if "/" in account.scope else "TENANT_CLOSED"
            return _denied(code, account, requested)
    return None


def settle(
    accounts: Accounts, estimate: int, actual: int, policy: CommitOveragePolicy
) -> Charge | Denial:
    """Commit: the estimate's lock is opened, `actual` charged; what exceeds it follows `policy`."""
    if actual > estimate and policy is CommitOveragePolicy.REJECT:
        return attrs.evolve(_denied("BUDGET_EXCEEDED", accounts[-1], actual), remaining=estimate)
    covered = min(actual, estimate)
    settled = tuple([account.moved(spent=covered, reserved=-estimate) for account in accounts])
    if actual <= estimate:
        return Charge(settled, actual)
    # What was held beyond the part now spent is nothing here, so `remaining` is what it was.
    over = _charge_over(settled, actual - estimate, policy)
    return over if isinstance(over, Denial) else Charge(over.accounts, estimate + over.charged)


def release(accounts: Accounts, estimate: int) -> Accounts:
    """Give a locked estimate back."""
    return tuple(account.moved(reserved=-estimate) for account in accounts)


def charge(accounts: Accounts, actual: int, policy: CommitOveragePolicy) -> Charge | Denial:
    """Charge an event: spend that was never reserved. A closed or frozen account refuses it."""
    if closed := _closed(accounts, actual):
        return closed
    for account in accounts:
        if account.frozen:
            return _denied("BUDGET_FROZEN", account, actual)
        if policy is CommitOveragePolicy.REJECT and actual > account.remaining:
            return _denied("BUDGET_EXCEEDED", account, actual)
    return _charge_over(accounts, actual, policy)


def _charge_over(accounts: Accounts, amount: int, policy: CommitOveragePolicy) -> Charge | Denial:
    """Charge `amount` that no reservation holds (protocol, CommitOveragePolicy).

    Scopes that may not run into debt bound the charge to what they have left and are over limit
    when that is too little. The others, under ALLOW_WITH_OVERDRAFT, pay with what remains and owe
    only the rest, each scope for itself and up to its own limit (Balance.debt, "spend that could
    not be covered"; the reference server).
    """
    overdraft = policy is CommitOveragePolicy.ALLOW_WITH_OVERDRAFT
    may_owe = [overdraft and account.overdraft_limit > 0 for account in accounts]
    short = [amount > account.available for account in accounts]
    bounds = [a.available for a, owes in zip(accounts, may_owe, strict=True) if not owes]
    charged = min([amount, *bounds])
    after = []
    for account, owes, is_short in zip(accounts, may_owe, short, strict=True):
        covered = min(charged, account.available)
        owed = charged - covered
        if owed and (
            account.debt + owed > account.overdraft_limit or account.used + charged > MAX_AMOUNT
        ):
            return _denied("OVERDRAFT_LIMIT_EXCEEDED", account, amount)
        over_limit = is_short and not owes
        after.append(account.moved(spent=covered, debt=owed, over_limit=over_limit))
    return Charge(tuple(after), charged)


def _denied(code: str, account: Account, requested: int) -> Denial:
    return Denial(
        code,
        account.scope,
        account.unit,
        requested,
        account.remaining,
        account.allocated,
        renews_at_ms=account.renewal.at_ms if account.renewal else None,
    )
