"""How pictures are asked for, in OpenAI's form and in the plain ones of many providers. Pure.

What cannot be said to a provider is named as dropped: with or without it a picture of the prompt comes.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from ..drawing import Drawing, Part
from ..errors import UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from .conversation import cannot_take
from .dialect import Drawings, Edits, Endpoint, Images, Outgoing, Provider
from .drawn import drawings_in, drawings_of, object_in
from .exchange import Json, bearer, headers_of, odd_answer
from .form import multipart
from .openai import OpenAIDialect

_ALWAYS = frozenset({"model", "prompt", "response_format"})
_IDLE: dict[str, tuple[Any, ...]] = {  # what is asked for by these comes anyway
    "background": ("auto",),
    "moderation": ("auto",),
    "n": (1,),
    "partial_images": (0,),
    "quality": ("auto", "standard"),
    "size": ("auto",),
    "stream": (False,),
}
_IN_BASE64_ONLY = re.compile(r"(chatgpt|gpt)-image")  # they refuse `response_format`
_ACCEPT = "image/*, application/json"


def request_for(drawing: Drawing, language: Images, endpoint: Endpoint) -> Outgoing:
    """Raises UpstreamError for what cannot be said to the provider, pictures to change among it."""
    if not drawing.parts:
        return language.drawing_request(endpoint, drawing)
    if isinstance(language, Edits):
        return language.edit_request(endpoint, drawing)
    raise cannot_take("image", "a picture to change")


def left_out(drawing: Drawing, taken: Collection[str]) -> tuple[str, ...]:
    """The caller's fields that are not passed on, in order."""
    return tuple(
        name
        for name, value in drawing.body.items()
        if value is not None and name not in _ALWAYS and name not in taken and value not in _IDLE.get(name, ())
    )


@frozen
class OpenAIImages:
    """OpenAI's own form: every field is passed on as it came. `edits`: it changes pictures as well."""

    dialect: OpenAIDialect = field(default_factory=OpenAIDialect)
    at: str = "/images/generations"
    edits: bool = True

    def path(self, upstream_model: str) -> str:  # noqa: ARG002 - it stands in the body
        return self.at

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        return Outgoing(self.dialect.post(endpoint, _body(endpoint, drawing)))

    def edit_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        request = self.dialect.post(endpoint, {})
        url = request.url.replace("/images/generations", "/images/edits")
        if not self.edits or url == request.url:
            raise cannot_take("image", "a picture to change")
        return Outgoing(replace(post_form(request, _body(endpoint, drawing), drawing.parts), url=url))

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | UpstreamError:  # noqa: ARG002
        return drawings_in(raw)


def _body(endpoint: Endpoint, drawing: Drawing) -> Json:
    body = {**drawing.body, "model": endpoint.upstream_model}
    if _IN_BASE64_ONLY.match(endpoint.upstream_model):
        body.pop("response_format", None)
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatImages:
    """One object with the prompt, and pictures somewhere in the answer.

    `prompt`: its name there; `names_model`: the body says which model; `same`: the fields that are taken by the names
    that callers use; `takes_sides`: a size goes as width and height, except to models that match `without_sides`;
    `inside`: the object in which all but the prompt stands; `formats`: what `response_format` is for each of OpenAI's;
    `as_form`: models that want a form in place of JSON.
    """

    template: str = ""
    prompt: str = "prompt"
    names_model: bool = False
    same: tuple[str, ...] = ()
    takes_sides: bool = False
    without_sides: re.Pattern[str] = re.compile("(?!)")
    inside: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    as_form: re.Pattern[str] = re.compile("(?!)")

    def path(self, upstream_model: str) -> str:
        return self.template.format(model=quote(upstream_model, safe="/@:"))

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        model = endpoint.upstream_model
        more = {name: drawing.body[name] for name in self.same if drawing.body.get(name) is not None}
        sides = drawing.sides if self.takes_sides and not self.without_sides.search(model) else None
        if sides:
            more |= {"width": sides[0], "height": sides[1]}
        body = {self.prompt: drawing.prompt, **({self.inside: more} if self.inside and more else more)}
        if self.names_model:
            body["model"] = model
        if self.formats:
            body["response_format"] = self.formats["url" if drawing.form == "url" else "b64_json"]
        dropped = left_out(drawing, {*self.same, *(("size",) if sides else ())})
        request = post(endpoint, body)
        return Outgoing(post_form(request, body) if self.as_form.search(model) else request, dropped)

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | UpstreamError:  # noqa: ARG002
        return drawings_in(raw)


class AirforceImages:
    """All is in the address, without a key."""

    def path(self, upstream_model: str) -> str:  # noqa: ARG002
        return ""

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        query = urlencode({"model": endpoint.upstream_model, "prompt": drawing.prompt})
        url = endpoint.url + ("&" if "?" in endpoint.url else "?") + query
        headers = {**headers_of(endpoint, is_stream=False), "accept": _ACCEPT}
        return Outgoing(HttpRequest(url, headers, b"", "GET"), left_out(drawing, ()))

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | UpstreamError:  # noqa: ARG002
        return drawings_in(raw)


class ChatImages:
    """OpenRouter's: a chat whose answer holds pictures.

    https://openrouter.ai/docs/features/multimodal/image-generation
    """

    def path(self, upstream_model: str) -> str:  # noqa: ARG002
        return "/chat/completions"

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        body = {
            "model": endpoint.upstream_model,
            "messages": [{"role": "user", "content": drawing.prompt}],
            "modalities": ["image", "text"],
        }
        return Outgoing(post(endpoint, body), left_out(drawing, ()))

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | UpstreamError:  # noqa: ARG002
        body = object_in(raw)
        if isinstance(body, UpstreamError):
            return body
        try:
            messages = [choice["message"] for choice in body["choices"]]
            images = [image["image_url"]["url"] for message in messages for image in message.get("images") or ()]
        except (AttributeError, KeyError, TypeError):
            return odd_answer()
        return with_usage(drawings_of({"images": images}), body.get("usage"))


def with_usage(found: Drawings | UpstreamError, usage: Any) -> Drawings | UpstreamError:
    """Tokens by the names that OpenAI's pictures have for them."""
    if isinstance(found, UpstreamError) or not isinstance(usage, dict):
        return found
    said = {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "total_tokens": usage.get("total_tokens"),
    }
    return Drawings(found.drawn, {"usage": said})


def images_at(row: Provider, url: str | None) -> Images:
    """Of a provider of which nothing is known.

    A whole address is an old configuration's: the prompt in, the picture's bytes out. Below a base URL it is OpenAI's.
    """
    dialect = row.dialect if isinstance(row.dialect, OpenAIDialect) else OpenAIDialect()
    return FlatImages() if url else OpenAIImages(dialect)


def post(endpoint: Endpoint, body: Json) -> HttpRequest:
    headers = {**headers_of(endpoint, bearer(endpoint), is_stream=False), "accept": _ACCEPT}
    return HttpRequest(endpoint.url, headers, orjson.dumps(body))


def post_form(request: HttpRequest, fields: Json, parts: Iterable[Part] = ()) -> HttpRequest:
    """The same with a form in place of its body."""
    texts = [(name, str(value)) for name, value in fields.items() if value is not None]
    kind, body = multipart(texts, parts)
    return replace(request, headers={**request.headers, "content-type": kind}, body=body)
