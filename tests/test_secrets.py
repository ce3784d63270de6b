"""Keys, prompts and answers: canaries go in at every door, and no log, record, error or stderr shows one of them."""

import asyncio
import io
import logging
from typing import Any

import orjson
import pytest

from core.providers import PROVIDERS
from core.providers.dialect import Provider
from core.providers.openai import OpenAIDialect
from core.providers.quirks import Notes
from sluice.log import JsonLog, TerminalLog
from tests.canaries import canaries_in, seen, told
from tests.conftest import pytest_runtest_makereport
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
)
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, RunningGateway, ask, model, running

PROMPT = "prompt-canary-how-do-zebras-sleep"
ANSWER = "answer-canary-standing-up"
URL_KEY = "url-canary-vxzqkjwygbphmt"
HEADER_KEY = "header-canary-jqxzkvwyhpgm"
WRONG_TOKEN = "wrong-canary-wvqxjzkyhgpb"
CANARIES = (TOKEN, UPSTREAM_TOKEN, URL_KEY, HEADER_KEY, WRONG_TOKEN, PROMPT, ANSWER)

QUOTES_ALL = {"message": f"{UPSTREAM_TOKEN} {HEADER_KEY} {URL_KEY} {PROMPT}", "param": None, "code": None, "type": None}


async def resets(exchange: Exchange) -> None:
    exchange.reset()


async def says_nothing(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def breaks_off(exchange: Exchange) -> None:
    await exchange.start(200, content_type="text/event-stream")
    await exchange.send(chunk(ANSWER))
    await asyncio.sleep(0.02)
    exchange.reset()


def fails_with_the_prompt(body: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError(f"cannot handle {body}")


def fails_with_the_answer(body: dict[str, Any], _: Notes) -> bool:
    raise ValueError(f"cannot read {body}")


@pytest.fixture
def buggy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers with a bug whose exception quotes what they work on."""
    for name, dialect in (
        ("asks-wrong", OpenAIDialect(mend_request=fails_with_the_prompt)),
        ("reads-wrong", OpenAIDialect(mends=(fails_with_the_answer,))),
    ):
        monkeypatch.setitem(PROVIDERS, name, Provider(name=name, dialect=dialect))


GOOD_STREAM = events(chunk(ANSWER), chunk(finish="stop"), DONE)
GOOD = answers_json(completion(ANSWER))

# model, whether a stream is asked for, what the provider does, the status that the client sees
EXCHANGES: list[tuple[str, bool, Script, int]] = [
    ("m1", False, GOOD, 200),
    ("m1", True, GOOD_STREAM, 200),
    ("m1", True, breaks_off, 200),
    ("m1", True, events(chunk(ANSWER), event({"error": QUOTES_ALL})), 200),
    ("m1", True, events(chunk(ANSWER), f"data: {ANSWER}\n\n".encode()), 200),
    *[("m1", stream, answers_json({"error": QUOTES_ALL}, status), seen)
      for stream in (False, True)
      for status, seen in {400: 400, 401: 502, 403: 502, 404: 502, 422: 422, 429: 429, 500: 502, 503: 503}.items()],
    ("m1", False, answers(f"<h1>{PROMPT} {UPSTREAM_TOKEN}</h1>".encode(), 502), 502),
    ("m1", False, answers(ANSWER.encode()), 502),
    ("m1", True, answers(f"data: {ANSWER}\n\n".encode()), 502),
    ("m1", False, answers_json({"error": QUOTES_ALL}), 502),
    ("m1", False, resets, 502),
    ("m1", True, resets, 502),
    ("m1", False, says_nothing, 504),
    ("m1", True, says_nothing, 504),
    ("nobody", False, GOOD, 502),
    ("url-key", False, GOOD, 200),
    ("url-key", False, resets, 502),
    ("url-key", False, answers(b"", 301, location="/elsewhere"), 502),
    ("asks-wrong", False, GOOD, 500),
    ("asks-wrong", True, GOOD, 500),
    ("reads-wrong", False, GOOD, 500),
    ("reads-wrong", True, GOOD_STREAM, 500),
    (f"no-such-model-{PROMPT[:6]}", False, GOOD, 404),
]  # fmt: skip


def models(url: str) -> list[dict[str, Any]]:
    timeouts = {"first_token": 1, "response": 1, "connect": 1}
    common: dict[str, Any] = {"timeouts": timeouts, "headers": {"x-api-key": HEADER_KEY}}
    with_key = {**model(url, "url-key", **common), "url": f"{url}/v1/chat/completions?key={URL_KEY}"}
    del with_key["base_url"]
    return [
        model(url, **common),
        model("http://127.0.0.1:1", "nobody", **common),
        with_key,
        model(url, "asks-wrong", provider="asks-wrong"),
        model(url, "reads-wrong", provider="reads-wrong"),
    ]


async def play(gateway: RunningGateway, upstream: FakeUpstream) -> list[str]:
    """Every exchange in turn; what came back of those that failed."""
    errors = []
    messages = [{"role": "user", "content": PROMPT}]
    for name, stream, script, status in EXCHANGES:
        upstream.script = script
        gateway.forget()  # or cooldowns would answer in the provider's place
        answer = await gateway.chat(model=name, stream=stream, messages=messages)
        assert answer.status_code == status, (name, stream, answer.text)
        if status != 200:
            errors.append(answer.text)
        elif b'data: {"error"' in answer.content:
            errors.append(answer.text.partition('data: {"error"')[2])
    return errors


async def play_bad_requests(gateway: RunningGateway) -> list[str]:
    """Requests that are refused at the door, with canaries where they might be quoted."""
    post = gateway.client.post
    wrong = {"authorization": f"Bearer {WRONG_TOKEN}"}
    path = "/v1/chat/completions"
    answers = [
        await post(path, json=ask(), headers=wrong),
        await post(path, json=ask(), headers={"authorization": f"Basic {WRONG_TOKEN}"}),
        await post(path, content=f'{{"messages": {PROMPT}'.encode()),
        await post(path, content=orjson.dumps([PROMPT])),
        await post(path, json={"messages": PROMPT}),
        await post(path, json={"messages": [PROMPT]}),
        await post(path, json=ask(stream=PROMPT)),
        await post(path, content=PROMPT.encode() * 10_000),
        await gateway.client.get(f"/nope?key={WRONG_TOKEN}"),
        await gateway.client.get("/v1/models", headers={"x-request-id": f"{WRONG_TOKEN};"}),
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 400, 400, 400, 400, 400, 413, 404, 200]
    return [answer.text for answer in answers]


async def leave_early(gateway: RunningGateway, upstream: FakeUpstream) -> None:
    """A client that goes in the middle of a stream, one in the middle of its body, one that speaks no HTTP."""
    upstream.script = begins_and_waits
    async with gateway.stream(messages=[{"role": "user", "content": PROMPT}]) as response:
        await anext(response.aiter_raw())
    host, port = gateway.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {TOKEN}\r\n"
    for said in (f"{head}content-length: 999\r\n\r\n{PROMPT}", f"{head}{PROMPT}\r\n\r\n", f"{PROMPT}\r\n\r\n"):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(said.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def begins_and_waits(exchange: Exchange) -> None:
    await exchange.start(200, content_type="text/event-stream")
    await exchange.send(chunk(ANSWER))
    await exchange.gone.wait()


@pytest.mark.usefixtures("buggy")
@pytest.mark.parametrize("http_client", ["aiohttp", "httpx"])
async def test_no_canary_is_seen_anywhere(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], http_client: str
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, "httpx")  # the test's own client writes down the addresses it asks
    as_json, on_terminal = io.StringIO(), io.StringIO()
    server = {"http_client": http_client, "max_body_bytes": 50_000}
    async with running(
        *models(upstream.url), server=server, logs=[JsonLog(as_json), TerminalLog(on_terminal)]
    ) as gateway:
        errors = [*await play(gateway, upstream), *await play_bad_requests(gateway)]
        await leave_early(gateway, upstream)
        requests = len(EXCHANGES) + 10 + 2
        await gateway.next_record(requests)
    assert len(gateway.telemetry.errors) == 4
    assert as_json.getvalue().count("\n") == on_terminal.getvalue().count("\n") == requests
    assert "RuntimeError" in caplog.text
    everywhere = {
        "errors": "\n".join(errors),
        "records": repr(gateway.records),
        "log as JSON": as_json.getvalue(),
        "log on a terminal": on_terminal.getvalue(),
        "logging": caplog.text,
        "standard streams": "".join(capfd.readouterr()),
    }
    assert {
        place: canaries_in(text, *CANARIES) for place, text in everywhere.items() if canaries_in(text, *CANARIES)
    } == {}


async def test_the_canaries_would_be_seen(upstream: FakeUpstream) -> None:
    """They do go through: the provider gets its keys and the prompt, the client the answer."""
    upstream.script = answers_json(completion(ANSWER))
    async with running(*models(upstream.url)[:3]) as gateway:
        for name in ("m1", "url-key"):
            answer = await gateway.chat(model=name, messages=[{"role": "user", "content": PROMPT}])
            assert canaries_in(answer.text, *CANARIES) == [ANSWER]
    asked = upstream.requests[-1]
    everything = f"{asked.path} {asked.headers} {asked.body!r}"
    assert canaries_in(everything, *CANARIES) == [UPSTREAM_TOKEN, URL_KEY, HEADER_KEY, PROMPT]


@pytest.mark.parametrize("shown", [TOKEN, TOKEN[:14], f"Bearer ...{UPSTREAM_TOKEN[-8:]}"])
def test_a_key_that_any_test_shows_fails_it(shown: str, request: pytest.FixtureRequest) -> None:
    """In what it printed or logged, and in what the gateway said meanwhile."""
    for sections, words in (([("Captured log call", f"key {shown}")], ""), ([], f"key {shown}")):
        report = pytest.TestReport("a test", ("", 0, ""), {}, "passed", None, "call", sections)
        told("an error", words)
        judging = pytest_runtest_makereport()
        next(judging)
        with pytest.raises(StopIteration):
            judging.send(report)
        assert report.failed
    assert seen() == []
