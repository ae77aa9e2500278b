"""The retry engine of `runcycles` as an outbox: it journals charges on disk and sends them again.

The engine backs off between its attempts, replays what it finds in its journal when a process
starts, and records an expired reservation's charge as an event. Its tasks are its own.
"""

from typing import Any

from comptroller.runtime.outbox import Owed


class EngineOutbox:
    """An `Outbox` over `runcycles.retry.AsyncCommitRetryEngine`.

    Args:
        engine: where charges go.
        attempts: how often a call's owner sends a charge before.
    """

    def __init__(self, engine: Any, attempts: int) -> None:
        self._engine, self.attempts = engine, attempts

    def keep(self, owed: Owed) -> None:
        """As `Outbox.keep`."""
        event = _body(owed.event)
        event["metadata"] = {**event.get("metadata", {}), "recovered_reservation_id": owed.key}
        if owed.commit is None:
            self._engine.schedule_event(owed.key, event)
        else:
            self._engine.schedule(
                owed.key, _body(owed.commit), event, retry_after_ms=owed.retry_after_ms
            )


def _body(request: Any) -> dict[str, Any]:
    body: dict[str, Any] = request.model_dump(mode="json", exclude_none=True)
    return body
