"""`POST /v1/chat/completions`."""

import math
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from ..answers import Answer, EventStream
from ..gateway import Gateway
from .openapi import CHAT
from .straight import StraightRoute, send_whole

_JSON = (b"content-type", b"application/json")
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the stream
]
_SAID = {b"true": True, b"false": False}


def chat_routes(gateway: Gateway) -> list[StraightRoute]:
    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await gateway.chat(
            await _body(receive),
            scope["sluice.caller"],
            scope["sluice.record"],
            until=scope.get("sluice.deadline", math.inf),
            recovers=_recovers(scope),
        )
        await (_send_stream(answer, send) if isinstance(answer, EventStream) else _send_answer(answer, send))

    documented = {"name": "chat", "openapi_extra": CHAT}
    return [
        StraightRoute("POST", "/v1/chat/completions", chat, documented),
        StraightRoute("POST", "/chat/completions", chat, {**documented, "include_in_schema": False}),
    ]


async def _send_answer(answer: Answer, send: Send) -> None:
    await send_whole(send, answer.body, [_JSON, *_encoded(answer.headers)])


async def _send_stream(stream: EventStream, send: Send) -> None:
    """Sends events as they come and closes their source whatever happens, so that no upstream outlives its client."""
    headers = [*_STREAM_HEADERS, *_encoded(stream.headers)]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in stream.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await stream.events.aclose()
        await stream.close()


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
    for name, value in scope["headers"]:
        if name == b"x-sluice-recover":
            return _SAID.get(value.lower())
    return None


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
