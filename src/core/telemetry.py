"""What happened to a request, told once when it is over. Doors decide where that goes; prompts and keys never do."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from .admission import Refusal

MOST_TOKENS = 10**9  # of one answer


@dataclass(slots=True)
class Record:
    """One request. Times are seconds since `started`; fields are None where they do not apply or are not known.

    `waited_s` is the time spent waiting for providers to begin, `trail` what came of those that failed. `error` is
    the code of what went wrong, also when that was after a status 200 had gone out; `client_left` when the client did
    not wait for the end.
    """

    request_id: str
    method: str
    path: str
    started: float  # time.perf_counter()
    caller: str | None = None
    model: str | None = None
    provider: str | None = None
    status: int | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 0
    waited_s: float = 0.0
    is_stream: bool = False
    trail: list[str] = field(default_factory=list)
    error: str | None = None

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def overhead_s(self) -> float:
        """What the gateway itself took, up to the first token or the whole answer."""
        until = self.total_s if self.first_token_s is None else self.first_token_s
        return max(0.0, (until or 0.0) - self.waited_s)

    def note_usage(self, usage: object) -> None:
        """OpenAI's `usage` object, of a chat or of pictures, or anything else, which is ignored."""
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
            self.completion_tokens = _count(usage.get("completion_tokens", usage.get("output_tokens")))


class Telemetry(Protocol):
    def request_done(self, record: Record) -> None: ...

    def stream_began(self, record: Record) -> None:
        """The first chunk of a stream is there; `request_done` of the same record will be its end."""
        ...

    def attempted(self, record: Record, outcome: str) -> None:
        """A call to `record.model` has ended: `ok`, the kind of its failure or `client_left`."""
        ...

    def refused(self, record: Record, refusal: Refusal) -> None:
        """A scope had no room."""
        ...

    def breaker_opened(self, record: Record, model: str) -> None:
        """The model is left alone for a while: it has failed too often."""
        ...

    def store_fared(self, how: str) -> None:
        """A shared store was out of reach: `degraded`, `denied`, `busy`, `lost` (a write), or is `back`."""
        ...

    def unexpected(self, record: Record, error: Exception) -> None:
        """A bug of ours: the client got a 500."""
        ...


def tokens_in(usage: object) -> int | None:
    """All tokens of OpenAI's `usage` object; None for anything else."""
    if not isinstance(usage, dict):
        return None
    total = _count(usage.get("total_tokens"))
    if total is not None:
        return total
    return sum(_count(usage.get(name)) or 0 for name in ("prompt_tokens", "completion_tokens")) or None


def _count(tokens: object) -> int | None:
    """Anything else than a number of tokens that somebody could have used would corrupt a limit."""
    return tokens if type(tokens) is int and 0 <= tokens <= MOST_TOKENS else None


def holds_secret(text: str, secrets: Iterable[str], *, window: int = 8) -> bool:
    """Whether `text` has `window` characters in a row of one of `secrets`: providers quote keys back in part."""
    return any(
        secret[start : start + window] in text
        for secret in secrets
        for start in range(max(1, len(secret) - window + 1))
    )
