"""What Prometheus can ask for: requests, batches and the queue."""

import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4  # since 0.23
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.inference.batcher import Batcher
from runtime.server.admission import is_inference
from runtime.server.bounded_http import CYCLE, REFUSAL
from runtime.server.served_models import ServedModel, ServedModels

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_LEFT = 499  # nginx's number for a client that has closed the connection before its answer
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counters of one API; each has its own registry, so that two can live in one process.

    Attributes:
        registry: holds all of them.
        requests: requests for answers by the status that was sent; 499 if the client had left.
        request_seconds: their times, from the head of the request to its answer.
    """

    def __init__(self, models: ServedModels) -> None:
        """Counts the batches of `models` and of their successors from now on."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "skd_edge_requests", "Answered classify requests.", ["status"], registry=self.registry
        )
        self._by_status: dict[int, Counter] = {}
        self.request_seconds = Histogram(
            "skd_edge_request_seconds",
            "Seconds from the head of a classify request to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "skd_edge_batch_size",
            "Images of one run of the network.",
            buckets=[2**i for i in range(9)],
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "skd_edge_batch_seconds",
            "Seconds of one run of the network.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        waiting = Gauge(
            "skd_edge_waiting_images", "Accepted, not yet answered.", registry=self.registry
        )
        served = models.by_name.values()
        waiting.set_function(lambda: sum(model.current.batcher.waiting for model in served))
        version = Gauge(
            "skd_edge_model_version",
            "How often a model of this name has been loaded.",
            ["model"],
            registry=self.registry,
        )
        failed = Gauge(
            "skd_edge_failed_reloads",
            "How often a new model could not be loaded, and the former one went on.",
            ["model"],
            registry=self.registry,
        )
        refusals = Gauge(
            "skd_edge_refusals",
            "Answers that were not accepted, since the server started.",
            ["model"],
            registry=self.registry,
        )
        for model in served:
            refusals.labels(model.name).set_function(partial(_refusals_of, model))
            version.labels(model.name).set_function(partial(_version_of, model))
            failed.labels(model.name).set_function(partial(_failures_of, model))
            self._observe(model.current.batcher)
            model.opened.append(self._observe)

    def _observe(self, batcher: Batcher) -> None:
        batcher.observers.append(self._batch)

    def _batch(self, size: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def count(self, status: int, seconds: float) -> None:
        """Counts one request that was answered with `status` after so many seconds."""
        counter = self._by_status.get(status)
        if counter is None:  # `labels` makes it at the first call, and then looks for it slowly
            counter = self._by_status[status] = self.requests.labels(str(status))
        counter.inc()
        self.request_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _version_of(model: ServedModel) -> float:
    return float(model.current.version)


def _refusals_of(model: ServedModel) -> float:
    return model.refusals


def _failures_of(model: ServedModel) -> float:
    return model.failed_reloads


class MeasuredRequests:
    """ASGI middleware that counts the requests for answers of a network, by status, with times."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        """Watches `app`.

        Args:
            app: the application behind this one.
            metrics: what counts.
        """
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request to the application and counts its answer."""
        if scope["type"] != "http" or not is_inference(scope["path"]):
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500  # what the server answers when the application fails

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            self._metrics.count(_sent_status(scope, status), time.perf_counter() - started)


def _sent_status(scope: Scope, status: int) -> int:
    """The status that the client really got, where the application has answered `status`.

    It is _LEFT if nothing was sent, because the client had left.
    """
    cycle = scope[CYCLE]() if CYCLE in scope else None
    if cycle is None or not cycle.disconnected:
        return status
    sent: int = scope.get(REFUSAL, _LEFT)
    return sent
