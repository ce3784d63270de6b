"""Where a request's record goes: a readable line on a terminal, a JSON line elsewhere. Never a prompt, never a key."""

import logging
import sys
from datetime import datetime
from typing import TextIO

from core.admission import Refusal
from core.log_line import OURS, JsonFormatter, fields_of, json_line, where, words_of
from core.telemetry import Record

_LOG = logging.getLogger(OURS)
_HEALTH = frozenset({"/ping", "/ready"})  # asked every few seconds by load balancers: not worth a line


class RequestLog:
    """A line a request, once it is over. What happens on the way is the metrics' affair."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def line(self, record: Record) -> str:
        raise NotImplementedError

    def request_done(self, record: Record) -> None:
        if record.path not in _HEALTH:
            self._out.write(self.line(record))
            self._out.flush()

    def unexpected(self, record: Record, error: Exception) -> None:
        _LOG.error("%s failed: %s", record.request_id, where(error))

    def stream_began(self, record: Record) -> None: ...

    def attempted(self, record: Record, outcome: str) -> None: ...

    def refused(self, record: Record, refusal: Refusal) -> None: ...

    def breaker_opened(self, record: Record, model: str) -> None: ...

    def store_fared(self, how: str) -> None: ...


class TerminalLog(RequestLog):
    def line(self, record: Record) -> str:
        return _readable(record) + "\n"


class JsonLog(RequestLog):
    def line(self, record: Record) -> str:
        return json_line("info", "request", fields_of(record))


def make_log(out: TextIO) -> RequestLog:
    """Also sends what libraries and we ourselves have to say, from warnings up, to stderr in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TerminalFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    return TerminalLog(out) if out.isatty() else JsonLog(out)


class _TerminalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(_printable(line) for line in f"sluice: {words_of(record)}".splitlines())


def _readable(record: Record) -> str:
    parts = [
        datetime.now().astimezone().strftime("%H:%M:%S"),
        str(record.status or "---"),
        f"{record.method} {record.path}",
        f"{record.total_s or 0:.2f}s",
    ]
    if record.first_token_s is not None:
        parts.append(f"first {record.first_token_s:.2f}s")
    if record.model:
        parts.append(f"{record.model} via {record.provider}")
    if record.completion_tokens is not None:
        parts.append(f"{record.prompt_tokens or 0}+{record.completion_tokens} tokens")
    if record.attempts:
        parts.append(f"{record.attempts} attempt{'s'[: record.attempts > 1]}")
    parts += [f"({'; '.join(record.trail)})"] if record.trail else []
    parts += [f"key {record.caller}"] if record.caller else []
    parts += [f"error {record.error}"] if record.error else []
    return _printable("  ".join([*parts, record.request_id]))


def _printable(line: str) -> str:
    """A path or a provider's code may hold line ends and terminal commands: they are written out, not obeyed."""
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
