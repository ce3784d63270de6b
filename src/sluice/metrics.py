"""`GET /metrics`: what happened, for Prometheus, by its own client library; breakers and cooldowns as they are now.

With several workers each writes to files of its own in a folder that they share, and whoever is asked adds them up.
"""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import Receive, Scope, Send

from core.admission import Refusal
from core.breaker import cooling_until, open_until
from core.catalog import Catalog, Model
from core.ledger import Ledger
from core.plan import Image
from core.routes.straight import StraightRoute, send_whole
from core.telemetry import Record

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the library's own name for it
_TEXT = (b"content-type", CONTENT_TYPE_LATEST.encode())
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
# Whoever calls chooses the path, and need not have a key for it: only ours become labels.
_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/chat/completions",
        "/v1/embeddings",
        "/v1/images/generations",
        "/v1/images/edits",
        "/image",
        "/v1/models",
        "/models",
        "/ping",
        "/ready",
        "/metrics",
        "/openapi.json",
    }
)


def share_between_workers() -> None:
    """Before the workers start: where all of them write."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="sluice-metrics-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)


class Metrics:
    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self._requests = Counter("sluice_requests", "Requests by path and status.", ["path", "status"], registry=own)
        self._tokens = Counter("sluice_tokens", "Tokens that providers reported.", ["model", "kind"], registry=own)
        self._attempts = Counter("sluice_attempts", "Calls to providers.", ["model", "outcome"], registry=own)
        self._refusals = Counter("sluice_refusals", "Candidates without room.", ["scope", "rule"], registry=own)
        self._openings = Counter("sluice_breaker_openings", "Breakers that opened.", ["model"], registry=own)
        self._store = Counter("sluice_store", "Operations on a store that was out of reach.", ["how"], registry=own)
        self._first_token = Histogram(
            "sluice_first_token_seconds", "Time to the first token.", ["model"], buckets=_SECONDS, registry=own
        )
        self._overhead = Histogram(
            "sluice_overhead_seconds", "What the gateway itself took.", buckets=_OVERHEAD, registry=own
        )
        self._streams = Gauge("sluice_streams_open", "Streams under way.", multiprocess_mode="livesum", registry=own)

        self._of = functools.cache(_of)

    def request_done(self, record: Record) -> None:
        self._of(self._requests, path_label(record.path), str(record.status or 0)).inc()
        if record.is_stream:
            self._streams.dec()
        if record.model is None:
            return
        self._overhead.observe(record.overhead_s)
        if record.first_token_s is not None:
            self._of(self._first_token, record.model).observe(record.first_token_s)
        for kind, count in (("prompt", record.prompt_tokens), ("completion", record.completion_tokens)):
            if count:
                self._of(self._tokens, record.model, kind).inc(count)

    def unexpected(self, record: Record, error: Exception) -> None: ...

    def stream_began(self, record: Record) -> None:  # noqa: ARG002
        self._streams.inc()

    def attempted(self, record: Record, outcome: str) -> None:
        self._of(self._attempts, record.model, outcome).inc()

    def refused(self, record: Record, refusal: Refusal) -> None:  # noqa: ARG002
        for reason in refusal.reasons:
            self._of(self._refusals, refusal.scope.key, reason.rule).inc()

    def breaker_opened(self, record: Record, model: str) -> None:  # noqa: ARG002
        self._openings.labels(model).inc()

    def store_fared(self, how: str) -> None:
        self._of(self._store, how).inc()

    def text(self) -> bytes:
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        _forget_the_dead(Path(os.environ[FOLDER]))
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)

    def routes(self, catalog: Catalog, ledger: Ledger) -> list[StraightRoute]:
        async def metrics(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
            now_ms, images = ledger.now_ms(), await ledger.images(catalog.models)
            states = CollectorRegistry()
            states.register(_Now(catalog.models, images, now_ms))
            await send_whole(send, self.text() + generate_latest(states), [_TEXT])

        return [StraightRoute("GET", "/metrics", metrics, {"name": "metrics", "summary": "Prometheus text"})]


def _of(metric: Any, *labels: str) -> Any:
    """One line of a metric. The library checks its labels each time, and they are the same few again and again."""
    return metric.labels(*labels)


def path_label(path: str) -> str:
    if path in _PATHS:
        return path
    return "/v1/models/{id}" if path.startswith(("/v1/models/", "/models/")) else "other"


def _forget_the_dead(folder: Path) -> None:
    """Streams of a worker that was killed are not open any more."""
    if os.name != "posix":
        return  # there signal 0 is no mere question
    for file in folder.glob("gauge_live*.db"):
        try:
            os.kill(int(file.stem.rpartition("_")[2]), 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)


class _Now:
    """States are read from the store when somebody asks: no worker keeps any of its own to be added up."""

    def __init__(self, models: Sequence[Model], images: Mapping[str, Image], now_ms: int) -> None:
        self._models = models
        self._images = images
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        opened = GaugeMetricFamily(
            "sluice_breaker_open_seconds", "How long the breaker stays open; 0: closed.", labels=["model"]
        )
        cooling = GaugeMetricFamily(
            "sluice_cooldown_seconds", "How long the provider wants to be left alone.", labels=["model"]
        )
        for model in self._models:
            image = self._images.get(model.scope.key, {})
            opened.add_metric([model.name], self._left_s(open_until(model.breaker, image, self._now_ms)))
            cooling.add_metric([model.name], self._left_s(cooling_until(image, self._now_ms)))
        yield from (opened, cooling)

    def _left_s(self, until_ms: int | None) -> float:
        return 0.0 if until_ms is None else (until_ms - self._now_ms) / 1000
