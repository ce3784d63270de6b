"""Cohere's chat, version 2: a chat in its words, and what it answers in OpenAI's.

https://docs.cohere.com/reference/chat and https://docs.cohere.com/reference/chat-stream
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ..chat import Chat
from ..embedding import Embedding
from ..errors import Transient, UpstreamError
from ..http_client.port import HttpRequest
from ..stream import Decoder, Item
from .answering import MessageWriter, StreamWriter, completion_of, token_of, usage_of
from .conversation import (
    Address,
    Inline,
    Message,
    Part,
    Text,
    ToolCall,
    cannot_take,
    cannot_take_part,
    messages_of,
    only_text,
)
from .dialect import Completion, Endpoint, Outgoing, Provider, Stamp
from .exchange import EventDecoder, bearer, broken, headers_of, judge_body, read_answer, read_json, read_report
from .failures import classify
from .limit_headers import LimitHeaders
from .parameters import dropped, effort_of, format_of, most_tokens_of, stops_of
from .tools import Tool, choice_of, offered_tools

Json = dict[str, Any]
FINISHES = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "TOOL_CALL": "tool_calls", "MAX_TOKENS": "length"}
_BUDGETS = {"minimal": 512, "low": 1024, "medium": 4096}  # tokens to think with; above that it is free
_SAME = (
    "temperature",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "documents",
    "citation_options",
    "safety_mode",
)
_TAKEN = frozenset(
    {*_SAME, "max_completion_tokens", "max_tokens", "reasoning_effort", "response_format", "stop", "top_k", "top_p"}
)


class CohereDialect:
    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        left_out = dropped(chat.body, _TAKEN)
        body = {"model": endpoint.upstream_model, "stream": chat.stream, **request_body(chat.body)}
        headers = headers_of(endpoint, bearer(endpoint), is_stream=chat.stream)
        return Outgoing(HttpRequest(endpoint.url, headers, orjson.dumps(body)), left_out)

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        return EventDecoder(CohereTranslation(StreamWriter.of(stamp, wants_usage=chat.wants_usage)))

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:  # noqa: ARG002
        return read_answer(raw, lambda body: _completion(body, stamp))

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return classify(read_report(status, headers, raw, now=now))

    def embedding_request(self, endpoint: Endpoint, embedding: Embedding) -> HttpRequest:
        """`input_type` may be said in its own words; else texts are taken for documents."""
        body, texts = embedding.body, embedding.body["input"]
        texts = [texts] if isinstance(texts, str) else texts
        if not all(isinstance(text, str) for text in texts):
            raise cannot_take("input", "tokens in place of text")
        asked: Json = {
            "model": endpoint.upstream_model,
            "texts": texts,
            "input_type": body.get("input_type") or "search_document",
            "embedding_types": ["base64" if body.get("encoding_format") == "base64" else "float"],
        }
        if body.get("dimensions"):
            asked["output_dimension"] = body["dimensions"]
        headers = headers_of(endpoint, bearer(endpoint), is_stream=False)
        return HttpRequest(endpoint.url, headers, orjson.dumps(asked))

    def embedding(self, raw: bytes) -> Completion | UpstreamError:
        body = read_json(raw)
        found = body.get("embeddings") if isinstance(body, dict) else None
        vectors = (found.get("float") or found.get("base64")) if isinstance(found, dict) else None
        if not isinstance(vectors, list) or not vectors:
            return Transient("The provider's answer holds no embeddings.")
        units = (body.get("meta") or {}).get("billed_units") or {}
        tokens = int(units.get("input_tokens") or 0)
        answer = {
            "object": "list",
            "data": [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)],
            "model": "",
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Completion(answer, orjson.dumps(answer))


def request_body(body: Json) -> Json:
    """Without `model` and `stream`. Raises ClientFault and Unsupported."""
    wanted: Json = {
        "messages": [_message(message) for message in messages_of(body)],
        **_tools(body),
        **{name: body.get(name) for name in _SAME},
        "max_tokens": most_tokens_of(body),
        "stop_sequences": stops_of(body) or None,
        "p": body.get("top_p"),
        "k": body.get("top_k"),
        "response_format": _format(body),
        "thinking": _thinking(body),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _message(message: Message) -> Json:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": only_text(message)}
    is_text = all(isinstance(part, Text) for part in message.parts)
    content: Any = message.text if is_text else [_part(part) for part in message.parts]
    if not message.calls:
        return {"role": message.role, "content": content}
    said: Json = {"role": "assistant", "tool_calls": [_call(call) for call in message.calls]}
    plan = message.text or message.reasoning  # it gives a plan beside calls, never an answer
    return {**said, "tool_plan": plan} if plan else said


def _call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}


def _part(part: Part) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Address):
        return {"type": "image_url", "image_url": {"url": part.url, **({"detail": part.detail} if part.detail else {})}}
    return {"type": "image_url", "image_url": {"url": _data_url(part)}}


def _data_url(part: Inline) -> str:
    if part.kind != "image":
        raise cannot_take_part(part)
    return f"data:{part.media_type};base64,{part.data}"


def _tools(body: Json) -> Json:
    tools, choice = offered_tools(body), choice_of(body)
    if not tools:
        return {}
    found: Json = {"tools": [_tool(tool) for tool in tools]}
    if all(tool.strict for tool in tools):
        found["strict_tools"] = True
    if choice is not None and choice.mode != "auto":
        found["tool_choice"] = "NONE" if choice.mode == "none" else "REQUIRED"
    return found


def _tool(tool: Tool) -> Json:
    said = {"name": tool.name, "description": tool.description, "parameters": tool.schema}
    return {"type": "function", "function": said}


def _format(body: Json) -> Json | None:
    """https://docs.cohere.com/docs/structured-outputs"""
    wanted = format_of(body)
    if wanted is None:
        return None
    return {"type": "json_object", **({"schema": wanted.schema} if wanted.schema else {})}


def _thinking(body: Json) -> Json | None:
    """https://docs.cohere.com/docs/reasoning"""
    effort = effort_of(body)
    if effort is None:
        return None
    if effort == "none":
        return {"type": "disabled"}
    return {"type": "enabled", **({"token_budget": _BUDGETS[effort]} if effort in _BUDGETS else {})}


@dataclass(slots=True)
class CohereTranslation:
    writer: StreamWriter
    _arguments: str = ""

    def take(self, body: Json, event: str) -> Iterator[Item]:
        kind, delta = body.get("type", event), body.get("delta") or {}
        message = delta.get("message") or {}
        if body.get("error") or body.get("message"):  # an error, as one with a status looks
            yield judge_body(body)
        elif kind == "message-start":
            self.writer.id = body.get("id") or self.writer.id
        elif kind in ("content-start", "content-delta"):
            yield from self._content(message.get("content") or {}, body.get("logprobs"))
        elif kind == "tool-plan-delta":
            yield self.writer.reasoning(message["tool_plan"])
        elif kind == "tool-call-start":
            call = message["tool_calls"]
            self._arguments = call["function"].get("arguments") or ""
            yield self.writer.call(call["id"], call["function"]["name"], self._arguments)
        elif kind == "tool-call-delta":
            more = message["tool_calls"]["function"].get("arguments") or ""
            self._arguments += more
            yield self.writer.more_arguments(more)
        elif kind == "tool-call-end" and not self._arguments:
            yield self.writer.more_arguments("{}")
        elif kind == "citation-start":
            yield self.writer.delta({"citations": [message["citations"]]})
        elif kind == "message-end":
            yield from self._ended(delta)

    def _content(self, content: Json, rated: Json | None) -> Iterator[Item]:
        if rated:
            self.writer.rate([_token(rated)])
        if content.get("thinking"):
            yield self.writer.reasoning(content["thinking"])
        if content.get("text"):
            yield self.writer.text(content["text"])

    def _ended(self, delta: Json) -> Iterator[Item]:
        reason = delta.get("finish_reason")
        if reason not in FINISHES:
            yield broken(reason)
            return
        yield from self.writer.finish(FINISHES[reason])
        if used := usage(delta.get("usage")):
            yield self.writer.usage(used)

    def end(self) -> Iterator[Item]:
        yield from ()


def _completion(body: Json, stamp: Stamp) -> Completion | UpstreamError:
    reason = body.get("finish_reason")
    if isinstance(body.get("message"), str):  # an error, as one with a status looks
        return judge_body(body)
    if reason not in FINISHES:
        return broken(reason)
    said, writer = body["message"], MessageWriter(tokens=[_token(one) for one in body.get("logprobs") or ()])
    writer.reasoning = said.get("tool_plan") or ""
    for part in said.get("content") or ():
        writer.text += part.get("text") or ""
        writer.reasoning += part.get("thinking") or ""
    for call in said.get("tool_calls") or ():
        writer.call(call["id"], call["function"]["name"], call["function"].get("arguments") or "{}")
    if said.get("citations"):
        writer.extra["citations"] = said["citations"]
    return completion_of(stamp, [writer.choice(FINISHES[reason])], usage(body.get("usage")), id=body.get("id") or "")


def _token(said: Json) -> Json:
    """A piece of text, mostly one token; of several it says only how likely each was, and so all of them are."""
    return token_of(said.get("text") or "", sum(said.get("logprobs") or ()))


def usage(said: Json | None) -> Json | None:
    """What went through the model; what is charged for, `billed_units`, where only that is told."""
    said = said or {}
    for kind in ("tokens", "billed_units"):
        counted = said.get(kind) or {}
        if counted.get("input_tokens") is not None:
            prompt, answer = int(counted["input_tokens"]), int(counted.get("output_tokens") or 0)
            cached = said.get("cached_tokens")
            return usage_of(prompt, answer, cached=None if cached is None else int(cached))
    return None


COHERE = Provider(
    name="cohere",
    dialect=CohereDialect(),
    base_url="https://api.cohere.com/v2",
    chat_path="/chat",
    embeddings_path="/embed",
    limit_headers=(  # a trial key's calls a minute
        LimitHeaders("requests", "minute", "x-trial-endpoint-call-limit", "x-trial-endpoint-call-remaining"),
    ),
)
