"""The port to the network: send a request, read the answer piece by piece. Nothing else in `core` opens a socket.

Implementations: `aiohttp.py`, `httpx.py` and, for rehearsals, `demo.py`. One contract suite runs over them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Protocol

from ..frozen import frozen


@frozen
class HttpRequest:
    """`url` is sent as it stands, already encoded; a name and password in it as a header. Redirects are never followed.

    `tls_name`: whose certificate must be shown, where the host in `url` is only a number; a connection that was made
    for one name serves no other.
    """

    url: str = field(repr=False)  # may hold a key
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"
    tls_name: str = ""


class HttpClientError(Exception):
    """Something went wrong below HTTP. Messages name no address and no key."""


class ConnectFailed(HttpClientError):
    """No connection: refused, unknown host. Nothing was sent."""


class ConnectTimedOut(ConnectFailed):
    """No connection in the time that was allowed for it."""


class TlsFailed(HttpClientError):
    """The other side's certificate was not accepted."""


class ConnectionLost(HttpClientError):
    """The connection ended before the answer did, or what came was not HTTP."""


def first_of_each(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers as they came to what `HttpResponse.headers` promises."""
    return {name.lower(): value for name, value in reversed(list(headers))}


class HttpResponse(Protocol):
    """An answer whose status and headers have come. Whoever got it closes it."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case; of a repeated header the first."""
        ...

    async def read(self, timeout_s: float) -> bytes:
        """The next piece of the body as soon as it is there; empty at its clean end.

        Raises TimeoutError when nothing came, after which it may be called again; ConnectionLost when the body is cut.
        """
        ...

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        ...


class HttpClient(Protocol):
    async def send(self, request: HttpRequest, *, connect_s: float, headers_s: float) -> HttpResponse:
        """Send and wait for status and headers, at most `headers_s` in all, of which `connect_s` to connect.

        Raises ConnectFailed, TlsFailed, ConnectionLost; TimeoutError when connected but not answered in time.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections. It may be used again, and then makes new ones."""
        ...
