"""What a chat stream is made of and how its end is judged. Pure: dialects produce the items, `upstream.py` takes them.

A stream is finished only when every choice has had its `finish_reason`. Whatever else ends it is a break, and the
caller is told so.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from .errors import UpstreamError
from .frozen import frozen

# A delta with one of these, not empty, is an answer that has begun (`reasoning` and `images`: OpenRouter, Groq).
_REAL = (
    "content",
    "tool_calls",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "refusal",
    "audio",
    "function_call",
    "images",
)


@frozen
class Chunk:
    """One `chat.completion.chunk`. `raw` is its JSON as it came; None when there was none or it was mended.

    `is_unasked`: the caller did not ask for it. What it says of usage is counted, and it is not passed on.
    """

    body: dict[str, Any]
    raw: bytes | None = None
    is_unasked: bool = False

    def encode(self) -> bytes:
        return orjson.dumps(self.body) if self.raw is None else self.raw


@frozen
class Done:
    """The provider said that its stream is over (`[DONE]` and its like)."""


Item = Chunk | Done | UpstreamError


class Decoder(Protocol):
    """Reads one stream of a dialect: bytes cut anywhere in, items out. Failures are items too: nothing is raised."""

    def feed(self, piece: bytes) -> list[Item]: ...

    def close(self) -> list[Item]: ...


def is_real(chunk: Chunk) -> bool:
    """Whether the answer has begun: content, reasoning, refusal, audio, tool calls or a finish reason.

    A role, usage or filter results are not: as long as only those came, another model can still answer instead.
    """
    for choice in choices_of(chunk):
        delta = choice.get("delta")
        if choice.get("finish_reason") or (isinstance(delta, dict) and any(delta.get(name) for name in _REAL)):
            return True
    return False


def is_usage(chunk: Chunk) -> bool:
    """The chunk that `include_usage` brings: usage and nothing else."""
    return isinstance(chunk.body.get("usage"), dict) and chunk.body.get("choices") == []


def choices_of(chunk: Chunk) -> list[dict[str, Any]]:
    choices = chunk.body.get("choices")
    if not isinstance(choices, list):
        return []
    if len(choices) == 1 and isinstance(choices[0], dict):
        return choices  # most of them
    return [choice for choice in choices if isinstance(choice, dict)]


@dataclass(slots=True)
class Progress:
    """What of a stream has been seen. `expected` is the number of choices that were asked for."""

    expected: int = 1
    usage: dict[str, Any] | None = None
    _open: dict[int, bool] = field(default_factory=dict)  # choice index -> still without finish_reason

    def note(self, chunk: Chunk) -> None:
        usage = chunk.body.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        for choice in choices_of(chunk):
            index = choice.get("index")
            if type(index) is not int:
                index = 0
            if choice.get("finish_reason"):
                self._open[index] = False
            elif index not in self._open:
                self._open[index] = True

    def is_finished(self, *, done: bool) -> bool:
        """Every choice seen has finished. Without `[DONE]` as many as were asked for must have been seen, too."""
        seen = len(self._open)
        return seen > 0 and not any(self._open.values()) and (done or seen >= self.expected)
