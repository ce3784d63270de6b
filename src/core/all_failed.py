"""What the caller is told when no candidate answered: one status for many reasons, and when there may be room. Pure."""

import math
from collections.abc import Sequence
from typing import Literal

from .admission import Refusal
from .catalog import Model
from .errors import GatewayError, InvalidRequest, RateLimited, TooLong, Unavailable, Unsupported, UpstreamError
from .frozen import frozen
from .retries import cooldown_of

Kind = Literal["need", "room", "breaker", "upstream"]
_LENGTHS = frozenset({"max_request_length", "context_tokens", "tokens_per_minute", "tokens_per_hour", "tokens_per_day"})
_ROOMS = frozenset({"busy", "exhausted"})


@frozen
class Attempt:
    """Why one candidate did not answer: it lacks what the request needs, has no room, its breaker is open, or it was
    asked and failed, with `error`. `until_ms`: when it may have room, None: not known, or never.
    """

    model: str
    kind: Kind
    reason: str
    status: int | None = None
    until_ms: int | None = None
    is_throttled: bool = False
    error: UpstreamError | None = None

    @classmethod
    def of_refusal(cls, model: str, refusal: Refusal) -> "Attempt":
        never = [reason.rule for reason in refusal.reasons if reason.until_ms is None]
        if never:
            return cls(model, "need", never[0])  # it asks for more tokens than the limit is
        rules = [reason.rule for reason in refusal.reasons]
        kind: Kind = "breaker" if "breaker" in rules else "room"
        return cls(model, kind, ", ".join(rules), None, refusal.retry_at_ms, refusal.is_throttled)

    @classmethod
    def of_failure(cls, model: Model, error: UpstreamError, *, now_ms: int) -> "Attempt":
        kind: Kind = "need" if isinstance(error, TooLong | Unsupported) else "upstream"
        until_ms = cooldown_of(error, model, now_ms=now_ms)
        return cls(model.name, kind, error.kind, error.upstream_status, until_ms, error=error)


def key_refused(refusal: Refusal, key: str, *, now_ms: int) -> GatewayError:
    """The caller's own limit is reached; no model was asked."""
    rules = ", ".join(reason.rule for reason in refusal.reasons)
    if refusal.retry_at_ms is None:
        return InvalidRequest(
            f"The request asks for more than the key {key} may have at all ({rules}).", code="context_length_exceeded"
        )
    error = RateLimited(f"The key {key} has reached its limit ({rules}).")
    error.headers["retry-after"] = _seconds(refusal.retry_at_ms - now_ms)
    return error


def all_failed(attempts: Sequence[Attempt], *, now_ms: int) -> GatewayError:
    """`attempts`: one for each model, the last one last."""
    error = with_attempts(_error(attempts), attempts)
    if error.status in (429, 503):
        moments = [attempt.until_ms for attempt in attempts if attempt.until_ms is not None]
        error.headers["retry-after"] = _seconds(min(moments, default=now_ms + 1000) - now_ms)
    return error


def with_attempts(error: GatewayError, attempts: Sequence[Attempt]) -> GatewayError:
    """The same error, which names what came of each."""
    error.attempts = [{"model": a.model, "reason": a.reason, "status": a.status} for a in attempts]
    return error


def _seconds(wait_ms: int) -> str:
    return str(max(1, math.ceil(wait_ms / 1000)))


def _error(attempts: Sequence[Attempt]) -> GatewayError:
    able = [attempt for attempt in attempts if attempt.kind != "need"]
    if not able:
        return _last_error(attempts) or _unable(attempts)
    if len(able) == 1 and able[0].error is not None:
        return able[0].error
    broken = _last_error([attempt for attempt in able if attempt.reason not in _ROOMS])
    if broken is not None:
        return broken
    if all(attempt.kind == "room" or (attempt.error and attempt.error.status == 429) for attempt in able):
        return RateLimited("Every model that could answer has reached a limit. Try again later.")
    return Unavailable("No model that could answer has room now. Try again later.")


def _last_error(attempts: Sequence[Attempt]) -> UpstreamError | None:
    return next((attempt.error for attempt in reversed(attempts) if attempt.error is not None), None)


def _unable(attempts: Sequence[Attempt]) -> GatewayError:
    rules = {attempt.reason for attempt in attempts}
    if rules <= _LENGTHS:
        return InvalidRequest(
            f"The request is too long for every model it could go to ({', '.join(sorted(rules))}).",
            code="context_length_exceeded",
        )
    return InvalidRequest(
        f"No model that it could go to can do what the request needs: {', '.join(sorted(rules))}.", code="unsupported"
    )
