"""What happened to a request, told once when it is over. Doors decide where that goes; prompts and keys never do."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Record:
    """One request. Times are seconds since `started`; fields are None where they do not apply or are not known.

    `error` is the code of what went wrong, also when that was after a status 200 had gone out; `client_left` when the
    client did not wait for the end.
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
    error: str | None = None

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def note_usage(self, usage: object) -> None:
        """OpenAI's `usage` object, or anything else, which is ignored."""
        if isinstance(usage, dict):
            asked, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
            self.prompt_tokens = asked if isinstance(asked, int) else None
            self.completion_tokens = said if isinstance(said, int) else None


class Telemetry(Protocol):
    def request_done(self, record: Record) -> None: ...

    def unexpected(self, record: Record, error: Exception) -> None:
        """A bug of ours: the client got a 500."""
        ...


def holds_secret(text: str, secrets: Iterable[str], *, window: int = 8) -> bool:
    """Whether `text` has `window` characters in a row of one of `secrets`: providers quote keys back in part."""
    return any(
        secret[start : start + window] in text
        for secret in secrets
        for start in range(max(1, len(secret) - window + 1))
    )
