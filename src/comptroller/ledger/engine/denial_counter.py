"""Denials: counted, each request once, in no more rows than a day of them is worth.

A denied request leaves nothing else behind, and whoever runs into a wall may do so a thousand times
a second. So denials that agree are one count per quarter of an hour (every zone's midnight is the
end of one), a request that is sent again counts once, and past a bound only codes are told apart.
The event log gets the first denial of a scope in a minute, of so many scopes.
"""

from collections import OrderedDict

import attrs
from runcycles import Unit

from comptroller._frozen import frozen_record

QUARTER_MS = 900_000
_MINUTE_MS = 60_000
_KEYS = 10_000
"""Requests that are remembered, to count each once."""
_MAX_KEYS = 1_000
"""Kinds of denials that are told apart in one quarter, and scopes named in the log a minute."""


@frozen_record
class DenialKey:
    """What denials agree in that are counted together."""

    path: str
    unit: Unit
    code: str
    kind: str
    name: str
    run: str
    quarter_ms: int


class DenialCounter:
    """What one opened ledger remembers of denials, to keep them few."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._kinds: set[DenialKey] = set()
        self._quarter_ms = -1
        self._logged: set[tuple[str, Unit, str]] = set()
        self._minute = -1

    def counted(self, denied: DenialKey, key: bytes) -> DenialKey | None:
        """As what to count it; None where the request was counted before."""
        if key in self._keys:
            return None
        self._keys[key] = None
        if len(self._keys) > _KEYS:
            self._keys.popitem(last=False)
        if denied.quarter_ms != self._quarter_ms:
            self._quarter_ms, self._kinds = denied.quarter_ms, set()
        if denied not in self._kinds and len(self._kinds) >= _MAX_KEYS:
            return attrs.evolve(denied, path="", kind="", name="", run="")
        self._kinds.add(denied)
        return denied

    def newsworthy(self, scope: str, unit: Unit, code: str, now_ms: int) -> bool:
        """Whether the log is to tell of it."""
        if (minute := now_ms // _MINUTE_MS) != self._minute:
            self._minute, self._logged = minute, set()
        what = (scope, unit, code)
        if what in self._logged or len(self._logged) >= _MAX_KEYS:
            return False
        self._logged.add(what)
        return True
