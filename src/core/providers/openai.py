"""OpenAI's own dialect, which most providers speak: bodies and events pass through as they came.

https://platform.openai.com/docs/api-reference/chat
"""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import orjson

from ..chat import Chat
from ..embedding import Embedding
from ..errors import Transient, UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from ..sse import Event, EventTooLarge, Reader
from ..stream import Chunk, Done, Item
from .dialect import Completion, Endpoint, Outgoing, Stamp
from .exchange import NOT_JSON, bearer, headers_of, last_events, read_json, read_report
from .failures import Report, classify, error_inside, report_of
from .quirks import Mend, MendRequest, Notes

# Whoever stands there is Gemini in OpenAI's form, and wants its signatures back.
_GOOGLES = "https://generativelanguage.googleapis.com/"


@frozen
class OpenAIDialect:
    """`mends` run in order over every chunk and answer; `codes`: error codes of the provider's own -> HTTP status.

    `knows_developer` False: what the developer says is said by the system.
    """

    mends: tuple[Mend, ...] = ()
    mend_request: MendRequest | None = None
    codes: Mapping[str, int] = field(default_factory=dict)
    knows_developer: bool = False

    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        body = {**chat.body, "model": endpoint.upstream_model}
        if not endpoint.url.startswith(_GOOGLES):
            body["messages"] = without_extra(body["messages"])
        if not self.knows_developer:
            body["messages"] = [_by_the_system(message) for message in body["messages"]]
        if self.mend_request is not None:
            body = self.mend_request(body)
        return Outgoing(self.post(endpoint, body, is_stream=chat.stream))

    def decoder(self, chat: Chat, stamp: Stamp) -> "OpenAIDecoder":  # noqa: ARG002 - it has a name of its own
        return OpenAIDecoder(self, Notes(wants_usage=chat.wants_usage))

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:  # noqa: ARG002
        answer = self._answer(raw, "choices")
        if isinstance(answer, UpstreamError) or not self.mends or not self.mend(answer.body, Notes()):
            return answer
        return Completion(answer.body, orjson.dumps(answer.body))

    def embedding_request(self, endpoint: Endpoint, embedding: Embedding) -> HttpRequest:
        return self.post(endpoint, {**embedding.body, "model": endpoint.upstream_model})

    def embedding(self, raw: bytes) -> Completion | UpstreamError:
        return self._answer(raw, "data")

    def address(self, endpoint: Endpoint) -> str:
        return endpoint.url

    def credentials(self, endpoint: Endpoint) -> dict[str, str]:
        """The header that has our key."""
        return bearer(endpoint)

    def post(self, endpoint: Endpoint, body: dict[str, Any], *, is_stream: bool = False) -> HttpRequest:
        headers = headers_of(endpoint, self.credentials(endpoint), is_stream=is_stream)
        return HttpRequest(self.address(endpoint), headers, orjson.dumps(body))

    def _answer(self, raw: bytes, content: str) -> Completion | UpstreamError:
        """A body as it came, if it is JSON, holds no error and something in the list `content`."""
        raw = raw.strip()  # blank lines keep a slow buffered answer alive (DeepSeek)
        body = read_json(raw)
        if not isinstance(body, dict):
            return Transient(NOT_JSON)
        error = error_inside(body)
        if error is not None:
            return self.judge(report_of(error))
        if not isinstance(body.get(content), list) or not body[content]:
            return Transient(f"The provider's answer holds no {content}.")
        return Completion(body, raw)

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return self.judge(read_report(status, headers, raw, now=now))

    def judge(self, report: Report) -> UpstreamError:
        return classify(replace(report, status=self.codes.get(report.code, report.status)))

    def mend(self, body: dict[str, Any], notes: Notes) -> bool:
        is_changed = False
        for mend in self.mends:
            is_changed |= mend(body, notes)
        return is_changed


def without_extra(messages: list[Any]) -> list[Any]:
    """Without what other providers want back of their own words: it is none of this one's, and many refuse it."""
    return [_bare(message) if isinstance(message, dict) else message for message in messages]


def _by_the_system(message: dict[str, Any]) -> dict[str, Any]:
    """Most refuse the newer role, or do not hear it: https://github.com/can1357/oh-my-pi/issues/843."""
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _bare(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if isinstance(calls, list) and any("extra_content" in call for call in calls if isinstance(call, dict)):
        message = {**message, "tool_calls": [_without(call) if isinstance(call, dict) else call for call in calls]}
    return _without(message) if "extra_content" in message else message


def _without(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "extra_content"}


class OpenAIDecoder:
    def __init__(self, dialect: OpenAIDialect, notes: Notes) -> None:
        self._dialect = dialect
        self._notes = notes
        self._reader = Reader()

    def feed(self, piece: bytes) -> list[Item]:
        try:
            return self._items(self._reader.feed(piece))
        except EventTooLarge:
            return [Transient("The provider sent an event without end.")]

    def close(self) -> list[Item]:
        return [*self._items(last_events(self._reader)), *self._held_usage()]

    def _items(self, events: list[Event]) -> list[Item]:
        items: list[Item] = []
        for event in events:
            data = event.data.strip()
            if data == b"[DONE]":
                items += [*self._held_usage(), Done()]
            elif data:  # empty ones keep the connection alive (Cloudflare)
                items.append(self._item(event, data))
        return items

    def _item(self, event: Event, data: bytes) -> Item:
        body = read_json(data)
        if not isinstance(body, dict):
            return Transient("The provider sent an event that is not JSON.")
        error = body if event.name == "error" else error_inside(body)
        if error is not None:
            return self._dialect.judge(report_of(error))
        raw = None if self._dialect.mend(body, self._notes) else data
        return Chunk(body, raw) if body else Chunk({}, is_unasked=True)  # a mend may have taken all of it

    def _held_usage(self) -> list[Item]:
        body, self._notes.usage_chunk = self._notes.usage_chunk, None
        return [Chunk(body, is_unasked=not self._notes.wants_usage)] if body else []
