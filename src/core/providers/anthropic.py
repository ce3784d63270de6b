"""Anthropic's Messages API: a chat in its words. What it answers is read in `anthropic_answers.py`.

https://platform.claude.com/docs/en/api/messages
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import orjson

from ..chat import Chat
from ..errors import UpstreamError
from ..http_client.port import HttpRequest
from ..stream import Decoder
from .anthropic_answers import AnthropicTranslation, completion, failure
from .claude import call_id, closed, effort, fitting, thinking, turns_of, without_blank
from .conversation import (
    Address,
    Inline,
    Message,
    Part,
    Text,
    ToolCall,
    cannot_take,
    cannot_take_part,
    kept,
    messages_of,
    system_apart,
)
from .dialect import Completion, Endpoint, Outgoing, Provider, Stamp
from .exchange import EventDecoder, headers_of
from .limit_headers import LimitHeaders
from .parameters import dropped, format_of, most_tokens_of, stops_of
from .tools import Tool, choice_of, offered_tools

Json = dict[str, Any]
VERSION = "2023-06-01"
MOST_TOKENS = 8192  # it must be told a number; every model on sale takes this one
_PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TAKEN = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "stop",
        "temperature",
        "thinking",
        "top_k",
        "top_p",
        "user",
    }
)


class AnthropicDialect:
    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        asked, left_out = fitting(chat.body, endpoint.upstream_model)
        left_out += dropped(asked, _TAKEN)
        headers = headers_of(endpoint, {"x-api-key": endpoint.token}, is_stream=chat.stream)
        headers.setdefault("anthropic-version", VERSION)
        body = {"model": endpoint.upstream_model, **request_body(asked, endpoint.upstream_model)}
        if chat.stream:
            body["stream"] = True
        return Outgoing(HttpRequest(endpoint.url, headers, orjson.dumps(body)), left_out)

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        return EventDecoder(AnthropicTranslation.of(stamp, wants_usage=chat.wants_usage))

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:  # noqa: ARG002
        return completion(raw, stamp)

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return failure(status, headers, raw, now=now)


def request_body(body: Json, model: str) -> Json:
    """Without `model` and `stream`. Raises ClientFault and Unsupported."""
    system, messages = system_apart(messages_of(body))
    thoughts = thinking(body, model)
    wanted: Json = {
        "max_tokens": most_tokens_of(body) or MOST_TOKENS + thoughts.get("budget_tokens", 0),
        "messages": turns(messages),
        "system": [{"type": "text", "text": text} for text in system],
        **_tools(body),
        "stop_sequences": _stops(body),
        "temperature": _temperature(body),
        "top_p": body.get("top_p"),
        "top_k": body.get("top_k"),
        "metadata": {"user_id": body["user"]} if isinstance(body.get("user"), str) else None,
        "thinking": thoughts,
        "output_config": _output(body, thoughts),
    }
    return {name: value for name, value in wanted.items() if value not in (None, [], {})}


def turns(messages: list[Message]) -> list[Json]:
    found = turns_of(messages, _blocks)
    last = found[-1] if found else None
    if last and last["role"] == "assistant" and last["content"][-1]["type"] == "text":
        last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()  # it refuses to go on after white space
    return found


def _blocks(message: Message) -> list[Json]:
    if message.role == "tool":
        content = [_block(part) for part in without_blank(message.parts)]
        return [{"type": "tool_result", "tool_use_id": call_id(message.call_id), "content": content}]
    blocks = [_block(part) for part in without_blank(message.parts)]
    calls = [block for call in message.calls for block in _call(call)]
    return [*(kept(message.extra, "anthropic", "thinking", list) or ()), *blocks, *calls]


def _call(call: ToolCall) -> list[Json]:
    """The thoughts that led to a call must come back before it, signed as they were."""
    thoughts: list[Json] = kept(call.extra, "anthropic", "thinking", list) or []
    return [*thoughts, {"type": "tool_use", "id": call_id(call.id), "name": call.name, "input": call.values}]


def _block(part: Part) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Address):
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    if part.kind == "image" and part.media_type in _PICTURES:
        return {"type": "image", "source": source}
    if part.kind == "file":
        return _document(part, source)
    raise cannot_take_part(part)


def _document(part: Inline, source: Json) -> Json:
    if part.media_type == "text/plain":
        text = b64decode(part.data).decode("utf-8", "replace")
        source = {"type": "text", "media_type": "text/plain", "data": text}
    elif part.media_type != "application/pdf":
        raise cannot_take_part(part)
    return {"type": "document", "source": source, **({"title": part.name} if part.name else {})}


def _tools(body: Json) -> Json:
    tools, choice = offered_tools(body), choice_of(body)
    if not tools:
        return {}
    said: Json = {"type": "auto"}
    if choice is not None and choice.mode == "none":
        said = {"type": "none"}
    elif choice is not None and choice.mode == "required":
        said = {"type": "tool", "name": tools[0].name} if len(choice.names) == 1 else {"type": "any"}
    if body.get("parallel_tool_calls") is False and said["type"] != "none":
        said["disable_parallel_tool_use"] = True
    return {"tools": [_tool(tool) for tool in tools], "tool_choice": said if said != {"type": "auto"} else None}


def _tool(tool: Tool) -> Json:
    found: Json = {"name": tool.name, "input_schema": tool.schema}
    if tool.description:
        found["description"] = tool.description
    return {**found, "strict": True} if tool.strict else found


def _stops(body: Json) -> list[str]:
    stops = stops_of(body)
    if not all(stop.strip() for stop in stops):
        raise cannot_take("stop", "white space to stop at")  # (m)
    return stops


def _temperature(body: Json) -> float | None:
    """Its scale ends at 1, OpenAI's at 2."""
    value = body.get("temperature")
    return min(value, 1) if isinstance(value, int | float) else None


def _output(body: Json, thoughts: Json) -> Json:
    """https://platform.claude.com/docs/en/build-with-claude/structured-outputs"""
    output: Json = {}
    if said := effort(body, thoughts):
        output["effort"] = said
    if (wanted := format_of(body)) is not None:
        if wanted.schema is None:
            raise cannot_take("response_format", "JSON mode without a schema; use a json_schema")
        output["format"] = {"type": "json_schema", "schema": closed(wanted.schema)}
    return output


def _limit(what: str) -> tuple[str, str, str]:
    limit, remaining, reset = (f"anthropic-ratelimit-{what}-{part}" for part in ("limit", "remaining", "reset"))
    return limit, remaining, reset


ANTHROPIC = Provider(
    name="anthropic",
    dialect=AnthropicDialect(),
    base_url="https://api.anthropic.com/v1",
    chat_path="/messages",
    limit_headers=(
        LimitHeaders("requests", "minute", *_limit("requests")),
        LimitHeaders("tokens", "minute", *_limit("tokens")),
    ),
)
