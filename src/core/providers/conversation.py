"""A caller's chat as plain values, for dialects that must say it in other words. Pure.

Reads OpenAI's form, old and new (`function_call`); `tools.py` and `parameters.py` read the rest of a chat. Raises
ClientFault for what has no meaning in it, and Unsupported, through `cannot_take`, for what it means but a provider has
no words for.
https://platform.openai.com/docs/api-reference/chat/create
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import field, replace
from typing import Any, Literal, TypeVar

from ..errors import ClientFault, Unsupported
from ..frozen import frozen
from .exchange import read_json

Json = dict[str, Any]
T = TypeVar("T")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]+)*(;base64)?,(.*)", re.DOTALL)
_MEDIA_TYPES = {"image/jpg": "image/jpeg"}  # what people write for it
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}


@frozen
class Text:
    text: str


@frozen
class Inline:
    """Bytes that came with the request, still in base64. `kind`: what the caller said they are; `spot`: where."""

    kind: Literal["image", "audio", "file"]
    media_type: str
    data: str
    name: str = ""
    spot: str = "messages"


@frozen
class Address:
    """A picture at an http(s) address."""

    url: str
    detail: str = ""
    spot: str = "messages"


Part = Text | Inline | Address


@frozen
class ToolCall:
    """`arguments` is JSON as text; `extra` what `extra_content` holds for providers that want something back."""

    id: str
    name: str
    arguments: str
    extra: Json = field(default_factory=dict)

    @property
    def values(self) -> Json:
        """The arguments, read. Raises ClientFault when they are no JSON object."""
        values = read_json((self.arguments or "{}").encode())
        if not isinstance(values, dict):
            raise fault(f"The arguments of the call of {self.name} are not a JSON object.", "messages")
        return values


@frozen
class Message:
    """`system` stands for `developer`, too. `call_id` and `name`: which call a `tool` message answers."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Part, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""
    reasoning: str = ""
    extra: Json = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))


def messages_of(body: Json) -> list[Message]:
    """In order, as the caller sent them, but for assistants who said nothing, which most providers refuse.

    A tool message has the id and the name of the call that it answers.
    """
    names: dict[str, str] = {}
    found = []
    for place, raw in enumerate(body["messages"]):
        message = _message(raw, f"messages[{place}]", names)
        names |= {call.id: call.name for call in message.calls}
        if message.role != "assistant" or message.parts or message.calls or message.extra:
            found.append(message)
    return found


def system_apart(messages: list[Message]) -> tuple[list[str], list[Message]]:
    """What the system says, and the turns. Where nobody else says anything, its last word is the user's."""
    turns = [message for message in messages if message.role != "system"]
    said = [message for message in messages if message.role == "system" and message.text.strip()]
    if said and not turns:
        turns = [replace(said.pop(), role="user")]
    return [message.text for message in said], turns


def kept(extra: Json, provider: str, name: str, kind: type[T]) -> T | None:
    """What a provider wants back of what it said, from `extra_content`; None where it is not of that kind."""
    inner = extra.get(provider)
    value = inner.get(name) if isinstance(inner, dict) else None
    return value if isinstance(value, kind) else None


def cannot_take(spot: str, what: str) -> Unsupported:
    """For the caller: which part of the request has no counterpart at this provider. Another model may have one."""
    return Unsupported(f"{spot}: this provider does not take {what}.", param=spot, reached=False)


def cannot_take_part(part: Inline | Address) -> Unsupported:
    what = "pictures at an address" if isinstance(part, Address) else f"{part.kind} of type {part.media_type}"
    return cannot_take(part.spot, what)


def only_text(message: Message) -> str:
    """Raises Unsupported where a message holds anything else."""
    for part in message.parts:
        if not isinstance(part, Text):
            raise cannot_take_part(part)
    return message.text


def fault(message: str, param: str) -> ClientFault:
    return ClientFault(message, param=param, reached=False)


def parse_data_url(url: str, spot: str) -> tuple[str, str]:
    """Media type and base64. Raises ClientFault."""
    found = _DATA_URL.fullmatch(url)
    if found is None or not found[2]:
        raise fault(f"`{spot}` must be a data URL with base64, or an http(s) address.", spot)
    media_type = (found[1] or "application/octet-stream").lower()
    return _MEDIA_TYPES.get(media_type, media_type), _checked(found[3], spot)


def _message(raw: Json, spot: str, names: dict[str, str]) -> Message:
    role = raw.get("role")
    extra = raw.get("extra_content")
    extra = extra if isinstance(extra, dict) else {}
    if role in ("tool", "function"):
        name = str(raw.get("name") or "")
        call_id = str(raw.get("tool_call_id") or _latest(names, name))
        parts = tuple(_parts(raw.get("content"), spot))
        return Message("tool", parts, call_id=call_id, name=names.get(call_id, name), extra=extra)
    if role not in ("system", "developer", "user", "assistant"):
        raise fault(f"`{spot}.role` must be system, developer, user, assistant or tool.", f"{spot}.role")
    reasoning = raw.get("reasoning_content")
    return Message(
        role="system" if role == "developer" else role,
        parts=tuple(_parts(raw.get("content"), spot)),
        calls=tuple(_calls(raw, spot)) if role == "assistant" else (),
        name=str(raw.get("name") or ""),
        reasoning=reasoning if role == "assistant" and isinstance(reasoning, str) else "",
        extra=extra,
    )


def _parts(content: Any, spot: str) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield Text(content)
    elif isinstance(content, list):
        parts = (_part(part, f"{spot}.content[{place}]") for place, part in enumerate(content))
        yield from (part for part in parts if part != Text(""))
    elif content is not None:
        raise fault(f"`{spot}.content` must be text or a list of parts.", f"{spot}.content")


def _part(part: Any, spot: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return Text(part[kind])
    if kind == "image_url":
        return _picture(part.get("image_url"), spot)
    inner = part.get(kind) if isinstance(kind, str) else None
    if kind == "input_audio" and isinstance(inner, dict):
        media_type = _AUDIO_TYPES.get(str(inner.get("format")), f"audio/{inner.get('format')}")
        return Inline("audio", media_type, _checked(inner.get("data"), spot), spot=spot)
    if kind == "file" and isinstance(inner, dict):
        if inner.get("file_id"):
            raise cannot_take(spot, "a file by its id")
        media_type, data = parse_data_url(str(inner.get("file_data") or ""), f"{spot}.file.file_data")
        return Inline("file", media_type, data, str(inner.get("filename") or ""), spot)
    if isinstance(kind, str):
        raise cannot_take(spot, f"a part of type {kind}")
    raise fault(f"`{spot}` must be a part with a type.", spot)


def _picture(image: Any, spot: str) -> Part:
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise fault(f"`{spot}.image_url` must have a url.", spot)
    if url.startswith(("http://", "https://")):
        return Address(url, str(image.get("detail") or "") if isinstance(image, dict) else "", spot)
    media_type, data = parse_data_url(url, f"{spot}.image_url.url")
    return Inline("image", media_type, data, spot=spot)


def _calls(raw: Json, spot: str) -> Iterator[ToolCall]:
    old = raw.get("function_call")
    calls = raw.get("tool_calls") or ([{"function": old}] if isinstance(old, dict) else [])
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            if isinstance(call, dict) and call.get("type") not in (None, "function"):
                raise cannot_take(f"{spot}.tool_calls[{place}]", f"a call of type {call['type']}")
            raise fault(f"`{spot}.tool_calls[{place}]` must be a function with a name.", f"{spot}.tool_calls")
        arguments, extra = function.get("arguments"), call.get("extra_content")
        yield ToolCall(
            id=str(call.get("id") or f"call_{re.sub(r'[^0-9]', '', spot)}_{place}"),  # the older form has none
            name=function["name"],
            arguments=arguments if isinstance(arguments, str) else "",
            extra=extra if isinstance(extra, dict) else {},
        )


def _latest(names: dict[str, str], name: str) -> str:
    """The id of the last call of that name: the result of the older form says only the name."""
    return next((call_id for call_id, called in reversed(names.items()) if called == name), "")


def _checked(data: Any, spot: str) -> str:
    try:
        b64decode(data, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise fault(f"`{spot}` does not hold base64.", spot) from None
    return str(data)
