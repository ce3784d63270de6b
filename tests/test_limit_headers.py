"""What each provider's headers say of its limits, and the wait that follows when one of them is used up."""

import pytest

from core.providers import find_provider
from core.providers.limit_headers import LimitHeaders, ReportedLimit, read_limits, standard, wait_for_room
from core.providers.rows import ROWS
from tests.provider_samples import NOW

# As each provider writes them: reset as a span, float seconds, an epoch in seconds or milliseconds, or not at all.
HEADERS: dict[str, dict[str, str]] = {
    "openai": {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-reset-tokens": "1m2s",
    },
    "openrouter": {
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1795000030000",
    },
    "groq": {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-reset-tokens": "17.39s",
    },
    "github": {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "38",
        "x-ratelimit-limit-tokens": "8000",
        "x-ratelimit-remaining-tokens": "7000",
    },
    "azure": {
        "x-ratelimit-limit-requests": "120",
        "x-ratelimit-limit-tokens": "120000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-remaining-tokens": "119986",
        "x-ratelimit-renewalperiod-requests": "60",
        "x-ratelimit-renewalperiod-tokens": "60",
        "x-ratelimit-reset-requests": "500",
        "x-ratelimit-reset-tokens": "7",
    },
    "huggingface": {
        "ratelimit": '"inference";r=0;t=55',
        "ratelimit-policy": '"fixed window";"inference";q=100;w=300',
    },
    "mistral": {
        "x-ratelimit-limit-req-10-second": "60",
        "x-ratelimit-remaining-req-10-second": "52",
        "x-ratelimit-limit-tokens-minute": "500000",
        "x-ratelimit-remaining-tokens-minute": "0",
        "x-ratelimit-limit-tokens-month": "1000000000",
        "x-ratelimit-remaining-tokens-month": "999999000",
        "x-ratelimit-tokens-query-cost": "145",
    },
    "together": {
        "x-ratelimit-limit": "60",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "12",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "59000",
    },
    "fireworks": {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6s",
    },
    "sambanova": {
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "19",
        "x-ratelimit-reset-requests": "1795000041",
        "x-ratelimit-limit-requests-day": "400",
        "x-ratelimit-remaining-requests-day": "0",
        "x-ratelimit-reset-requests-day": "1795040000",
    },
    "cerebras": {
        "x-ratelimit-limit-requests-day": "14400",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-requests-day": "14382",
        "x-ratelimit-remaining-tokens-minute": "0",
        "x-ratelimit-reset-requests-day": "33011.38",
        "x-ratelimit-reset-tokens-minute": "11.38",
    },
    "xai": {
        "x-ratelimit-limit-requests": "480",
        "x-ratelimit-remaining-requests": "479",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1.5s",
    },
}

# what they mean, and the wait
MEANING: dict[str, tuple[list[ReportedLimit], float | None]] = {
    "openai": (
        [
            ReportedLimit("requests", "minute", 10000, 9999, 0.006),
            ReportedLimit("tokens", "minute", 200000, 0, 62.0),
        ],
        62.0,
    ),
    "openrouter": ([ReportedLimit("requests", None, 20, 0, 30.0)], 30.0),
    "groq": (
        [
            ReportedLimit("requests", "day", 14400, 14370, 179.56),
            ReportedLimit("tokens", "minute", 6000, 0, 17.39),
        ],
        17.39,
    ),
    "github": (
        [ReportedLimit("requests", None, 50, 0, 38.0), ReportedLimit("tokens", None, 8000, 7000, None)],
        38.0,
    ),
    "azure": (
        [
            ReportedLimit("requests", "minute", 120, 0, 0.5),
            ReportedLimit("tokens", "minute", 120000, 119986, 0.007),
        ],
        0.5,
    ),
    "huggingface": ([ReportedLimit("requests", None, 100, 0, 55.0)], 55.0),
    "mistral": ([ReportedLimit("tokens", "minute", 500000, 0, None)], None),
    "together": (
        [ReportedLimit("requests", None, 60, 0, 12.0), ReportedLimit("tokens", None, 60000, 59000, 12.0)],
        12.0,
    ),
    "fireworks": ([ReportedLimit("requests", "minute", 600, 0, 6.0)], 6.0),
    "sambanova": (
        [
            ReportedLimit("requests", "minute", 20, 19, 41.0),
            ReportedLimit("requests", "day", 400, 0, 40000.0),
        ],
        40000.0,
    ),
    "cerebras": (
        [
            ReportedLimit("requests", "day", 14400, 14382, 33011.38),
            ReportedLimit("tokens", "minute", 60000, 0, 11.38),
        ],
        11.38,
    ),
    "xai": (
        [ReportedLimit("requests", None, 480, 479, None), ReportedLimit("tokens", "minute", 2000000, 0, 1.5)],
        1.5,
    ),
}


def test_every_row_that_reads_headers_has_a_sample_of_them() -> None:
    assert {row.name for row in ROWS if row.limit_headers} == HEADERS.keys() == MEANING.keys()


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_read_as_the_provider_means_them(name: str) -> None:
    limits, wait = MEANING[name]
    found = read_limits(find_provider(name).limit_headers, HEADERS[name], NOW)
    assert found == limits
    assert wait_for_room(found) == wait


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("status", [429, 503])
def test_a_provider_that_is_full_and_says_nothing_else_has_room_when_its_headers_say(name: str, status: int) -> None:
    error = find_provider(name).failure(status, HEADERS[name], b"", now=NOW)
    assert error.kind == "busy"
    assert error.retry_after_s == MEANING[name][1]


@pytest.mark.parametrize("name", HEADERS)
def test_retry_after_comes_before_what_the_limit_headers_say(name: str) -> None:
    error = find_provider(name).failure(429, {**HEADERS[name], "retry-after": "3"}, b"", now=NOW)
    assert error.retry_after_s == 3.0


def test_what_the_body_says_comes_before_what_the_limit_headers_say() -> None:
    body = b'{"error": {"message": "Rate limit reached. Please try again in 7.66s.", "code": "rate_limit_exceeded"}}'
    assert find_provider("groq").failure(429, HEADERS["groq"], body, now=NOW).retry_after_s == 7.66


@pytest.mark.parametrize("status", [400, 401, 500])
def test_limit_headers_of_another_failure_are_no_wait(status: int) -> None:
    assert find_provider("groq").failure(status, HEADERS["groq"], b"", now=NOW).retry_after_s is None


def limit(remaining: int, reset_s: float | None) -> ReportedLimit:
    return ReportedLimit("requests", "minute", 10, remaining, reset_s)


@pytest.mark.parametrize(
    ("limits", "wait"),
    [
        ([], None),
        ([limit(1, 60.0)], None),
        ([limit(0, None)], None),
        ([limit(0, 0.0)], 0.0),
        ([limit(0, 5.0), limit(1, 600.0)], 5.0),
        ([limit(0, 5.0), limit(0, 600.0)], 600.0),  # both must have room
        ([limit(0, 5.0), limit(0, None)], 5.0),
    ],
)
def test_wait_is_until_the_last_of_the_limits_that_are_used_up_has_room(
    limits: list[ReportedLimit], wait: float | None
) -> None:
    assert wait_for_room(limits) == wait


ROW = LimitHeaders("requests", "minute", "limit", "remaining", "reset")


@pytest.mark.parametrize("remaining", ["-1", "", "n/a", "nan", "inf", "1e999", "<html>", "10, 20"])
def test_a_limit_is_left_out_when_what_remains_is_no_number(remaining: str) -> None:
    """Azure says -1 where it does not know."""
    assert read_limits([ROW], {"limit": "10", "remaining": remaining, "reset": "1s"}, NOW) == []


def test_a_limit_is_left_out_when_nothing_is_said_of_it() -> None:
    assert read_limits(standard("minute", "minute"), {"content-type": "text/html"}, NOW) == []


@pytest.mark.parametrize(
    ("headers", "total", "reset_s"),
    [
        ({"limit": "-1"}, None, None),
        ({"limit": "many", "reset": "1s"}, None, 1.0),
        ({"limit": "10", "reset": "soon"}, 10, None),
        ({"limit": "10", "reset": "-3"}, 10, None),
        ({"limit": "10", "reset": ""}, 10, None),
        ({"limit": "10.0", "reset": "2026-11-18T11:06:50Z"}, 10, 10.0),
    ],
)
def test_the_rest_of_a_limit_is_unknown_where_it_is_illegible(
    headers: dict[str, str], total: int | None, reset_s: float | None
) -> None:
    found = read_limits([ROW], {"remaining": "5", **headers}, NOW)
    assert found == [ReportedLimit("requests", "minute", total, 5, reset_s)]


def test_a_reset_in_the_past_is_now() -> None:
    headers = {"remaining": "0", "limit": "10", "reset": str(int(NOW) - 60)}
    assert wait_for_room(read_limits([ROW], headers, NOW)) == 0.0
