"""Cloudflare's own `/ai/run`, for models that its OpenAI form at `/ai/v1` does not have.

https://developers.cloudflare.com/workers-ai/get-started/rest-api/ and the source of cloudflare/ai, November 2026
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..chat import Chat
from ..errors import UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from ..stream import Chunk, Decoder, Item
from .answering import MessageWriter, StreamWriter, completion_of
from .conversation import Message, messages_of, only_text
from .dialect import Completion, Endpoint, Outgoing, Stamp
from .exchange import EventDecoder, bearer, headers_of, read_answer
from .failures import error_inside, report_of
from .openai import OpenAIDialect
from .parameters import dropped, format_of, most_tokens_of
from .quirks import Notes
from .rows import CLOUDFLARE, CLOUDFLARE_OPENAI
from .tools import choice_of, offered_tools

Json = dict[str, Any]
MOST_TOKENS = 256  # where the request does not say
_SAME = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "repetition_penalty")
_TAKEN = frozenset({*_SAME, "max_completion_tokens", "max_tokens", "response_format"})


@frozen
class RunDialect:
    """`openai`: newer models answer in OpenAI's form here, too, with the quirks that it has at `/ai/v1`."""

    openai: OpenAIDialect

    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        left_out = dropped(chat.body, _TAKEN)
        headers = headers_of(endpoint, bearer(endpoint), is_stream=chat.stream)
        body = {**request_body(chat.body), "stream": chat.stream}
        return Outgoing(HttpRequest(_address(endpoint), headers, orjson.dumps(body)), left_out)

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        writer = StreamWriter.of(stamp, wants_usage=chat.wants_usage)
        return RunDecoder(RunTranslation(writer, self.openai, _most_tokens(chat)))

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:
        return read_answer(
            raw,
            lambda body: self._completion(body["result"], chat, stamp),
            lambda body: self.openai.judge(report_of(body)),
        )

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return self.openai.failure(status, headers, raw, now=now)

    def _completion(self, result: Json, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:
        if "choices" in result:
            head = {"id": stamp.id, "object": "chat.completion", "created": stamp.created, "model": stamp.model}
            return self.openai.completion(orjson.dumps({**head, **result}), chat, stamp)
        writer, used = MessageWriter(), result.get("usage")
        writer.text = spoken(result["response"])
        for number, call in enumerate(result.get("tool_calls") or (), 1):
            called = call.get("function") or call
            writer.call(call_id(call, stamp.id, number), called["name"], arguments(called))
        finish = "length" if is_used_up(used, _most_tokens(chat)) else "stop"
        return completion_of(stamp, [writer.choice(finish)], used)


def _address(endpoint: Endpoint) -> str:
    """The model stands in it, its slashes as they are."""
    url = endpoint.url.rstrip("/")
    return f"{url}/{endpoint.upstream_model}" if url.endswith("/run") else url


def _most_tokens(chat: Chat) -> int:
    return most_tokens_of(chat.body) or MOST_TOKENS


def request_body(body: Json) -> Json:
    """Without `stream`. Raises ClientFault and Unsupported."""
    wanted: Json = {
        "messages": [_message(message) for message in messages_of(body)],
        **_tools(body),
        **{name: body.get(name) for name in _SAME},
        "max_tokens": most_tokens_of(body),
        "response_format": _format(body),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _message(message: Message) -> Json:
    """Text only, and never null."""
    said: Json = {"role": message.role, "content": only_text(message)}
    if message.calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call in message.calls
        ]
    return {**said, "tool_call_id": message.call_id, "name": message.name} if message.role == "tool" else said


def _tools(body: Json) -> Json:
    tools, choice = offered_tools(body), choice_of(body)
    if not tools:
        return {}
    functions = [{"name": tool.name, "description": tool.description, "parameters": tool.schema} for tool in tools]
    said = [{"type": "function", "function": function} for function in functions]
    return {"tools": said, "tool_choice": choice.mode if choice is not None else None}


def _format(body: Json) -> Json | None:
    """https://developers.cloudflare.com/workers-ai/features/json-mode/"""
    wanted = format_of(body)
    if wanted is None:
        return None
    return {"type": "json_object"} if wanted.schema is None else {"type": "json_schema", "json_schema": wanted.schema}


class RunDecoder(EventDecoder):
    """Nothing in an answer says that it is finished but the `[DONE]` behind it."""

    def __init__(self, translation: "RunTranslation") -> None:
        super().__init__(translation)
        self._run = translation

    def _done(self) -> list[Item]:
        return self._guarded(self._run.finish)


@dataclass(slots=True)
class RunTranslation:
    writer: StreamWriter
    openai: OpenAIDialect
    most_tokens: int
    _notes: Notes = field(default_factory=Notes)
    _usage: Json | None = None
    _calls: int = 0
    _is_bare: bool = False  # the last call has no arguments so far
    _has_begun: bool = False

    def take(self, body: Json, event: str) -> Iterator[Item]:  # noqa: ARG002 - they have no names
        if (error := error_inside(body)) is not None:
            yield self.openai.judge(report_of(error))
        elif "choices" in body:
            self.openai.mend(body, self._notes)
            yield Chunk({**self.writer.head(), **body})
        else:
            yield from self._native(body)

    def _native(self, body: Json) -> Iterator[Item]:
        self._has_begun = self._has_begun or "response" in body or "tool_calls" in body
        if text := spoken(body.get("response")):
            yield self.writer.text(text)
        for call in body.get("tool_calls") or ():
            yield from self._call(call)
        self._usage = body.get("usage") or self._usage

    def _call(self, call: Json) -> Iterator[Item]:
        """Whole, or piece by piece; the last piece is empty."""
        called = call.get("function") or call
        said = arguments(called) if called.get("arguments") or called is call else ""
        if called.get("name"):
            yield from self._whole_call()
            self._calls, self._is_bare = self._calls + 1, not said
            yield self.writer.call(call_id(call, self.writer.id, self._calls), called["name"], said)
        elif called.get("arguments"):
            self._is_bare = False
            yield self.writer.more_arguments(said)

    def _whole_call(self) -> Iterator[Item]:
        if self._is_bare:
            self._is_bare = False
            yield self.writer.more_arguments("{}")

    def finish(self) -> Iterator[Item]:
        yield from self._whole_call()
        if self._has_begun:
            yield from self.writer.finish("length" if is_used_up(self._usage, self.most_tokens) else "stop")
        used, self._usage = self._usage, None
        if used:
            yield self.writer.usage(used)

    def end(self) -> Iterator[Item]:
        yield from ()


def spoken(response: Any) -> str:
    """A number where the text happens to be one, and an object where one was asked for."""
    if response is None or isinstance(response, str):
        return response or ""
    return orjson.dumps(response).decode()


def arguments(called: Json) -> str:
    said = called.get("arguments")
    return said if isinstance(said, str) else orjson.dumps(said or {}).decode()


def call_id(call: Json, answer_id: str, number: int) -> str:
    """Older models give calls no ids."""
    return call.get("id") or f"call_{answer_id[-12:]}_{number}"


def is_used_up(usage: Json | None, most_tokens: int) -> bool:
    """Whether the answer is as long as it may be: that it was cut is not said otherwise."""
    return usage is not None and int(usage.get("completion_tokens") or 0) >= most_tokens


CLOUDFLARE_RUN = replace(
    CLOUDFLARE,
    name="cloudflare-run",
    dialect=RunDialect(CLOUDFLARE_OPENAI),
    base_url="https://api.cloudflare.com/client/v4/accounts/{account_id}/ai/run",
    chat_path="",
)
