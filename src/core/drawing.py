"""A caller's request for pictures: what the gateway must know of it. The rest of the body is for the provider."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from .body import read_object, require
from .errors import InvalidRequest

ANY = "all"  # the older form's word for any model of images
_FORMS: dict[Any, Literal["", "b64_json", "url"]] = {"": "", "b64_json": "b64_json", "url": "url"}
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True)
class Drawing:
    """`body` is the request in OpenAI's form and is never changed; `length` is its size in bytes.

    `form` is how the caller wants the pictures: in JSON as `b64_json` or `url`, empty where either will do, or one
    alone, `plain`, as the bytes that it is.
    """

    body: dict[str, Any]
    length: int
    form: Literal["", "b64_json", "url", "plain"] = ""

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
    _judge(body)
    require(body, "response_format", str | None, "b64_json or url")
    form = _FORMS.get(body.get("response_format") or "")
    if form is None:
        raise InvalidRequest("`response_format` must be b64_json or url.", param="response_format")
    if body.get("stream") is True:
        raise InvalidRequest("Pictures are not streamed.", param="stream", code="unsupported")
    return Drawing(body, len(raw), form)


def parse_plain_drawing(raw: bytes) -> Drawing:
    """The older form, `{model?, prompt or inputs}`, for one picture. Raises InvalidRequest."""
    body = read_object(raw)
    body.setdefault("prompt", body.get("inputs"))
    for name in ("inputs", "n", "response_format", "stream"):
        body.pop(name, None)
    _judge(body)
    return Drawing(body, len(raw), "plain")


def _judge(body: dict[str, Any]) -> None:
    require(body, "model", str | None, "a string")
    require(body, "prompt", str, "text")
    require(body, "n", int | None, "a whole number above 0")
    require(body, "size", str | None, "text such as 1024x1024")
    if not body["prompt"].strip():
        raise InvalidRequest("`prompt` must say what to draw.", param="prompt")
    n = body.get("n")
    if n is not None and (n is True or n is False or n < 1):
        raise InvalidRequest("`n` must be a whole number above 0.", param="n")
