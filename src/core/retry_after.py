"""When a provider has room again, in all the ways they say it. One grammar, read by one function.

Seen in November 2026: `6ms`, `12ms`, `0s`, `17.39s`, `1m2.5s`, `6m0s`, `1h2m3s`, `2d`, plain seconds (`33011.38`),
epoch seconds and milliseconds, RFC 3339, HTTP dates.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WAIT = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_EPOCH_MS, _EPOCH_S = 1e12, 1e9


def parse_wait(text: str, now: float) -> float | None:
    """Seconds from `now` (Unix seconds), never negative, never infinite; None when the text is in no known form."""
    wait = _read(text.strip(), now)
    return wait if wait is not None and math.isfinite(wait) else None


def _read(text: str, now: float) -> float | None:
    if _NUMBER.fullmatch(text):
        return _from_number(float(text), now)
    if _WAIT.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    moment = _parse_date(text)
    return None if moment is None else max(0.0, moment - now)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """What `retry-after-ms` or `retry-after` says, in seconds; None without either."""
    exact = headers.get("retry-after-ms", "").strip()
    wait = parse_wait(f"{exact}ms", now) if _NUMBER.fullmatch(exact) else None
    return parse_wait(headers.get("retry-after", ""), now) if wait is None else wait


def _from_number(number: float, now: float) -> float:
    if number >= _EPOCH_MS:
        return max(0.0, number / 1000 - now)
    return max(0.0, number - now) if number >= _EPOCH_S else number


def _parse_date(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment.timestamp() if moment.tzinfo else None
