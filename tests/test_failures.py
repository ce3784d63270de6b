"""What providers say about a failure, in each one's own form, and which of our errors it is.

The bodies are written after the providers' documented and recorded forms of November 2026.
"""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat import Chat
from core.errors import (
    Busy,
    ClientFault,
    Exhausted,
    Operator,
    OutOfTime,
    Refused,
    Silent,
    TooLong,
    Transient,
    Unsupported,
    UpstreamError,
)
from core.providers import find_provider
from core.providers.dialect import Completion
from tests.provider_samples import STAMP

CANARY = "sk-canary-0123456789"


def openai(message: str, code: Any = None, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def fail(provider: str, status: int, body: Any, **headers: str) -> UpstreamError:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return find_provider(provider).failure(status, named, raw, now=0.0)


LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
DAILY = "Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 38 seconds before retrying."

# provider, status, body -> class, status for the client, code for the client
FAILURES: list[tuple[str, int, Any, type[UpstreamError], int, str | None]] = [
    # transient
    ("openai", 500, openai("The server had an error.", kind="server_error"), Transient, 502, "upstream_error"),
    ("openai", 502, b"<html><h1>502 Bad Gateway</h1></html>", Transient, 502, "upstream_error"),
    ("openai", 504, b"upstream request timeout", Transient, 502, "upstream_error"),
    ("openai", 520, b"", Transient, 502, "upstream_error"),
    ("openai", 408, openai("Request timeout."), Transient, 502, "upstream_error"),
    ("openrouter", 408, {"error": {"code": 408, "message": "Timed out"}}, Transient, 502, "upstream_error"),
    ("openrouter", 502, {"error": {"code": 502, "message": "Bad model"}}, Transient, 502, "upstream_error"),
    ("cloudflare", 408, {"success": False, "errors": [{"code": 3007, "message": "Timeout"}]}, Transient, 502, None),
    ("openai", 204, b"", Transient, 502, "upstream_error"),
    # busy
    ("openai", 429, openai("Rate limit reached.", "rate_limit_exceeded", "requests"), Busy, 429, "rate_limit_exceeded"),
    ("openai", 429, b"<html>Too many requests</html>", Busy, 429, "rate_limit_exceeded"),
    ("openai", 429, b"", Busy, 429, "rate_limit_exceeded"),
    ("openai", 503, openai("The engine is overloaded.", kind="server_error"), Busy, 503, "overloaded"),
    ("groq", 498, openai("Flex tier capacity exceeded.", "capacity_exceeded"), Busy, 429, "rate_limit_exceeded"),
    (
        "anthropic",
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        Busy,
        503,
        "overloaded",
    ),
    ("huggingface", 503, {"error": "Model is loading", "estimated_time": 20.0}, Busy, 503, "overloaded"),
    ("cloudflare", 429, {"errors": [{"code": 3040, "message": "Capacity"}]}, Busy, 429, "rate_limit_exceeded"),
    ("gigachat", 429, {"status": 429, "message": "Too Many Requests"}, Busy, 429, "rate_limit_exceeded"),
    ("openrouter", 503, {"error": {"code": 503, "message": "No provider"}}, Busy, 503, "overloaded"),
    # exhausted
    ("openai", 429, openai("Check your plan.", "insufficient_quota", "x"), Exhausted, 429, "insufficient_quota"),
    ("openai", 429, openai("Check your plan.", None, "insufficient_quota"), Exhausted, 429, "insufficient_quota"),
    ("z.ai", 429, openai("Insufficient balance. Please recharge.", "1113"), Exhausted, 429, "insufficient_quota"),
    ("moonshot", 429, openai("Suspended.", None, "exceeded_current_quota_error"), Exhausted, 429, "insufficient_quota"),
    ("xai", 429, {"error": "Your team has used all available credits."}, Exhausted, 429, "insufficient_quota"),
    ("deepseek", 402, openai("Insufficient Balance"), Exhausted, 429, "insufficient_quota"),
    ("openrouter", 402, {"error": {"code": 402, "message": "More credits"}}, Exhausted, 429, "insufficient_quota"),
    ("nvidia", 402, {"detail": "No credits left"}, Exhausted, 429, "insufficient_quota"),
    ("gigachat", 402, {"status": 402, "message": "Payment Required"}, Exhausted, 429, "insufficient_quota"),
    ("github", 429, {"error": {"code": "RateLimitReached", "message": DAILY}}, Exhausted, 429, "insufficient_quota"),
    ("groq", 429, openai("Limit of requests per day (RPD) reached"), Exhausted, 429, "insufficient_quota"),
    ("cloudflare", 429, {"errors": [{"code": 3036, "message": "Free"}]}, Exhausted, 429, "insufficient_quota"),
    ("cloudflare", 429, {"errors": [{"code": 4006, "message": "Free"}]}, Exhausted, 429, "insufficient_quota"),
    # operator
    ("openai", 401, openai(f"Incorrect API key: {CANARY}", "invalid_api_key"), Operator, 502, "upstream_refused"),
    ("openai", 403, openai(f"No access for {CANARY}", "unsupported_country"), Operator, 502, "upstream_refused"),
    ("azure", 401, {"error": {"code": "401", "message": f"Wrong key {CANARY}"}}, Operator, 502, "upstream_refused"),
    ("openai", 400, openai(f"Incorrect API key provided: {CANARY}"), Operator, 502, "upstream_refused"),
    ("google", 400, [openai(f"API key not valid: {CANARY}", 400)], Operator, 502, "upstream_refused"),
    ("google", 400, openai(f"API key expired: {CANARY}", 400), Operator, 502, "upstream_refused"),
    ("xai", 400, {"code": "x", "error": f"Invalid API key: {CANARY}"}, Operator, 502, "upstream_refused"),
    ("bedrock", 403, {"message": f"Bad credentials {CANARY}"}, Operator, 502, "upstream_refused"),
    ("cloudflare", 403, {"errors": [{"code": 5016, "message": CANARY}]}, Operator, 502, "upstream_refused"),
    ("openai", 404, openai("No such model.", "model_not_found"), Operator, 502, "upstream_refused"),
    ("azure", 404, {"error": {"code": "DeploymentNotFound", "message": "x"}}, Operator, 502, "upstream_refused"),
    ("cloudflare", 400, {"errors": [{"code": 5007, "message": "No such model"}]}, Operator, 502, "upstream_refused"),
    ("gigachat", 404, {"status": 404, "message": "No such model"}, Operator, 502, "upstream_refused"),
    ("openai", 405, b"Method Not Allowed", Operator, 502, "upstream_refused"),
    ("openai", 301, b"", Operator, 502, "upstream_refused"),
    ("openai", 307, b"<html>Moved</html>", Operator, 502, "upstream_refused"),
    # too long
    ("openai", 400, openai(LONG, "context_length_exceeded"), TooLong, 400, "context_length_exceeded"),
    ("openai", 400, openai("x", "context_length_exceeded"), TooLong, 400, "context_length_exceeded"),
    ("vllm", 400, {"object": "error", "message": LONG, "code": 400}, TooLong, 400, "context_length_exceeded"),
    ("mistral", 400, {"object": "error", "message": "Prompt is too long", "code": "3051"}, TooLong, 400, None),
    ("anthropic", 400, {"error": {"message": "prompt is too long: 2 tokens"}}, TooLong, 400, "context_length_exceeded"),
    ("bedrock", 400, {"message": "Input is too long for requested model."}, TooLong, 400, "context_length_exceeded"),
    ("groq", 400, openai("Please reduce the length of the messages."), TooLong, 400, "context_length_exceeded"),
    ("cohere", 400, {"id": "x", "message": "too many tokens: 9000"}, TooLong, 400, "context_length_exceeded"),
    ("groq", 413, openai("Request Entity Too Large"), TooLong, 413, "context_length_exceeded"),
    ("openai", 413, b"<html>413</html>", TooLong, 413, "context_length_exceeded"),
    ("cloudflare", 413, {"errors": [{"code": 3006, "message": "Too large"}]}, TooLong, 413, "context_length_exceeded"),
    # unsupported
    ("openai", 400, openai("No 'temperature' here.", "unsupported_value"), Unsupported, 400, "unsupported"),
    ("openai", 400, openai("Use another name.", "unsupported_parameter"), Unsupported, 400, "unsupported"),
    ("openai", 400, openai("Unrecognized parameter: 'foo'", None), Unsupported, 400, "unsupported"),
    ("groq", 400, openai("'tools' is not supported with this model"), Unsupported, 400, "unsupported"),
    ("mistral", 400, openai("Unexpected role 'user' after role 'tool'"), Unsupported, 400, "unsupported"),
    ("deepseek", 400, openai("The `reasoning_content` must be passed back."), Unsupported, 400, "unsupported"),
    ("google", 400, openai("Function call is missing a thought_signature."), Unsupported, 400, "unsupported"),
    ("cohere", 422, {"message": "this model does not support images"}, Unsupported, 422, "unsupported"),
    (
        "mistral",
        422,
        {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]},
        Unsupported,
        422,
        "unsupported",
    ),
    # refused
    ("openai", 400, openai("Rejected.", "content_policy_violation"), Refused, 400, "content_filter"),
    ("openai", 400, openai("Rejected.", "moderation_blocked"), Refused, 400, "content_filter"),
    ("azure", 400, openai("Filtered.", "content_filter"), Refused, 400, "content_filter"),
    ("azure", 400, openai("Filtered.", None, "ResponsibleAIPolicyViolation"), Refused, 400, "content_filter"),
    (
        "openrouter",
        403,
        {"error": {"code": 403, "message": "Flagged", "metadata": {"reasons": ["violence"], "flagged_input": "x"}}},
        Refused,
        400,
        "content_filter",
    ),
    # the client's own
    ("openai", 400, openai("'messages' is missing.", "missing_required_parameter"), ClientFault, 400, None),
    ("openai", 422, openai("Nonsense.", None), ClientFault, 422, None),
    ("openai", 400, b"<html>400</html>", ClientFault, 400, None),
    ("openai", 400, b"", ClientFault, 400, None),
    ("openai", 409, openai("Conflict.", "conflict"), ClientFault, 409, "conflict"),
    ("groq", 400, openai("No call.", "tool_use_failed", failed_generation="{"), ClientFault, 400, "tool_use_failed"),
    ("groq", 424, openai("A dependency failed."), ClientFault, 424, None),
    ("perplexity", 400, {"error": {"message": "No", "type": "bad_request", "code": 400}}, ClientFault, 400, "400"),
    ("mistral", 422, {"object": "error", "message": {"detail": []}, "code": None}, ClientFault, 422, None),
    ("nvidia", 422, {"detail": "Bad seed"}, ClientFault, 422, None),
    ("gigachat", 422, {"status": 422, "message": "Invalid params"}, ClientFault, 422, None),
]


@pytest.mark.parametrize(
    ("provider", "status", "body", "cls", "client_status", "code"),
    FAILURES,
    ids=[f"{row[3].__name__}-{row[0]}-{row[1]}-{number}" for number, row in enumerate(FAILURES)],
)
def test_a_failed_response_is_the_error_that_it_means(
    provider: str, status: int, body: Any, cls: type[UpstreamError], client_status: int, code: str | None
) -> None:
    error = fail(provider, status, body)
    assert (type(error), error.status) == (cls, client_status)
    assert code is None or error.code == code
    assert CANARY not in error.message
    assert error.message
    assert error.reached


def test_the_table_reaches_every_failure_but_those_no_answer_tells() -> None:
    """A provider that says nothing at all is the network's to notice, and time running out the gateway's."""
    assert {row[3] for row in FAILURES} == {*UpstreamError.__subclasses__()} - {Silent, OutOfTime}


@pytest.mark.parametrize(
    ("body", "cls", "client_status"),
    [
        ({"error": {"code": 429, "message": "Slow down"}}, Busy, 429),
        ({"error": {"code": "429", "message": "Slow down"}}, Busy, 429),
        ({"error": {"code": 503, "message": "No room"}}, Busy, 503),
        ({"error": {"code": 529, "message": "No room"}}, Busy, 503),
        ({"error": {"code": 502, "message": "Bad gateway"}}, Transient, 502),
        ({"error": {"code": 500, "message": "Internal"}}, Transient, 502),
        ({"error": {"code": 400, "message": "Bad request"}}, ClientFault, 400),
        ({"error": {"code": 401, "message": CANARY}}, Operator, 502),
        ({"error": {"code": 402, "message": "No credits"}}, Exhausted, 429),
        ({"error": {"code": 403, "message": CANARY}}, Operator, 502),
        ({"error": {"status": 404, "message": "No model"}}, Operator, 502),
        ({"error": {"status_code": 413, "message": "Too large"}}, TooLong, 413),
        ({"error": {"code": 7, "message": "Their own number"}}, Transient, 502),
        ({"error": {"code": 200, "message": "No failure"}}, Transient, 502),
        ({"error": {"code": "1" * 5000, "message": "x"}}, Transient, 502),
        ({"error": {"code": "\N{SUPERSCRIPT TWO}", "message": "x"}}, Transient, 502),
        ({"error": {"code": True, "message": "x"}}, Transient, 502),
        ({"error": {"code": {"x": 1}, "message": ["x"]}}, Transient, 502),
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, Busy, 429),
        ({"error": {"type": "rate_limit_error", "message": "x"}}, Busy, 429),
        ({"error": {"type": "tokens", "message": "x"}}, Busy, 429),
        ({"error": {"type": "overloaded_error", "message": "x"}}, Busy, 503),
        ({"error": {"code": "insufficient_quota", "message": "x"}}, Exhausted, 429),
        ({"error": {"type": "authentication_error", "message": CANARY}}, Operator, 502),
        ({"error": {"code": "invalid_api_key", "message": CANARY}}, Operator, 502),
        ({"error": {"type": "permission_error", "message": CANARY}}, Operator, 502),
        ({"error": {"code": "model_not_found", "message": "x"}}, Operator, 502),
        ({"error": {"code": "context_length_exceeded", "message": "x"}}, TooLong, 400),
        ({"error": {"code": "content_filter", "message": "x"}}, Refused, 400),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, ClientFault, 400),
        ({"error": {"type": "server_error", "message": "x"}}, Transient, 502),
        ({"error": {"message": "x"}}, Transient, 502),
        ({"error": "Something broke"}, Transient, 502),
        ({"error": ["x"]}, Transient, 502),
        ({"error": True}, Transient, 502),
        ({"choices": [{"finish_reason": "error", "error": {"code": 429, "message": "x"}}]}, Busy, 429),
        ({"choices": [{"finish_reason": "error"}]}, Transient, 502),
        ({"choices": [{"finish_reason": "insufficient_system_resource"}]}, Transient, 502),
        ({"choices": [{"finish_reason": "network_error"}]}, Transient, 502),
        ({"choices": [{"finish_reason": "error", "error": "x"}]}, Transient, 502),
        ({"success": False, "errors": [{"code": 7000, "message": "x"}]}, Transient, 502),
        ({"object": "error", "message": "x", "code": 429}, Busy, 429),
    ],
    ids=repr,
)
def test_an_error_inside_a_200_is_the_error_that_its_number_or_word_means(
    body: dict[str, Any], cls: type[UpstreamError], client_status: int
) -> None:
    error = find_provider("openai").dialect.completion(orjson.dumps(body), Chat({}, 0), STAMP)
    assert not isinstance(error, Completion)
    assert (type(error), error.status) == (cls, client_status)
    assert CANARY not in error.message


@settings(deadline=None)
@given(
    st.sampled_from([401, 403]),
    st.text(max_size=20).map(lambda text: f"{CANARY}{text}{CANARY}"),
    st.sampled_from(["invalid_api_key", "content_filter", "insufficient_quota", "rate_limit_exceeded", "", None, 429]),
    st.sampled_from([None, "1", "Fri, 20 Nov 2026 12:01:30 GMT"]),
)
def test_a_providers_401_or_403_is_never_the_clients_and_its_words_stay_here(
    status: int, message: str, code: Any, retry_after: str | None
) -> None:
    headers = {"retry_after": retry_after} if retry_after else {}
    for body in (openai(message, code), {"error": message}, {"detail": message}, {"message": message}, [message]):
        error = fail("openai", status, body, **headers)
        assert isinstance(error, Operator)
        assert (error.status, error.code, error.upstream_status) == (502, "upstream_refused", status)
        assert CANARY not in str(error.body())
        assert "www-authenticate" not in error.headers


@pytest.mark.parametrize("cls", [Exhausted, Busy, Operator, Transient])
def test_words_about_our_account_stay_here_and_words_about_the_request_go_to_the_client(
    cls: type[UpstreamError],
) -> None:
    status = {Exhausted: 402, Busy: 429, Operator: 404, Transient: 500}[cls]
    assert "org-123" not in fail("openai", status, openai("Organization org-123 has a problem.")).message
    error = fail("openai", 400, openai("'top_k' is odd.", "invalid_value", param="top_k"))
    assert error.body()["error"] == {
        "message": "'top_k' is odd.",
        "type": "invalid_request_error",
        "param": "top_k",
        "code": "invalid_value",
    }


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached. Please try again in 7.66s. Visit example.com.", 7.66),
        ("Please try again in 1m2.5s.", 62.5),
        ("Please try again in 26ms.", 0.026),
        ("Please wait 38 seconds before retrying.", 38.0),
        ("Please retry in 34.4s.", 34.4),
        ("Please retry after 2 minutes.", 120.0),
        ("Try again in 500 milliseconds", 0.5),
        ("Too many requests", None),
        ("Try again later, error 17s", None),
    ],
)
def test_a_wait_is_read_from_the_message_where_no_header_tells_it(message: str, seconds: float | None) -> None:
    wait = fail("openai", 429, openai(message)).retry_after_s
    assert wait == (seconds if seconds is None else pytest.approx(seconds))
    assert fail("openai", 429, openai(message), retry_after="5").retry_after_s == 5.0


_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 400, 429, 1.5, "", "x", "429", "error", [], [None], [{}], {}, {"message": 1}, {"code": []}]
)
_BODY = st.dictionaries(
    st.sampled_from(["error", "errors", "detail", "message", "code", "type", "status", "param", "metadata", "choices"]),
    _ODD
    | st.dictionaries(st.sampled_from(["message", "code", "type", "metadata", "raw", "reasons", "loc", "msg"]), _ODD),
    max_size=5,
)


@settings(deadline=None)
@given(st.sampled_from([204, 302, 400, 401, 403, 404, 413, 422, 429, 500, 503]), _BODY | st.lists(_BODY, max_size=1))
def test_every_legible_failure_is_some_error_with_a_status_for_the_client(status: int, body: Any) -> None:
    for provider in ("openai", "cloudflare", "openrouter", "unknown"):
        error = fail(provider, status, body)
        assert 400 <= error.status < 600
        assert error.status not in (401, 403)
        assert orjson.dumps(error.body())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"detail":[{"loc":5,"msg":"x"}]}',
        b"[" * 900 + b"]" * 900,
        b'{"errors":[' * 300 + b"]}" * 300,
        b'{"error":{"error":{"error":{"message":"deep"}}}}',
    ],
    ids=["a place that is a number", "lists in lists", "errors in errors", "objects in objects"],
)
def test_a_hostile_body_is_a_failure_like_any_other(raw: bytes) -> None:
    assert isinstance(find_provider("unknown").dialect.failure(422, {}, raw, now=0.0), ClientFault)
