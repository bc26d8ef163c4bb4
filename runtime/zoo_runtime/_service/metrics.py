"""What the service counts and measures, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from .._trust import Trust

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one service, in a registry of their own.

    Attributes:
        running: A gauge of the jobs that run in a thread.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "zoo_requests", "Requests that were answered.", ["method", "path", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "zoo_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.prediction_seconds = Histogram(
            "zoo_prediction_seconds",
            "Time in a thread for one request: decoding and network.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.pictures = Counter("zoo_pictures", "Pictures that were classified.", ["model"], registry=registry)
        self.unknown = Counter("zoo_unknown", "Pictures whose label was unknown.", ["model"], registry=registry)
        self.outliers = Counter("zoo_outliers", "Pictures unlike the training pictures.", ["model"], registry=registry)
        self.picture_errors = Counter(
            "zoo_picture_errors", "Pictures that could not be read.", ["model", "error"], registry=registry
        )
        self.running = Gauge("zoo_running", "Requests that run in a thread.", registry=registry)
        self.reloads = Counter(
            "zoo_model_reloads", "New files on the disk: taken, or refused.", ["model", "outcome"], registry=registry
        )
        self.opened = Gauge(
            "zoo_model_opened_timestamp_seconds", "When the file was opened.", ["model"], registry=registry
        )
        self.stale = Gauge(
            "zoo_model_stale", "1 if the file on the disk is not the one that answers.", ["model"], registry=registry
        )
        ProcessCollector(registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value a function returns."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def count(self, model: str, trust: Trust, confidence: float, outlier_score: float | None) -> None:
        """Count a picture.

        Args:
            model: The name of the model.
            trust: Its thresholds.
            confidence: The probability of the likeliest class, in 0..1.
            outlier_score: The outlier score, in 0..2. None if the file has none.
        """
        self.pictures.labels(model).inc()
        if trust.unknown_below is not None and confidence < trust.unknown_below:
            self.unknown.labels(model).inc()
        if outlier_score is not None and trust.outlier_above is not None and outlier_score > trust.outlier_above:
            self.outliers.labels(model).inc()

    def text(self) -> bytes:
        """Return all figures as text."""
        return generate_latest(self.registry)


__all__ = ["CONTENT_TYPE", "Metrics"]
