"""The demo provider through a running gateway: an answer at a human pace, and every failure that it can rehearse."""

import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from core.telemetry import Record
from tests.fake_upstream import took
from tests.running_gateway import RunningGateway, ask, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLY = "One two three four."


STATUSES = {429: 429, 503: 503, 500: 502, 401: 502, 400: 400, 422: 422}  # what it is told -> what the client sees

# Models by name, each with what it plays; REPLY at once unless told otherwise.
SCRIPTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "paced": {"first_token_ms": 150, "token_ms": 60},
    "too slow": {"first_token_ms": 60_000},
    "every third fails": {"status": 400, "every": 3},
    "every second is cut": {"cut_after": 1, "every": 2},
    "stalls": {"stall_after": 2},
    **{f"cut {words}": {"cut_after": words, "token_ms": 10} for words in (1, 3, 4, 5)},
    **{f"status {status}": {"status": status, "retry_after_seconds": 7} for status in STATUSES},
}


def models() -> list[dict[str, Any]]:
    common = {"provider": "demo", "timeouts": {"first_token": 0.5, "response": 0.5, "idle": 0.3}}
    quick = {"first_token_ms": 0, "token_ms": 0}
    scripted = [
        {"name": name, **common, "demo": {"reply": REPLY, **quick, **options}} for name, options in SCRIPTS.items()
    ]
    return [*scripted, {"name": "echo", **common, "demo": quick}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[RunningGateway]:
    async with running(*models()) as gateway:
        yield gateway
    assert gateway.telemetry.errors == []  # what is rehearsed is never a bug of ours


def read_events(body: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The events of a stream, and whether it ended with `[DONE]`."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    is_done = lines[-1] == b"[DONE]"
    return [orjson.loads(line) for line in (lines[:-1] if is_done else lines)], is_done


def words_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices"))


async def chat(gateway: RunningGateway, model: str, **body: Any) -> tuple[httpx.Response, Record]:
    seen = len(gateway.records)
    answer = await gateway.chat(model=model, **body)
    return answer, await gateway.next_record(seen + 1)


async def stream(gateway: RunningGateway, model: str, **body: Any) -> tuple[list[dict[str, Any]], bool]:
    answer, _ = await chat(gateway, model, stream=True, **body)
    assert answer.status_code == 200, answer.text
    return read_events(answer.content)


async def test_demo_answers_whole_in_openais_form(gateway: RunningGateway) -> None:
    response, record = await chat(gateway, "plain")
    answer = response.json()
    said, asked = answer["usage"]["completion_tokens"], answer["usage"]["prompt_tokens"]
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("chat.completion", "stop")
    assert answer["choices"][0]["message"]["content"] == REPLY
    assert (said, answer["usage"]["total_tokens"]) == (4, asked + said)
    assert (record.prompt_tokens, record.completion_tokens) == (asked, said)
    assert asked > 0


async def test_demo_streams_word_by_word_in_openais_form(gateway: RunningGateway) -> None:
    chunks, is_done = await stream(gateway, "plain")
    assert is_done
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["", "One", " two", " three", " four.", None]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 5 + ["stop"]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert len({c["id"] for c in chunks}) == 1


async def test_demo_without_a_reply_of_its_own_repeats_the_question(gateway: RunningGateway) -> None:
    chunks, _ = await stream(gateway, "echo", messages=[{"role": "user", "content": "What is a sluice?"}])
    assert words_of(chunks).endswith("What is a sluice?")


async def test_demo_streams_at_the_pace_it_is_told(gateway: RunningGateway) -> None:
    """Each word comes on its own, so long after the one before: nothing on the way collects them."""
    started = time.perf_counter()
    came_after: dict[str, float] = {}
    async with gateway.stream(model="paced") as response:
        async for line in response.aiter_lines():
            if word := next((word for word in REPLY.split() if word in line), ""):
                came_after[word] = time.perf_counter() - started
    assert list(came_after) == REPLY.split()
    assert came_after["One"] >= 0.14
    gaps = [later - earlier for earlier, later in itertools.pairwise(came_after.values())]
    assert min(gaps) >= 0.03, gaps


async def test_demo_waits_before_a_whole_answer_too(gateway: RunningGateway) -> None:
    with took(0.15, 1.2):
        await gateway.chat(model="paced")


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("tokens", "text", "finish"), [(2, "One two", "length"), (4, REPLY, "stop"), (9, REPLY, "stop")]
)
async def test_demo_stops_at_the_limit_that_the_caller_set(
    gateway: RunningGateway, limit: str, tokens: int, text: str, finish: str
) -> None:
    whole = (await gateway.chat(model="plain", **{limit: tokens})).json()
    chunks, is_done = await stream(gateway, "plain", **{limit: tokens})
    assert (whole["choices"][0]["message"]["content"], whole["choices"][0]["finish_reason"]) == (text, finish)
    assert (words_of(chunks), chunks[-1]["choices"][0]["finish_reason"], is_done) == (text, finish, True)


async def test_demo_streams_usage_only_on_request(gateway: RunningGateway) -> None:
    plain, _ = await stream(gateway, "plain")
    asked, is_done = await stream(gateway, "plain", stream_options={"include_usage": True})
    assert not [c for c in plain if c.get("usage")]
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == 4
    assert is_done


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": "many"},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_completion_tokens": -1},
        {"stream_options": "usage", "stream": True},
    ],
)
async def test_demo_refuses_what_a_provider_would(gateway: RunningGateway, body: dict[str, Any]) -> None:
    answer = await gateway.chat(model="plain", **body)
    assert answer.status_code == 400
    assert next(iter(body)) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}, 7]}],
        [{"role": "user", "content": None}],
        [{"role": "assistant", "content": "Hello"}],
        [{}],
    ],
)
async def test_demo_answers_messages_of_every_form(gateway: RunningGateway, messages: list[dict[str, Any]]) -> None:
    answer = await gateway.chat(model="echo", messages=messages)
    assert answer.status_code == 200


# Failures


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("status", "seen"), STATUSES.items())
async def test_demo_fails_with_the_status_it_is_told(
    gateway: RunningGateway, status: int, seen: int, is_stream: bool
) -> None:
    answer, record = await chat(gateway, f"status {status}", stream=is_stream)
    assert answer.status_code == record.status == seen
    assert answer.headers.get("retry-after") == ("7" if seen in (429, 503) else None)


async def test_demo_fails_only_every_nth_time(gateway: RunningGateway) -> None:
    statuses = [(await gateway.chat(model="every third fails")).status_code for _ in range(6)]
    assert statuses == [200, 200, 400, 200, 200, 400]


async def test_demo_cuts_only_every_nth_stream(gateway: RunningGateway) -> None:
    ends = [(await stream(gateway, "every second is cut"))[1] for _ in range(4)]
    assert ends == [True, False, True, False]


@pytest.mark.parametrize(("words", "said"), [(1, "One"), (3, "One two three"), (4, REPLY)])
async def test_demo_cuts_the_stream_after_so_many_words(gateway: RunningGateway, words: int, said: str) -> None:
    """Even after the last: the finish is still to come, so the answer is not whole."""
    answer, record = await chat(gateway, f"cut {words}", stream=True)
    (*chunks, last), is_done = read_events(answer.content)
    assert words_of(chunks) == said
    assert last["error"]["code"] == record.error == "upstream_error"
    assert not is_done


async def test_demo_that_has_fewer_words_than_its_cut_is_whole(gateway: RunningGateway) -> None:
    chunks, is_done = await stream(gateway, "cut 5")
    assert (words_of(chunks), is_done) == (REPLY, True)


async def test_demo_stalls_after_so_many_words_until_it_is_given_up(gateway: RunningGateway) -> None:
    with took(0.3, 1.5):
        (*chunks, last), is_done = await stream(gateway, "stalls")
    assert words_of(chunks) == "One two"
    assert last["error"]["code"] == "upstream_timeout"
    assert not is_done


@pytest.mark.parametrize("is_stream", [False, True])
async def test_demo_that_is_too_slow_is_a_504(gateway: RunningGateway, is_stream: bool) -> None:
    with took(0.5, 1.7):
        answer = await gateway.chat(model="too slow", stream=is_stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_a_client_that_leaves_the_demo_is_recorded_as_that(gateway: RunningGateway) -> None:
    seen = len(gateway.records)
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=ask(model="stalls", stream=True), timeout=0.1)
    assert (await gateway.next_record(seen + 1)).error == "client_left"
