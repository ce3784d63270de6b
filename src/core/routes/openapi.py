"""What the OpenAPI document says of bodies that the gateway itself reads only in part."""

from typing import Any

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

CHAT: dict[str, Any] = {
    "summary": "Answer a chat, whole or as a stream",
    "description": "OpenAI's chat completions. Fields that are not named here reach the provider unchanged.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["messages"],
                    "properties": {
                        "model": {
                            "type": ["string", "null"],
                            "description": "A model, an alias, or a category such as SMALL; empty: the default one",
                        },
                        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                        "stream": {"type": ["boolean", "null"]},
                    },
                    "additionalProperties": True,
                }
            }
        },
    },
    "responses": {
        "200": {
            "description": "The answer",
            "content": {"application/json": {}, "text/event-stream": {}},
        },
        "4XX": _ERROR,
        "5XX": _ERROR,
    },
}

EMBEDDINGS: dict[str, Any] = {
    "summary": "Turn text into vectors",
    "description": "OpenAI's embeddings, passed through to models of `kind: embedding`.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "properties": {
                        "model": {"type": ["string", "null"]},
                        "input": {"oneOf": [{"type": "string"}, {"type": "array"}]},
                    },
                    "additionalProperties": True,
                }
            }
        },
    },
    "responses": {
        "200": {"description": "The vectors", "content": {"application/json": {}}},
        "4XX": _ERROR,
        "5XX": _ERROR,
    },
}

_DRAWING: dict[str, Any] = {
    "model": {
        "type": ["string", "null"],
        "description": "A model, an alias, or a category; empty or `all`: the best one for images",
    },
    "prompt": {"type": "string", "minLength": 1},
    "size": {"type": ["string", "null"], "examples": ["1024x1024"]},
}

IMAGES: dict[str, Any] = {
    "summary": "Draw pictures",
    "description": "OpenAI's image generation. What a provider cannot take is named in the header x-sluice-dropped.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["prompt"],
                    "properties": {
                        **_DRAWING,
                        "n": {"type": ["integer", "null"], "minimum": 1},
                        "response_format": {"enum": ["b64_json", "url", None]},
                    },
                    "additionalProperties": True,
                }
            }
        },
    },
    "responses": {
        "200": {"description": "The pictures, in base64 or at addresses", "content": {"application/json": {}}},
        "4XX": _ERROR,
        "5XX": _ERROR,
    },
}

EDITS: dict[str, Any] = {
    "summary": "Change pictures",
    "description": "OpenAI's image edits, by the models that can.",
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["prompt", "image"],
                    "properties": {
                        "model": {"type": "string"},
                        "prompt": {"type": "string", "minLength": 1},
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "string", "format": "binary"},
                    },
                    "additionalProperties": True,
                }
            }
        },
    },
    "responses": IMAGES["responses"],
}

PLAIN_IMAGE: dict[str, Any] = {
    "summary": "Draw one picture and answer with it as it is",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {**_DRAWING, "inputs": {"type": "string", "description": "Another name for prompt"}},
                    "anyOf": [{"required": ["prompt"]}, {"required": ["inputs"]}],
                    "additionalProperties": True,
                }
            }
        },
    },
    "responses": {
        "200": {
            "description": "The picture",
            "content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp", "gif")},
        },
        "4XX": _ERROR,
        "5XX": _ERROR,
    },
}
