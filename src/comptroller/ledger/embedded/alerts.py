"""Telling of alerts: off every caller's path, in threads that end with their ledger.

A callback is told by the process that has set the alert off. What it raises is logged, and disturbs
nothing.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable

from comptroller.ledger.models import LogEntry

OnAlert = Callable[[LogEntry], object]
_CALLBACK_TIMEOUT = 5.0  # seconds that a ledger's end waits for a callback

_logger = logging.getLogger("comptroller.ledger")


class AlertDispatcher:
    """The thread that calls one ledger's callback. It begins with the first alert."""

    def __init__(self, on_alert: OnAlert, name: str) -> None:
        self._on_alert, self._name = on_alert, name
        self._alerts: queue.SimpleQueue[LogEntry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()

    def tell(self, alerts: Iterable[LogEntry]) -> None:
        """Have the callback called with each of these."""
        for alert in alerts:
            self._alerts.put(alert)
        with self._beginning:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"alerts of {self._name}", daemon=True
                )
                self._thread.start()

    def end(self) -> None:
        """Once the callback has been told of all, or within seconds. Blocks."""
        if self._thread is not None:
            self._alerts.put(None)
            self._thread.join(_CALLBACK_TIMEOUT)

    def _run(self) -> None:
        while (alert := self._alerts.get()) is not None:
            try:
                self._on_alert(alert)
            except Exception:
                _logger.exception("on_alert raised for %s", alert)
