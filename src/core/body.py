"""A request body as far as the gateway judges it: a JSON object whose few fields that we read have the right type."""

from typing import Any

import orjson

from . import json_text
from .errors import InvalidRequest


def read_object(raw: bytes) -> dict[str, Any]:
    """Raises InvalidRequest for anything but a JSON object."""
    try:
        body = json_text.read(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error.msg}.") from error
    except json_text.TooDeep as error:
        raise InvalidRequest(f"The request body is {error}.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return body


def require(body: dict[str, Any], field: str, kind: Any, meaning: str) -> None:
    """Raises InvalidRequest unless `body[field]`, None when it is missing, is of that kind."""
    if not isinstance(body.get(field), kind):
        raise InvalidRequest(f"`{field}` must be {meaning}.", param=field)
