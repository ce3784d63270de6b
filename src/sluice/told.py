"""Tells everything to several listeners: the log and the metrics."""

import asyncio
import logging

from core.admission import Refusal
from core.log_line import OURS, where
from core.telemetry import Record, Telemetry

_LOG = logging.getLogger(OURS)


class Told:
    """What is over is told in the event loop's next turn: the answer goes out first, and several cost little more
    than one. A listener that cannot hear (whoever reads the log may be gone) keeps nothing from the others.
    """

    def __init__(self, *listeners: Telemetry) -> None:
        self._listeners = listeners
        self._over: list[Record] = []

    def request_done(self, record: Record) -> None:
        if not self._over:
            asyncio.get_running_loop().call_soon(self._tell)
        self._over.append(record)

    def _tell(self) -> None:
        over, self._over = self._over, []
        for listener in self._listeners:
            for record in over:
                try:
                    listener.request_done(record)
                except Exception as error:  # noqa: BLE001 - whatever it is, the rest is to be told
                    _LOG.error("%s cannot be told: %s", record.request_id, where(error))

    def unexpected(self, record: Record, error: Exception) -> None:
        for listener in self._listeners:
            listener.unexpected(record, error)

    def stream_began(self, record: Record) -> None:
        for listener in self._listeners:
            listener.stream_began(record)

    def attempted(self, record: Record, outcome: str) -> None:
        for listener in self._listeners:
            listener.attempted(record, outcome)

    def refused(self, record: Record, refusal: Refusal) -> None:
        for listener in self._listeners:
            listener.refused(record, refusal)

    def breaker_opened(self, record: Record, model: str) -> None:
        for listener in self._listeners:
            listener.breaker_opened(record, model)

    def store_fared(self, how: str) -> None:
        for listener in self._listeners:
            listener.store_fared(how)
