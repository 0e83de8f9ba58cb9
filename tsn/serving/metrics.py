"""What `GET /metrics` shows, in Prometheus's format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()

        def make(kind, name, text, labels=(), **options):
            return kind(f"tsn_{name}", text, labels, registry=self.registry, **options)

        self.requests = make(
            Counter, "requests", "Requests that were answered, by path and status", ("path", "status")
        )
        self.errors = make(Counter, "errors", "Requests and lines of streams that got an error", ("path", "status"))
        self.cancelled = make(Counter, "cancelled", "Requests whose caller went away before the answer")
        self.texts = make(Counter, "texts", "Texts that were answered")
        self.queue = make(Gauge, "queue_texts", "Texts that are waiting or being analysed")
        self.batches = make(Histogram, "batch_texts", "Texts and pieces in a batch", buckets=(1, 2, 4, 8, 16, 32))
        self.latency = make(
            Histogram, "request_seconds", "From the last byte of a request to its answer", buckets=SECONDS
        )
        self.workers = make(Gauge, "workers_ready", "Worker processes that have answered a text")
        self.replaced = make(Gauge, "workers_replaced", "Worker processes that were started in place of another")

    def page(self) -> bytes:
        return generate_latest(self.registry)
