"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Counters:
    """Requests by route and status, their seconds, what waits, and the process's memory."""

    def __init__(self, *, photos: int, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("threeshnet_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "threeshnet_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        Gauge("threeshnet_photos", "Indexed photos", registry=self.registry).set(photos)
        Gauge("threeshnet_waiting", "Calls of the model that wait", registry=self.registry).set_function(waiting)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """One request; the routes are those of the server, so that nobody can make the table grow."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them, as /api/metrics shows them."""
        return generate_latest(self.registry)
