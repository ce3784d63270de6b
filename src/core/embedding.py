"""A caller's request for embeddings; like a chat, all but `model` reaches the provider as it came."""

from typing import Any

from .body import read_object, require
from .frozen import frozen


@frozen
class Embedding:
    """`body` is the request as it came and is never changed; `length` is its size in bytes."""

    body: dict[str, Any]
    length: int

    @property
    def model(self) -> str:
        return self.body.get("model") or ""


def parse_embedding(raw: bytes) -> Embedding:
    """Raises InvalidRequest. `input` is text, a list of texts, or tokens as numbers."""
    body = read_object(raw)
    require(body, "model", str | None, "a string")
    require(body, "input", str | list, "text or a list")
    return Embedding(body, len(raw))
