"""Pictures by Google: of Gemini models in an answer's parts, of Imagen in predictions.

https://ai.google.dev/gemini-api/docs/image-generation and https://ai.google.dev/gemini-api/docs/imagen
"""

import base64
import re
from urllib.parse import quote

import orjson

from ..drawing import Drawing
from ..errors import Refused, Transient, UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from .conversation import cannot_take
from .dialect import Drawings, Endpoint, Outgoing
from .drawn import drawings_of
from .exchange import Json, bearer, headers_of, odd_answer, read_json
from .failures import report_of
from .google_answers import FINISHES, blocked_prompt, judge, usage
from .images import left_out, with_usage


@frozen
class GoogleImages:
    """`is_vertex`: the key is a bearer's there."""

    is_vertex: bool = False

    def path(self, upstream_model: str) -> str:
        return f"/models/{quote(upstream_model, safe='')}:{_method(upstream_model)}"

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        own = bearer(endpoint) if self.is_vertex else {"x-goog-api-key": endpoint.token}
        is_imagen = _method(endpoint.upstream_model) == "predict"
        body = _imagen(drawing) if is_imagen else _gemini(drawing)
        request = HttpRequest(_address(endpoint), headers_of(endpoint, own, is_stream=False), orjson.dumps(body))
        return Outgoing(request, left_out(drawing, ("n", "aspect_ratio") if is_imagen else ("aspect_ratio",)))

    def edit_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        """Of Gemini's models: in words alone, and only Vertex's Imagen could take a mask."""
        if _method(endpoint.upstream_model) == "predict" or any(part.name == "mask" for part in drawing.parts):
            raise cannot_take("image", "a mask, or an Imagen model to change a picture")
        return self.drawing_request(endpoint, drawing)

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | UpstreamError:  # noqa: ARG002
        body = read_json(raw)
        if not isinstance(body, dict):
            return Transient("The provider's answer is not a JSON object.")
        if "error" in body:
            return judge(report_of(body), body)
        try:
            return blocked_prompt(body) or (_predicted(body) if "predictions" in body else _answered(body))
        except (AttributeError, KeyError, TypeError):
            return odd_answer()


def _method(model: str) -> str:
    return "predict" if model.startswith("imagen") else "generateContent"


def _address(endpoint: Endpoint) -> str:
    """Old configurations name the method of a chat."""
    return re.sub(r":(streamGenerateContent|generateContent|predict)(?=$|\?)", _colon(endpoint), endpoint.url)


def _colon(endpoint: Endpoint) -> str:
    return f":{_method(endpoint.upstream_model)}"


def _gemini(drawing: Drawing) -> Json:
    config: Json = {"responseModalities": ["TEXT", "IMAGE"]}
    if ratio := drawing.body.get("aspect_ratio"):
        config["imageConfig"] = {"aspectRatio": ratio}
    pictures = [
        {"inlineData": {"mimeType": part.picture.media_type, "data": base64.b64encode(part.picture.data).decode()}}
        for part in drawing.parts
    ]
    said = {"role": "user", "parts": [{"text": drawing.prompt}, *pictures]}
    return {"contents": [said], "generationConfig": config}


def _imagen(drawing: Drawing) -> Json:
    parameters = {"sampleCount": drawing.body.get("n") or 1, "aspectRatio": drawing.body.get("aspect_ratio")}
    known = {name: value for name, value in parameters.items() if value is not None}
    return {"instances": [{"prompt": drawing.prompt}], "parameters": known}


def _predicted(body: Json) -> Drawings | UpstreamError:
    """What was filtered out is missing, or says why in place of a picture."""
    drawn = [one for one in body["predictions"] if "bytesBase64Encoded" in one]
    if not drawn:
        reasons = [one["raiFilteredReason"] for one in body["predictions"] if "raiFilteredReason" in one]
        return Refused(f"The provider refused to draw this: {' '.join(reasons) or 'all pictures were filtered out'}")
    return drawings_of({"predictions": drawn})


def _answered(body: Json) -> Drawings | UpstreamError:
    candidates = body.get("candidates") or []
    parts = [part for one in candidates for part in (one.get("content") or {}).get("parts") or ()]
    images = [part["inlineData"]["data"] for part in parts if "inlineData" in part and not part.get("thought")]
    for reason in (one.get("finishReason") for one in candidates):
        if not images and FINISHES.get(reason) == "content_filter":
            return Refused(f"The provider refused to draw this: {reason}.")
    said = body.get("usageMetadata") or {}
    return with_usage(drawings_of({"images": images}), usage(said) if "promptTokenCount" in said else None)
