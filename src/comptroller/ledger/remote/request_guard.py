"""When a remote ledger is not asked: it gave no answer lately, or it has just said no.

Both are told as the ledger itself would tell them, at once. `decide.circuit` and `decide.repeated`
are the rules; here stands what is remembered for one ledger.
"""

import copy
import math
from collections.abc import Callable

import anyio
import attrs
from runcycles import Amount, Subject, Unit

from comptroller.core.circuit_breaker import CLOSED, CircuitBreaker, DenialBackoff, Where, scopes
from comptroller.errors import BudgetExceeded, LedgerUnreachable

_REMEMBERED = 1_000
"""Denials that are kept in mind. All are forgotten beyond that: the ledger is asked then."""


@attrs.define
class RequestGuard:
    """What one ledger's answers have taught."""

    ledger: str
    _now: Callable[[], float] = anyio.current_time
    _circuit: CircuitBreaker = CLOSED
    _denied: dict[Where, tuple[DenialBackoff, BudgetExceeded]] = attrs.field(factory=dict)

    # -- no answer

    @property
    def rest(self) -> float:
        """Seconds for which nothing is to be sent, because nothing came back; 0: send."""
        return self._circuit.rest(self._now())

    def check(self, verb: str) -> None:
        """Raise LedgerUnreachable while nothing is sent."""
        if (rest := self.rest) > 0:
            raise LedgerUnreachable(
                f"{self.ledger}: {verb}: {self._circuit.failures} requests had no answer:"
                f" it is asked again in {rest:.1f} s",
                status=-1,
            )

    def check_sending(self, verb: str) -> None:
        """Check a request that goes out now: it may be the one that is let through."""
        self.check(verb)
        self._circuit = self._circuit.sent(self._now())

    def answered(self) -> bool:
        """Note that the ledger answers. Return whether that is news."""
        was_open, self._circuit = self._circuit.open, CLOSED
        return was_open

    def try_now(self) -> None:
        """Send the next request, whatever came back from the last ones."""
        self._circuit = attrs.evolve(self._circuit, until=-math.inf)

    def unanswered(self, sent: float) -> None:
        """Nothing came back on what was sent at `sent`."""
        self._circuit = self._circuit.unanswered(sent, self._now())

    # -- denials

    def check_asking(self, subject: Subject, estimate: Amount) -> None:
        """Raise the denial that the ledger would only repeat."""
        if not self._denied:
            return
        unit, now = Unit(estimate.unit), self._now()
        for scope in scopes(subject):
            known = self._denied.get((scope, unit))
            if known is not None and known[0].holds(estimate.amount, now):
                raise _repeated(*known, estimate, now)

    def denied(
        self, subject: Subject, estimate: Amount, denial: BudgetExceeded, sent: float
    ) -> None:
        """Note that the ledger has denied what was sent at `sent`.

        A copy is kept: the denial itself holds on to every frame that it passes through.
        """
        path = scopes(subject)
        scope = (denial.scope or "").lower() or (path[-1] if path else "")
        where = (scope, Unit(estimate.unit))
        code, now = denial.reason_code, self._now()
        if len(self._denied) >= _REMEMBERED:
            self._denied.clear()
        before = self._denied.get(where)
        known = (
            DenialBackoff(code, estimate.amount, since=now)
            if before is None
            else before[0].again(code, estimate.amount, sent, now)
        )
        self._denied[where] = (known, copy.copy(denial))

    def granted(self, affected: list[str]) -> None:
        """There is budget in these scopes."""
        if self._denied:
            open_now = {scope.lower() for scope in affected}
            self._forget(lambda scope: scope in open_now)

    def came_back(self, tenant: str | None) -> None:
        """Budget of this tenant was given back, or may have been added; None: of any."""
        if self._denied:
            whose = None if tenant is None else f"tenant:{tenant.lower()}"
            self._forget(lambda scope: whose is None or f"{scope}/".startswith(f"{whose}/"))

    def ask_again(self, scope: str | None) -> None:
        """Somebody says so: at `scope` and within it, or everywhere."""
        within = None if scope is None else scope.lower()
        self._forget(lambda known: within is None or f"{known}/".startswith(f"{within}/"))

    def _forget(self, concerned: Callable[[str], bool]) -> None:
        for where in [where for where in self._denied if concerned(where[0])]:
            del self._denied[where]


def _repeated(
    known: DenialBackoff, denial: BudgetExceeded, estimate: Amount, now: float
) -> BudgetExceeded:
    rest = known.until - now
    repeated = BudgetExceeded(
        f"{denial} (denied {known.times} times: asked again in {rest:.1f} s, or after ask_again())",
        status=denial.status,
        error_code=denial.error_code,
        details=denial.details,
        request_id=denial.request_id,
        retry_after_ms=max(1, round(rest * 1000)),
        reason_code=denial.reason_code,
        scope=denial.scope,
        unit=estimate.unit,
        requested=estimate.amount,
        remaining=denial.remaining,
    )
    repeated.__cause__ = denial
    return repeated
