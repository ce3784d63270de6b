"""How a provider tells its limits in the headers of every answer: rows of header names, read by one function."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from ..frozen import frozen
from ..retry_after import parse_wait

What = Literal["requests", "tokens"]
Window = Literal["minute", "hour", "day"]

# `"default";r=50;t=30`: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
_PARAMETER = re.compile(r";\s*([a-z]+)=(\d+)")


@frozen
class LimitHeaders:
    """Names of the headers of one limit; `window` None where the provider does not say over which time it counts.

    `reset_unit`: of a reset that is a bare number and no seconds.
    """

    what: What
    window: Window | None
    limit: str
    remaining: str
    reset: str = ""
    reset_unit: str = ""


@frozen
class ReportedLimit:
    """What the provider said of one limit; `reset_s` is seconds from now until it has all its room again."""

    what: What
    window: Window | None
    limit: int | None
    remaining: int
    reset_s: float | None


def read_limits(rows: Iterable[LimitHeaders], headers: Mapping[str, str], now: float) -> list[ReportedLimit]:
    """Limits whose `remaining` is there and a number; `now` is Unix time in seconds."""
    found = []
    for row in rows:
        if row.remaining not in headers:
            continue
        remaining = _whole(_value(headers, row.remaining, "r"))
        if remaining is not None:
            limit = _whole(_value(headers, row.limit, "q"))
            reset = parse_wait(_value(headers, row.reset, "t") + row.reset_unit, now)
            found.append(ReportedLimit(row.what, row.window, limit, remaining, reset))
    return found


def wait_for_room(limits: Iterable[ReportedLimit]) -> float | None:
    """Seconds until every limit that is used up has room again; None when none is, or none says when."""
    return max((limit.reset_s for limit in limits if limit.remaining <= 0 and limit.reset_s is not None), default=None)


def standard(requests: Window | None, tokens: Window | None, *, reset_unit: str = "") -> tuple[LimitHeaders, ...]:
    """OpenAI's own header names, over the windows that a provider means by them."""
    return (_standard("requests", requests, reset_unit), _standard("tokens", tokens, reset_unit))


def _standard(what: What, window: Window | None, reset_unit: str) -> LimitHeaders:
    limit, remaining, reset = (f"x-ratelimit-{part}-{what}" for part in ("limit", "remaining", "reset"))
    return LimitHeaders(what, window, limit, remaining, reset, reset_unit)


# IETF's draft: both numbers in one header, the limit in another.
DRAFT = LimitHeaders("requests", None, limit="ratelimit-policy", remaining="ratelimit", reset="ratelimit")


def _value(headers: Mapping[str, str], name: str, parameter: str) -> str:
    """A header's value; in the draft's form that of its parameter."""
    text = headers.get(name, "")
    parameters: dict[str, str] = dict(_PARAMETER.findall(text))
    return parameters.get(parameter, text)


def _whole(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= 0 else None  # Azure answers -1 where it does not know
