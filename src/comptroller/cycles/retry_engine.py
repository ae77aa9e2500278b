"""The retry engine of `runcycles` as an outbox: it journals charges on disk and sends them again.

The engine backs off between its attempts, replays what it finds in its journal when a process first
uses it, and records an expired reservation's charge as an event. Its tasks are its own.
"""

import asyncio
import logging
from typing import Any

from comptroller.ledger import daemon_threads
from comptroller.ledger.interface import PendingCharge

log = logging.getLogger("comptroller")


def keeps(engine: Any) -> bool:
    """Whether a charge that the engine is given is in safe hands.

    One that is switched off and has no journal drops it; it says so only to itself.
    """
    return getattr(engine, "_enabled", True) or getattr(engine, "_journal", None) is not None


class RetryEngineOutbox:
    """An `Outbox` over `runcycles.retry.AsyncCommitRetryEngine`.

    Args:
        engine: where charges go.
        client: with which it sends them.
        attempts: how often a call's owner sends a charge before.
    """

    def __init__(self, engine: Any, client: Any, attempts: int) -> None:
        self._engine, self._client, self.attempts = engine, client, attempts
        self._replayed = False
        self.begin()

    def begin(self) -> None:
        """Let the engine replay its journal, once it has its client in a running loop."""
        if self._replayed:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # hooks are made before there is one: their first run says it again
        self._replayed = True
        self._engine.set_client(self._client)

    async def write_ahead(self, owed: PendingCharge) -> None:
        """As `Outbox.write_ahead`; the engine cannot do so for what never had a reservation.

        A commit that becomes an event stays a commit on disk: sent again, it is told the same.
        """
        persist = getattr(self._engine, "persist_pending", None)
        if owed.commit is None or persist is None:
            return
        try:
            await daemon_threads.run_sync(persist, owed.key, _body(owed.commit), _fallback(owed))
        except Exception:
            log.exception("the journal did not take the charge of %s ahead", owed.key)

    def keep(self, owed: PendingCharge) -> None:
        """As `Outbox.keep`."""
        if owed.commit is None:
            self._engine.schedule_event(owed.key, _fallback(owed))
        else:
            self._engine.schedule(
                owed.key, _body(owed.commit), _fallback(owed), retry_after_ms=owed.retry_after_ms
            )

    def settled(self, key: str) -> None:
        """As `Outbox.settled`."""
        discard = getattr(self._engine, "discard_pending", None)
        if discard is not None:
            discard(key)

    def rejected(self, key: str, why: str) -> None:
        """As `Outbox.rejected`; the engine keeps nothing of it."""
        del why
        self.settled(key)


def _fallback(owed: PendingCharge) -> dict[str, Any]:
    """Return what records the charge where its reservation is gone."""
    event = _body(owed.event)
    event.pop("overage_policy", None)  # the default rejects nothing: the spend has happened
    if owed.reservation_id is not None:
        told = event.get("metadata", {})
        event["metadata"] = {**told, "recovered_reservation_id": owed.reservation_id}
    return event


def _body(request: Any) -> dict[str, Any]:
    body: dict[str, Any] = request.model_dump(mode="json", exclude_none=True)
    return body
