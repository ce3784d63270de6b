"""What a provider is sent for a caller's chat: the request side of the translated providers, for their tests."""

from typing import Any

import orjson

from core.chat import Chat
from core.http_client.port import HttpRequest
from core.providers import PROVIDERS
from core.providers.dialect import Endpoint, Outgoing

Json = dict[str, Any]
PNG = "iVBORw0KGgo="
USER = {"role": "user", "content": "Hello"}
WEATHER: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Json = {"type": "function", "function": {"name": "get_weather", "description": "Looks", "parameters": WEATHER}}
BARE_TOOL: Json = {"type": "function", "function": {"name": "now"}}
PICTURE: Json = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
FAR_PICTURE: Json = {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}}
SOUND: Json = {"type": "input_audio", "input_audio": {"format": "wav", "data": PNG}}
PDF: Json = {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PNG}"}}
SCHEMA: Json = {"type": "json_schema", "json_schema": {"name": "city", "schema": WEATHER, "strict": True}}


def call(call_id: str, city: str, **more: Any) -> Json:
    arguments = orjson.dumps({"city": city}).decode()
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}, **more}


# Two calls at once and their results, in the other order.
TURN: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
    {"role": "user", "content": [{"type": "text", "text": "Oslo"}, {"type": "text", "text": " and Bergen?"}]},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [call("c1", "Oslo"), call("c2", "Bergen")]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"celsius": 4}'},
    {"role": "tool", "tool_call_id": "c2", "content": "rain"},
    {"role": "user", "content": "Thanks."},
]


def said_by(*parts: Json | str, role: str = "user") -> Json:
    return {"role": role, "content": [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]}


def outgoing(name: str, body: Json, **endpoint: Any) -> Outgoing:
    known: Json = {"url": "https://provider.example/x", "upstream_model": "m", "token": "key-0123"}
    return PROVIDERS[name].dialect.request(Endpoint(**(known | endpoint)), Chat({"messages": [USER], **body}, 0))


def sent(name: str, body: Json, **endpoint: Any) -> Json:
    """The body of the request."""
    found: Json = orjson.loads(outgoing(name, body, **endpoint).request.body)
    return found


def request_to(name: str, body: Json | None = None, **endpoint: Any) -> HttpRequest:
    return outgoing(name, body or {}, **endpoint).request
