"""What Prometheus is told of a server and its ledger.

Tenants are named only where that is wanted: whoever can reach it may read it. Money is in dollars
(`unit="usd"`), everything else in whole units. What the ledger tells is read when it is asked for,
once in a second at most, from its own sums: see `Statistics`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import anyio
from anyio import to_thread
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from runcycles import Unit

from comptroller.errors import ComptrollerError
from comptroller.ledger.engine.statistics import FULL_PERCENT
from comptroller.ledger.interface import EmbeddedLedger
from comptroller.ledger.models import Statistics

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_MICROCENTS = 100_000_000
"""In a dollar."""


class Metrics:
    """The counts of one server. `prometheus-client` keeps them.

    Args:
        ledger: what is served; None: nothing is told of a ledger.
        outbox: how many charges wait in this machine's outbox, by their state. May block.
        now_ms: epoch milliseconds.
        by_tenant: whether tenants are named.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        ledger: EmbeddedLedger | None = None,
        *,
        outbox: Callable[[], Mapping[str, int]] = dict,
        now_ms: Callable[[], int] = lambda: 0,
        by_tenant: bool = False,
    ) -> None:
        self._ledger, self._outbox = ledger, outbox
        self._now_ms, self._by_tenant = now_ms, by_tenant
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "comptroller_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "comptroller_request_seconds",
            "How long requests took, from their head to their answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "comptroller_requests_in_flight",
            "Requests that wait for their answer.",
            registry=self._registry,
        )
        self._queue = Histogram(
            "comptroller_queue_seconds",
            "How long requests waited for the ledger's one writer, before they were performed.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._looking, self._seen, self._seen_at = anyio.Lock(), b"", -1
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def began(self) -> None:
        """Count a request that has come."""
        self._in_flight.inc()

    def ended(self) -> None:
        """Count it out: it was answered, or its caller is gone."""
        self._in_flight.dec()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered. Labels are looked up once: that is the dear part."""
        name = (method, route, status)
        if name not in self._counters:
            self._counters[name] = self._requests.labels(*map(str, name))
        if route not in self._histograms:
            self._histograms[route] = self._seconds.labels(route)
        self._counters[name].inc()
        self._histograms[route].observe(seconds)

    def waited(self, seconds: float) -> None:
        """Count how long a request has waited for its turn."""
        self._queue.observe(seconds)

    async def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        own: bytes = generate_latest(self._registry)
        if self._ledger is None:
            return own
        async with self._looking:  # anybody may ask, as often as they like
            if self._now_ms() // 1000 != self._seen_at:
                self._seen = await self._look(self._ledger)
                self._seen_at = self._now_ms() // 1000
        return own + self._seen

    async def _look(self, ledger: EmbeddedLedger) -> bytes:
        found: Statistics | None = None
        outbox: Mapping[str, int] = {}
        with suppress(ComptrollerError):  # /healthz tells it; the server's own counts are still so
            found = await ledger.statistics(by_tenant=self._by_tenant)
        with suppress(OSError, ValueError):
            outbox = await to_thread.run_sync(self._outbox)
        seen = _Seen(found, outbox, self._now_ms())
        return await to_thread.run_sync(generate_latest, seen)  # of thousands of tenants, perhaps


class _Seen(Collector):
    """What one look at a ledger has found, as metrics; None: it could not be read."""

    def __init__(self, found: Statistics | None, outbox: Mapping[str, int], now_ms: int) -> None:
        self._found, self._outbox, self._now_ms = found, outbox, now_ms

    def collect(self) -> Iterator[Metric]:
        """Say them one by one."""
        yield GaugeMetricFamily(
            "comptroller_ledger_up",
            "Whether the ledger could be read just now.",
            value=self._found is not None,
        )
        waiting = GaugeMetricFamily(
            "comptroller_outbox_charges",
            "Charges to remote ledgers in this user's outbox: owed, rejected or corrupt.",
            labels=("state",),
        )
        for state, count in self._outbox.items():
            waiting.add_metric((state,), count)
        yield waiting
        if self._found is not None:
            yield from _of_units(self._found)
            yield from _of_tenants(self._found)
            yield from _of_the_rest(self._found, self._now_ms)


def _of_units(found: Statistics) -> Iterator[Metric]:
    counters = {
        "calls": "Calls that were charged, since counting began.",
        "charged": "What they were charged, each once.",
        "denials": "Requests that a budget refused.",
        "leases_expired": "Reservations that nobody settled in time: given back.",
    }
    gauges = {
        "reservations_active": "Reservations that hold their estimate.",
        "reserved": "What they hold, each once.",
        "budgets": "Budgets that are set.",
        f"budgets_above_{FULL_PERCENT}_percent": f"Those of which {FULL_PERCENT} % is spent.",
        "budgets_in_debt": "Those that owe something.",
        "debt": "What they owe, added up over all budgets.",
    }
    made: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, said in counters.items():
        labels = ("unit", "code") if name == "denials" else ("unit",)
        made[name] = CounterMetricFamily(f"comptroller_{name}", said, labels=labels)
    for name, said in gauges.items():
        made[name] = GaugeMetricFamily(f"comptroller_{name}", said, labels=("unit",))
    for one in found.units:
        unit = _unit(one.unit)
        values = (
            one.calls, _shown(one.unit, one.charged), None, one.expired, one.active,
            _shown(one.unit, one.reserved), one.budgets, one.full, one.in_debt,
            _shown(one.unit, one.debt),
        )  # fmt: skip
        for metric, value in zip(made.values(), values, strict=True):
            if value is not None:
                metric.add_metric((unit,), value)
        for code, count in one.denied.items():
            made["denials"].add_metric((unit, code), count)
    yield from made.values()


def _of_tenants(found: Statistics) -> Iterator[Metric]:
    for name in ("allocated", "spent", "reserved", "debt"):
        metric = GaugeMetricFamily(
            f"comptroller_tenant_{name}",
            f"A tenant's own budget in its present period: {name}.",
            labels=("tenant", "unit"),
        )
        for account in found.tenants:
            tenant = account.scope.removeprefix("tenant:")
            shown = _shown(account.unit, getattr(account, name))
            metric.add_metric((tenant, _unit(account.unit)), shown)
        if found.tenants:
            yield metric


def _of_the_rest(found: Statistics, now_ms: int) -> Iterator[Metric]:
    oldest_ms = found.oldest_alert_ms
    yield GaugeMetricFamily(
        "comptroller_alert_oldest_undelivered_seconds",
        "How old the oldest alert is that a webhook has not taken; 0: all are taken.",
        value=0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
    )
    yield GaugeMetricFamily(
        "comptroller_webhooks_failing",
        "Webhooks whose last delivery failed.",
        value=found.failing_webhooks,
    )
    sizes = GaugeMetricFamily(
        "comptroller_file_bytes",
        "The size of the ledger's file, and of the log beside it (wal).",
        labels=("file",),
    )
    for name, size in found.file_bytes.items():
        sizes.add_metric((name,), size)
    yield sizes


def _unit(unit: Unit) -> str:
    return "usd" if unit is Unit.USD_MICROCENTS else unit.value.lower()


def _shown(unit: Unit, count: int) -> float:
    return count / _MICROCENTS if unit is Unit.USD_MICROCENTS else count
