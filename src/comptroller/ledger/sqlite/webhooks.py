"""Webhooks in the ledger's own file, and the threads that tell them of alerts.

Where an alert is to be sent stands in the file, with the last entry of the log that was taken
there: what one process did not get told, because it ended or because nobody answered, the next one
tells. Before a webhook is told, it is put off for a while in the file, so two processes do not tell
it at once; one that fails is put off longer each time.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from comptroller.ledger.models import LogEntry
from comptroller.ledger.sqlite import event_log_store
from comptroller.ledger.sqlite.database_file import SideConnection
from comptroller.ledger.webhooks import MOST_SECONDS, Webhook, body_of, headers_of, post

_WEBHOOK = "url, secret, created_ms, told, failures, not_before_ms, problem"
_NEXT = (
    f"SELECT id, {event_log_store.ENTRY} FROM log WHERE kind = 'alert' AND id > ?"
    " ORDER BY id LIMIT 1"
)
_PATIENCE = 5.0  # seconds beyond one telling that an end waits
_TAKEN_MS = 20_000  # for which a webhook is somebody's who tells it: longer than one telling takes
_MAX_BACKOFF_MS = 300_000  # between two tries
_DAYS_MS = 3 * 86_400_000  # after which an alert is no news any more
_LOOK = 60.0  # seconds between two looks at what another process has left behind

_logger = logging.getLogger("comptroller.ledger")


class SqliteWebhooks:
    """The webhooks of a ledger file. Methods block."""

    def __init__(self, path: Path) -> None:
        self._aside = SideConnection(path)

    def close(self) -> None:
        """End of use."""
        self._aside.close()

    def all(self) -> list[Webhook]:
        """Every one, by its address."""
        with self._aside.explained():
            found = self._aside.sql.execute(f"SELECT {_WEBHOOK} FROM webhooks ORDER BY url")
            return [Webhook(*row) for row in found]

    def add(self, webhook: Webhook) -> None:
        """Tell `webhook` of every alert from now on; one of that address is given a new secret."""
        with self._aside.writing() as sql:
            sql.execute(
                "INSERT INTO webhooks (url, secret, created_ms, told)"
                " VALUES (?, ?, ?, (SELECT coalesce(max(id), 0) FROM log))"
                " ON CONFLICT DO UPDATE SET secret = excluded.secret, not_before_ms = 0",
                (webhook.url, webhook.secret, webhook.created_ms),
            )

    def remove(self, url: str) -> None:
        """Tell it no more.

        Raises:
            ValueError: there is none of that address.
        """
        with self._aside.writing() as sql:
            removed = sql.execute("DELETE FROM webhooks WHERE url = ?", (url,)).rowcount
        if not removed:
            raise ValueError(f"no webhook {url}: see comptroller webhook list")

    def next_for(self, webhook: Webhook) -> LogEntry | None:
        """Return the next alert that `webhook` is to be told."""
        with self._aside.explained():
            row = self._aside.sql.execute(_NEXT, (webhook.told,)).fetchone()
        return event_log_store.entry(row) if row else None

    def take(self, webhook: Webhook, now_ms: int) -> bool:
        """Put it off for others; False where it is put off already, or has been told meanwhile."""
        with self._aside.writing() as sql:
            taken = sql.execute(
                "UPDATE webhooks SET not_before_ms = ? WHERE url = ? AND told = ?"
                " AND (not_before_ms <= ? OR not_before_ms > ?)",  # put off by a clock ahead
                (now_ms + _TAKEN_MS, webhook.url, webhook.told, now_ms, now_ms + _MAX_BACKOFF_MS),
            ).rowcount
        return bool(taken)

    def told(self, webhook: Webhook, number: int) -> None:
        """Note that it has taken the entry of that number."""
        with self._aside.writing() as sql:
            sql.execute(
                "UPDATE webhooks SET told = ?, failures = 0, not_before_ms = 0, problem = NULL"
                " WHERE url = ?",
                (number, webhook.url),
            )

    def failed(self, webhook: Webhook, problem: str, now_ms: int) -> None:
        """Note that it has not taken the entry: it is tried again, later each time."""
        pause_ms = min(1000 * 2 ** min(webhook.failures, 20), _MAX_BACKOFF_MS)
        with self._aside.writing() as sql:
            sql.execute(
                "UPDATE webhooks SET failures = failures + 1, not_before_ms = ?, problem = ?"
                " WHERE url = ?",
                (now_ms + pause_ms, problem, webhook.url),
            )


class WebhookSender:
    """Tells one opened ledger's webhooks. Its thread begins with the first alert.

    Each webhook is told in a thread of its own, while there is something to tell it: a slow one
    delays no other. Whatever goes wrong with one is logged, and it is tried again.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path, self._now = path, now
        self._wanted, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()
        self._telling: dict[str, threading.Thread] = {}
        self._put_off: dict[str, float] = {}  # until when, of time.monotonic

    def begin(self, sql: sqlite3.Connection) -> None:
        """Begin with an opened ledger: deliver what others have left behind."""
        left = sql.execute(
            "SELECT 1 FROM webhooks WHERE told <"
            " (SELECT coalesce(max(id), 0) FROM log WHERE kind = 'alert')"
        )
        if left.fetchone():
            self.notify()

    def notify(self) -> None:
        """There is an alert."""
        self._wanted.set()
        with self._beginning:
            if self._thread is None:
                self._thread = self._made(self._run)
                self._thread.start()

    def end(self) -> None:
        """Once what can be told at once has been told, or within seconds. Blocks."""
        self._over.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(MOST_SECONDS + _PATIENCE)

    def _made(self, work: Callable[..., None], *given: object) -> threading.Thread:
        name = f"webhooks of {self._path.name}"
        return threading.Thread(target=work, args=given, name=name, daemon=True)

    def _run(self) -> None:
        while True:
            last = self._over.is_set()  # asked first: what came before the end is told
            try:
                pause = self._tell(MOST_SECONDS if last else 0)
            except Exception as error:  # noqa: BLE001 - the thread goes on, whatever it is
                _logger.warning("webhooks of %s: %s", self._path, error)
                pause = _LOOK
            if last:
                return
            self._wanted.wait(pause)
            self._wanted.clear()

    def _tell(self, patience: float = MOST_SECONDS) -> float:
        """Tell every webhook what it can be told now, waiting `patience` seconds for the end of it.

        Seconds are returned until something else can be told.
        """
        webhooks = SqliteWebhooks(self._path)
        try:
            for webhook, wait in self._idle(webhooks):
                if wait <= 0:
                    thread = self._telling[webhook.url] = self._made(self._tell_one, webhook)
                    thread.start()  # entered before it begins: it takes itself out
            until = time.monotonic() + patience
            for thread in list(self._telling.values()):
                thread.join(max(0, until - time.monotonic()))
            return max(0.1, min([_LOOK, *(wait for _, wait in self._idle(webhooks))]))
        finally:
            webhooks.close()

    def _idle(self, webhooks: SqliteWebhooks) -> Iterator[tuple[Webhook, float]]:
        """Each webhook that is to be told something, and in how many seconds; none that is told."""
        for webhook in webhooks.all():
            if webhook.url not in self._telling and webhooks.next_for(webhook):
                wait = (webhook.not_before_ms - self._now_ms()) / 1000
                put_off = self._put_off.get(webhook.url, 0) - time.monotonic()
                yield webhook, max(wait, put_off)

    def _tell_one(self, known: Webhook) -> None:
        """Tell one webhook what it can be told now."""
        try:
            webhooks = SqliteWebhooks(self._path)
            try:
                webhook: Webhook | None = known
                while webhook is not None and (alert := webhooks.next_for(webhook)):
                    if not webhooks.take(webhook, self._now_ms()):
                        break
                    self._post(webhooks, webhook, alert)
                    webhook = next((one for one in webhooks.all() if one.url == known.url), None)
            finally:
                webhooks.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            _logger.warning("webhook %s: %s", known.url, error)
            self._put_off[known.url] = time.monotonic() + _LOOK
        finally:
            del self._telling[known.url]
            self._wanted.set()

    def _post(self, webhooks: SqliteWebhooks, webhook: Webhook, alert: LogEntry) -> None:
        if alert.at_ms < self._now_ms() - _DAYS_MS:
            _logger.warning("webhook %s was not told of %s: too long ago", webhook.url, alert)
            webhooks.told(webhook, alert.number)
            return
        body = body_of(alert, str(self._path))
        headers = headers_of(alert, body, webhook.secret, int(self._now()))
        problem = post(webhook.url, body, headers)
        if problem is None:
            webhooks.told(webhook, alert.number)
        else:
            _logger.warning("webhook %s: %s; it is tried again", webhook.url, problem)
            webhooks.failed(webhook, problem, self._now_ms())

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
