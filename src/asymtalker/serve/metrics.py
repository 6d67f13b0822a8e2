"""What Prometheus asks for: counts and times, nothing of anybody."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)


class _States(Collector):
    """Jobs by state, counted when they are asked for."""

    def __init__(self, count: Callable[[], Mapping[Any, int]]):
        self._count = count

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("asymtalker_jobs", "Jobs on record.", labels=["state"])
        for state, number in self._count().items():
            family.add_metric([state], number)
        yield family


class Metrics:
    """A server's metrics, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "asymtalker_requests_total", "Requests.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "asymtalker_request_seconds",
            "Seconds until a response begins.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_frame = Histogram(
            "asymtalker_first_frame_seconds",
            "Seconds from a job's creation, waiting included, until the first frames are made.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def watch(self, count: Callable[[], Mapping[Any, int]]) -> None:
        """Report jobs by state.

        Args:
            count: jobs of each state.
        """
        self.registry.register(_States(count))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
