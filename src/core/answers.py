"""What a caller is given: a whole answer or a stream that has begun, its headers, failures in words that are safe."""

import functools
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from urllib.parse import quote

from .admission import Reservation
from .catalog import Model
from .errors import GatewayError, InternalError, Unavailable, UpstreamError
from .frozen import frozen
from .providers.dialect import Endpoint
from .store.port import StoreError
from .telemetry import holds_secret

_KEY_HEADER = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)  # other headers of ours may be quoted
_SAFE = "".join(map(chr, range(0x20, 0x7F)))
_SAFE_IN_A_ROW = _SAFE.translate({ord(" "): None, ord(","): None})
MOST_OF_A_ROW = 1000


@frozen
class Answer:
    """A whole answer, as JSON or, of `media_type`, as a picture."""

    body: bytes
    headers: dict[str, str]
    media_type: str = "application/json"


@frozen
class EventStream:
    """An answer that has begun. `events` yields bytes for the wire; whoever sends them calls `close` in the end."""

    events: AsyncGenerator[bytes]
    close: Callable[[], Awaitable[None]]
    headers: dict[str, str]


def headers_of(
    model: Model, reservation: Reservation, *, attempts: int, dropped: Sequence[str] = (), now: float
) -> dict[str, str]:
    """Who answered, after how many calls, without which fields, and what is left of its tightest limit on requests."""
    headers = {"x-sluice-model": _for_a_header(model.name), "x-sluice-attempts": str(attempts)}
    if dropped:
        headers["x-sluice-dropped"] = _in_a_row(dropped)
    tightest, remaining = None, 0
    for window, used in zip(reservation.windows, reservation.used, strict=True):
        left = window.limit.most - used
        if window.limit.what == "requests" and (tightest is None or left < remaining):
            tightest, remaining = window, left
    if tightest is not None:
        headers["x-ratelimit-limit-requests"] = str(tightest.limit.most)
        headers["x-ratelimit-remaining-requests"] = str(max(0, remaining))
        headers["x-ratelimit-reset-requests"] = str(max(0, math.ceil(tightest.ends - now)))
    return headers


def _in_a_row(names: Sequence[str]) -> str:
    """Callers give fields any name, of any length."""
    row = ", ".join(quote(name, safe=_SAFE_IN_A_ROW) for name in names)
    return row if len(row) <= MOST_OF_A_ROW else row[:MOST_OF_A_ROW] + "..."


@functools.lru_cache(maxsize=1024)
def _for_a_header(name: str) -> str:
    return quote(name, safe=_SAFE)


def in_wire_form(error: Exception) -> GatewayError:
    """Whatever ended a request, as the caller is told it."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, StoreError):
        words = "The gateway's limits cannot be checked now. Try again later."
        return Unavailable(words, code="store_unavailable", headers={"retry-after": "1"})
    return InternalError("The gateway failed. The request id names this failure in its log.")


def in_safe_words(error: UpstreamError, model: Model) -> UpstreamError:
    """The provider's own words reach the caller only if they quote nothing of ours."""
    words = f"{error.message} {error.param} {error.code}"
    if holds_secret(words, _secrets_of(model.endpoint)):
        error.message = "The provider refused the request; its words quote a key and are left out."
        error.param, error.code = None, type(error).code
    return error


def _secrets_of(endpoint: Endpoint) -> list[str]:
    keys = [value for name, value in endpoint.headers.items() if _KEY_HEADER.search(name)]
    return [secret for secret in (endpoint.token, *keys) if secret]
