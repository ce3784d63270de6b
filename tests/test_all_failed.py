"""Many reasons, one answer: which status the caller gets when nobody answered, and when it is worth coming back."""

from collections.abc import Sequence

import pytest

from core.admission import Reason, Refusal, Scope
from core.all_failed import Attempt, all_failed, key_refused
from core.errors import Busy, Exhausted, GatewayError, Operator, Silent, TooLong, Transient, Unsupported, UpstreamError
from tests.running_gateway import catalog_of, model

NOW_MS = 1_800_000_000_000
(MODEL,) = catalog_of(model("http://upstream", "m")).models  # its cooldown is the default: 15 s, at most 600 s


def lacks(rule: str) -> Attempt:
    return Attempt("m", "need", rule)


def no_room(*rules: str, wait_ms: int | None = 30_000) -> Attempt:
    until_ms = None if wait_ms is None else NOW_MS + wait_ms
    return Attempt.of_refusal("m", Refusal(Scope("m#m"), tuple(Reason(rule, until_ms) for rule in rules)))


def failed(error: UpstreamError) -> Attempt:
    return Attempt.of_failure(MODEL, error, now_ms=NOW_MS)


def busy(retry_after_s: float | None = None) -> Attempt:
    return failed(Busy("busy", status=429, upstream_status=429, retry_after_s=retry_after_s))


def overloaded() -> Attempt:
    return failed(Busy("overloaded", upstream_status=503))


def broken(status: int = 500) -> Attempt:
    return failed(Transient(f"failed with {status}", upstream_status=status))


FULL = no_room("requests_per_minute")
OPEN = no_room("breaker", wait_ms=9_000)
SILENT = failed(Silent("silent"))
REFUSED = failed(Operator("refused", upstream_status=401))
TOO_LONG = failed(TooLong("too long: 9000 tokens", upstream_status=400))
UNSUPPORTED = failed(Unsupported("no tools", upstream_status=422, status=422))
NO_QUOTA = failed(Exhausted("used up", upstream_status=402))


@pytest.mark.parametrize(
    ("attempts", "status", "code", "retry_after"),
    [
        # nobody can take it, whatever the hour
        ([lacks("max_request_length")], 400, "context_length_exceeded", None),
        ([lacks("max_request_length"), lacks("context_tokens")], 400, "context_length_exceeded", None),
        ([no_room("tokens_per_minute", wait_ms=None)], 400, "context_length_exceeded", None),
        ([lacks("vision")], 400, "unsupported", None),
        ([lacks("vision"), lacks("max_request_length")], 400, "unsupported", None),
        ([lacks("tools"), TOO_LONG], 400, "context_length_exceeded", None),
        ([TOO_LONG, lacks("context_length_exceeded")], 400, "context_length_exceeded", None),
        ([UNSUPPORTED], 422, "unsupported", None),
        # those that can have no room
        ([FULL], 429, "rate_limit_exceeded", "30"),
        ([FULL, lacks("vision")], 429, "rate_limit_exceeded", "30"),
        ([TOO_LONG, FULL], 429, "rate_limit_exceeded", "30"),
        ([no_room("cooldown", wait_ms=4_000), FULL], 429, "rate_limit_exceeded", "4"),
        ([no_room("requests_per_minute", "requests_per_day"), busy(50)], 429, "rate_limit_exceeded", "30"),
        ([no_room("in_flight", wait_ms=1_000)], 429, "rate_limit_exceeded", "1"),
        ([busy()], 429, "rate_limit_exceeded", "15"),
        ([busy(7), busy(5)], 429, "rate_limit_exceeded", "5"),
        ([busy(0)], 429, "rate_limit_exceeded", "1"),
        ([NO_QUOTA], 429, "insufficient_quota", "600"),
        ([NO_QUOTA, NO_QUOTA], 429, "rate_limit_exceeded", "600"),
        ([NO_QUOTA, FULL], 429, "rate_limit_exceeded", "30"),
        # some of them are out for being unwell
        ([OPEN], 503, "no_model_available", "9"),
        ([OPEN, FULL], 503, "no_model_available", "9"),
        ([no_room("requests_per_minute", "breaker")], 503, "no_model_available", "30"),
        ([OPEN, busy(5)], 503, "no_model_available", "5"),
        ([overloaded()], 503, "rate_limit_exceeded", "15"),
        ([overloaded(), FULL], 503, "no_model_available", "15"),
        ([overloaded(), busy(3)], 503, "no_model_available", "3"),
        # they were asked and failed
        ([broken()], 502, "upstream_error", None),
        ([SILENT], 504, "upstream_timeout", None),
        ([REFUSED], 502, "upstream_refused", None),
        ([SILENT, broken()], 502, "upstream_error", None),
        ([broken(), SILENT], 504, "upstream_timeout", None),
        ([SILENT, FULL], 504, "upstream_timeout", None),
        ([broken(), OPEN], 502, "upstream_error", None),
        ([REFUSED, overloaded()], 502, "upstream_refused", None),
        ([broken(), TOO_LONG], 502, "upstream_error", None),
        ([broken(), lacks("vision")], 502, "upstream_error", None),
    ],
)
def test_one_status_for_many_reasons(
    attempts: Sequence[Attempt], status: int, code: str, retry_after: str | None
) -> None:
    error = all_failed(attempts, now_ms=NOW_MS)
    assert (error.status, error.code, error.headers.get("retry-after")) == (status, code, retry_after)


def test_each_attempt_is_in_the_answer_with_reason_and_status() -> None:
    error = all_failed([lacks("vision"), FULL, broken(503), SILENT], now_ms=NOW_MS)
    assert error.body()["error"]["attempts"] == [
        {"model": "m", "reason": "vision", "status": None},
        {"model": "m", "reason": "requests_per_minute", "status": None},
        {"model": "m", "reason": "transient", "status": 503},
        {"model": "m", "reason": "silent", "status": None},
    ]


@pytest.mark.parametrize(
    ("attempts", "words"),
    [
        ([lacks("context_tokens"), lacks("max_request_length")], r"too long .*\(context_tokens, max_request_length\)"),
        ([lacks("vision"), lacks("tools")], "can do what the request needs: tools, vision"),
        ([TOO_LONG], "too long: 9000 tokens"),
    ],
)
def test_refusal_for_good_names_the_rule(attempts: Sequence[Attempt], words: str) -> None:
    with pytest.raises(GatewayError, match=words):
        raise all_failed(attempts, now_ms=NOW_MS)


@pytest.mark.parametrize(("wait_ms", "seconds"), [(29_999, "30"), (30_001, "31"), (1, "1"), (-5, "1"), (0, "1")])
def test_retry_after_is_whole_seconds_rounded_up_and_never_zero(wait_ms: int, seconds: str) -> None:
    attempts = [no_room("requests_per_day", wait_ms=wait_ms)]
    assert all_failed(attempts, now_ms=NOW_MS).headers["retry-after"] == seconds


def test_room_is_there_when_the_last_of_a_models_limits_has_it() -> None:
    reasons = (Reason("requests_per_minute", NOW_MS + 5_000), Reason("requests_per_day", NOW_MS + 70_000))
    attempt = Attempt.of_refusal("m", Refusal(Scope("m#m"), reasons))
    assert all_failed([attempt], now_ms=NOW_MS).headers["retry-after"] == "70"


def test_request_above_a_limit_is_too_long_even_where_other_limits_are_reached_as_well() -> None:
    reasons = (Reason("requests_per_minute", NOW_MS + 5_000), Reason("tokens_per_day", None))
    error = all_failed([Attempt.of_refusal("m", Refusal(Scope("m#m"), reasons))], now_ms=NOW_MS)
    assert (error.status, error.code) == (400, "context_length_exceeded")


def test_key_over_its_limit_hears_when_it_has_room() -> None:
    refusal = Refusal(Scope("k#app"), (Reason("requests_per_minute", NOW_MS + 4_200),))
    error = key_refused(refusal, "app", now_ms=NOW_MS)
    assert (error.status, error.headers["retry-after"]) == (429, "5")
    assert error.message == "The key app has reached its limit (requests_per_minute)."


def test_request_that_is_more_than_a_key_may_ever_have_is_not_told_to_come_back() -> None:
    error = key_refused(Refusal(Scope("k#app"), (Reason("tokens_per_minute", None),)), "app", now_ms=NOW_MS)
    assert (error.status, "retry-after" in error.headers) == (400, False)
