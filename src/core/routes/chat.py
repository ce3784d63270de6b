"""`POST /v1/chat/completions`."""

import math

from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from ..answers import EventStream
from ..gateway import Gateway
from .openapi import CHAT

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the stream
]
_SAID = {"true": True, "false": False}


def chat_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    async def chat(request: Request) -> Response:
        scope = request.scope
        answer = await gateway.chat(
            await request.body(),
            scope["sluice.caller"],
            scope["sluice.record"],
            until=scope.get("sluice.deadline", math.inf),
            recovers=_SAID.get(request.headers.get("x-sluice-recover", "").lower()),
        )
        if isinstance(answer, EventStream):
            return EventStreamResponse(answer)
        return Response(answer.body, headers=answer.headers, media_type="application/json")

    for path, shown in (("/v1/chat/completions", True), ("/chat/completions", False)):
        router.add_api_route(
            path, chat, methods=["POST"], openapi_extra=CHAT, include_in_schema=shown, response_model=None
        )
    return router


class EventStreamResponse(Response):
    """Sends events as they come and closes their source whatever happens, so that no upstream outlives its client."""

    def __init__(self, stream: EventStream) -> None:
        self.status_code = 200
        self.background = None
        self._stream = stream
        own = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in stream.headers.items()]
        self.raw_headers = [*_STREAM_HEADERS, *own]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._stream.events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._stream.events.aclose()
            await self._stream.close()
