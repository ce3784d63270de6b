"""`POST /v1/chat/completions`. FastAPI documents it; a request reaches its endpoint straight (`Shortcut`)."""

import functools
import math
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..answers import Answer, EventStream
from ..gateway import Gateway

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the stream
]
_SAID = {b"true": True, b"false": False}
CHAT_PATHS = ("/v1/chat/completions", "/chat/completions")

Endpoint = Callable[[Request], Awaitable[Response]]


def chat_endpoint(gateway: Gateway) -> Endpoint:
    async def chat(request: Request) -> Response:
        scope = request.scope
        answer = await gateway.chat(
            await _body(request.receive),
            scope["sluice.caller"],
            scope["sluice.record"],
            until=scope.get("sluice.deadline", math.inf),
            recovers=_recovers(scope),
        )
        return EventStreamResponse(answer) if isinstance(answer, EventStream) else AnswerResponse(answer)

    return chat


class Shortcut:
    """Chats go straight to their endpoint, all else through FastAPI, which takes two hundred function calls to find it.

    What the endpoint raises is the front door's to answer. FastAPI is a third of what a function loads before it can
    answer, so it is made for the first request that is no chat.
    """

    def __init__(self, chat: Endpoint, make_others: Callable[[], ASGIApp]) -> None:
        self._chat = chat
        self._others = functools.cache(make_others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in CHAT_PATHS and scope["method"] == "POST":
            response = await self._chat(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._others()(scope, receive, send)


class AnswerResponse(Response):
    """JSON as it is: Starlette would look through its headers for what we know is not there."""

    def __init__(self, answer: Answer) -> None:
        self.status_code = 200
        self.background = None
        self.body = answer.body
        length = (b"content-length", b"%d" % len(answer.body))
        self.raw_headers = [(b"content-type", b"application/json"), length, *_encoded(answer.headers)]


class EventStreamResponse(Response):
    """Sends events as they come and closes their source whatever happens, so that no upstream outlives its client."""

    def __init__(self, stream: EventStream) -> None:
        self.status_code = 200
        self.background = None
        self._stream = stream
        self.raw_headers = [*_STREAM_HEADERS, *_encoded(stream.headers)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._stream.events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._stream.events.aclose()
            await self._stream.close()


async def _body(receive: Receive) -> bytes:
    """The front door raises what can be wrong with it."""
    message = await receive()
    pieces = [message.get("body", b"")]
    while message.get("more_body", False):
        message = await receive()
        pieces.append(message.get("body", b""))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _recovers(scope: Scope) -> bool | None:
    """What the client said of it; None: nothing."""
    said = [value for name, value in scope["headers"] if name == b"x-sluice-recover"]
    return _SAID.get(said[0].lower()) if said else None


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
