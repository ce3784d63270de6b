"""What the OpenAPI document says of bodies that the gateway itself reads only in part."""

from collections.abc import Iterable
from typing import Any

_JSON = "application/json"

_ERROR = {
    "description": "OpenAI's error object",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}


def _operation(
    summary: str,
    description: str = "",
    *,
    properties: dict[str, Any],
    answer: str,
    answer_types: Iterable[str] = (_JSON,),
    body_type: str = _JSON,
    **more: Any,
) -> dict[str, Any]:
    """A body of named fields, and any other besides; `more` is said of the body as a whole."""
    schema = {"type": "object", "properties": properties, "additionalProperties": True, **more}
    return {
        "summary": summary,
        **({"description": description} if description else {}),
        "requestBody": {"required": True, "content": {body_type: {"schema": schema}}},
        "responses": {
            "200": {"description": answer, "content": {media_type: {} for media_type in answer_types}},
            "4XX": _ERROR,
            "5XX": _ERROR,
        },
    }


CHAT = _operation(
    "Answer a chat, whole or as a stream",
    "OpenAI's chat completions. Fields that are not named here reach the provider unchanged.",
    required=["messages"],
    properties={
        "model": {
            "type": ["string", "null"],
            "description": "A model, an alias, or a category such as SMALL; empty: the default one",
        },
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "stream": {"type": ["boolean", "null"]},
    },
    answer="The answer",
    answer_types=(_JSON, "text/event-stream"),
)

EMBEDDINGS = _operation(
    "Turn text into vectors",
    "OpenAI's embeddings, passed through to models of `kind: embedding`.",
    required=["input"],
    properties={
        "model": {"type": ["string", "null"]},
        "input": {"oneOf": [{"type": "string"}, {"type": "array"}]},
    },
    answer="The vectors",
)

_DRAWING: dict[str, Any] = {
    "model": {
        "type": ["string", "null"],
        "description": "A model, an alias, or a category; empty or `all`: the best one for images",
    },
    "prompt": {"type": "string", "minLength": 1},
    "size": {"type": ["string", "null"], "examples": ["1024x1024"]},
}
_PICTURES = "The pictures, in base64 or at addresses"

IMAGES = _operation(
    "Draw pictures",
    "OpenAI's image generation. What a provider cannot take is named in the header x-sluice-dropped.",
    required=["prompt"],
    properties={
        **_DRAWING,
        "n": {"type": ["integer", "null"], "minimum": 1},
        "response_format": {"enum": ["b64_json", "url", None]},
    },
    answer=_PICTURES,
)

EDITS = _operation(
    "Change pictures",
    "OpenAI's image edits, by the models that can.",
    body_type="multipart/form-data",
    required=["prompt", "image"],
    properties={
        "model": {"type": "string"},
        "prompt": {"type": "string", "minLength": 1},
        "image": {"type": "string", "format": "binary"},
        "mask": {"type": "string", "format": "binary"},
    },
    answer=_PICTURES,
)

PLAIN_IMAGE = _operation(
    "Draw one picture and answer with it as it is",
    properties={**_DRAWING, "inputs": {"type": "string", "description": "Another name for prompt"}},
    anyOf=[{"required": ["prompt"]}, {"required": ["inputs"]}],
    answer="The picture",
    answer_types=[f"image/{kind}" for kind in ("png", "jpeg", "webp", "gif")],
)
