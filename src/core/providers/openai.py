"""OpenAI's own dialect, which most providers speak: bodies and events pass through as they came.

https://platform.openai.com/docs/api-reference/chat
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..chat import Chat
from ..errors import Transient, UpstreamError
from ..http_client.port import HttpRequest
from ..retry_after import retry_after
from ..sse import Event, EventTooLarge, Reader
from ..stream import Chunk, Done, Item
from .dialect import Completion, Endpoint, Provider
from .failures import classify, report_of


class OpenAIDialect:
    def request(self, endpoint: Endpoint, chat: Chat) -> HttpRequest:
        body = {**chat.body, "model": endpoint.upstream_model}
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if chat.stream else "application/json",
            "accept-encoding": "identity",  # a compressed stream comes in lumps
            "user-agent": "sluice",
            **endpoint.headers,
        }
        if endpoint.token:
            headers["authorization"] = f"Bearer {endpoint.token}"
        return HttpRequest(endpoint.url, headers, orjson.dumps(body))

    def decoder(self) -> "OpenAIDecoder":
        return OpenAIDecoder()

    def completion(self, raw: bytes) -> Completion | UpstreamError:
        raw = raw.strip()  # blank lines keep a slow buffered answer alive (DeepSeek)
        body = _object(raw)
        if body is None:
            return Transient("The provider's answer is not a JSON object.")
        if not isinstance(body.get("choices"), list) or not body["choices"]:
            return _error_in(body) or Transient("The provider's answer holds no choices.")
        return _error_in(body) or Completion(body, raw)

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        body = _object(raw) or {}  # a proxy on the way answers in HTML
        error = body.get("error") or body
        return classify(report_of(error, status=status, retry_after_s=retry_after(headers, now)))


class OpenAIDecoder:
    def __init__(self) -> None:
        self._reader = Reader()

    def feed(self, piece: bytes) -> list[Item]:
        try:
            return [read_event(event) for event in self._reader.feed(piece)]
        except EventTooLarge:
            return [Transient("The provider sent an event without end.")]

    def close(self) -> list[Item]:
        return [read_event(event) for event in self._reader.close()]


def read_event(event: Event) -> Item:
    if event.data.strip() == b"[DONE]":
        return Done()
    body = _object(event.data)
    if body is None:
        return Transient("The provider sent an event that is not JSON.")
    if event.name == "error":
        return classify(report_of(body.get("error") or body))
    return _error_in(body) or Chunk(body, event.data)


def _error_in(body: dict[str, Any]) -> UpstreamError | None:
    """A failure inside a 200: an `error` of any form, or a choice that ended with `error` (OpenRouter)."""
    error = body.get("error")
    if error not in (None, "", False):
        return classify(report_of(error))
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") == "error":
            return classify(report_of(choice.get("error")))
    return None


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


OPENAI = Provider(name="openai", dialect=OpenAIDialect(), base_url="https://api.openai.com/v1")
