"""The retry engine of `runcycles` as an outbox: it journals charges on disk and sends them again.

The engine backs off between its attempts, replays what it finds in its journal when a process
starts, and records an expired reservation's charge as an event. Its tasks are its own.
"""

from typing import Any

import anyio.to_thread

from comptroller.ledger.interface import Owed


class EngineOutbox:
    """An `Outbox` over `runcycles.retry.AsyncCommitRetryEngine`.

    Args:
        engine: where charges go.
        attempts: how often a call's owner sends a charge before.
    """

    def __init__(self, engine: Any, attempts: int) -> None:
        self._engine, self.attempts = engine, attempts

    async def write_ahead(self, owed: Owed) -> None:
        """As `Outbox.write_ahead`; the engine cannot do so for what never had a reservation.

        A commit that becomes an event stays a commit on disk: sent again, it is told the same.
        """
        if owed.commit is not None:
            await anyio.to_thread.run_sync(
                self._engine.persist_pending, owed.key, _body(owed.commit), _fallback(owed)
            )

    def keep(self, owed: Owed) -> None:
        """As `Outbox.keep`."""
        if owed.commit is None:
            self._engine.schedule_event(owed.key, _fallback(owed))
        else:
            self._engine.schedule(
                owed.key, _body(owed.commit), _fallback(owed), retry_after_ms=owed.retry_after_ms
            )

    def settled(self, key: str) -> None:
        """As `Outbox.settled`."""
        self._engine.discard_pending(key)

    def rejected(self, key: str, why: str) -> None:
        """As `Outbox.rejected`; the engine keeps nothing of it."""
        del why
        self._engine.discard_pending(key)


def _fallback(owed: Owed) -> dict[str, Any]:
    event = _body(owed.event)
    event["metadata"] = {**event.get("metadata", {}), "recovered_reservation_id": owed.key}
    return event


def _body(request: Any) -> dict[str, Any]:
    body: dict[str, Any] = request.model_dump(mode="json", exclude_none=True)
    return body
