"""What an outbox is to those who settle: it takes charges that the ledger has not accepted yet.

Law 3: work that ran is never released. A charge without an answer is sent again under its key; no
back-off runs in an actor, and a run does not wait for a ledger that is away.
"""

from typing import Protocol

import attrs
from runcycles import CommitRequest, EventCreateRequest


@attrs.frozen(kw_only=True)
class Owed:
    """A charge that was decided and has not been accepted.

    Attributes:
        key: names it: the reservation's id, or the call's key where there was none.
        reservation_id: whose charge it is; None where policy let the call through without one.
        commit: to be sent first; None where no reservation lives (any more).
        event: what records it in place of the commit, under the same idempotency key.
        retry_after_ms: how long the ledger has asked to wait.
    """

    key: str
    reservation_id: str | None
    commit: CommitRequest | None
    event: EventCreateRequest
    retry_after_ms: int | None = None


class Outbox(Protocol):
    """Keeps charges and sends them again until the ledger has understood."""

    @property
    def attempts(self) -> int:
        """How often a call's owner sends a charge before it hands it over; at least 1."""

    def keep(self, owed: Owed) -> None:
        """Take over a charge. Called at home; whatever it raises, the charge was not taken."""
