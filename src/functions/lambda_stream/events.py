"""From an event to an ASGI scope and a body: Mangum's own reading, with what it loses mended."""

import base64
import binascii
from typing import Any
from urllib.parse import quote

from mangum.types import LambdaHandler, Scope


class BadEventError(Exception):
    """Not an HTTP request that a front end of Lambda would send."""


class BadBodyError(Exception):
    """An HTTP request whose body is not what its event says."""


def scope_of(request: LambdaHandler) -> Scope:
    """Raises BadEventError."""
    try:
        scope = request.scope
        event = scope["aws.event"]
        # An encoded slash is part of a name, not of the path; Mangum leaves only the decoded path.
        path = event.get("rawPath") or quote(event.get("path") or "/", safe="/%:@!$&'()*+,;=~")
        scope["raw_path"] = path.encode("ascii")
        scope["headers"] = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadEventError(f"The event is not a whole HTTP request ({type(error).__name__}).") from error
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
    return scope


def body_of(event: dict[str, Any]) -> bytes:
    """Mangum passes over what is not base64. Raises BadBodyError."""
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise BadBodyError("The body of the event is not text.")
    if not event.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadBodyError("The body of the request is not valid base64, as its event says it is.") from error
