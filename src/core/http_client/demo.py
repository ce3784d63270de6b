"""The `demo` provider's other side: answers at a human pace, fails when told to, and needs no network.

It stands behind the same port as a real connection, so a rehearsed failure takes the very path that a real one would.
What to play is in the address: `demo://local/v1/chat/completions?status=503&every=3`.
"""

import asyncio
import base64
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from ..frozen import frozen
from .painting import paint
from .port import ConnectionLost, HttpRequest

DRAWN_SIZE = "512x512"
MOST_DRAWN = 4


@frozen
class Script:
    """What to play. Times in milliseconds; `every` n: only each n-th request fails; 0 words before a cut: no cut."""

    reply: str = ""
    first_token_ms: int = 300
    token_ms: int = 40
    status: int = 200
    retry_after_seconds: int = 0
    cut_after: int = 0
    stall_after: int = 0
    every: int = 1

    @classmethod
    def read(cls, url: str) -> "Script":
        options: dict[str, Any] = dict(parse_qsl(urlsplit(url).query))
        reply = options.pop("reply", "")
        return cls(reply=reply, **{name: int(value) for name, value in options.items()})

    def without_failure(self) -> "Script":
        return Script(reply=self.reply, first_token_ms=self.first_token_ms, token_ms=self.token_ms)


class DemoClient:
    def __init__(self) -> None:
        self._asked: dict[str, Iterator[int]] = {}

    async def send(self, request: HttpRequest, *, connect_s: float, headers_s: float) -> "DemoResponse":  # noqa: ARG002
        script, body = Script.read(request.url), orjson.loads(request.body)
        number = next(self._asked.setdefault(request.url, itertools.count(1)))
        if number % script.every:
            script = script.without_failure()
        if script.status != 200:
            message = f"The demo provider was told to answer {script.status}."
            return _failure(script.status, message, script.retry_after_seconds)
        is_drawing = urlsplit(request.url).path.endswith("/images/generations")
        if fault := _fault_in_drawing(body) if is_drawing else _fault_in(body):
            return _failure(400, fault)
        if body.get("stream"):
            return DemoResponse(200, {"content-type": "text/event-stream"}, _Reply(script, body).events())
        async with asyncio.timeout(headers_s):
            await asyncio.sleep(script.first_token_ms / 1000)
        whole = _painted(body) if is_drawing else _Reply(script, body).whole()
        return DemoResponse(200, {"content-type": "application/json"}, whole)

    async def aclose(self) -> None:
        self._asked.clear()


class DemoResponse:
    def __init__(self, status: int, headers: Mapping[str, str], pieces: AsyncIterator[bytes]) -> None:
        self.status, self.headers, self._pieces = status, headers, pieces
        self._pending: asyncio.Task[bytes] | None = None

    async def read(self, timeout_s: float) -> bytes:
        self._pending = self._pending or asyncio.create_task(self._next())
        done, _ = await asyncio.wait({self._pending}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        finished, self._pending = self._pending, None
        return finished.result()

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)

    async def _next(self) -> bytes:
        return await anext(self._pieces, b"")


def _failure(status: int, message: str, retry_after_s: int = 0) -> DemoResponse:
    body = orjson.dumps({"error": {"message": message, "type": "demo", "param": None, "code": None}})
    headers = {"content-type": "application/json"}
    if retry_after_s:
        headers["retry-after"] = str(retry_after_s)
    return DemoResponse(status, headers, _once(body))


def _fault_in(body: dict[str, Any]) -> str:
    """What a real provider would refuse of the few fields that are played with."""
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if limit is not None and (type(limit) is not int or limit < 1):
            return f"`{name}` must be a whole number above 0."
    if not isinstance(body.get("stream_options"), dict | None):
        return "`stream_options` must be an object."
    return ""


def _fault_in_drawing(body: dict[str, Any]) -> str:
    if not all(16 <= side <= 2048 for side in _sides(body)):
        return "`size` must be auto, or width x height of 16 to 2048 each."
    if (body.get("n") or 1) > MOST_DRAWN:
        return f"`n` must be at most {MOST_DRAWN}."
    return ""


def _sides(body: dict[str, Any]) -> tuple[int, int]:
    """Of what is no size at all, 0."""
    asked = str(body.get("size") or "auto")
    width, _, height = (DRAWN_SIZE if asked == "auto" else asked).partition("x")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


async def _painted(body: dict[str, Any]) -> AsyncIterator[bytes]:
    pictures = [paint(f"{body['prompt']}{number or ''}", *_sides(body)) for number in range(body.get("n") or 1)]
    data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
    yield orjson.dumps({"created": int(time.time()), "data": data})


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


class _Reply:
    """One answer, word by word. A word counts as a token."""

    def __init__(self, script: Script, body: dict[str, Any]) -> None:
        self.script = script
        question = _last_words(body["messages"])
        text = script.reply or f"This is the demo model, answering without a network. You wrote: {question}"
        words = text.split(" ")
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(words)
        self.words = [word if n == 0 else f" {word}" for n, word in enumerate(words[:limit])]
        self.finish = "stop" if len(self.words) == len(words) else "length"
        asked = len(orjson.dumps(body["messages"])) // 4
        said = len(self.words)
        self.usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        self.wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        now = time.time()
        self.frame = {"id": f"chatcmpl-demo-{now:.0f}", "created": int(now), "model": body["model"]}

    async def events(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.script.first_token_ms / 1000)
        yield self._event({"role": "assistant", "content": ""})
        for said, word in enumerate(self.words, start=1):
            if said > 1:
                await asyncio.sleep(self.script.token_ms / 1000)
            yield self._event({"content": word})
            if said == self.script.cut_after:
                raise ConnectionLost("the demo provider was told to cut the stream")
            if said == self.script.stall_after:
                await asyncio.Event().wait()
        yield self._event({}, self.finish)
        if self.wants_usage:
            yield self._data({"choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    async def whole(self) -> AsyncIterator[bytes]:
        message = {"role": "assistant", "content": "".join(self.words), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        body = {"object": "chat.completion", **self.frame, "choices": [choice], "usage": self.usage}
        yield orjson.dumps(body)

    def _event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._data({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

    def _data(self, body: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps({"object": "chat.completion.chunk", **self.frame, **body}) + b"\n\n"


def _last_words(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        content = message.get("content")
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        if isinstance(content, str) and message.get("role") == "user":
            return content
    return "(nothing)"
