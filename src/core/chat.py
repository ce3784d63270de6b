"""A caller's chat request: what the gateway must know of it. The rest of the body is for the provider."""

from dataclasses import dataclass
from typing import Any

import orjson

from .errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Chat:
    """`body` is the request as it came and is never changed; `length` is its size in bytes."""

    body: dict[str, Any]
    length: int

    @property
    def model(self) -> str:
        """What the caller asked for; empty when it is for us to choose."""
        return self.body.get("model") or ""

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def answers(self) -> int:
        """How many choices were asked for (`n`)."""
        n = self.body.get("n")
        return n if isinstance(n, int) and n > 0 else 1


def parse_chat(raw: bytes) -> Chat:
    """Raises InvalidRequest for what no provider could make sense of. Fields we do not know are welcome."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error.msg}.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    _check(body, "model", str | None, "a string")
    _check(body, "stream", bool | None, "true or false")
    _check(body, "messages", list, "a list with at least one message")
    messages = body["messages"]
    if not messages:
        raise InvalidRequest("`messages` must be a list with at least one message.", param="messages")
    if not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("Each of `messages` must be an object.", param="messages")
    return Chat(body, len(raw))


def _check(body: dict[str, Any], field: str, kind: Any, meaning: str) -> None:
    if not isinstance(body.get(field), kind):
        raise InvalidRequest(f"`{field}` must be {meaning}.", param=field)
