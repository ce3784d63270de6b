"""What is said in one line of JSON. Of exceptions type and place only: their own text may quote a prompt."""

import functools
import logging
import time
import traceback
from dataclasses import fields
from typing import Any

import orjson

from .telemetry import Record

OURS = "sluice"  # the logger that we ourselves speak by
_TOLD = tuple(field.name for field in fields(Record) if field.name not in ("started", "is_stream"))


def fields_of(record: Record) -> dict[str, Any]:
    """What is known of a request, less what only the code needs."""
    told: dict[str, Any] = {}
    for name in _TOLD:
        value = getattr(record, name)
        if value is not None:
            told[name] = round(value, 4) if type(value) is float else value
    if not record.trail:
        del told["trail"]
    if not record.attempts:
        del told["waited_s"]
    return told


def json_line(level: str, message: str, fields: dict[str, Any]) -> str:
    second, ms = divmod(time.time_ns() // 1_000_000, 1000)
    line = {"timestamp": f"{_second(second)}.{ms:03d}Z", "level": level, "message": message, **fields}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE).decode()


@functools.lru_cache(maxsize=1)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


class JsonFormatter(logging.Formatter):
    """For what libraries and we ourselves have to say."""

    def format(self, record: logging.LogRecord) -> str:
        return json_line(record.levelname.lower(), words_of(record), {"logger": record.name}).rstrip()


def words_of(record: logging.LogRecord) -> str:
    """Of what others say the first line only: asyncio, for one, prints a task's exception in its second."""
    text = record.getMessage()
    if record.name != OURS:
        text = text.partition("\n")[0]
    error = record.exc_info[1] if record.exc_info else None
    return text if error is None else f"{text}: {where(error)}"


def where(error: BaseException) -> str:
    """Type and place only: an exception's own text may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    way = " < ".join(f"{frame.name} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})" for frame in reversed(frames))
    return f"{type(error).__name__} in {way}"
