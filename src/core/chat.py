"""A caller's chat request: what the gateway must know of it. The rest of the body is for the provider."""

from typing import Any

from .body import read_object, require
from .errors import InvalidRequest
from .frozen import frozen

_TEXT, _FLAG = str | None, bool | None


@frozen
class Chat:
    """`body` is the request as it came and is never changed; `length` is its size in bytes."""

    body: dict[str, Any]
    length: int
    hides_usage: bool = False  # usage is asked for on our own account, and the caller is not to see it

    @property
    def model(self) -> str:
        """What the caller asked for; empty when it is for us to choose."""
        return self.body.get("model") or ""

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for a usage chunk at the end of the stream."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def with_usage(self) -> "Chat":
        """The same, with the usage at the end of the stream, which the limits want to know."""
        options = self.body.get("stream_options")
        if self.wants_usage or not isinstance(options, dict | None):
            return self
        asked = {**self.body, "stream_options": {**(options or {}), "include_usage": True}}
        return Chat(asked, self.length, hides_usage=True)

    @property
    def answers(self) -> int:
        """How many choices were asked for (`n`)."""
        n = self.body.get("n")
        return n if isinstance(n, int) and n > 0 else 1


def parse_chat(raw: bytes) -> Chat:
    """Raises InvalidRequest for what no provider could make sense of. Fields we do not know are welcome."""
    body = read_object(raw)
    require(body, "model", _TEXT, "a string")
    require(body, "stream", _FLAG, "true or false")
    require(body, "messages", list, "a list with at least one message")
    messages = body["messages"]
    if not messages:
        raise InvalidRequest("`messages` must be a list with at least one message.", param="messages")
    for message in messages:
        if not isinstance(message, dict):
            raise InvalidRequest("Each of `messages` must be an object.", param="messages")
    return Chat(body, len(raw))
