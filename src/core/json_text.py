"""JSON from strangers. What is read here can also be written: orjson reads 1,024 levels, and writes 254."""

from typing import Any

import orjson

MOST_LEVELS = 200  # the rest is for what a dialect wraps around it
SMALL_BYTES = 4096  # less is copied sooner than searched call by call


class TooDeep(ValueError):
    """It is JSON, nested deeper than anybody means it."""


def read(raw: bytes) -> Any:
    """Raises orjson.JSONDecodeError or TooDeep, both of them a ValueError."""
    value = orjson.loads(raw)
    if len(raw) > 2 * MOST_LEVELS and _may_be_deep(raw) and _is_deep(value):
        raise TooDeep(f"nested deeper than {MOST_LEVELS} levels")
    return value


def _may_be_deep(raw: bytes) -> bool:
    """Whether so many objects and lists begin in it. `count` would look at each byte, these look at many at once."""
    if len(raw) < SMALL_BYTES:
        return len(raw) - len(raw.replace(b"{", b"").replace(b"[", b"")) > MOST_LEVELS
    begun = 0
    for mark in (b"{", b"["):
        at = raw.find(mark)
        while at >= 0 and begun <= MOST_LEVELS:
            begun += 1
            at = raw.find(mark, at + 1)
    return begun > MOST_LEVELS


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inside(outer: Any) -> Any:
    """`outer` is an object or a list."""
    return outer.values() if isinstance(outer, dict) else outer
