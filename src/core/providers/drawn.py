"""Pictures out of what providers answer, and an answer in OpenAI's form out of pictures. Pure.

https://platform.openai.com/docs/api-reference/images/object
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from ..drawing import Drawing
from ..errors import Refused, Transient, UpstreamError
from ..picture import read_picture
from .dialect import Completion, Drawings, Drawn
from .exchange import Json, odd_answer, read_json
from .failures import classify, error_inside, report_of

NO_PICTURE = "The provider's answer holds no picture."
NOT_WHOLE = "What the provider sent as a picture is not a whole one."
_LISTS = ("data", "artifacts", "images", "predictions")
_IN_BASE64 = ("b64_json", "base64", "bytesBase64Encoded", "image", "url")


def drawings_in(raw: bytes) -> Drawings | UpstreamError:
    """The body of a 200: a picture as it is, or JSON with some in any of the places where providers put them."""
    picture = read_picture(raw)
    if picture is not None:
        return Drawings((Drawn(picture),))
    body = object_in(raw)
    return body if isinstance(body, UpstreamError) else drawings_of(body, raw)


def object_in(raw: bytes) -> Json | UpstreamError:
    """A JSON object that holds no error."""
    body = read_json(raw)
    if not isinstance(body, dict):
        return Transient("The provider's answer is neither a whole picture nor JSON.")
    error = error_inside(body)
    return body if error is None else classify(report_of(error))


def drawings_of(body: Json, raw: bytes = b"") -> Drawings | UpstreamError:
    try:
        drawn = tuple(map(drawn_of, _items(body)))
    except (AttributeError, KeyError, TypeError):
        return odd_answer()
    except ValueError:
        return Transient(NOT_WHOLE)
    except Refused as error:
        return error
    if not drawn:
        return Transient(NO_PICTURE)
    is_openai = "data" in body and "created" in body
    around = {name: value for name, value in body.items() if name != "data"} if "data" in body else {}
    return Drawings(drawn, around, raw if is_openai else b"")


def _items(body: Json) -> list[Any]:
    if isinstance(body.get("result"), dict):  # Cloudflare
        body = body["result"]
    for name in _LISTS:
        if isinstance(body.get(name), list):
            return list(body[name])
    return [{"image": body["image"]}] if "image" in body else []


def drawn_of(item: Any) -> Drawn:
    """A picture in base64, a data URL or an address, alone or in an object. Raises ValueError when it is cut."""
    if isinstance(item, str):
        item = {"image": item}
    if item.get("finishReason") == "CONTENT_FILTERED":  # NVIDIA, beside a black picture
        raise Refused("The provider refused to draw this.")
    name = next(name for name in (*_IN_BASE64, "") if not name or item.get(name))
    text = str(item[name])
    about = {key: item[key] for key in ("revised_prompt",) if key in item}
    if text.startswith(("http://", "https://")):
        return Drawn(url=text, form="url", about=about)
    picture = read_picture(_unpacked(text))
    if picture is None:
        raise ValueError
    return Drawn(picture, form="b64_json" if name == "b64_json" and text[:5] != "data:" else "", about=about)


def _unpacked(text: str) -> bytes:
    """Raises ValueError."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError from error


def answer_of(drawing: Drawing, drawings: Drawings, *, now: float) -> Completion:
    """What the caller gets; all that must be bytes are."""
    first = drawings.drawn[0].picture
    if drawing.form == "plain" and first is not None:
        return Completion(drawings.body, first.data, media_type=first.media_type)
    if drawings.raw and all(one.form and drawing.form in ("", one.form) for one in drawings.drawn):
        return Completion(drawings.body, drawings.raw)
    body = {"created": int(now), **drawings.body, "data": list(_shown(drawing, drawings.drawn))}
    return Completion(body, orjson.dumps(body))


def _shown(drawing: Drawing, drawn: Sequence[Drawn]) -> Iterator[Json]:
    for one in drawn:
        if one.picture is None:
            yield {**one.about, "url": one.url}
            continue
        encoded = base64.b64encode(one.picture.data).decode()
        if drawing.form == "url":
            yield {**one.about, "url": f"data:{one.picture.media_type};base64,{encoded}"}
        else:
            yield {**one.about, "b64_json": encoded}
