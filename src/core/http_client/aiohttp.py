"""The HTTP client on aiohttp: the default, since it costs a seventh of httpx's CPU a request (docs/decisions.md)."""

import functools
import io
import ssl
from typing import Any

import aiohttp
from yarl import URL

from ..patience import Patience
from .port import ConnectFailed, ConnectionLost, ConnectTimedOut, HttpRequest, TlsFailed, first_of_each

LARGE_BODY_BYTES = 2**20
MAX_HEADER_BYTES = 64 * 1024  # some providers' policy headers alone pass aiohttp's default of 8 KiB


class AiohttpClient:
    def __init__(self, *, idle_s: float, tls: ssl.SSLContext | None, idle_connections: int, idle_per_host: int) -> None:
        self._tls = tls or True  # the one that aiohttp made when it was imported: another takes as long again
        self._idle_s = idle_s
        self._idle = (idle_connections, idle_per_host)
        self._session: aiohttp.ClientSession | None = None  # made on first use: it belongs to the running loop

    async def send(self, request: HttpRequest, *, connect_s: float, headers_s: float) -> "AiohttpResponse":
        if self._session is None:
            self._session = self._open_session()
        asked = self._session.request(
            request.method,
            _url(request.url),
            headers=request.headers,
            server_hostname=request.tls_name or None,
            data=_payload(request.body),
            allow_redirects=False,
            timeout=_timeout(connect_s),
        )
        patience, response = Patience(), None
        try:
            response = await patience.wait(asked, headers_s)
        except aiohttp.ClientSSLError as error:
            raise TlsFailed("the provider's certificate was not accepted") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise ConnectTimedOut(f"no connection within {connect_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise ConnectFailed("the connection was refused or the host is unknown") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise ConnectionLost("the connection broke before the answer's headers") from error
        finally:
            if response is None:
                patience.end()
        return AiohttpResponse(response, patience)

    async def aclose(self) -> None:
        session, self._session = self._session, None  # a request that begins meanwhile opens one of its own
        if session is not None:
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        total, per_host = self._idle
        return aiohttp.ClientSession(
            connector=_Connector(total, per_host, limit=0, keepalive_timeout=self._idle_s, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            trust_env=False,
        )


class AiohttpResponse:
    def __init__(self, response: aiohttp.ClientResponse, patience: Patience) -> None:
        self._response = response
        self._patience = patience
        self.status = response.status
        self.headers = first_of_each(response.headers.items())

    async def read(self, timeout_s: float) -> bytes:
        content = self._response.content
        try:
            if content.is_eof():
                return content.read_nowait()
            return await self._patience.wait(content.readany(), timeout_s)
        except (aiohttp.ClientError, ConnectionError) as error:
            # What came before the break and was not read yet lies behind the error: it goes first, maybe it is the end.
            if unread := content._read_nowait(-1):  # noqa: SLF001 - the contract suite would see a change
                return unread
            raise ConnectionLost("the connection broke in the middle of the answer") from error

    async def aclose(self) -> None:
        self._patience.end()
        self._response.close()  # at its end the connection has gone back to the pool already


class _Connector(aiohttp.TCPConnector):
    """aiohttp bounds connections in use, not idle ones; after a burst all of them would linger.

    `_release` is aiohttp's own; the contract suite counts idle connections, so that a change there is seen.
    """

    def __init__(self, idle_connections: int, idle_per_host: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_idle = idle_connections
        self._max_idle_per_host = idle_per_host

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        idle_here = len(self._conns[key]) if key in self._conns else 0
        idle = sum(map(len, self._conns.values()))
        is_full = idle_here >= self._max_idle_per_host or idle >= self._max_idle
        super()._release(key, protocol, should_close=should_close or is_full)


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """A large body goes out piece by piece: other requests get their turn, and aiohttp does not warn."""
    return io.BytesIO(body) if len(body) > LARGE_BODY_BYTES else body or None


@functools.lru_cache(maxsize=1024)
def _url(url: str) -> URL:
    return URL(url, encoded=True)


@functools.lru_cache(maxsize=64)
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)
