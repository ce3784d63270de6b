"""What the client sees when a provider misbehaves: a real status as long as nothing was sent, the truth in band after.

One model, asked by name: nobody else could answer instead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from core.telemetry import Record
from tests.fake_upstream import (
    DONE,
    Exchange,
    FakeUpstream,
    Script,
    answers,
    answers_json,
    chunk,
    completion,
    event,
    events,
    took,
)
from tests.running_gateway import UPSTREAM_TOKEN, RunningGateway, model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT_S = 0.3
TIMEOUTS = {"connect": SHORT_S, "first_token": SHORT_S, "response": SHORT_S, "idle": SHORT_S, "total": 5}
NOBODY = "http://127.0.0.1:1"  # a port that nothing listens on
HTML = b"<html><body><h1>Bad gateway</h1></body></html>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(provider: FakeUpstream) -> AsyncIterator[RunningGateway]:
    """One for the whole file; each test tells the provider anew what to do."""
    models = [
        model(provider.url, timeouts=TIMEOUTS),
        model(provider.url, "patient", timeouts={**TIMEOUTS, "total": 2 * SHORT_S}),
        model(provider.url, "old", http_client_config={"timeout_seconds": SHORT_S}),
        model(provider.url, "labelled", headers={"HTTP-Referer": "https://sluice.example/", "X-Api-Key": "k" * 20}),
        model(NOBODY, "nobody", timeouts=TIMEOUTS),
    ]
    async with running(*models) as gateway:
        yield gateway


BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def chat(gateway: RunningGateway, **body: Any) -> tuple[httpx.Response, Record]:
    seen = len(gateway.records)
    response = await gateway.chat(**body)
    return response, await gateway.next_record(seen + 1)


def refusal(answer: tuple[httpx.Response, Record], status: int, code: str | None) -> dict[str, Any]:
    """Asserts that the client has this status in OpenAI's form and that the record says the same; gives the error."""
    response, record = answer
    body = response.json()
    error: dict[str, Any] = body["error"]
    assert set(body) == {"error"}
    assert {"message", "type", "param", "code"} <= set(error)
    assert (response.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert response.headers["content-type"] == "application/json"
    assert (record.status, record.error) == (status, code or error["type"])
    return error


def fails(status: int, message: str = "No.", retry_after: str | None = None, **error: Any) -> Script:
    """A failure in OpenAI's form."""
    headers = {"retry_after": retry_after} if retry_after else {}
    return answers_json(
        {"error": {"message": message, "type": None, "param": None, "code": None, **error}}, status, **headers
    )


def hangs_up(how: Callable[[Exchange], None], said: bytes = b"") -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(said)
        how(exchange)

    return script


# Before the first chunk: a real status


@BOTH
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (hangs_up(Exchange.reset), 502, "upstream_error"),
        (hangs_up(Exchange.close), 502, "upstream_error"),
        (hangs_up(Exchange.close, b"HTTP/1.1 200 OK\r\ncontent-"), 502, "upstream_error"),
        (hangs_up(Exchange.close, b"220 mail.example ESMTP\r\n"), 502, "upstream_error"),
        (hangs_up(Exchange.reset, b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"), 502, "upstream_error"),
        (fails(500), 502, "upstream_error"),
        (fails(502), 502, "upstream_error"),
        (fails(408), 502, "upstream_error"),
        (answers(HTML, 502, content_type="text/html"), 502, "upstream_error"),
        (answers(HTML, 200, content_type="text/html"), 502, "upstream_error"),
        (answers(b"", 200), 502, "upstream_error"),
        (answers(b"not json", 200), 502, "upstream_error"),
        (answers_json([]), 502, "upstream_error"),
        (answers_json({"choices": []}), 502, "upstream_error"),
        (answers(b"", 307, location="https://elsewhere.example/"), 502, "upstream_refused"),
        (fails(401), 502, "upstream_refused"),
        (fails(403), 502, "upstream_refused"),
        (fails(404), 502, "upstream_refused"),
        (fails(429), 429, "rate_limit_exceeded"),
        (answers(HTML, 429, content_type="text/html"), 429, "rate_limit_exceeded"),
        (fails(429, code="insufficient_quota"), 429, "insufficient_quota"),
        (fails(503), 503, "overloaded"),
        (fails(529), 503, "overloaded"),
        (fails(400, code="invalid_value"), 400, "invalid_value"),
        (fails(422), 422, None),
        (fails(400, code="context_length_exceeded"), 400, "context_length_exceeded"),
        (fails(400, "This model's maximum context length is 8192 tokens."), 400, "context_length_exceeded"),
        (fails(413), 413, "context_length_exceeded"),
        (fails(400, code="content_filter"), 400, "content_filter"),
        (fails(200), 502, "upstream_error"),
        (fails(200, code=429), 429, "rate_limit_exceeded"),
        (fails(200, code="context_length_exceeded"), 400, "context_length_exceeded"),
        (fails(200, type="authentication_error"), 502, "upstream_refused"),
        (answers_json({"error": "overloaded"}), 502, "upstream_error"),
    ],
)
async def test_a_failure_is_a_status_of_its_class(
    gateway: RunningGateway, provider: FakeUpstream, script: Script, status: int, code: str | None, stream: bool
) -> None:
    provider.script = script
    refusal(await chat(gateway, stream=stream), status, code)


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ([], 502, "upstream_error"),
        ([DONE], 502, "upstream_error"),
        ([b": nothing but comments\n\n"], 502, "upstream_error"),
        ([chunk(role="assistant", content="")], 502, "upstream_error"),
        ([chunk(role="assistant", content=""), DONE], 502, "upstream_error"),
        ([b"data: {not json\n\n", chunk("Hello"), chunk(finish="stop"), DONE], 502, "upstream_error"),
        ([b"data: []\n\n"], 502, "upstream_error"),
        ([event({"error": {"message": "No."}})], 502, "upstream_error"),
        ([event({"error": {"message": "Slow down.", "code": 429}})], 429, "rate_limit_exceeded"),
        (
            [chunk(role="assistant"), event({"error": {"message": "Too long.", "code": 413}})],
            413,
            "context_length_exceeded",
        ),
        ([event({"message": "No.", "code": "content_filter"}, "error")], 400, "content_filter"),
        ([event({"error": {"message": "No.", "type": "rate_limit_error"}}, "error")], 429, "rate_limit_exceeded"),
        ([chunk(finish="error")], 502, "upstream_error"),
    ],
)
async def test_a_stream_that_fails_before_an_answer_begins_is_a_status_of_its_class(
    gateway: RunningGateway, provider: FakeUpstream, pieces: list[bytes], status: int, code: str
) -> None:
    provider.script = events(*pieces)
    refusal(await chat(gateway, stream=True), status, code)


async def test_a_whole_answer_to_a_stream_request_is_a_failure(gateway: RunningGateway, provider: FakeUpstream) -> None:
    provider.script = answers_json(completion())
    refusal(await chat(gateway, stream=True), 502, "upstream_error")


@BOTH
async def test_a_refused_connection_is_a_502(gateway: RunningGateway, stream: bool) -> None:
    refusal(await chat(gateway, model="nobody", stream=stream), 502, "upstream_error")


# What the client is told


@BOTH
@pytest.mark.parametrize(
    ("script", "seconds"),
    [
        (fails(429), "15"),
        (fails(429, retry_after="7"), "7"),
        (fails(429, retry_after="0.2"), "1"),
        (answers_json({}, 429, retry_after_ms="2400"), "3"),
        (fails(503), "15"),
        (fails(503, retry_after="1m2.5s"), "63"),
        (fails(200, code=429), "15"),
    ],
)
async def test_a_busy_provider_is_a_retry_after(
    gateway: RunningGateway, provider: FakeUpstream, script: Script, seconds: str, stream: bool
) -> None:
    provider.script = script
    response, _ = await chat(gateway, stream=stream)
    assert response.headers["retry-after"] == seconds


@BOTH
async def test_a_fault_of_the_request_is_told_in_the_providers_words(
    gateway: RunningGateway, provider: FakeUpstream, stream: bool
) -> None:
    provider.script = fails(400, "`temperature` is above 2.", param="temperature", code="out_of_range")
    error = refusal(await chat(gateway, stream=stream), 400, "out_of_range")
    assert (error["message"], error["param"]) == ("`temperature` is above 2.", "temperature")
    assert error["type"] == "invalid_request_error"


@BOTH
@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_a_fault_that_is_not_the_callers_is_not_told_in_the_providers_words(
    gateway: RunningGateway, provider: FakeUpstream, status: int, stream: bool
) -> None:
    provider.script = fails(status, "Account 4711 of Acme Ltd is suspended.")
    response, _ = await chat(gateway, stream=stream)
    assert "4711" not in response.text


QUOTES = [
    {"message": f"Your key {UPSTREAM_TOKEN} has no access to this."},
    {"message": f"Your key ...{UPSTREAM_TOKEN[-10:]} has no access to this."},
    {"message": f"Your key {UPSTREAM_TOKEN[:12]}*** has no access to this."},
    {"message": "No.", "param": f"header {UPSTREAM_TOKEN}"},
    {"message": "No.", "code": f"bad_{UPSTREAM_TOKEN}"},
]


@BOTH
@pytest.mark.parametrize("error", QUOTES)
async def test_words_that_quote_our_key_are_withheld(
    gateway: RunningGateway, provider: FakeUpstream, error: dict[str, str], stream: bool
) -> None:
    provider.script = fails(400, **error)
    response, record = await chat(gateway, stream=stream)
    assert response.status_code == 400
    for text in (response.text, repr(record)):
        assert not quoted(UPSTREAM_TOKEN, text)


def quoted(token: str, text: str) -> list[str]:
    """Whatever of the token's pieces of eight characters stands in the text."""
    return [token[at : at + 8] for at in range(len(token) - 7) if token[at : at + 8] in text]


@pytest.mark.parametrize("error", QUOTES)
async def test_words_in_band_that_quote_our_key_are_withheld(
    gateway: RunningGateway, provider: FakeUpstream, error: dict[str, str]
) -> None:
    provider.script = events(chunk("Hello"), event({"error": {"type": "invalid_request_error", **error}}))
    response, record = await chat(gateway, stream=True)
    assert response.content.startswith(chunk("Hello"))
    for text in (response.text, repr(record)):
        assert not quoted(UPSTREAM_TOKEN, text)


async def test_a_header_of_ours_that_is_a_key_is_withheld_too(gateway: RunningGateway, provider: FakeUpstream) -> None:
    provider.script = fails(400, f"X-Api-Key {'k' * 20} is bad.")
    response, _ = await chat(gateway, model="labelled")
    assert "kkkkkkkk" not in response.text


async def test_an_address_in_the_providers_words_is_no_quotation_of_an_address_in_a_header_of_ours(
    gateway: RunningGateway, provider: FakeUpstream
) -> None:
    provider.script = fails(400, "See https://acme.example/docs.")
    error = refusal(await chat(gateway, model="labelled"), 400, None)
    assert error["message"] == "See https://acme.example/docs."


# Time-outs before the first chunk


def then_silence(*pieces: bytes, head: bool = True) -> tuple[Script, asyncio.Event]:
    """A stream that begins so and then says nothing; the event is set when the gateway has hung up."""
    was_left = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if head:
            await exchange.start(200, content_type="text/event-stream")
        for piece in pieces:
            await exchange.send(piece)
        await exchange.gone.wait()
        was_left.set()

    return script, was_left


async def hung_up(was_left: asyncio.Event) -> None:
    await asyncio.wait_for(was_left.wait(), 1)


@BOTH
@pytest.mark.parametrize("head", [False, True], ids=["no headers", "headers"])
@pytest.mark.parametrize("name", ["m1", "old"])
async def test_silence_before_the_answer_is_a_504_in_time(
    gateway: RunningGateway, provider: FakeUpstream, head: bool, name: str, stream: bool
) -> None:
    provider.script, was_left = then_silence(head=head)
    with took(SHORT_S, SHORT_S + 1):
        answer = await chat(gateway, model=name, stream=stream)
    refusal(answer, 504, "upstream_timeout")
    await hung_up(was_left)


@pytest.mark.parametrize(
    "sign_of_life",
    [
        b": processing\n\n",
        chunk(role="assistant", content=""),
        event({"id": "c1", "object": "chat.completion.chunk", "choices": [], "prompt_filter_results": []}),
    ],
    ids=["comments", "roles", "filter results"],
)
async def test_signs_of_life_are_no_first_token(
    gateway: RunningGateway, provider: FakeUpstream, sign_of_life: bytes
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        while not exchange.gone.is_set():
            await exchange.send(sign_of_life)
            await asyncio.sleep(SHORT_S / 6)

    provider.script = script
    with took(SHORT_S, SHORT_S + 1):
        answer = await chat(gateway, stream=True)
    refusal(answer, 504, "upstream_timeout")


async def test_a_whole_answer_that_stops_in_the_middle_is_a_504_in_time(
    gateway: RunningGateway, provider: FakeUpstream
) -> None:
    provider.script, was_left = then_silence(b'{"choices": [')
    with took(SHORT_S, SHORT_S + 1):
        answer = await chat(gateway)
    refusal(answer, 504, "upstream_timeout")
    await hung_up(was_left)


@pytest.mark.parametrize(("name", "bound_s"), [("patient", 2 * SHORT_S), ("old", SHORT_S)])
async def test_a_whole_answer_that_only_trickles_is_a_504_in_time(
    gateway: RunningGateway, provider: FakeUpstream, name: str, bound_s: float
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="application/json")
        while not exchange.gone.is_set():
            await exchange.send(b"\n")
            await asyncio.sleep(SHORT_S / 6)

    provider.script = script
    with took(bound_s, bound_s + 1):
        answer = await chat(gateway, model=name)
    refusal(answer, 504, "upstream_timeout")


@BOTH
async def test_an_error_whose_body_never_comes_is_judged_by_its_status(
    gateway: RunningGateway, provider: FakeUpstream, stream: bool
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(429, retry_after="9")
        await exchange.gone.wait()

    provider.script = script
    with took(SHORT_S, SHORT_S + 1):
        answer = await chat(gateway, stream=stream)
    refusal(answer, 429, "rate_limit_exceeded")
    assert answer[0].headers["retry-after"] == "9"


@BOTH
@pytest.mark.parametrize("length", [10, 250_000, 1_000_000])
async def test_a_client_that_leaves_before_the_answer_closes_the_upstream(
    gateway: RunningGateway, provider: FakeUpstream, stream: bool, length: int
) -> None:
    """Also after a body that was more than the server reads at once."""
    provider.script, was_left = then_silence()
    provider.asked.clear()
    seen = len(gateway.records)
    messages = [{"role": "user", "content": "x" * length}]
    task = asyncio.create_task(gateway.chat(model="patient", stream=stream, messages=messages))
    await provider.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with took(0, SHORT_S):
        await hung_up(was_left)
    assert (await gateway.next_record(seen + 1)).error == "client_left"


# After the first chunk: the good chunks, one error event, the end


GOOD = [chunk("Hello"), chunk(" there")]


async def stays_silent(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def chatters_on(exchange: Exchange) -> None:
    while not exchange.gone.is_set():
        await exchange.send(b": still here\n\n")
        await asyncio.sleep(SHORT_S / 6)


def hangs(how: Callable[[Exchange], None]) -> Script:
    async def script(exchange: Exchange) -> None:
        how(exchange)

    return script


def goes_on(*pieces: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.send(piece)
        await exchange.end()

    return script


def begins_well(then: Script, was_read: asyncio.Event) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for piece in GOOD:
            await exchange.send(piece)
        await was_read.wait()
        await then(exchange)

    return script


async def stream_from(
    gateway: RunningGateway, provider: FakeUpstream, then: Script, **body: Any
) -> tuple[bytes, Record]:
    """The client's whole stream when the provider goes on like this after two good chunks have arrived."""
    was_read, got, seen = asyncio.Event(), b"", len(gateway.records)
    provider.script = begins_well(then, was_read)
    async with gateway.stream(**body) as response:
        assert response.status_code == 200
        async for piece in response.aiter_raw():
            got += piece
            if got.startswith(b"".join(GOOD)):
                was_read.set()
    return got, await gateway.next_record(seen + 1)


@pytest.mark.parametrize(
    ("name", "then", "code", "bound_s"),
    [
        ("m1", hangs(Exchange.reset), "upstream_error", 0),
        ("m1", hangs(Exchange.close), "upstream_error", 0),
        ("m1", goes_on(), "upstream_error", 0),
        ("m1", goes_on(DONE), "upstream_error", 0),
        ("m1", goes_on(chunk("!")[:-20]), "upstream_error", 0),
        ("m1", goes_on(b"data: {not json\n\n", chunk(finish="stop"), DONE), "upstream_error", 0),
        ("m1", goes_on(event({"error": {"message": "No."}}), chunk(finish="stop"), DONE), "upstream_error", 0),
        ("m1", goes_on(event({"error": {"message": "No.", "code": 429}})), "rate_limit_exceeded", 0),
        ("m1", goes_on(event({"error": {"message": "No."}}, "error")), "upstream_error", 0),
        ("m1", goes_on(event({"message": "No.", "type": "overloaded_error"}, "error")), "overloaded", 0),
        ("m1", goes_on(chunk(finish="error"), DONE), "upstream_error", 0),
        ("m1", goes_on(HTML), "upstream_error", 0),
        ("m1", stays_silent, "upstream_timeout", SHORT_S),
        ("patient", chatters_on, "upstream_timeout", 2 * SHORT_S),
    ],
    ids=[
        "reset",
        "closed inside the chunked body",
        "ended without a finish",
        "done without a finish",
        "cut in the middle of an event",
        "an event that is not JSON",
        "an error object",
        "an error object with a class",
        "an error event",
        "an error event without an envelope",
        "finished with an error",
        "a page of HTML",
        "silence",
        "past the total",
    ],
)
async def test_a_stream_that_breaks_says_so_once_and_ends(
    gateway: RunningGateway, provider: FakeUpstream, name: str, then: Script, code: str, bound_s: float
) -> None:
    with took(bound_s, bound_s + 1):
        got, record = await stream_from(gateway, provider, then, model=name)
    good = b"".join(GOOD)
    assert got.startswith(good)
    last = got.removeprefix(good)
    assert last.startswith(b'data: {"error":')
    assert last.endswith(b"}\n\n")
    assert last.count(b"data:") == 1
    error = orjson.loads(last.removeprefix(b"data: "))["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["code"] == code
    assert (record.status, record.error) == (200, code)


async def test_no_usage_is_invented_for_a_stream_that_broke(gateway: RunningGateway, provider: FakeUpstream) -> None:
    _, record = await stream_from(gateway, provider, hangs(Exchange.reset))
    assert (record.prompt_tokens, record.completion_tokens) == (None, None)


async def test_the_upstream_is_left_when_the_stream_is_given_up(
    gateway: RunningGateway, provider: FakeUpstream
) -> None:
    was_left = asyncio.Event()

    async def then(exchange: Exchange) -> None:
        await exchange.gone.wait()
        was_left.set()

    await stream_from(gateway, provider, then)
    await hung_up(was_left)


# Odd, and whole all the same


FINISH = chunk(finish="stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})


@pytest.mark.parametrize(
    ("then", "passed_on"),
    [
        (goes_on(FINISH, DONE), FINISH),
        (goes_on(FINISH), FINISH),
        (goes_on(FINISH, USAGE, DONE), FINISH + USAGE),
        (goes_on(FINISH, USAGE), FINISH + USAGE),
        (goes_on(FINISH, b"data: [DONE]"), FINISH),
        (goes_on(FINISH, DONE, DONE), FINISH),
        (goes_on(FINISH, DONE, chunk("after the end")), FINISH),
        (goes_on(b": thinking\n\n", b"event: ping\n\n", b"id: 7\nretry: 100\n\n", FINISH, DONE), FINISH),
        (goes_on(FINISH.replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")), FINISH),
        (goes_on(FINISH.replace(b"data: ", b"data:"), DONE), FINISH),
    ],
    ids=[
        "done",
        "no done",
        "usage",
        "usage and no done",
        "done without an empty line",
        "done twice",
        "more after done",
        "comments and other fields",
        "CRLF",
        "no space after the colon",
    ],
)
async def test_a_finished_answer_is_whole_and_ends_with_done(
    gateway: RunningGateway, provider: FakeUpstream, then: Script, passed_on: bytes
) -> None:
    got, record = await stream_from(gateway, provider, then)
    assert got == b"".join(GOOD) + passed_on + DONE
    assert (record.status, record.error) == (200, None)


@pytest.mark.parametrize("how", [Exchange.close, Exchange.reset])
@pytest.mark.parametrize("last", [[FINISH], [FINISH, DONE]])
async def test_a_finished_answer_survives_a_rough_end(
    gateway: RunningGateway, provider: FakeUpstream, last: list[bytes], how: Callable[[Exchange], None]
) -> None:
    async def then(exchange: Exchange) -> None:
        for piece in last:
            await exchange.send(piece)
        how(exchange)

    got, record = await stream_from(gateway, provider, then)
    assert got == b"".join(GOOD) + FINISH + DONE
    assert record.error is None


async def test_a_finished_answer_survives_silence_instead_of_an_end(
    gateway: RunningGateway, provider: FakeUpstream
) -> None:
    async def then(exchange: Exchange) -> None:
        await exchange.send(FINISH)
        await exchange.gone.wait()

    with took(0, SHORT_S + 1):
        got, record = await stream_from(gateway, provider, then)
    assert got == b"".join(GOOD) + FINISH + DONE
    assert record.error is None


async def test_a_connection_is_kept_though_its_end_comes_a_moment_after_done() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("Hi") + FINISH + DONE)
        await asyncio.sleep(0.01)
        await exchange.end()

    async with FakeUpstream() as upstream, running(model(upstream.url)) as gateway:
        upstream.script = script
        for _ in range(3):
            response, _ = await chat(gateway, stream=True)
            assert response.content == chunk("Hi") + FINISH + DONE
    assert upstream.connections == 1


async def test_chunks_pass_byte_for_byte(gateway: RunningGateway, provider: FakeUpstream) -> None:
    """Spacing, escapes, order, numbers and fields that nobody here knows are the provider's."""
    odd = [
        rb'{"choices" : [ {"delta":{"content":"\u0041\/ \ud83d\ude00"},"index":0} ],  "x":1.50, "created":1e3}',
        '{"zeta":[],"choices":[{"index":0,"delta":{"content":"Ё 😀 \u2028"},"logprobs":{"content":[]}}]}'.encode(),
        rb'{"choices":[{"delta":{},"finish_reason":"stop","index":0}],"big":12345678901234567890123,"dup":1,"dup":2}',
    ]
    provider.script = events(*[b"data: " + raw + b"\n\n" for raw in odd], DONE)
    response, _ = await chat(gateway, stream=True)
    assert response.content == b"".join(b"data: " + raw + b"\n\n" for raw in odd) + DONE


async def test_a_whole_answer_passes_byte_for_byte(gateway: RunningGateway, provider: FakeUpstream) -> None:
    raw = rb'{ "choices" : [{"message":{"content":"\u0041"},"index":0,"finish_reason":"stop"}], "x":1.50, "big":1e400 }'
    provider.script = answers(raw.replace(b"1e400", b"12345678901234567890123"))
    response, _ = await chat(gateway)
    assert response.content == raw.replace(b"1e400", b"12345678901234567890123")


async def test_chunks_cut_anywhere_on_the_wire_are_put_together(
    gateway: RunningGateway, provider: FakeUpstream
) -> None:
    whole = b"".join(GOOD) + chunk("Ё") + FINISH + DONE
    provider.script = events(*[whole[at : at + 7] for at in range(0, len(whole), 7)])
    response, _ = await chat(gateway, stream=True)
    assert response.content == whole


async def test_several_choices_are_whole_only_when_each_has_finished(
    gateway: RunningGateway, provider: FakeUpstream
) -> None:
    first = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]})
    second = event({"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]})
    provider.script = events(first)
    broken, _ = await chat(gateway, stream=True, n=2)
    provider.script = events(first, second)
    whole, _ = await chat(gateway, stream=True, n=2)
    assert b'data: {"error":' in broken.content
    assert b"[DONE]" not in broken.content
    assert whole.content == first + second + DONE


async def test_usage_is_recorded(gateway: RunningGateway, provider: FakeUpstream) -> None:
    provider.script = events(chunk("Hi"), FINISH, USAGE, DONE)
    _, streamed = await chat(gateway, stream=True, stream_options={"include_usage": True})
    provider.script = answers_json(completion())
    _, whole = await chat(gateway)
    assert (streamed.prompt_tokens, streamed.completion_tokens) == (3, 2)
    assert (whole.prompt_tokens, whole.completion_tokens) == (3, 2)


# Signs of life for the client


async def test_a_client_hears_a_comment_when_a_stream_is_idle(provider: FakeUpstream) -> None:
    was_heard = asyncio.Event()

    async def then(exchange: Exchange) -> None:
        await was_heard.wait()
        await exchange.send(FINISH + DONE)
        await exchange.end()

    provider.script = begins_well(then, was_heard)
    async with running(model(provider.url), keep_alive_s=0.05) as gateway, gateway.stream() as response:
        got = b""
        with took(0.1, 1):
            async for piece in response.aiter_raw():
                got += piece
                if got.count(b": keep-alive\n\n") == 2:
                    was_heard.set()
    assert got.replace(b": keep-alive\n\n", b"") == b"".join(GOOD) + FINISH + DONE


async def test_a_providers_comments_do_not_keep_the_clients_from_coming(provider: FakeUpstream) -> None:
    """A provider that says it is alive more often than we do: the client must hear it, too, from us."""
    was_heard = asyncio.Event()

    async def then(exchange: Exchange) -> None:
        while not was_heard.is_set():
            await exchange.send(b": OPENROUTER PROCESSING\n\n")
            await asyncio.sleep(0.01)
        await exchange.send(FINISH + DONE)
        await exchange.end()

    was_read = asyncio.Event()
    was_read.set()
    provider.script = begins_well(then, was_read)
    async with running(model(provider.url), keep_alive_s=0.05) as gateway, gateway.stream() as response:
        got = b""
        async for piece in response.aiter_raw():
            got += piece
            if b": keep-alive\n\n" in got:
                was_heard.set()
    assert got.replace(b": keep-alive\n\n", b"") == b"".join(GOOD) + FINISH + DONE
