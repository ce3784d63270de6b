"""Google's generateContent, of Gemini and of Vertex: a chat in its words. What it answers is in `google_answers.py`.

https://ai.google.dev/api/generate-content
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from ..chat import Chat
from ..errors import UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from ..stream import Decoder
from .conversation import (
    Address,
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
from .exchange import EventDecoder, bearer, headers_of, read_json
from .google_answers import GoogleTranslation, completion, failure
from .google_images import GoogleImages
from .openai import OpenAIDialect
from .parameters import dropped, effort_of, format_of, most_tokens_of, stops_of
from .tools import Tool, choice_of, tools_of

Json = dict[str, Any]
# Tokens to think with, for models before Gemini 3: https://ai.google.dev/gemini-api/docs/openai#thinking
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
_LEVELS = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_LEAST_OF_PRO = 128  # the Pro models never do without thinking, nor with a minimal level of it
_WITHOUT_LEVELS = re.compile(r"gemini-[12](\.|-|$)|gemma|learnlm")
# Gemini 3 wants its own calls back signed, and takes this in place of a signature for those that others made:
# https://ai.google.dev/gemini-api/docs/thought-signatures
_NOT_OURS = "skip_thought_signature_validator"
_MODALITIES = {"text": "TEXT", "image": "IMAGE"}
_TAKEN = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)


@frozen
class GoogleDialect:
    """`is_vertex`: calls have no ids there, and the key is a bearer's."""

    is_vertex: bool = False

    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        left_out = dropped(chat.body, _TAKEN)
        own = bearer(endpoint) if self.is_vertex else {"x-goog-api-key": endpoint.token}
        headers = headers_of(endpoint, own, is_stream=chat.stream)
        body = request_body(chat.body, endpoint.upstream_model, has_ids=not self.is_vertex)
        url = method_url(endpoint.url, is_stream=chat.stream)
        return Outgoing(HttpRequest(url, headers, orjson.dumps(body)), left_out)

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        return EventDecoder(GoogleTranslation.of(stamp, wants_usage=chat.wants_usage))

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:  # noqa: ARG002
        return completion(raw, stamp)

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return failure(status, headers, raw, now=now)


def method_url(url: str, *, is_stream: bool) -> str:
    """The address of the method that is needed, whichever of the two is configured."""
    address, _, query = url.replace("//global-aiplatform.", "//aiplatform.").partition("?")
    query = "&".join(one for one in query.split("&") if one and not one.startswith("alt="))
    address = re.sub(r":(generateContent|streamGenerateContent)$", "", address)
    if is_stream:
        return f"{address}:streamGenerateContent?" + "&".join(one for one in (query, "alt=sse") if one)
    return f"{address}:generateContent" + (f"?{query}" if query else "")


def request_body(body: Json, model: str, *, has_ids: bool) -> Json:
    """Raises ClientFault and Unsupported."""
    system, messages = system_apart(messages_of(body))
    said = _Contents(wants_signatures=not _WITHOUT_LEVELS.search(model), has_ids=has_ids)
    wanted: Json = {
        "systemInstruction": {"parts": [{"text": text} for text in system]} if system else None,
        "contents": said.of(messages),
        **_tools(body),
        "generationConfig": _generation(body, model),
    }
    return {name: value for name, value in wanted.items() if value not in (None, {})}


@frozen
class _Contents:
    wants_signatures: bool
    has_ids: bool

    def of(self, messages: list[Message]) -> list[Json]:
        """Roles take turns, and all results of one turn's calls stand in one content."""
        found: list[Json] = []
        for message in messages:
            role = "model" if message.role == "assistant" else "user"
            parts = self._parts(message)
            is_apart = message.role == "user" and found and _holds_results(found[-1])
            if found and found[-1]["role"] == role and not is_apart:
                found[-1]["parts"] += parts
            elif parts:
                found.append({"role": role, "parts": parts})
        return found

    def _parts(self, message: Message) -> list[Json]:
        if message.role == "tool":
            return [self._result(message), *(_part(part) for part in message.parts if not isinstance(part, Text))]
        parts = [_part(part) for part in message.parts]
        signature = _signature(message.extra)
        if signature and parts:
            parts[-1]["thoughtSignature"] = signature
        return parts + [self._call(call, is_first=at == 0) for at, call in enumerate(message.calls)]

    def _call(self, call: ToolCall, *, is_first: bool) -> Json:
        part: Json = {"functionCall": {"name": call.name, "args": call.values}}
        if self.has_ids and call.id:
            part["functionCall"]["id"] = call.id
        signature = _signature(call.extra) or (_NOT_OURS if is_first and self.wants_signatures else "")
        return {**part, "thoughtSignature": signature} if signature else part

    def _result(self, message: Message) -> Json:
        response = read_json(message.text.encode())
        if not isinstance(response, dict):
            response = {"result": message.text if response is None else response}
        result: Json = {"name": message.name or message.call_id or "function", "response": response}
        if self.has_ids and message.call_id:
            result["id"] = message.call_id
        return {"functionResponse": result}


def _holds_results(content: Json) -> bool:
    return any("functionResponse" in part for part in content["parts"])


def _signature(extra: Json) -> str:
    return kept(extra, "google", "thought_signature", str) or ""


def _part(part: Part) -> Json:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Address):
        raise cannot_take_part(part)
    return {"inlineData": {"mimeType": part.media_type, "data": part.data}}


def _tools(body: Json) -> Json:
    tools, choice = tools_of(body), choice_of(body)
    if not tools:
        return {}
    calling: Json = {}
    if choice is not None and choice.names and choice.mode != "required":
        tools = [tool for tool in tools if tool.name in choice.names]  # names go with `ANY` alone
    elif choice is not None and choice.mode != "auto":
        calling["mode"] = "NONE" if choice.mode == "none" else "ANY"
        if choice.names:
            calling["allowedFunctionNames"] = list(choice.names)
    found: Json = {"tools": [{"functionDeclarations": [_tool(tool) for tool in tools]}]}
    return {**found, "toolConfig": {"functionCallingConfig": calling}} if calling else found


def _tool(tool: Tool) -> Json:
    found: Json = {"name": tool.name, "description": tool.description}
    return {**found, "parametersJsonSchema": tool.parameters} if tool.parameters else found


def _generation(body: Json, model: str) -> Json:
    wanted = format_of(body)
    config: Json = {
        "temperature": body.get("temperature"),
        "topP": body.get("top_p"),
        "topK": body.get("top_k"),
        "candidateCount": body.get("n"),
        "maxOutputTokens": most_tokens_of(body),
        "stopSequences": stops_of(body) or None,
        "seed": body.get("seed"),
        "presencePenalty": body.get("presence_penalty"),
        "frequencyPenalty": body.get("frequency_penalty"),
        "responseLogprobs": body.get("logprobs") or None,
        "logprobs": body.get("top_logprobs") or None,
        "responseMimeType": "application/json" if wanted else None,
        "responseJsonSchema": wanted.schema if wanted else None,
        "responseModalities": _modalities(body),
        "thinkingConfig": _thinking(body, model),
    }
    return {name: value for name, value in config.items() if value is not None}


def _modalities(body: Json) -> list[str] | None:
    asked = body.get("modalities")
    if not isinstance(asked, list):
        return None
    for one in asked:
        if not isinstance(one, str) or one not in _MODALITIES:
            raise cannot_take("modalities", f"the modality {one}")
    return [_MODALITIES[one] for one in asked]


def _thinking(body: Json, model: str) -> Json | None:
    """Who asks for an effort gets the thoughts as well."""
    effort = effort_of(body)
    if effort is None or effort not in _BUDGETS:
        return None
    is_pro, shows = "pro" in model, effort != "none"
    if _WITHOUT_LEVELS.search(model):
        return {"thinkingBudget": _BUDGETS[effort] or _LEAST_OF_PRO * is_pro, "includeThoughts": shows}
    level = "low" if is_pro and _LEVELS[effort] == "minimal" else _LEVELS[effort]
    return {"thinkingLevel": level, "includeThoughts": shows}


GOOGLE = Provider(
    name="google",
    dialect=GoogleDialect(),
    base_url="https://generativelanguage.googleapis.com/v1beta",
    chat_path="/models/{model}:generateContent",
    embeddings_path="/openai/embeddings",
    vectors=OpenAIDialect(),
    images=GoogleImages(),
    key_in_url="key",
    day_starts="00:00 America/Los_Angeles",  # https://ai.google.dev/gemini-api/docs/rate-limits
    takes_picture_addresses=False,
)
GEMINI = replace(GOOGLE, name="gemini")
VERTEX = Provider(
    name="vertex",
    dialect=GoogleDialect(is_vertex=True),
    base_url="https://{region}-aiplatform.googleapis.com/v1/projects/{account_id}/locations/{region}/publishers/google",
    chat_path="/models/{model}:generateContent",
    images=GoogleImages(is_vertex=True),
    takes_picture_addresses=False,
)
