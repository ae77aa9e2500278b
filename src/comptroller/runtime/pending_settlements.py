"""Settlements on their way: a denial may be due to them only, and is then asked once more.

The commit is off the caller's path, so the next reserve can reach the ledger before the commit
that frees its budget. One register per event loop and ledger object, shared by all runs that use
it there: those of another loop can be neither waited for nor woken from here.
"""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import RunVar

from comptroller.ledger.interface import Ledger
from comptroller.runtime.portal import Condition


class PendingSettlements:
    """The calls that were told their end and whose first settlement has no answer yet."""

    def __init__(self) -> None:
        self._scopes: dict[object, frozenset[str]] = {}
        self._change = Condition()

    def begin(self, who: object, scopes: frozenset[str]) -> None:
        """`who` has been told its end: a settlement over `scopes` is under way."""
        self._scopes[who] = scopes

    def answered(self, who: object) -> None:
        """Note that the first attempt has an answer, of whatever kind, or will never have one."""
        if self._scopes.pop(who, None) is not None:
            self._change.notify()

    def under_way(self) -> Mapping[object, frozenset[str]]:
        """Those under way at this moment, with their scopes."""
        return dict(self._scopes)

    async def first_attempts(
        self, before: Mapping[object, frozenset[str]], scope: str | None, seconds: float
    ) -> bool:
        """Wait for those that touch `scope` (None: any), at most `seconds`. False: there are none.

        Those under way now, and those under way `before`, when what was denied was sent: they may
        have been answered since. Later ones, and calls still running, are not waited for.
        """
        known = {**before, **self._scopes}
        touching = {
            who for who, scopes in known.items() if scope is None or scope.lower() in scopes
        }
        with anyio.move_on_after(seconds):
            await self._change.until(lambda: touching.isdisjoint(self._scopes))
        return bool(touching)


_BY_LEDGER: RunVar[WeakKeyDictionary[Ledger, PendingSettlements]] = RunVar("comptroller_settling")


def pending_settlements_of(ledger: Ledger) -> PendingSettlements:
    """Return the register of this ledger object in the running loop."""
    registers = _BY_LEDGER.get(None)
    if registers is None:
        registers = WeakKeyDictionary()
        _BY_LEDGER.set(registers)
    return registers.setdefault(ledger, PendingSettlements())
