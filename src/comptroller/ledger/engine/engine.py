"""A book: a store with its ledger's name, and what has to happen whenever accounts change.

The laws kept here:

- An account that begins anew leaves its last period behind, with what is still reserved there: what
  was reserved before midnight is settled in the period of its reservation.
- What an account does of itself (begins a period, falls into debt, passes a share that is to be
  told) stands in the event log, in the transaction in which it happens, hence once, whichever
  process it was.
"""

from collections.abc import Mapping
from itertools import repeat
from typing import Any

import attrs
from runcycles import Amount, Unit

from comptroller._frozen import frozen_record
from comptroller.core import budgets
from comptroller.core.accounts import Account, Accounts, Denial
from comptroller.core.budgets import BudgetTerms
from comptroller.ledger.engine.denial_counter import DenialCounter, DenialKey
from comptroller.ledger.engine.denial_errors import SERVED
from comptroller.ledger.engine.records import CanonicalRequest, Store
from comptroller.ledger.models import Kind, LogEntry, RequestOrigin

_NOBODY = RequestOrigin()
_DEFAULT = RequestOrigin("default_budget")


@frozen_record
class Engine:
    """Records, and the rules of keeping them.

    Attributes:
        origin: on whose behalf the present request came.
        written: the present request's canonical JSON, where that was made before its turn.
    """

    store: Store
    name: str
    default: BudgetTerms | None = None
    """The budget of a tenant that is seen for the first time."""
    origin: RequestOrigin | None = None
    alerts: list[LogEntry] = attrs.field(factory=list, repr=False)
    """Alerts that are to be told once what made them is kept; whoever tells them empties it."""
    _denials: DenialCounter = attrs.field(factory=DenialCounter, repr=False)
    written: CanonicalRequest | None = attrs.field(default=None, repr=False)

    def asked_by(self, origin: RequestOrigin, written: CanonicalRequest | None = None) -> "Engine":
        """Return the same book, for a request of `origin`."""
        name = self.name if origin.request_id is None else SERVED
        return Engine(self.store, name, self.default, origin, self.alerts, self._denials, written)

    def held(self, scopes: tuple[str, ...], unit: Unit, since: tuple[int, ...]) -> Accounts:
        """Return the accounts of `scopes` in the periods that began at `since`."""
        store = self.store
        found = []
        for scope, since_ms in zip(scopes, since or repeat(0), strict=False):
            account = store.at(scope)[unit]
            if account.since_ms != since_ms:
                account = store.period(scope, unit, since_ms) or account
            found.append(account)
        return tuple(found)

    def renewed(self, account: Account, now_ms: int) -> Account:
        """Return the account as it is at `now_ms`: anew where its period is over."""
        return self.apart(account, budgets.renewed(account, now_ms))

    def apart(self, before: Account, account: Account) -> Account:
        """`account`, in a period that none of those which are over is taken for.

        A clock that was ahead has begun the period of a day that comes only now: the day's own one
        begins a millisecond later.
        """
        since_ms = account.since_ms
        if since_ms == before.since_ms:
            return account
        while self.store.period(account.scope, account.unit, since_ms) is not None:
            since_ms += 1
        return account if since_ms == account.since_ms else attrs.evolve(account, since_ms=since_ms)

    def save(self, accounts: Accounts, now_ms: int) -> None:
        """Keep these accounts in place of those of their scopes, unit and period."""
        for account in accounts:
            known = self.store.at(account.scope).get(account.unit)
            if known is None:
                self.store.save(account)
                self._log_set(account, now_ms, _DEFAULT)
            elif known.since_ms == account.since_ms:
                self.store.save(account)
            elif self.store.period(account.scope, account.unit, account.since_ms) is None:
                self._begin(known, account, now_ms)
            else:
                self._amend(account, known, now_ms)

    def charge(self, before: Accounts, after: Accounts, about: str, now_ms: int) -> None:
        """Keep accounts that were charged: `save`, with the debts and the alerts that it made."""
        for old, new in zip(before, after, strict=True):
            if new.debt > old.debt:
                self.log("debt", new, now_ms, debt=new.debt - old.debt, about=about)
        if any(account.alerts for account in after):
            after = tuple(self.told(account, now_ms) for account in after)
        self.save(after, now_ms)

    def told(self, account: Account, now_ms: int) -> Account:
        """Return the account after its alerts are told that are due."""
        told, due = budgets.due_alerts(account)
        for share in due:
            entry = self.log(
                "alert",
                account,
                now_ms,
                amount=account.spent + account.debt,
                details={"share": share, "allocated": account.allocated},
            )
            self.alerts.append(entry)
        return told

    def taken_alerts(self) -> list[LogEntry]:
        """Return the alerts that are to be told, each of them once."""
        taken = self.alerts.copy()
        self.alerts.clear()
        return taken

    def set(self, account: Account, now_ms: int) -> None:
        """Keep the account of a budget that its operator has set."""
        if account.unit in self.store.at(account.scope):
            self.save((account,), now_ms)
        else:
            self.store.save(account)
        self._log_set(account, now_ms, self.origin or _NOBODY)

    def deny(self, denied: DenialKey, denial: Denial, key: bytes, now_ms: int) -> None:
        """Count a denied request."""
        counted = self._denials.counted(denied, key)
        if counted is None:
            return
        entry = None
        if self._denials.newsworthy(denial.scope, denial.unit, denial.code, now_ms):
            details = {"code": denial.code, "name": denied.name, "remaining": denial.remaining}
            if denied.run:
                details["run"] = denied.run
            entry = LogEntry(
                now_ms,
                "denied",
                denied.path,
                denial.unit,
                denial.requested,
                origin=self.origin or _NOBODY,
                details=details,
            )
        self.store.deny(counted, denial.requested, entry)

    def note(self, kind: Kind, path: str, amount: Amount | None, about: str, now_ms: int) -> None:
        """Log a request that came with ids of its own; its reservation or event is `about`."""
        if self.origin is not None:
            unit, count = (amount.unit, amount.amount) if amount else (None, 0)
            self.store.log(
                LogEntry(now_ms, kind, path, unit, count, about=about, origin=self.origin)
            )

    def log(self, kind: Kind, account: Account, now_ms: int, **more: Any) -> LogEntry:
        """Log what happened to `account`."""
        entry = LogEntry(
            now_ms, kind, account.scope, account.unit, since_ms=account.since_ms, **more
        )
        self.store.log(entry)
        return entry

    def _begin(self, over: Account, account: Account, now_ms: int) -> None:
        """`account` is in a new period, and the one of `over` is over."""
        self.store.keep_period(over)
        self.store.save(account)
        allocated = over.renewal.allocated if over.renewal else account.allocated
        ahead = {"instead_of_ms": over.since_ms} if over.since_ms > account.since_ms else {}
        self.log("renewed", account, now_ms, amount=allocated, debt=over.debt, details=ahead)

    def _amend(self, account: Account, present: Account, now_ms: int) -> None:
        """Settle in a period that is over what was reserved in it; its debt is everybody's."""
        before = self.store.period(account.scope, account.unit, account.since_ms)
        self.store.keep_period(account)
        owed = account.debt - (before.debt if before else 0)
        if owed > 0:
            present = self.renewed(present, now_ms)
            self.save((present.moved(spent=owed),), now_ms)
            self.log("carried", present, now_ms, debt=owed)

    def _log_set(self, account: Account, now_ms: int, origin: RequestOrigin) -> None:
        details = _terms(account)
        self.log("set", account, now_ms, amount=account.allocated, origin=origin, details=details)


def _terms(account: Account) -> Mapping[str, Any]:
    """Return what is said of a budget besides its amount."""
    renewal, caps, alerts = account.renewal, account.caps, account.alerts
    terms = {
        "overdraft_limit": account.overdraft_limit,
        "per": renewal.per if renewal else None,
        "zone": renewal.zone if renewal and renewal.zone != "UTC" else None,
        "caps": caps.model_dump(exclude_none=True) if caps else None,
        "caps_below": account.caps_below,
        "alerts": list(alerts.at) if alerts else None,
    }
    return {name: said for name, said in terms.items() if said}
