"""Pictures by GigaChat: a chat in whose answer one is named, and then the file of that name.

https://developers.sber.ru/docs/ru/gigachat/guides/images-generation
"""

import re

import orjson

from ..drawing import Drawing
from ..errors import Refused, Transient, UpstreamError
from ..http_client.port import HttpRequest
from ..picture import read_picture
from .dialect import Drawings, Drawn, Endpoint, Later, Outgoing
from .drawn import NO_PICTURE, object_in
from .exchange import headers_of, odd_answer
from .images import left_out

_CHAT = "/chat/completions"
_NAMED = re.compile(r"""<img\s[^>]*?src=["']([0-9A-Za-z-]{1,64})["']""")


class GigaChatImages:
    def path(self, upstream_model: str) -> str:  # noqa: ARG002
        return _CHAT

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        body = {
            "model": endpoint.upstream_model,
            "messages": [{"role": "user", "content": drawing.prompt}],
            "function_call": "auto",
        }
        headers = headers_of(endpoint, is_stream=False)
        request = HttpRequest(f"{_base(endpoint)}{_CHAT}", headers, orjson.dumps(body))
        return Outgoing(request, left_out(drawing, ()))

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | Later | UpstreamError:
        if (picture := read_picture(raw)) is not None:
            return Drawings((Drawn(picture),))
        body = object_in(raw)
        if isinstance(body, UpstreamError):
            return body
        try:
            choice = body["choices"][0]
            named = _NAMED.search(choice["message"]["content"] or "")
        except (IndexError, KeyError, TypeError):
            return odd_answer()
        if named:
            headers = {**headers_of(endpoint, is_stream=False), "accept": "image/jpeg"}
            return Later(HttpRequest(f"{_base(endpoint)}/files/{named[1]}/content", headers, b"", "GET"))
        if choice.get("finish_reason") == "blacklist":
            return Refused("The provider refused to draw this.")
        return Transient(NO_PICTURE)


def _base(endpoint: Endpoint) -> str:
    """Old configurations have it as `url`."""
    return endpoint.url.removesuffix(_CHAT).rstrip("/")
