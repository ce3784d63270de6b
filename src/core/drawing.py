"""A caller's request for pictures: what the gateway must know of it. The rest of the body is for the provider."""

import re
from collections.abc import Iterable
from typing import Any, Literal

from .body import read_object, require
from .errors import InvalidRequest
from .frozen import frozen
from .picture import Picture, read_picture

ANY = "all"  # the older form's word for any model of images
_FORMS: dict[Any, Literal["", "b64_json", "url"]] = {"": "", "b64_json": "b64_json", "url": "url"}
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_PARTS = frozenset({"image", "image[]", "mask"})


@frozen
class Part:
    """A picture that came with the request, to be changed; `name` is its field's: `image`, `image[]` or `mask`."""

    name: str
    picture: Picture


@frozen
class Drawing:
    """`body` is the request in OpenAI's form and is never changed; `length` is its size in bytes, less `parts`.

    `form` is how the caller wants the pictures: in JSON as `b64_json` or `url`, empty where either will do, or one
    alone, `plain`, as the bytes that it is.
    """

    body: dict[str, Any]
    length: int
    form: Literal["", "b64_json", "url", "plain"] = ""
    parts: tuple[Part, ...] = ()

    @property
    def model(self) -> str:
        """What the caller asked for; empty when it is for us to choose."""
        asked: str = self.body.get("model") or ""
        return "" if asked.lower() == ANY else asked

    @property
    def prompt(self) -> str:
        return str(self.body["prompt"])

    @property
    def wants_bytes(self) -> bool:
        """Whether an address will not do."""
        return self.form in ("b64_json", "plain")

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height; None: not said, or in other words (`auto`)."""
        found = _SIZE.fullmatch(str(self.body.get("size")))
        return (int(found[1]), int(found[2])) if found else None


def parse_drawing(raw: bytes) -> Drawing:
    """OpenAI's form. Raises InvalidRequest."""
    body = read_object(raw)
    return Drawing(body, len(raw), _judged(body))


def parse_plain_drawing(raw: bytes) -> Drawing:
    """The older form, `{model?, prompt or inputs}`, for one picture. Raises InvalidRequest."""
    body = read_object(raw)
    body.setdefault("prompt", body.get("inputs"))
    for name in ("inputs", "n", "response_format", "stream"):
        body.pop(name, None)
    _judged(body)
    return Drawing(body, len(raw), "plain")


def parse_edit(fields: Iterable[tuple[str, str | bytes]]) -> Drawing:
    """OpenAI's form with pictures to change; what comes as a file is bytes. Raises InvalidRequest."""
    body: dict[str, Any] = {}
    parts: list[Part] = []
    for name, value in fields:
        if isinstance(value, str):
            body[name] = _read(name, value)
        else:
            parts.append(_part(name, value))
    if not any(part.name != "mask" for part in parts):
        raise InvalidRequest("`image` must be a picture, sent as a file.", param="image")
    length = sum(len(name) + len(str(value)) for name, value in body.items())
    return Drawing(body, length, _judged(body), tuple(parts))


def _read(name: str, value: str) -> Any:
    """A form has text alone."""
    if name in ("n", "output_compression", "partial_images") and re.fullmatch(r"\d{1,9}", value):
        return int(value)
    return value == "true" if name == "stream" else value


def _part(name: str, data: bytes) -> Part:
    picture = read_picture(data)
    if name not in _PARTS or picture is None:
        raise InvalidRequest(f"`{name}` must not be a file, or is no whole PNG, JPEG, WebP or GIF.", param=name)
    return Part(name, picture)


def _judged(body: dict[str, Any]) -> Literal["", "b64_json", "url"]:
    """The form that is asked for."""
    require(body, "model", str | None, "a string")
    require(body, "prompt", str, "text")
    require(body, "n", int | None, "a whole number above 0")
    require(body, "size", str | None, "text such as 1024x1024")
    require(body, "response_format", str | None, "b64_json or url")
    if not body["prompt"].strip():
        raise InvalidRequest("`prompt` must say what to draw.", param="prompt")
    n = body.get("n")
    if n is not None and (n is True or n is False or n < 1):
        raise InvalidRequest("`n` must be a whole number above 0.", param="n")
    if body.get("stream") is True:
        raise InvalidRequest("Pictures are not streamed.", param="stream", code="unsupported")
    form = _FORMS.get(body.get("response_format") or "")
    if form is None:
        raise InvalidRequest("`response_format` must be b64_json or url.", param="response_format")
    return form
