"""Metrics of the service, in a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """`free_bytes` is asked when the metrics are read."""

    def __init__(self, free_bytes: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "sartor_repository_requests", "Requests answered", ["operation", "role", "code"], registry=self._registry
        )
        self.seconds = Histogram(
            "sartor_repository_request_seconds",
            "Time to answer a request, in seconds",
            ["operation"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
            registry=self._registry,
        )
        self.received = Counter("sartor_repository_received_bytes", "Bytes of bodies received", registry=self._registry)
        self.sent = Counter("sartor_repository_sent_bytes", "Bytes of bodies sent by git", registry=self._registry)
        self.in_flight = Gauge("sartor_repository_in_flight", "Git processes at work", registry=self._registry)
        self.cut = Counter("sartor_repository_cut", "Connections that were cut", ["reason"], registry=self._registry)
        self.created = Counter(
            "sartor_repository_runs_made", "Runs that got their repositories", registry=self._registry
        )
        free = Gauge("sartor_repository_free_bytes", "Bytes free on the volume", registry=self._registry)
        free.set_function(free_bytes)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
