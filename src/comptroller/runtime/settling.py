"""Settlements on their way: a denial may be due to them only, and is then asked once more.

The commit is off the caller's path, so the next reserve can reach the ledger before the commit
that frees its budget. One register per ledger object, shared by all runs that use it.
"""

from weakref import WeakKeyDictionary

import anyio

from comptroller.ledger.interface import Ledger

from .home import Change


class Settling:
    """The calls that were told their end and whose first settlement has no answer yet."""

    def __init__(self) -> None:
        self._scopes: dict[object, frozenset[str]] = {}
        self._change = Change()

    def begin(self, who: object, scopes: frozenset[str]) -> None:
        """`who` has been told its end: a settlement over `scopes` is under way."""
        self._scopes[who] = scopes

    def answered(self, who: object) -> None:
        """The first attempt has an answer, of whatever kind, or will never have one."""
        if self._scopes.pop(who, None) is not None:
            self._change.notify()

    async def first_attempts(self, scope: str | None, seconds: float) -> bool:
        """Wait for those under way now that touch `scope` (None: any), at most `seconds`.

        False where there were none. Later ones, and calls still running, are not waited for.
        """
        now = [
            who for who, scopes in self._scopes.items() if scope is None or scope.lower() in scopes
        ]
        if not now:
            return False
        with anyio.move_on_after(seconds):
            await self._change.until(lambda: not any(who in self._scopes for who in now))
        return True


_BY_LEDGER: WeakKeyDictionary[Ledger, Settling] = WeakKeyDictionary()


def settling(ledger: Ledger) -> Settling:
    """The register of this ledger object."""
    return _BY_LEDGER.setdefault(ledger, Settling())
