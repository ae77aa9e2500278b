"""The event log's entries: what leaves no row of its own anywhere else, and who asked for it.

An entry is written in the transaction of what it tells of, and never changes. Those that come with
requests (`FORGOTTEN`) are kept as long as the reservations and events; what they changed in a
balance is added up before it goes. Reservations and events are rows already: the log names one only
where the request came with ids of its own (over HTTP), or made a debt.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Literal, get_args

import attrs
from runcycles import Unit

from comptroller._frozen import frozen_record

Kind = Literal[
    "opened",  # counting began: an account that is older than its file's log
    "set", "fund", "debit", "repay", "freeze", "unfreeze", "close",  # what operators do
    "renewed", "carried",  # a period began; a debt of one that was over weighs on the present one
    "debt", "alert", "denied",
    "reserve", "commit", "release", "extend", "record",  # requests that came with ids
]  # fmt: skip
"""What an entry tells of."""
REQUESTS = ("reserve", "extend", "commit", "release", "record")
"""The requests that came with ids of their own: rows without end, which say who asked."""
FORGOTTEN = (*REQUESTS, "denied", "debt")
"""Those that requests make: kept only as long as the reservations and events."""
OPERATORS = ("set", "fund", "debit", "repay", "freeze", "unfreeze")
"""What operators do: kept for good."""
ACTS = tuple(kind for kind in get_args(Kind) if kind not in REQUESTS)
"""Everything but the requests: what a person who looks at the log looks for."""


@frozen_record
class RequestOrigin:
    """On whose behalf a request came, and the ids by which its sender will ask for it."""

    who: str | None = None
    request_id: str | None = None
    trace_id: str | None = None


request_origin: ContextVar[RequestOrigin | None] = ContextVar("asked_by", default=None)
"""The origin of the requests of this context; whoever serves others sets it."""


@frozen_record
class LogEntry:
    """One entry. What `amount` and `debt` are is its kind's: see `verify`, which adds them up."""

    at_ms: int
    kind: Kind
    scope: str
    unit: Unit | None = None
    amount: int = 0
    debt: int = 0
    since_ms: int = 0
    """When the period began to which it belongs."""
    about: str | None = None
    """The reservation or event."""
    origin: RequestOrigin = RequestOrigin()
    details: Mapping[str, Any] = attrs.field(factory=dict)
    number: int = 0
    """Its place in the log; given by the store."""


@frozen_record
class LogQuery:
    """Which entries are sought, oldest first: at most `limit` numbered above `after`."""

    after: int = 0
    limit: int | None = None
    kinds: tuple[str, ...] = ()
    tenant: str | None = None
    since_ms: int | None = None
    newest: bool = False
    """The newest `limit` of them, in place of the oldest."""

    def has(self, entry: LogEntry) -> bool:
        """Whether `entry` is one of them, `limit` aside."""
        within = f"tenant:{self.tenant}/"
        return (
            entry.number > self.after
            and (not self.kinds or entry.kind in self.kinds)
            and (self.since_ms is None or entry.at_ms >= self.since_ms)
            and (self.tenant is None or f"{entry.scope}/".startswith(within))
        )
