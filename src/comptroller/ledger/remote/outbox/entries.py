"""One charge of an outbox: a value, and the text of its file.

The format is that of `runcycles.journal`, which other Cycles programs read and write.
"""

import hashlib
import time

import attrs
from runcycles import Amount, CommitRequest, EventCreateRequest
from runcycles.journal import PendingCommitRecord

from comptroller.core import backoff
from comptroller.ledger.interface import PendingCharge


def now_ms() -> int:
    """Return the wall clock: a time on disk has to mean something to another process."""
    return int(time.time() * 1000)


def file_name(key: str) -> str:
    """Made of the exact key: no two keys share a file, whatever characters they hold."""
    return f"v2-{hashlib.sha256(key.encode()).hexdigest()}.json"


@attrs.frozen(kw_only=True)
class Entry:
    """A charge as it is on disk.

    Attributes:
        key: names it: the reservation's id, or the call's key where there was none.
        address: the ledger that it is owed to.
        commit: what is sent; None when it has become an event.
        event: what records it where no reservation lives; None where its writer knew none.
        recorded_at_ms: when it was decided, in milliseconds since the epoch.
        not_before_ms: the ledger has asked not to be asked before.
    """

    key: str
    address: str
    commit: CommitRequest | None
    event: EventCreateRequest | None
    recorded_at_ms: int = attrs.field(factory=now_ms)
    not_before_ms: int | None = None

    @classmethod
    def of(cls, owed: PendingCharge, address: str) -> "Entry":
        """Return what is owed to the ledger at `address`."""
        entry = cls(key=owed.key, address=address, commit=owed.commit, event=owed.event)
        wait = owed.retry_after_ms
        return entry if wait is None else entry.put_off(wait)

    @property
    def tenant(self) -> str | None:
        """Whose key it is sent with; None where its writer did not say."""
        return None if self.event is None else self.event.subject.tenant

    @property
    def actual(self) -> Amount | None:
        """What was spent."""
        body = self.commit or self.event
        return None if body is None else body.actual

    @property
    def idempotency_key(self) -> str:
        """Under which it is sent, each time."""
        body = self.commit or self.event
        return "" if body is None else body.idempotency_key

    @property
    def file_name(self) -> str:
        """Its file's."""
        return file_name(self.key)

    def put_off(self, wait_ms: int) -> "Entry":
        """Return the same charge, which the ledger wants to see in `wait_ms` milliseconds."""
        return attrs.evolve(self, not_before_ms=now_ms() + backoff.honoured(wait_ms))

    def as_event(self) -> "Entry":
        """Return the same charge, after its lease is over."""
        return attrs.evolve(self, commit=None, not_before_ms=None)

    def record(self) -> PendingCommitRecord:
        """As `runcycles` has it."""
        return PendingCommitRecord(
            reservation_id=self.key,
            base_url=self.address,
            mode="event" if self.commit is None else "commit",
            commit_body=_body(self.commit),
            event_fallback_body=_body(self.event),
            recorded_at_ms=self.recorded_at_ms,
            not_before_ms=self.not_before_ms,
        )

    @classmethod
    def read(cls, record: PendingCommitRecord) -> "Entry":
        """Read the entry in a file.

        Raises:
            ValueError: a body that is no request of the protocol.
        """
        commit, event = record.commit_body, record.event_fallback_body
        as_commit = record.mode == "commit" and commit is not None
        return cls(
            key=record.reservation_id,
            address=record.base_url,
            commit=CommitRequest.model_validate(commit) if as_commit else None,
            event=None if event is None else EventCreateRequest.model_validate(event),
            recorded_at_ms=record.recorded_at_ms,
            not_before_ms=record.not_before_ms,
        )


def _body(request: CommitRequest | EventCreateRequest | None) -> dict[str, object] | None:
    return None if request is None else request.model_dump(mode="json", exclude_none=True)
