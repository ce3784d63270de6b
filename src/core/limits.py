"""Requests and tokens per minute, hour and day: fixed windows, each a counter of its own. Pure.

A window's number is part of its attribute's name (`rm29481234`: requests in that minute), so a new window is a new
attribute and nothing is ever reset. Around a boundary two windows' worth can pass within one window's length.
"""

import functools
import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from .frozen import frozen
from .plan import Image, Plan, number

_MINUTES = {"minute": 1, "hour": 60}
_STALE_AT_ONCE = 20
_COUNTER = re.compile(r"[rt]([mhd])(\d+)")


class Limit(NamedTuple):
    """`what` is requests or tokens, `span` minute, hour or day."""

    what: str
    span: str
    most: int

    @property
    def rule(self) -> str:
        return f"{self.what}_per_{self.span}"


@frozen
class Cost:
    """What one call takes from the windows; `tokens` is an estimate until it is settled."""

    requests: int = 1
    tokens: int = 0

    def of(self, limit: Limit) -> int:
        return self.requests if limit.what == "requests" else self.tokens


@frozen
class Window:
    """One limit at one moment. `ends` is Unix time in seconds."""

    limit: Limit
    attribute: str
    ends: float

    def used(self, image: Image) -> int:
        return number(image, self.attribute)

    def is_over(self, used: int) -> bool:
        """Whether that much, the call at hand included, is more than may be."""
        return used > self.limit.most


@functools.lru_cache(maxsize=1024)
def windows(limits: tuple[Limit, ...], day_starts: str, minute: int) -> tuple[Window, ...]:
    """The windows that a Unix minute lies in: none begins or ends within one. `day_starts`: `HH:MM Area/City`."""
    found = []
    for limit in limits:
        window_id, ends = _window_at(limit.span, day_starts, minute)
        found.append(Window(limit, f"{limit.what[0]}{limit.span[0]}{window_id}", ends))
    return tuple(found)


def take(plan: Plan, taken: Iterable[Window], cost: Cost) -> None:
    """Admission by every window at once: the check is the increment."""
    for window in taken:
        amount = cost.of(window.limit)
        plan.require(window.attribute, "at_most", window.limit.most - amount)
        if amount:
            plan.add[window.attribute] = amount


def stale(image: Image, day_starts: str, minute: int) -> list[str]:
    """Counters of windows before the previous one. The previous one stays: a caller's clock may be late."""
    current = _current(day_starts, minute)
    gone = [name for name in image if (of := _counter(name)) and of[1] <= current[of[0]] - 2]
    return gone[:_STALE_AT_ONCE]


@functools.lru_cache(maxsize=4096)
def _counter(name: str) -> tuple[str, int] | None:
    """The span and the window's number that an attribute is named after; None: it counts nothing."""
    found = _COUNTER.fullmatch(name)
    return (found[1], int(found[2])) if found else None


@functools.lru_cache(maxsize=1024)
def _current(day_starts: str, minute: int) -> dict[str, int]:
    return {span[0]: _window_at(span, day_starts, minute)[0] for span in ("minute", "hour", "day")}


def day_end(day_starts: str, now: float) -> float:
    """When the provider's day is over, in Unix seconds."""
    return _day_at(day_starts, int(now // 60))[1]


def _window_at(span: str, day_starts: str, minute: int) -> tuple[int, float]:
    if span == "day":
        return _day_at(day_starts, minute)
    window_id = minute // _MINUTES[span]
    return window_id, (window_id + 1) * _MINUTES[span] * 60


@functools.lru_cache(maxsize=1024)
def _day_at(day_starts: str, minute: int) -> tuple[int, float]:
    """Number and end of the day that a minute lies in; days begin at full minutes, so minutes are exact enough."""
    clock, _, zone_name = day_starts.partition(" ")
    zone, begins = ZoneInfo(zone_name), time.fromisoformat(clock)

    def start_of(day: date) -> float:
        return datetime.combine(day, begins, zone).timestamp()

    day = datetime.fromtimestamp(minute * 60, zone).date()
    if start_of(day) > minute * 60:
        day -= timedelta(days=1)
    return day.toordinal(), start_of(day + timedelta(days=1))
