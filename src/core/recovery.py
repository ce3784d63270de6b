"""A stream that broke off, taken up by another model so that the caller sees one whole answer. Pure.

Where the next model is known to continue an assistant's words (`prefill`), it is asked to; else it is asked anew, and
what is already sent is skipped for as long as it says the same, character by character. If it does not, there is no
honest way on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .chat import Chat
from .errors import StreamNotRecovered
from .stream import Chunk, choices_of, is_usage

Json = dict[str, Any]
_DIFFERS = "The provider's stream broke off, and another model answered something else."
# What of a delta can be taken up. A tool call or audio that broke off cannot: its beginning is already acted upon.
_WORDS = frozenset({"role", "content", "refusal", "reasoning_content", "reasoning"})


@dataclass(slots=True)
class Sent:
    """What the caller has of the answer so far."""

    text: str = ""
    has_thoughts: bool = False
    is_plain: bool = True  # one choice of words, nothing else, and not finished
    head: Json = field(default_factory=dict)  # what all chunks have in common

    def note(self, chunk: Chunk) -> None:
        if not self.head:
            self.head = {name: chunk.body.get(name) for name in ("id", "created", "model") if name in chunk.body}
        for choice in choices_of(chunk):
            self.is_plain &= choice.get("index", 0) == 0 and not choice.get("finish_reason")
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            said = {name for name, value in delta.items() if value}
            self.is_plain &= said <= _WORDS and not delta.get("refusal")
            self.has_thoughts |= bool(said & {"reasoning_content", "reasoning"})
            content = delta.get("content")
            self.text += content if isinstance(content, str) else ""


def continued(chat: Chat, sent: Sent, *, can_prefill: bool) -> Chat:
    """The request to the next model. A prefill must not end in white space: some refuse that. Where the caller had put
    the first words into the assistant's mouth, they and what was sent are one message.
    """
    if not can_prefill or not sent.text.strip():
        return chat
    messages, begun = list(chat.body["messages"]), ""
    if messages[-1].get("role") == "assistant" and isinstance(messages[-1].get("content"), str):
        begun = messages.pop()["content"]
    messages.append({"role": "assistant", "content": begun + sent.text.rstrip()})
    return Chat({**chat.body, "messages": messages}, chat.length, chat.hides_usage)


@dataclass(slots=True)
class Continuation:
    """Chunks of the next model's stream as the caller, who has `sent`, gets them."""

    sent: Sent
    is_prefilled: bool
    _expected: str = ""  # of this, what is said again is skipped
    _skips_thoughts: bool = False

    @classmethod
    def of(cls, sent: Sent, chat: Chat, asked: Chat) -> "Continuation":
        """`asked` is what `continued` made of `chat`."""
        is_prefilled = asked is not chat
        expected = sent.text[len(sent.text.rstrip()) :] if is_prefilled else sent.text
        return cls(sent, is_prefilled, expected, sent.has_thoughts)

    def take(self, chunk: Chunk) -> Chunk | None:
        """None: nothing of it is new. Raises StreamNotRecovered."""
        if is_usage(chunk):
            return Chunk({**chunk.body, **self.sent.head}, is_unasked=chunk.is_unasked)
        choices = [self._choice(choice) for choice in choices_of(chunk)]
        new = [choice for choice in choices if choice["delta"] or choice.get("finish_reason")]
        return Chunk({**chunk.body, **self.sent.head, "choices": new}) if new else None

    def _choice(self, choice: Json) -> Json:
        delta = dict(choice.get("delta") or {})
        delta.pop("role", None)
        if self._skips_thoughts:
            delta = {name: value for name, value in delta.items() if name not in ("reasoning_content", "reasoning")}
        if isinstance(delta.get("content"), str) and delta["content"]:
            delta["content"] = self._new(delta["content"])
        delta = {name: value for name, value in delta.items() if value not in (None, "")}
        if self._expected and not self.is_prefilled and (choice.get("finish_reason") or not delta.keys() <= _WORDS):
            raise StreamNotRecovered(_DIFFERS)
        return {**choice, "delta": delta}

    def _new(self, content: str) -> str:
        if self.is_prefilled and self._expected and not content[:1].isspace():
            self._expected = ""  # it goes on without repeating the white space
        known = min(len(content), len(self._expected))
        if content[:known] != self._expected[:known]:
            if self.is_prefilled:
                self._expected = ""
                return content.lstrip()
            raise StreamNotRecovered(_DIFFERS)
        self._expected = self._expected[known:]
        return content[known:]


def summed(usages: Iterable[Json]) -> Json:
    """What several attempts used together, as far as they said."""
    found: Json = {}
    for usage in usages:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if isinstance(usage.get(name), int):
                found[name] = found.get(name, 0) + usage[name]
    return found
