"""The story of one request, top to bottom: what is asked for, who may answer, ask them, pass the answer on, account.

The caller is known already (`front_door.py`); how a provider is spoken to is `upstream.py`'s and the providers' affair.
"""

import math
import re
import string
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import orjson

from . import routing, sse
from .auth import Caller
from .catalog import Catalog, Model
from .chat import parse_chat
from .embedding import parse_embedding
from .errors import UpstreamError
from .providers.dialect import Endpoint
from .telemetry import Record, holds_secret
from .upstream import ChunkStream, Upstream

_KEY_HEADER = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)  # other headers of ours may be quoted
DEFAULT_RETRY_AFTER_S = 15.0  # a provider that is busy without saying until when


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: JSON."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class EventStream:
    """An answer that has begun. `events` yields bytes for the wire; whoever sends them calls `close` in the end."""

    events: AsyncGenerator[bytes]
    close: Callable[[], Awaitable[None]]
    headers: dict[str, str]


class Gateway:
    def __init__(self, catalog: Catalog, upstream: Upstream) -> None:
        self.catalog = catalog
        self._upstream = upstream

    async def chat(self, raw: bytes, caller: Caller, record: Record) -> Answer | EventStream:
        """Answer a chat request. Raises GatewayError as long as nothing has been sent."""
        chat = parse_chat(raw)
        model = routing.candidates(self.catalog, chat.model, caller)[0]
        record.model, record.provider = model.name, model.provider
        record.attempts += 1
        try:
            if chat.stream:
                stream = await self._upstream.open_stream(model, chat)
                record.first_token_s = record.elapsed()
                return _event_stream(stream, model, record)
            answer = await self._upstream.complete(model, chat)
        except UpstreamError as error:
            raise _for_the_caller(error, model, record) from error
        record.note_usage(answer.body.get("usage"))
        return Answer(answer.raw, _headers(model, record))

    async def embed(self, raw: bytes, caller: Caller, record: Record) -> Answer:
        """Answer a request for embeddings. Raises GatewayError."""
        embedding = parse_embedding(raw)
        model = routing.candidates(self.catalog, embedding.model, caller, "embedding")[0]
        record.model, record.provider = model.name, model.provider
        record.attempts += 1
        try:
            answer = await self._upstream.embed(model, embedding)
        except UpstreamError as error:
            raise _for_the_caller(error, model, record) from error
        record.note_usage(answer.body.get("usage"))
        return Answer(answer.raw, _headers(model, record))


def _event_stream(stream: ChunkStream, model: Model, record: Record) -> EventStream:
    async def settle() -> None:
        record.note_usage(stream.progress.usage)
        await stream.aclose()

    return EventStream(_events(stream, model, record), settle, _headers(model, record))


async def _events(stream: ChunkStream, model: Model, record: Record) -> AsyncGenerator[bytes]:
    """Every chunk as soon as it is whole. What breaks off now can only be said in band, and nothing after it."""
    try:
        async for chunks in stream.batches():
            yield b"".join(sse.encode(chunk.encode()) for chunk in chunks) or sse.KEEP_ALIVE
        yield sse.DONE
    except UpstreamError as error:
        told = _for_the_caller(error, model, record)
        record.error = told.code or told.type
        yield sse.encode(orjson.dumps(told.body()))


def _headers(model: Model, record: Record) -> dict[str, str]:
    name = quote(model.name, safe=string.printable)  # a header holds ASCII only; most names are that
    return {"x-sluice-model": name, "x-sluice-attempts": str(record.attempts)}


def _secrets_of(endpoint: Endpoint) -> list[str]:
    keys = [value for name, value in endpoint.headers.items() if _KEY_HEADER.search(name)]
    return [secret for secret in (endpoint.token, *keys) if secret]


def _for_the_caller(error: UpstreamError, model: Model, record: Record) -> UpstreamError:
    """The provider's own words reach the caller only if they quote nothing of ours."""
    words = f"{error.message} {error.param} {error.code}"
    if holds_secret(words, _secrets_of(model.endpoint)):
        error.message = "The provider refused the request; its words quote a key and are left out."
        error.param, error.code = None, type(error).code
    error.headers["x-sluice-attempts"] = str(record.attempts)
    if error.status in (429, 503):
        wait = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        error.headers["retry-after"] = str(max(1, math.ceil(wait)))
    return error
