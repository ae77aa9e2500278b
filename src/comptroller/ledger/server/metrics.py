"""What Prometheus is told of a server. Names no tenant: whoever can reach it may read it."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The counts of one server. `prometheus-client` keeps them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
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
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def began(self) -> None:
        """A request has come."""
        self._in_flight.inc()

    def ended(self) -> None:
        """It has been answered, or its caller is gone."""
        self._in_flight.dec()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. Labels are looked up once: that is the dear part."""
        name = (method, route, status)
        if name not in self._counters:
            self._counters[name] = self._requests.labels(*map(str, name))
        if route not in self._histograms:
            self._histograms[route] = self._seconds.labels(route)
        self._counters[name].inc()
        self._histograms[route].observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
