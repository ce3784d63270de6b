"""The HTTP client on httpx: for those who prefer it, and the judge of the other in the contract suite."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator

import httpx

from .port import ConnectFailed, ConnectionLost, ConnectTimedOut, HttpRequest, TlsFailed, first_of_each


class HttpxClient:
    def __init__(self, *, idle_s: float, tls: ssl.SSLContext | None, idle_connections: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=idle_connections, keepalive_expiry=idle_s)
        # The transport alone: no cookies, no redirects, no proxies from the environment, no headers of its own.
        trusted = tls or ssl.create_default_context()
        self._transport = httpx.AsyncHTTPTransport(verify=trusted, limits=limits, trust_env=False)

    async def send(self, request: HttpRequest, *, connect_s: float, headers_s: float) -> "HttpxResponse":
        timeout = {"connect": connect_s, "pool": connect_s, "read": None, "write": None}
        url = httpx.URL(request.url)
        own = {"host": url.netloc.decode("ascii")}
        if url.userinfo:
            own["authorization"] = "Basic " + base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        headers = {**own, **request.headers}
        if request.tls_name:
            headers["connection"] = "close"  # its pool does not tell connections apart by the name
        extensions = {"timeout": timeout, "sni_hostname": request.tls_name or None}
        outgoing = httpx.Request(request.method, url, headers=headers, content=request.body, extensions=extensions)
        try:
            async with asyncio.timeout(headers_s):
                response = await self._transport.handle_async_request(outgoing)
        except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise ConnectTimedOut(f"no connection within {connect_s:g} s") from error
        except httpx.ConnectError as error:
            if isinstance(_root(error), ssl.SSLError):
                raise TlsFailed("the provider's certificate was not accepted") from error
            raise ConnectFailed("the connection was refused or the host is unknown") from error
        except httpx.TransportError as error:
            raise ConnectionLost("the connection broke before the answer's headers") from error
        return HttpxResponse(response)

    async def aclose(self) -> None:
        await self._transport.aclose()


class HttpxResponse:
    """httpx closes a stream whose read is cancelled, so a read that takes too long goes on in a task of its own."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()
        self._pending: asyncio.Task[bytes] | None = None
        self.status = response.status_code
        self.headers = first_of_each(response.headers.multi_items())

    async def read(self, timeout_s: float) -> bytes:
        if self._pending is None:
            self._pending = asyncio.create_task(self._next())
        done, _ = await asyncio.wait({self._pending}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        finished, self._pending = self._pending, None
        try:
            return finished.result()
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise ConnectionLost("the connection broke in the middle of the answer") from error

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        await self._response.aclose()

    async def _next(self) -> bytes:
        return await anext(self._pieces, b"")


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
