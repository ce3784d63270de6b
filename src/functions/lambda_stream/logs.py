"""What is said goes to standard output in JSON, one line each, as Lambda's own formatter did: that one is not here.

Lambda filters by `level`, in its own words for them, and takes `timestamp` in RFC 3339.
"""

import contextvars
import io
import logging
from typing import TextIO

from core.log_line import JsonFormatter, json_line, words_of

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class LambdaFormatter(JsonFormatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _LEVELS.get(record.levelname, record.levelname)
        id_now = request_id.get()
        of_whom = {"requestId": id_now} if id_now else {}
        return json_line(level, words_of(record), {"logger": record.name, **of_whom}).rstrip()


def log_to(out: TextIO) -> None:
    """From warnings up, all that libraries and we ourselves have to say."""
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(line_buffering=True)  # what is printed has to be out when the environment is frozen
    handler = logging.StreamHandler(out)
    handler.setFormatter(LambdaFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
