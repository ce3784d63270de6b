"""The HTTP client on aiohttp: the default, since it costs less than a seventh of httpx's CPU (docs/decisions.md).

On its connector, which knows names and TLS, and its parser, but without its session: that would keep cookies,
redirects, retries and traces that nobody here wants, for two thirds of what a request costs.
"""

import asyncio
import functools
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage, StreamWriter
from yarl import URL

from ..patience import Patience
from .idle import IdleConnections
from .port import ConnectFailed, ConnectionLost, ConnectTimedOut, HttpRequest, TlsFailed, first_of_each

LARGE_BODY_BYTES = 2**20
PIECE_BYTES = 2**16
MAX_HEADER_BYTES = 64 * 1024  # some providers' policy headers alone pass aiohttp's default of 8 KiB


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request goes: `asked` makes a connection, `key` finds an idle one, `path` and `headers` are sent."""

    asked: aiohttp.ClientRequest
    key: ConnectionKey
    path: str
    headers: Mapping[str, str]


class AiohttpClient:
    def __init__(self, *, idle_s: float, tls: ssl.SSLContext | None, idle_connections: int, idle_per_host: int) -> None:
        self._tls = tls or True  # the one that aiohttp made when it was imported: another takes as long again
        self._idle = IdleConnections(idle_s=idle_s, at_most=idle_connections, per_host=idle_per_host)
        self._connector: aiohttp.TCPConnector | None = None  # made on first use: it belongs to the running loop
        self._place = functools.lru_cache(maxsize=1024)(_place)

    async def send(self, request: HttpRequest, *, connect_s: float, headers_s: float) -> "AiohttpResponse":
        patience, response = Patience(), None
        try:
            response = await patience.wait(self._begin(request, connect_s, patience), headers_s)
        except aiohttp.ClientSSLError as error:
            raise TlsFailed("the provider's certificate was not accepted") from error
        except aiohttp.ClientConnectorError as error:
            raise ConnectFailed("the connection was refused or the host is unknown") from error
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise ConnectionLost("the connection broke before the answer's headers") from error
        finally:
            if response is None:
                patience.end()
        return response

    async def aclose(self) -> None:
        connector, self._connector = self._connector, None  # a request that begins meanwhile makes one of its own
        self._place.cache_clear()
        try:
            if connector is not None:
                await connector.close()  # first: it does not wait for the other side's end of TLS
        finally:
            self._idle.close()

    async def _begin(self, request: HttpRequest, connect_s: float, patience: Patience) -> "AiohttpResponse":
        place, sending = self._place(request.url, request.tls_name), None
        connection = self._idle.take(place.key) or await self._connect(place, connect_s)
        try:
            protocol = connection.protocol
            assert protocol is not None
            protocol.set_response_params(
                read_until_eof=True, max_line_size=MAX_HEADER_BYTES, max_field_size=MAX_HEADER_BYTES
            )
            sending = _send(protocol, _head(request, place), request.body)
            message, content = await protocol.read()
            while 100 <= message.code < 200:
                message, content = await protocol.read()
        except BaseException:
            _stop(sending)
            connection.close()
            raise
        return AiohttpResponse(
            connection, functools.partial(self._idle.give, place.key), message, content, patience, sending
        )

    async def _connect(self, place: _Place, connect_s: float) -> Connection:
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=self._tls)
            make: Callable[..., ResponseHandler] = _Protocol
            # Were it called something else one day, a request would cost more, and its counts say so.
            self._connector._factory = functools.partial(make, asyncio.get_running_loop())  # noqa: SLF001
        try:
            return await self._connector.connect(place.asked, [], _timeout(connect_s))
        except TimeoutError as error:
            raise ConnectTimedOut(f"no connection within {connect_s:g} s") from error


class _Protocol(ResponseHandler):
    """Takes up reading only on a connection that was stopped once: its parser may have kept something back.

    aiohttp feeds the parser an empty piece after every read: a twentieth of a chunk, and of a request.
    """

    _was_stopped = False

    def pause_reading(self) -> None:
        self._was_stopped = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._was_stopped or self._buffer_paused:
            super().resume_reading(resume_parser)


class AiohttpResponse:
    def __init__(
        self,
        connection: Connection,
        give_back: Callable[[Connection], None],
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
        patience: Patience,
        sending: asyncio.Task[None] | None,
    ) -> None:
        self._connection: Connection | None = connection
        self._give_back = give_back
        self._content = content
        self._patience = patience
        self._sending = sending
        self.status = message.code
        self.headers = first_of_each(message.headers.items())

    async def read(self, timeout_s: float) -> bytes:
        content = self._content
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
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._content.is_eof() and (self._sending is None or self._sending.done()):
            self._give_back(connection)
        else:
            _stop(self._sending)
            connection.close()


def _place(address: str, tls_name: str) -> _Place:
    url = URL(address, encoded=True)
    asked = aiohttp.ClientRequest("GET", url, server_hostname=tls_name or None)
    own = {name: asked.headers[name] for name in ("host", "authorization") if name in asked.headers}
    return _Place(asked, asked.connection_key, url.raw_path_qs, own)


def _head(request: HttpRequest, place: _Place) -> bytes:
    """Raises ValueError where a header would be two."""
    lines = [f"{request.method} {place.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {**place.headers, **request.headers}.items()]
    if request.body or request.method != "GET":
        lines.append(f"content-length: {len(request.body)}")
    head = "\r\n".join(lines)
    if head.count("\r") >= len(lines) or head.count("\n") >= len(lines):
        raise ValueError("A header has a line break in it.")
    return f"{head}\r\n\r\n".encode()


def _send(protocol: ResponseHandler, head: bytes, body: bytes) -> asyncio.Task[None] | None:
    """A large body goes out piece by piece: other requests get their turn, and an answer need not wait for its end."""
    assert protocol.transport is not None
    if len(body) <= LARGE_BODY_BYTES:
        protocol.transport.write(head + body)
        return None
    return asyncio.create_task(_send_in_pieces(protocol, head, body))


async def _send_in_pieces(protocol: ResponseHandler, head: bytes, body: bytes) -> None:
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    try:
        await writer.write(head)
        for start in range(0, len(body), PIECE_BYTES):
            await writer.write(body[start : start + PIECE_BYTES])
    except OSError:
        pass  # the connection is lost: whoever waits for the answer is told so


def _stop(sending: asyncio.Task[None] | None) -> None:
    if sending is not None:
        sending.cancel()


@functools.lru_cache(maxsize=64)
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)
