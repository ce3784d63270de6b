"""Canaries are secrets that can be told by sight. Whatever anybody may read while the suite runs is searched for them.

`told` is given it; after each test `conftest.py` asks `seen`, and fails the test whose gateway has sung.
"""

# Letters that no number, no id in hex and no word has in such a row: no piece of them comes up by chance.
CALLER = "caller-canary-kqzvwxjygbtmhrpl"
UPSTREAM = "upstream-canary-zxqjvkwyphgmbtrl"
_SEEN: list[str] = []


def canaries_in(text: str, *canaries: str) -> list[str]:
    """Every canary of which a piece stands in the text: eight characters in a row are enough."""
    return [canary for canary in canaries if any(piece in text for piece in _pieces(canary))]


def told(where: str, text: str) -> None:
    """A log, a record, an error, a header: all that is not for a provider or part of an answer."""
    _SEEN.extend(f"{where}: {canary}" for canary in canaries_in(text, CALLER, UPSTREAM))


def seen() -> list[str]:
    """Since the last time."""
    found = _SEEN.copy()
    _SEEN.clear()
    return found


def _pieces(canary: str) -> list[str]:
    whose, _, rest = canary.partition("-canary-")
    return [f"{whose}-canary", *(rest[at : at + 8] for at in range(len(rest) - 7))]
