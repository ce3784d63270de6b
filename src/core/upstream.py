"""All that is said to providers is said here: one attempt at one model, its time-outs, and how it ended.

Foreign errors become ours at this border; nothing above it knows HTTP. What a stream does is `chunk_stream.py`'s.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from .aws_credentials import AwsCredentials
from .aws_signature import sign
from .catalog import Model
from .chat import Chat
from .chunk_stream import ChunkStream
from .drawing import Drawing
from .embedding import Embedding
from .errors import Operator, Silent, Transient, UpstreamError
from .fetcher import Fetcher
from .http_client.port import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    HttpClient,
    HttpRequest,
    HttpResponse,
    TlsFailed,
)
from .inlining import with_bytes, with_pictures_inside
from .providers.dialect import Completion, Drawings, Images, Login, Outgoing, Stamp, Token
from .providers.drawn import answer_of
from .providers.images import request_for
from .providers.limit_headers import ReportedLimit
from .tokens import Tokens

KEEP_ALIVE_S = 15.0
MAX_BUFFERED_BYTES = 64 * 2**20
MAX_ERROR_BYTES = 64 * 1024


class Upstream:
    """`clients` by the scheme of the address: `https`, `http`, `demo`; `trusting` by the CA bundle they also trust."""

    def __init__(
        self,
        clients: Mapping[str, HttpClient],
        *,
        trusting: Mapping[str, HttpClient] | None = None,
        tokens: Tokens | None = None,
        aws: AwsCredentials | None = None,
        fetcher: Fetcher,
        clock: Callable[[], float] = time.time,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._clients = clients
        self._trusting = trusting or {}
        self._tokens = tokens or Tokens(clock)
        self._aws = aws or AwsCredentials()
        self._fetcher = fetcher
        self._clock = clock
        self.keep_alive_s = keep_alive_s

    async def complete(self, model: Model, chat: Chat) -> Completion:
        """Ask for a whole answer. Raises UpstreamError."""
        dialect, stamp = model.row.dialect, self._stamp(model)
        outgoing = await self._outgoing(model, chat)
        answer = await self._whole(model, outgoing.request, lambda raw: dialect.completion(raw, chat, stamp))
        return replace(answer, dropped=outgoing.dropped) if outgoing.dropped else answer

    async def embed(self, model: Model, embedding: Embedding) -> Completion:
        """Ask for embeddings. Raises UpstreamError."""
        language = model.row.embeddings
        assert language is not None, "the configuration is refused otherwise"
        return await self._whole(model, language.embedding_request(model.endpoint, embedding), language.embedding)

    async def draw(self, model: Model, drawing: Drawing) -> Completion:
        """Ask for pictures, and for them again where they are not there at once. Raises UpstreamError."""
        language, total_s = model.row.images, model.timeouts.buffered_total
        assert language is not None, "the catalog sees to that"
        outgoing = request_for(drawing, language, model.endpoint)
        try:
            async with asyncio.timeout(total_s):
                found, reported = await self._drawings(model, language, outgoing.request)
                if drawing.wants_bytes:
                    found = await with_bytes(found, self._fetcher)
        except TimeoutError as error:
            raise Silent(f"The provider did not finish the picture within {total_s:g} s.") from error
        answer = answer_of(drawing, found, now=self._clock())
        return replace(answer, dropped=outgoing.dropped, reported=reported)

    async def open_stream(self, model: Model, chat: Chat) -> ChunkStream:
        """Ask for a stream and wait until the answer has begun: up to its first real chunk. Raises UpstreamError."""
        started = _now()
        outgoing = await self._outgoing(model, chat)
        response = await self._ask(model, outgoing.request, headers_s=model.timeouts.first_token)
        stream = ChunkStream(
            model,
            chat,
            response,
            stamp=self._stamp(model),
            dropped=outgoing.dropped,
            reported=model.row.reported(response.headers, now=self._clock()),
            started=started,
            keep_alive_s=self.keep_alive_s,
        )
        try:
            await stream.begin()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _outgoing(self, model: Model, chat: Chat) -> Outgoing:
        """What is sent for a chat. Raises UpstreamError where it cannot be said to this provider."""
        if not model.row.takes_picture_addresses:
            chat = await with_pictures_inside(chat, self._fetcher)
        return model.row.dialect.request(model.endpoint, chat)

    def _stamp(self, model: Model) -> Stamp:
        return Stamp(f"chatcmpl-{random.getrandbits(96):024x}", int(self._clock()), model.endpoint.upstream_model)

    async def _whole(
        self, model: Model, request: HttpRequest, read: Callable[[bytes], Completion | UpstreamError]
    ) -> Completion:
        raw, reported = await self._body(model, request)
        answer = read(raw)
        if isinstance(answer, UpstreamError):
            raise answer
        return replace(answer, reported=reported) if reported else answer

    async def _body(self, model: Model, request: HttpRequest) -> tuple[bytes, tuple[ReportedLimit, ...]]:
        """The body of a 200, and what came with it of the provider's limits."""
        timeouts = model.timeouts
        deadline = _now() + timeouts.buffered_total
        response = await self._ask(model, request, headers_s=min(timeouts.response, timeouts.buffered_total))
        try:
            raw = await _read_all(response, timeouts.idle, deadline, MAX_BUFFERED_BYTES)
        finally:
            await response.aclose()
        return raw, model.row.reported(response.headers, now=self._clock())

    async def _drawings(
        self, model: Model, language: Images, request: HttpRequest
    ) -> tuple[Drawings, tuple[ReportedLimit, ...]]:
        while True:
            raw, reported = await self._body(model, request)
            found = language.drawings(raw, model.endpoint)
            if isinstance(found, UpstreamError):
                raise found
            if isinstance(found, Drawings):
                return found, reported
            await asyncio.sleep(found.after_s)
            request = found.request

    async def _ask(self, model: Model, request: HttpRequest, *, headers_s: float) -> HttpResponse:
        """An answer with status 200; any other is raised as what it means."""
        response = await self._send_as_us(model, request, headers_s)
        if response.status == 200:
            return response
        try:
            raw = await _read_all(response, model.timeouts.idle, _now() + model.timeouts.idle, MAX_ERROR_BYTES)
        except UpstreamError:
            raw = b""  # the status says enough
        finally:
            await response.aclose()
        raise model.row.failure(response.status, response.headers, raw, now=self._clock())

    async def _send_as_us(self, model: Model, request: HttpRequest, headers_s: float) -> HttpResponse:
        """Signed, or with the token that our key was exchanged for, where that is the provider's way.

        A token that is refused is renewed once.
        """
        login, endpoint = model.row.login, model.endpoint
        if model.row.aws_service and not endpoint.token:
            request = replace(request, headers=await self._signature(model, request))
        if login is None:
            return await self._send(model, request, headers_s)
        key = (endpoint.auth_url, endpoint.scope, endpoint.token)
        for is_last in (False, True):
            token = await self._tokens.get(key, lambda: self._log_in(model, login))
            signed = replace(request, headers={**request.headers, "authorization": f"Bearer {token}"})
            response = await self._send(model, signed, headers_s)
            if response.status != 401 or is_last:
                break
            await response.aclose()
            self._tokens.forget(key, token)
        return response

    async def _signature(self, model: Model, request: HttpRequest) -> dict[str, str]:
        credentials, region = await self._aws.get(), model.endpoint.region or ""
        return sign(request, credentials, region=region, service=model.row.aws_service, now=self._clock())

    async def _log_in(self, model: Model, login: Login) -> Token:
        timeouts, request = model.timeouts, login.request(model.endpoint, str(uuid.uuid4()))
        response = await self._send(model, request, timeouts.response)
        try:
            raw = await _read_all(response, timeouts.idle, _now() + timeouts.response, MAX_ERROR_BYTES)
        finally:
            await response.aclose()
        token = login.token(response.status, response.headers, raw, now=self._clock())
        if isinstance(token, UpstreamError):
            raise token
        return token

    async def _send(self, model: Model, request: HttpRequest, headers_s: float) -> HttpResponse:
        connect_s = model.timeouts.connect
        client = self._trusting.get(model.endpoint.ca_bundle or "") or self._clients[request.url.partition(":")[0]]
        try:
            return await client.send(request, connect_s=connect_s, headers_s=headers_s)
        except TlsFailed as error:
            raise Operator(f"The provider could not be reached: {error}.", reached=False) from error
        except ConnectTimedOut as error:
            raise Silent(f"The provider could not be reached: {error}.", reached=False) from error
        except ConnectFailed as error:
            raise Transient(f"The provider could not be reached: {error}.", reached=False) from error
        except ConnectionLost as error:
            raise Transient(f"The provider failed: {error}.") from error
        except TimeoutError as error:
            raise Silent(f"The provider did not answer within {headers_s:g} s.") from error


async def _read_all(response: HttpResponse, idle_s: float, deadline: float, limit: int) -> bytes:
    """A whole body. Raises Silent past `idle_s` between pieces or past `deadline`, Transient when cut or too large."""
    pieces: list[bytes] = []
    size, now = 0, asyncio.get_running_loop().time
    while True:
        try:
            piece = await response.read(max(0.0, min(idle_s, deadline - now())))
        except TimeoutError as error:
            raise Silent("The provider fell silent in the middle of its answer.") from error
        except ConnectionLost as error:
            raise Transient(f"The provider failed: {error}.") from error
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise Transient("The provider's answer is too large.")


def _now() -> float:
    return asyncio.get_running_loop().time()
