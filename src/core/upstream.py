"""All that is said to providers is said here: one attempt at one model, its time-outs, and how it ended.

Foreign errors become ours at this border; nothing above it knows HTTP. Whoever gets a `ChunkStream` closes it.
"""

import asyncio
import contextlib
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from .aws_credentials import AwsCredentials
from .aws_signature import sign
from .catalog import Model
from .chat import Chat
from .drawing import Drawing
from .embedding import Embedding
from .errors import Operator, OutOfTime, Silent, Transient, UpstreamError
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
from .stream import Chunk, Done, Item, Progress, is_real, is_usage
from .tokens import Tokens

KEEP_ALIVE_S = 15.0
DRAIN_S = 0.05  # after `[DONE]` the end of the body is usually there: read it, and the connection can serve again
MAX_BUFFERED_BYTES = 64 * 2**20
MAX_ERROR_BYTES = 64 * 1024
MAX_HELD_BYTES = 2**20


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

    async def open_stream(self, model: Model, chat: Chat) -> "ChunkStream":
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


class ChunkStream:
    """One stream whose answer has begun. Iterate `batches`; `progress` says what has been seen so far."""

    def __init__(
        self,
        model: Model,
        chat: Chat,
        response: HttpResponse,
        *,
        stamp: Stamp,
        dropped: tuple[str, ...],
        reported: tuple[ReportedLimit, ...],
        started: float,
        keep_alive_s: float,
    ) -> None:
        self.progress = Progress(expected=chat.answers)
        self.dropped, self.reported = dropped, reported
        self._chat, self._stamp = chat, stamp
        self._hides_usage = chat.hides_usage
        self._timeouts = model.timeouts
        self._keep_alive_s = keep_alive_s
        self._response = response
        self._dialect = model.row.dialect
        self._decoder = self._dialect.decoder(chat, stamp)
        self._now = asyncio.get_running_loop().time
        self._started = self._heard = started
        self._held: list[Item] = []
        self._is_over = False  # the body has ended
        self._saw_done = False

    async def begin(self) -> None:
        """Hold back what comes until the first real chunk, so that every failure up to it can still be a status."""
        until, raw = self._started + self._timeouts.first_token, b""
        while True:
            try:
                piece = await self._read(until - self._now())
            except TimeoutError as error:
                raise Silent(f"The provider sent no token within {self._timeouts.first_token:g} s.") from error
            items = self._decode(piece)
            self._held += items
            for item in items:
                if isinstance(item, UpstreamError):
                    raise item
                if isinstance(item, Chunk) and is_real(item):
                    return
            raw += piece
            if self._is_over or len(raw) > MAX_HELD_BYTES or Done() in items:
                raise self._why_no_answer(raw)

    async def batches(self, until: float = math.inf) -> AsyncIterator[list[Chunk]]:
        """Chunks as soon as they are whole; an empty list when the caller should hear that we are alive.

        Ends when the answer is finished; raises UpstreamError when it broke off or at `until`, of the loop's clock.
        """
        items, self._held = self._held, []
        spoke = self._now()
        while True:
            chunks, failure = self._take(items)
            if chunks or self._now() - spoke >= self._keep_alive_s:
                yield chunks
                spoke = self._now()
            if failure is not None:
                raise failure
            if self._saw_done or self._is_over:
                break
            items = await self._next_items(spoke + self._keep_alive_s, until)
        if not self.progress.is_finished(done=self._saw_done):
            raise Transient("The provider's stream broke off before the answer was finished.")

    async def aclose(self) -> None:
        if self._saw_done:
            until = self._now() + DRAIN_S
            with contextlib.suppress(UpstreamError, TimeoutError):
                while not self._is_over and (left_s := until - self._now()) > 0:
                    await self._read(left_s)
        await self._response.aclose()

    def _why_no_answer(self, raw: bytes) -> UpstreamError:
        """Asked for a stream, some say in plain JSON, with status 200, why there is none."""
        failure = self._dialect.completion(raw, self._chat, self._stamp)
        if isinstance(failure, UpstreamError) and not isinstance(failure, Transient):
            return failure
        return Transient("The provider's stream ended before an answer began.")

    def _take(self, items: list[Item]) -> tuple[list[Chunk], UpstreamError | None]:
        """The chunks up to the end of the answer or to what went wrong."""
        chunks: list[Chunk] = []
        for item in items:
            if isinstance(item, UpstreamError):
                return chunks, item
            if isinstance(item, Done):
                self._saw_done = True
                break
            self.progress.note(item)
            if not (item.is_unasked or (self._hides_usage and is_usage(item))):
                chunks.append(item)
        return chunks, None

    async def _next_items(self, speak_at: float, until: float) -> list[Item]:
        """What comes next; nothing when it is time to speak. An answer that had finished survives a rough end."""
        idle_at, total_at = self._heard + self._timeouts.idle, self._started + self._timeouts.total
        try:
            return self._decode(await self._read(min(speak_at, idle_at, total_at, until) - self._now()))
        except TimeoutError as error:
            if min(idle_at, total_at, until) > self._now():
                return []
            failure: UpstreamError = Silent("The provider fell silent in the middle of its answer.")
            if until <= self._now():
                failure = OutOfTime("The gateway's time for one request ran out in the middle of the answer.")
            failure.__cause__ = error
        except UpstreamError as error:
            failure = error
        self._is_over = True
        return [] if self.progress.is_finished(done=False) else [failure]

    async def _read(self, timeout_s: float) -> bytes:
        try:
            piece = await self._response.read(max(0.0, timeout_s))
        except ConnectionLost as error:
            raise Transient(f"The provider failed: {error}.") from error
        self._heard = self._now()
        self._is_over = not piece
        return piece

    def _decode(self, piece: bytes) -> list[Item]:
        return self._decoder.feed(piece) if piece else self._decoder.close()


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
