"""GigaChat, version 1: close to OpenAI's older form with one function call a turn, behind a token that is fetched.

https://developers.sber.ru/docs/ru/gigachat/api/reference/rest/post-chat
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import orjson

from ..chat import Chat
from ..embedding import Embedding
from ..errors import Operator, Transient, UpstreamError
from ..http_client.port import HttpRequest
from ..stream import Decoder, Item
from .answering import MessageWriter, StreamWriter, completion_of, usage_of
from .conversation import Message, ToolCall, cannot_take, kept, messages_of, only_text
from .dialect import Completion, Endpoint, Outgoing, Provider, Stamp, Token
from .exchange import EventDecoder, broken, headers_of, read_answer, read_json, read_report
from .failures import classify, error_inside, report_of
from .gigachat_images import GigaChatImages
from .openai import OpenAIDialect
from .parameters import dropped, format_of, most_tokens_of
from .tools import choice_of, offered_tools

Json = dict[str, Any]
AUTH_URL = "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
SCOPE = "GIGACHAT_API_PERS"
FINISHES = {"stop": "stop", "length": "length", "function_call": "tool_calls", "blacklist": "content_filter"}
_SAME = ("temperature", "top_p", "n", "repetition_penalty", "update_interval", "reasoning_effort", "profanity_check")
_TAKEN = frozenset(  # one call a turn is all it makes in any case
    {*_SAME, "max_completion_tokens", "max_tokens", "parallel_tool_calls", "response_format"}
)


class GigaChatDialect:
    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        left_out = dropped(chat.body, _TAKEN)
        body = {"model": endpoint.upstream_model, "stream": chat.stream, **request_body(chat.body)}
        headers = headers_of(endpoint, is_stream=chat.stream)
        return Outgoing(HttpRequest(_address(endpoint, "/chat/completions"), headers, orjson.dumps(body)), left_out)

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        return EventDecoder(GigaChatTranslation(StreamWriter.of(stamp, wants_usage=chat.wants_usage)))

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:  # noqa: ARG002
        return read_answer(raw, lambda body: _failed(body) or _completion(body, stamp))

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return classify(read_report(status, headers, raw, now=now))

    def embedding_request(self, endpoint: Endpoint, embedding: Embedding) -> HttpRequest:
        body = {**embedding.body, "model": endpoint.upstream_model}
        headers = headers_of(endpoint, is_stream=False)
        return HttpRequest(_address(endpoint, "/embeddings"), headers, orjson.dumps(body))

    def embedding(self, raw: bytes) -> Completion | UpstreamError:
        return OpenAIDialect().embedding(raw)


class GigaChatLogin:
    """A key is exchanged for a token that holds for half an hour."""

    def request(self, endpoint: Endpoint, request_id: str) -> HttpRequest:
        key = endpoint.token
        if ":" in key:
            key = base64.b64encode(key.encode()).decode()
        headers = {
            "authorization": f"Basic {key}",
            "rquid": request_id,
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
            "user-agent": "sluice",
        }
        form = urlencode({"scope": endpoint.scope or SCOPE})
        return HttpRequest(endpoint.auth_url or AUTH_URL, headers, form.encode())

    def token(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> Token | UpstreamError:
        """`{access_token, expires_at}` in ms, or `{tok, exp}` in seconds, from the end point for user and password."""
        body = read_json(raw)
        if status != 200:
            report = read_report(status, headers, raw, now=now)
            return (
                Operator("The provider did not accept the gateway's credentials.")
                if status == 400
                else classify(report)
            )
        found: Json = body if isinstance(body, dict) else {}
        value = found.get("access_token") or found.get("tok")
        expires_ms, expires_s = found.get("expires_at"), found.get("exp")
        expires_at = expires_ms / 1000 if isinstance(expires_ms, int | float) else expires_s
        if not isinstance(value, str) or not isinstance(expires_at, int | float):
            return Transient("The provider's answer to the gateway's credentials holds no token.")
        return Token(value, float(expires_at))


def _address(endpoint: Endpoint, path: str) -> str:
    """Old configurations have the base of all paths as `url`."""
    return endpoint.url if endpoint.url.endswith(path) else endpoint.url.rstrip("/") + path


def request_body(body: Json) -> Json:
    """Without `model` and `stream`. Raises ClientFault and Unsupported."""
    wanted: Json = {
        "messages": list(_messages(messages_of(body))),
        **_functions(body),
        **{name: body.get(name) for name in _SAME},
        "max_tokens": most_tokens_of(body),
        "response_format": _format(body),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _messages(messages: list[Message]) -> Iterator[Json]:
    """One system message, first of all; and one call a turn, each followed by its result."""
    if system := "\n\n".join(message.text for message in messages if message.role == "system" and message.text):
        yield {"role": "system", "content": system}
    results = {message.call_id: message for message in messages if message.role == "tool"}
    for message in messages:
        if message.role == "user" or (message.role == "assistant" and not message.calls):
            yield {"role": message.role, "content": only_text(message)}
        for at, call in enumerate(message.calls):
            yield {**_call(call), "content": only_text(message) if at == 0 else ""}
            if (result := results.get(call.id)) is not None:
                yield {"role": "function", "name": call.name, "content": _result(result)}


def _call(call: ToolCall) -> Json:
    said: Json = {"role": "assistant", "function_call": {"name": call.name, "arguments": call.values}}
    state = kept(call.extra, "gigachat", "functions_state_id", str)
    return {**said, "functions_state_id": state} if state else said


def _result(message: Message) -> str:
    """It must be JSON."""
    text = only_text(message)
    return text if isinstance(read_json(text.encode()), dict) else orjson.dumps({"result": text}).decode()


def _functions(body: Json) -> Json:
    tools, choice = offered_tools(body), choice_of(body)
    if not tools:
        return {}
    called: Any = "auto" if choice is None else choice.mode
    if called == "required":
        if len(tools) > 1:
            raise cannot_take("tool_choice", "a call that is required, but not of which function")
        called = {"name": tools[0].name}
    functions = [{"name": tool.name, "description": tool.description, "parameters": tool.schema} for tool in tools]
    return {"functions": functions, "function_call": called}


def _format(body: Json) -> Json | None:
    wanted = format_of(body)
    if wanted is None:
        return None
    if wanted.schema is None:
        raise cannot_take("response_format", "JSON mode without a schema; use a json_schema")
    return {"type": "json_schema", "schema": wanted.schema, "strict": wanted.strict}


@dataclass(slots=True)
class GigaChatTranslation:
    writer: StreamWriter
    _states: dict[int, str] = field(default_factory=dict)
    _usage: Json | None = None

    def take(self, body: Json, event: str) -> Iterator[Item]:  # noqa: ARG002 - they have no names
        if failure := _failed(body):
            yield failure
            return
        self.writer.model = body.get("model") or self.writer.model
        self._usage = usage(body.get("usage")) or self._usage
        for choice in body.get("choices") or ():
            yield from self._choice(choice, choice.get("index") or 0)

    def _choice(self, choice: Json, index: int) -> Iterator[Item]:
        delta = choice.get("delta") or {}
        self._states[index] = delta.get("functions_state_id") or self._states.get(index, "")
        if delta.get("reasoning_content"):
            yield self.writer.reasoning(delta["reasoning_content"], index)
        if delta.get("content"):
            yield self.writer.text(delta["content"], index)
        if call := delta.get("function_call"):
            call_id, extra = name_of_call(self.writer.id, index), _state(self._states[index])
            yield self.writer.call(call_id, call["name"], _arguments(call), index=index, extra=extra)
        if reason := choice.get("finish_reason"):
            if reason in FINISHES:
                yield from self.writer.finish(FINISHES[reason], index)
            else:
                yield broken(reason)

    def end(self) -> Iterator[Item]:
        used, self._usage = self._usage, None
        if used:
            yield self.writer.usage(used)


def _completion(body: Json, stamp: Stamp) -> Completion | UpstreamError:
    choices = []
    for choice in body["choices"]:
        message, writer, index = choice["message"], MessageWriter(), choice.get("index") or 0
        if choice.get("finish_reason") not in FINISHES:
            return broken(choice.get("finish_reason"))
        writer.text, writer.reasoning = message.get("content") or "", message.get("reasoning_content") or ""
        if call := message.get("function_call"):
            extra = _state(message.get("functions_state_id") or "")
            writer.call(name_of_call(stamp.id, index), call["name"], _arguments(call), extra=extra)
        choices.append(writer.choice(FINISHES[choice["finish_reason"]], index))
    if not choices:
        return Transient("The provider's answer holds no choices.")
    stamp = replace(stamp, created=body.get("created") or stamp.created)
    return completion_of(stamp, choices, usage(body.get("usage")), model=body.get("model") or "")


def name_of_call(answer_id: str, index: int) -> str:
    """Calls have no ids here, and there is one in a choice."""
    return f"call_{answer_id.removeprefix('chatcmpl-')}_{index}"


def _arguments(call: Json) -> str:
    arguments = call.get("arguments")
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()


def _state(state_id: str) -> Json:
    """It wants this back with the call when the result comes."""
    return {"gigachat": {"functions_state_id": state_id}} if state_id else {}


def usage(said: Json | None) -> Json | None:
    if not said or said.get("prompt_tokens") is None:
        return None
    return usage_of(
        said["prompt_tokens"],
        said.get("completion_tokens") or 0,
        cached=said.get("precached_prompt_tokens"),
        total=said.get("total_tokens"),
    )


def _failed(body: Json) -> UpstreamError | None:
    error = error_inside(body)
    if error is None and "choices" not in body and "message" in body:  # {"status": 404, "message": ...}
        error = body
    return None if error is None else classify(report_of(error))


GIGACHAT = Provider(
    name="gigachat",
    dialect=GigaChatDialect(),
    base_url="https://gigachat.devices.sberbank.ru/api/v1",
    login=GigaChatLogin(),
    images=GigaChatImages(),
    capabilities=frozenset({"tools", "json_schema", "streaming"}),
)
