"""Where a request's record goes on Lambda: one structured line, and metrics that CloudWatch reads out of the log.

Both by Powertools, which is imported when the first request is over: its answer does not wait for it. All that is
measured of a request is written when it is over, so nothing is left when the environment is frozen.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import logging
from collections import Counter, defaultdict
from typing import Any

from core.admission import Refusal
from core.log_line import OURS, fields_of, where
from core.telemetry import Record

from .lambda_stream.logs import request_id

_LOG = logging.getLogger(OURS)
NAMESPACE, SERVICE = "Sluice", "sluice"
_HEALTH = frozenset({"/ping", "/ready"})
_FAILING = frozenset({"degraded", "denied", "lost"})

Measured = list[tuple[str, str, float]]
"""Name, unit, value."""


class LambdaTelemetry:
    """`service`: the dimension that all metrics have. One of their own, `reason`, `rule` or `how`, they have only where
    there is something to count.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._logger: Any = None
        self._failures: defaultdict[str, list[str]] = defaultdict(list)  # by request, until it is over
        self._refusals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._openings: Counter[str] = Counter()

    def load(self) -> None:
        """What the first request would have to import."""
        from aws_lambda_powertools import Logger
        from aws_lambda_powertools.metrics import EphemeralMetrics  # noqa: F401

        if self._logger is None:
            # Its logger has its service's name. Under ours it would print what we say, and exceptions with their text.
            self._logger = Logger(f"{self._service}.request", level="INFO", location=None, use_rfc3339=True, utc=True)
            self._logger.append_keys(service=self._service)

    def stream_began(self, record: Record) -> None: ...

    def attempted(self, record: Record, outcome: str) -> None:
        if outcome != "ok":
            self._failures[record.request_id].append(outcome)

    def refused(self, record: Record, refusal: Refusal) -> None:
        self._refusals[record.request_id].update(reason.rule for reason in refusal.reasons)

    def breaker_opened(self, record: Record, model: str) -> None:  # noqa: ARG002
        self._openings[record.request_id] += 1

    def request_done(self, record: Record) -> None:
        failures = self._failures.pop(record.request_id, [])
        refusals = self._refusals.pop(record.request_id, Counter())
        openings = self._openings.pop(record.request_id, 0)
        if record.path in _HEALTH:
            return
        self.load()
        self._logger.info("request", function_request_id=request_id.get(), **fields_of(record))
        self._emit([*_measured(record), *([("BreakerOpenings", "Count", openings)] if openings else [])])
        for reason, count in Counter(failures[: record.attempts - 1]).items():  # after the last one nobody was asked
            self._emit([("Fallbacks", "Count", count)], reason=reason)
        for rule, count in refusals.items():
            self._emit([("Refusals", "Count", count)], rule=rule)

    def store_fared(self, how: str) -> None:
        if how in _FAILING:
            self._emit([("StoreFailures", "Count", 1)], how=how)

    def unexpected(self, record: Record, error: Exception) -> None:
        _LOG.error("%s failed: %s", record.request_id, where(error))

    def configuration_refused(self) -> None:
        self._emit([("ConfigurationRefused", "Count", 1)])

    def _emit(self, measured: Measured, **dimensions: str) -> None:
        from aws_lambda_powertools.metrics import EphemeralMetrics

        metrics = EphemeralMetrics(namespace=NAMESPACE, service=self._service)
        for name, value in dimensions.items():
            metrics.add_dimension(name, value)
        for name, unit, amount in measured:
            metrics.add_metric(name, unit, amount)
        metrics.flush_metrics()


def _measured(record: Record) -> Measured:
    measured: Measured = [("Requests", "Count", 1), ("Errors", "Count", (record.status or 500) >= 500)]
    if record.model is not None:
        measured.append(("Overhead", "Milliseconds", record.overhead_s * 1000))
    if record.prompt_tokens is not None or record.completion_tokens is not None:
        measured.append(("Tokens", "Count", (record.prompt_tokens or 0) + (record.completion_tokens or 0)))
    if record.first_token_s is not None:
        measured.append(("TimeToFirstToken", "Milliseconds", record.first_token_s * 1000))
    return measured
