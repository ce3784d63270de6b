"""What a failure means: whether the same model is asked again, and what the store is told. Pure.

Class        same model again                          the store hears
transient    by name: once within 250 ms, without      a failure
             fallbacks RETRY_MAX_RETRIES times
busy         the same, if it has room within 2 s       a cooldown
exhausted    no                                        a cooldown until the quota is new
silent       no                                        a failure
operator     no                                        a failure, whoever else could answer
others       no                                        nothing
In a category the same model is asked again once, when no other has room. A breaker's probe is never repeated. A model
without an alternative is not closed for a transient or silent failure: there would be nobody to answer instead.
"""

from collections.abc import Callable

from .admission import Outcome
from .catalog import Model
from .errors import Busy, Exhausted, Operator, OutOfTime, Silent, Transient, UpstreamError
from .frozen import frozen
from .limits import day_end

QUICK_S = 0.25
SHORT_WAIT_S = 2.0
LONGEST_S = 31 * 86_400.0  # a month's quota; what is said beyond it is a slip, and no number for a store


@frozen
class RetryPolicy:
    """For calls by name of a model without fallbacks: RETRY_MAX_RETRIES and its companions, in seconds."""

    max_retries: int = 3
    base_delay_s: float = 1.0
    max_delay_s: float = 30.0
    jitter: float = 0.1


def pause_before_again(
    error: UpstreamError, *, asked: int, by_name: bool, is_last: bool, policy: RetryPolicy, random: Callable[[], float]
) -> float | None:
    """Seconds to wait before the same model is asked again, None: not again.

    `asked`: how often it has been asked for this request; `is_last`: it has no fallback; `random` gives 0 to 1.
    """
    pause, is_busy = pause_when_alone(error, random=random), isinstance(error, Busy)
    if pause is None or not by_name or asked > (policy.max_retries if is_last else 1):
        return None
    if not is_last or (is_busy and asked == 1):
        return pause
    delay = min(policy.max_delay_s, policy.base_delay_s * 2.0 ** (asked - 1))
    delay *= 1 - policy.jitter + 2 * policy.jitter * random()
    return max(pause, delay) if is_busy else delay


def pause_when_alone(error: UpstreamError, *, random: Callable[[], float]) -> float | None:
    """Seconds to wait before one more try at a model, None: it would not help."""
    if isinstance(error, Busy):
        wait = error.retry_after_s
        return wait if wait is not None and wait <= SHORT_WAIT_S else None
    return random() * QUICK_S if isinstance(error, Transient) else None


def outcome_of(error: UpstreamError, model: Model, *, now_ms: int) -> Outcome:
    """The final outcome of an attempt that failed."""
    cool_until = cooldown_of(error, model, now_ms=now_ms)
    counts = isinstance(error, Operator) or (isinstance(error, Transient | Silent) and model.counts_failures)
    return Outcome(
        verdict=False if counts else None,
        tokens=None if isinstance(error, Silent | OutOfTime) else 0,
        is_refund=not error.reached,
        cool_until_ms=cool_until,
    )


def cooldown_of(error: UpstreamError, model: Model, *, now_ms: int) -> int | None:
    """Until when (ms) the model, or the whole account, is left alone because the provider said so."""
    breaker = model.breaker
    if isinstance(error, Busy | Exhausted):
        if error.retry_after_s is not None:
            return now_ms + int(min(error.retry_after_s, LONGEST_S) * 1000)
        if error.resets_daily:
            return int(day_end(model.scope.day_starts, now_ms / 1000) * 1000)
        return now_ms + (breaker.cooldown_ms if isinstance(error, Busy) else breaker.max_cooldown_ms)
    return now_ms + breaker.cooldown_ms if error.is_account else None
