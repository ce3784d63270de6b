"""An answer in OpenAI's form, written piece by piece by dialects that read another. Pure.

One id, the role once, calls numbered, one finish, one usage chunk at the end, for every stream alike.
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..stream import Chunk
from .dialect import Completion, Stamp

Json = dict[str, Any]


def usage_of(
    prompt: int, completion: int, *, cached: int | None = None, reasoning: int | None = None, total: int | None = None
) -> Json:
    """Tokens. `cached` is part of `prompt`, `reasoning` of `completion`; None: the provider does not say."""
    usage: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion if total is None else total,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def token_of(token: str, logprob: float, likeliest: Iterable[tuple[str, float]] = ()) -> Json:
    """How likely a token was, and which were the likeliest in its place."""
    top = [_rated(other, how) for other, how in likeliest]
    return {**_rated(token, logprob), "top_logprobs": top}


def _rated(token: str, logprob: float) -> Json:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _logprobs(tokens: list[Json]) -> Json | None:
    return {"content": tokens, "refusal": None} if tokens else None


@dataclass(slots=True)
class _Said:
    """What one choice has said so far."""

    has_role: bool = False
    calls: int = 0
    has_finished: bool = False
    tokens: list[Json] = field(default_factory=list)  # for its next chunk


@dataclass(slots=True)
class StreamWriter:
    """`id` and `model` may be set by what the provider calls them, before the first chunk is written."""

    id: str
    created: int
    model: str
    wants_usage: bool
    extra: Json = field(default_factory=dict)  # further fields of every chunk
    _choices: dict[int, _Said] = field(default_factory=dict)

    @classmethod
    def of(cls, stamp: Stamp, *, wants_usage: bool) -> "StreamWriter":
        return cls(stamp.id, stamp.created, stamp.model, wants_usage)

    def text(self, text: str, index: int = 0) -> Chunk:
        return self.delta({"content": text}, index)

    def reasoning(self, text: str, index: int = 0) -> Chunk:
        return self.delta({"reasoning_content": text}, index)

    def call(self, call_id: str, name: str, arguments: str = "", *, index: int = 0, extra: Json | None = None) -> Chunk:
        """The next tool call: all of it, or its beginning."""
        said = self._choices.setdefault(index, _Said())
        call: Json = {"index": said.calls, "id": call_id, "type": "function"}
        call["function"] = {"name": name, "arguments": arguments}
        if extra:
            call["extra_content"] = extra
        said.calls += 1
        return self.delta({"tool_calls": [call]}, index)

    def more_arguments(self, arguments: str, place: int | None = None, index: int = 0) -> Chunk:
        """Of the call at `place`; None: of the last one."""
        last = self._choices.setdefault(index, _Said()).calls - 1
        call = {"index": max(0, last) if place is None else place, "function": {"arguments": arguments}}
        return self.delta({"tool_calls": [call]}, index)

    def rate(self, tokens: Iterable[Json], index: int = 0) -> None:
        """The next chunk says how likely these were."""
        self._choices.setdefault(index, _Said()).tokens += tokens

    def has_calls(self, index: int = 0) -> bool:
        return self._choices.setdefault(index, _Said()).calls > 0

    def delta(self, delta: Json, index: int = 0) -> Chunk:
        return self._chunk(self._with_role(delta, index), index, None)

    def finish(self, reason: str, index: int = 0, delta: Json | None = None) -> list[Chunk]:
        """Once for each choice, whatever the provider repeats. After calls `stop` is `tool_calls`, and only then."""
        said = self._choices.setdefault(index, _Said())
        if said.has_finished:
            return []
        said.has_finished = True
        return [self._chunk(self._with_role(delta or {}, index), index, finish_of(reason, has_calls=said.calls > 0))]

    def usage(self, usage: Json) -> Chunk:
        """At the very end, and once."""
        return Chunk({**self.head(), "choices": [], "usage": usage}, is_unasked=not self.wants_usage)

    def _with_role(self, delta: Json, index: int) -> Json:
        said = self._choices.setdefault(index, _Said())
        if said.has_role:
            return delta
        said.has_role = True
        return {"role": "assistant", **({} if "content" in delta else {"content": None}), **delta}

    def _chunk(self, delta: Json, index: int, finish: str | None) -> Chunk:
        said = self._choices[index]
        tokens, said.tokens = said.tokens, []
        choice = {"index": index, "delta": delta, "logprobs": _logprobs(tokens), "finish_reason": finish}
        return Chunk({**self.head(), "choices": [choice]})

    def head(self) -> Json:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return {**head, **self.extra}


@dataclass(slots=True)
class MessageWriter:
    """One choice of a whole answer."""

    text: str = ""
    reasoning: str = ""
    refusal: str | None = None
    calls: list[Json] = field(default_factory=list)
    tokens: list[Json] = field(default_factory=list)  # how likely each was, where that was asked for
    extra: Json = field(default_factory=dict)  # `extra_content` and its like

    def call(self, call_id: str, name: str, arguments: str, *, extra: Json | None = None) -> None:
        call: Json = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self.calls.append({**call, "extra_content": extra} if extra else call)

    def choice(self, reason: str, index: int = 0) -> Json:
        message: Json = {"role": "assistant", "content": self.text or None, "refusal": self.refusal, **self.extra}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        elif self.refusal is None and not self.text:
            message["content"] = ""
        finish = finish_of(reason, has_calls=bool(self.calls))
        return {"index": index, "message": message, "logprobs": _logprobs(self.tokens), "finish_reason": finish}


def completion_of(
    stamp: Stamp,
    choices: list[Json],
    usage: Json | None,
    *,
    id: str = "",  # noqa: A002 - OpenAI's word
    model: str = "",
    **extra: Any,
) -> Completion:
    """`id` and `model` as the provider calls them, where it does."""
    body: Json = {
        "id": id or stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": model or stamp.model,
        "choices": choices,
        **({"usage": usage} if usage is not None else {}),
        **extra,
    }
    return Completion(body, orjson.dumps(body))


def finish_of(reason: str, *, has_calls: bool) -> str:
    """`tool_calls` if and only if there were some, unless something cut the answer short."""
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if has_calls else "stop"
    return reason
