"""Amazon Bedrock's Converse: a chat in its words. What it answers is read in `bedrock_answers.py`.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import orjson

from ..chat import Chat
from ..errors import UpstreamError
from ..http_client.port import HttpRequest
from ..stream import Decoder
from .bedrock_answers import ConverseDecoder, completion, failure
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
from .exchange import bearer, headers_of
from .parameters import dropped, format_of, most_tokens_of, stops_of
from .tools import Tool, choice_of, offered_tools

Json = dict[str, Any]
_PICTURES = {"image/jpeg": "jpeg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
_SOUNDS = {"audio/wav": "wav", "audio/mpeg": "mp3", "audio/flac": "flac", "audio/ogg": "ogg"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
}
_TAKEN = frozenset({"max_completion_tokens", "max_tokens", "response_format", "stop", "temperature", "top_p"})
_OF_CLAUDE = frozenset({"reasoning_effort", "thinking", "top_k"})
_TAKES_ONE_CALL = re.compile(r"claude-[a-z]+-(4[-.][5-9]|[5-9])")


class BedrockDialect:
    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        is_claude = "claude" in endpoint.upstream_model
        asked, left_out = fitting(chat.body, endpoint.upstream_model) if is_claude else (chat.body, ())
        left_out += dropped(asked, _taken(asked, endpoint.upstream_model))
        headers = headers_of(endpoint, bearer(endpoint), is_stream=chat.stream)
        if chat.stream:
            headers["accept"] = "application/vnd.amazon.eventstream"
        body = request_body(asked, endpoint.upstream_model)
        url = endpoint.url.removesuffix("/converse").removesuffix("/converse-stream")
        url += "/converse-stream" if chat.stream else "/converse"
        return Outgoing(HttpRequest(url, headers, orjson.dumps(body)), left_out)

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        return ConverseDecoder.of(stamp, wants_usage=chat.wants_usage)

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:  # noqa: ARG002
        return completion(raw, stamp)

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        return failure(status, headers, raw, now=now)


def _taken(body: Json, model: str) -> frozenset[str]:
    taken = _TAKEN | _OF_CLAUDE if "claude" in model else _TAKEN
    return taken | {"parallel_tool_calls"} if _is_one_call(body, model) else taken


def request_body(body: Json, model: str) -> Json:
    """Raises ClientFault and Unsupported."""
    system, messages = system_apart(messages_of(body))
    most = most_tokens_of(body)
    inference = {
        "maxTokens": most,
        "temperature": body.get("temperature"),
        "topP": body.get("top_p"),
        "stopSequences": stops_of(body) or None,
    }
    wanted: Json = {
        "messages": turns_of(messages, _blocks),
        "system": [{"text": text} for text in system],
        "inferenceConfig": {name: value for name, value in inference.items() if value is not None},
        "toolConfig": _tools(body, called=[call.name for message in messages for call in message.calls]),
        "outputConfig": _output(body, model),
        "additionalModelRequestFields": _of_claude(body, model) if "claude" in model else {},
    }
    return {name: value for name, value in wanted.items() if value not in (None, [], {})}


def _blocks(message: Message) -> list[Json]:
    if message.role == "tool":
        content = [_block(part) for part in without_blank(message.parts)] or [{"text": ""}]
        return [{"toolResult": {"toolUseId": call_id(message.call_id), "content": content}}]
    calls = [block for call in message.calls for block in _call(call)]
    return [*(_block(part) for part in without_blank(message.parts)), *calls]


def _call(call: ToolCall) -> list[Json]:
    thoughts = kept(call.extra, "bedrock", "reasoning", list) or []
    use = {"toolUseId": call_id(call.id), "name": call.name, "input": call.values}
    return [*({"reasoningContent": thought} for thought in thoughts), {"toolUse": use}]


def _block(part: Part) -> Json:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Address):
        raise cannot_take_part(part)
    source = {"bytes": b64encode(b64decode(part.data)).decode()}
    if part.kind == "image" and part.media_type in _PICTURES:
        return {"image": {"format": _PICTURES[part.media_type], "source": source}}
    if part.kind == "audio" and part.media_type in _SOUNDS:
        return {"audio": {"format": _SOUNDS[part.media_type], "source": source}}
    if part.kind == "file" and part.media_type in _DOCUMENTS:
        return {"document": {"format": _DOCUMENTS[part.media_type], "name": _name(part), "source": source}}
    raise cannot_take_part(part)


def _name(part: Inline) -> str:
    """Letters, digits, spaces, hyphens and brackets are allowed, a full stop is not."""
    name = part.name.rpartition(".")[0] or part.name
    return "".join(one if one.isalnum() or one in " -()[]" else "-" for one in name) or "document"


def _tools(body: Json, *, called: list[str]) -> Json:
    """Where a conversation has calls it wants the tools as well, also from who does not offer them any longer."""
    tools, choice = offered_tools(body), choice_of(body)
    if choice is not None and choice.mode == "none":
        if tools and called:
            raise cannot_take("tool_choice", "tools that have been called and must not be called again")
        return {}
    if not tools:
        tools = [Tool(name, "", None, strict=False) for name in dict.fromkeys(called)]
    if not tools:
        return {}
    found: Json = {"tools": [{"toolSpec": _tool(tool)} for tool in tools]}
    if choice is not None and choice.mode == "required":
        found["toolChoice"] = {"tool": {"name": tools[0].name}} if len(choice.names) == 1 else {"any": {}}
    return found


def _tool(tool: Tool) -> Json:
    found: Json = {"name": tool.name, "inputSchema": {"json": tool.schema}}
    if tool.description:
        found["description"] = tool.description
    return {**found, "strict": True} if tool.strict else found


def _output(body: Json, model: str) -> Json:
    """https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_OutputConfig.html"""
    wanted = format_of(body)
    if wanted is None:
        return {}
    if wanted.schema is None:
        raise cannot_take("response_format", "JSON mode without a schema; use a json_schema")
    asked = closed(wanted.schema) if "claude" in model else wanted.schema
    schema = {"name": wanted.name, "schema": orjson.dumps(asked).decode()}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _of_claude(body: Json, model: str) -> Json:
    """What Converse has no words for goes to the model as Anthropic has it."""
    thoughts = thinking(body, model)
    fields: Json = {"thinking": thoughts or None, "top_k": body.get("top_k")}
    if _is_one_call(body, model):
        fields["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
    if said := effort(body, thoughts):
        fields["output_config"] = {"effort": said}
    return {name: value for name, value in fields.items() if value is not None}


def _is_one_call(body: Json, model: str) -> bool:
    """Whether one call at most is asked for and can be said: not without tools, nor beside a choice in `toolConfig`.

    Its errors are quoted in https://github.com/BerriAI/litellm/issues/36536 and /34420.
    """
    if body.get("parallel_tool_calls") is not False or not _TAKES_ONE_CALL.search(model):
        return False
    choice = choice_of(body)
    return bool(offered_tools(body)) and (choice is None or choice.mode == "auto")


BEDROCK = Provider(
    name="bedrock",
    dialect=BedrockDialect(),
    base_url="https://bedrock-runtime.{region}.amazonaws.com",
    chat_path="/model/{model}/converse",
    needs_token=False,  # without one a request is signed
    aws_service="bedrock",
    takes_picture_addresses=False,
)
