"""The function behind a Runtime API of our own: what it is asked, and what it answers, byte by byte and in time."""

import asyncio
import base64
import gzip
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
import pytest_asyncio
from click.testing import CliRunner

from tests.dev_lambda import main as dev_lambda
from tests.dynamodb_endpoint import fresh_table
from tests.fake_upstream import DONE, Exchange, FakeUpstream, answers_json, chunk, completion, events
from tests.function_url import EVENTS, FunctionUrl
from tests.lambda_function import SRC, STOCK, Function, config_file, function, until_ready
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, ask, model
from tests.runtime_api import Answer, RuntimeApi

Json = dict[str, Any]
SIX_MB = 6 * 2**20
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # so that one function serves all of them


def event(name: str, **changes: Any) -> Json:
    found: Json = orjson.loads((EVENTS / f"{name}.json").read_bytes())
    found.update(changes)
    found["headers"] = {**found["headers"], "authorization": f"Bearer {TOKEN}"}
    if "multiValueHeaders" in found:
        found["multiValueHeaders"]["Authorization"] = [f"Bearer {TOKEN}"]
    return found


def asking(**more: Any) -> Json:
    return event("chat", body=orjson.dumps(ask(**more)).decode())


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'


def _has_said(words: bytes, answer: Answer) -> bool:
    return words in answer.body


class Rig:
    """One function that streams, warm, with a provider behind it."""

    def __init__(self, api: RuntimeApi, upstream: FakeUpstream, process: Function) -> None:
        self.api, self.upstream, self.process = api, upstream, process

    async def answer(self, said: Any, **more: Any) -> Answer:
        answer = self.api.invoke(said, **more)
        await answer.until(lambda a: a.is_over.is_set())
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with RuntimeApi() as api, FakeUpstream() as upstream:
        models, server = (
            [model(upstream.url, model_size="SMALL"), model(upstream.url, "a/b")],
            {"max_body_bytes": SIX_MB},
        )
        config = config_file(tmp_path_factory.mktemp("function"), *models, server=server)
        async with function(api, config) as process:
            await until_ready(api)
            yield Rig(api, upstream, process)


# --- the protocol


@IN_ONE_LOOP
async def test_an_answer_is_a_prelude_eight_zeros_and_the_body(rig: Rig) -> None:
    rig.upstream.script = answers_json(completion("Hi."))
    answer = await rig.answer(asking())
    assert answer.mode == "streaming"
    assert answer.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.prelude
    assert (answer.prelude["statusCode"], answer.prelude["cookies"]) == (200, [])
    assert answer.prelude["headers"]["content-type"] == "application/json"
    assert answer.prelude["headers"]["x-sluice-model"] == "m1"
    assert not {"content-length", "transfer-encoding", "connection"} & answer.prelude["headers"].keys()
    assert orjson.loads(answer.body)["choices"][0]["message"]["content"] == "Hi."
    assert answer.trailers == {}


@IN_ONE_LOOP
async def test_chunk_n_is_seen_before_the_provider_sends_the_next(rig: Rig) -> None:
    """The whole point. Each chunk of the provider waits until the one before it has left the function."""
    answer: Answer
    words = [f"word {number} " for number in range(20)]

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for number, word in enumerate(words):
            await exchange.send(chunk(word))
            await answer.until(partial(_has_said, word.encode()))
            assert not answer.is_over.is_set(), number
        await exchange.send(chunk(finish="stop") + DONE)
        await exchange.end()

    rig.upstream.script = script
    answer = rig.api.invoke(asking(stream=True))
    await answer.until(lambda a: a.is_over.is_set())
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert len(answer.pieces) >= len(words)


KINDS = [
    ("ping", 200),
    ("models", 200),
    ("chat", 200),
    ("chat-base64", 200),
    ("stream", 200),
    ("no-key", 401),
    ("not-found", 404),
    ("method-not-allowed", 405),
    ("api-gateway-rest", 200),
    ("api-gateway-http", 200),
]


@IN_ONE_LOOP
@pytest.mark.parametrize(("name", "status"), KINDS)
async def test_events_of_every_kind(rig: Rig, name: str, status: int) -> None:
    rig.upstream.script = (
        events(chunk("Hi"), chunk(finish="stop"), DONE) if name == "stream" else answers_json(completion())
    )
    said = event(name)
    if name == "no-key":
        del said["headers"]["authorization"]
    answer = await rig.answer(said)
    assert answer.prelude, answer.error
    assert answer.prelude["statusCode"] == status


def test_every_event_file_is_used() -> None:
    used = {name for name, _ in KINDS} | {"encoded-slash", "head", "options"}
    assert {path.stem for path in EVENTS.glob("*.json")} == used


@IN_ONE_LOOP
async def test_an_encoded_slash_in_a_models_id_is_part_of_the_id(rig: Rig) -> None:
    answer = await rig.answer(event("encoded-slash"))
    assert orjson.loads(answer.body)["id"] == "a/b"


@IN_ONE_LOOP
@pytest.mark.parametrize("name", ["head", "options"])
async def test_an_answer_without_a_body_has_a_prelude_all_the_same(rig: Rig, name: str) -> None:
    answer = await rig.answer(event(name))
    assert answer.prelude
    assert answer.prelude["headers"]["content-type"]
    assert answer.trailers == {}


@IN_ONE_LOOP
async def test_the_request_reaches_the_provider_whole(rig: Rig) -> None:
    """Characters beyond ASCII, as text and as base64."""
    rig.upstream.script = answers_json(completion())
    body = orjson.dumps(ask(messages=[{"role": "user", "content": "гига 🌊"}]))
    for said in (
        event("chat", body=body.decode()),
        event("chat", body=base64.b64encode(body).decode(), isBase64Encoded=True),
    ):
        await rig.answer(said)
        assert rig.upstream.requests[-1].json["messages"][0]["content"] == "гига 🌊"


@IN_ONE_LOOP
async def test_a_stream_of_32_mib_is_whole(rig: Rig) -> None:
    word = "x" * 2**20
    rig.upstream.script = events(*[chunk(word)] * 32, chunk(finish="stop"), DONE)
    answer = await rig.answer(asking(stream=True))
    assert answer.body.count(word.encode()) == 32
    assert answer.body.endswith(b"data: [DONE]\n\n")


# --- what goes wrong


@IN_ONE_LOOP
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"{", "Runtime.UnmarshalError"),
        (b"[]", "Sluice.BadEvent"),
        ({"Records": [{"eventSource": "aws:sqs", "body": "x"}]}, "Sluice.BadEvent"),
        ({"version": "2.0", "requestContext": {"http": {}}}, "Sluice.BadEvent"),
        ({}, "Sluice.BadEvent"),
    ],
)
async def test_an_event_that_is_no_request_is_an_error_and_the_loop_goes_on(rig: Rig, said: Any, kind: str) -> None:
    answer = await rig.answer(said)
    assert answer.error_type == kind
    assert answer.error
    assert answer.error["errorType"] == kind
    assert answer.prelude is None
    following = await rig.answer(event("ping"))
    assert following.prelude
    assert following.prelude["statusCode"] == 200


@IN_ONE_LOOP
async def test_wrong_base64_is_a_clear_400(rig: Rig) -> None:
    answer = await rig.answer(event("chat", body="%%%", isBase64Encoded=True))
    assert answer.prelude
    assert answer.prelude["statusCode"] == 400
    assert "base64" in orjson.loads(answer.body)["error"]["message"]


@IN_ONE_LOOP
async def test_a_body_over_six_megabytes_is_a_clear_413_and_the_loop_goes_on(rig: Rig) -> None:
    """Lambda itself stops such requests; the limit is that of the configuration that ships."""
    body = orjson.dumps(ask(messages=[{"role": "user", "content": "x" * SIX_MB}])).decode()
    answer = await rig.answer(event("chat", body=body))
    assert answer.prelude
    assert answer.prelude["statusCode"] == 413
    assert "6291456 bytes" in orjson.loads(answer.body)["error"]["message"]
    assert (await rig.answer(event("ping"))).prelude


@IN_ONE_LOOP
async def test_a_provider_that_breaks_off_is_told_in_band_with_a_clean_end(rig: Rig) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("The answer"))
        exchange.reset()

    rig.upstream.script = script
    answer = await rig.answer(asking(stream=True))
    assert b"upstream_error" in answer.body
    assert b"[DONE]" not in answer.body
    assert answer.trailers == {}


@IN_ONE_LOOP
async def test_a_stream_is_ended_by_us_before_its_time_is_up(rig: Rig) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("The answer"))
        await exchange.gone.wait()

    rig.upstream.script = script
    began = time.monotonic()
    answer = await rig.answer(asking(stream=True), time_s=2.5)
    assert time.monotonic() - began < 2.4
    assert b"out_of_time" in answer.body
    assert answer.trailers == {}
    await rig.upstream.until_open(0)


@IN_ONE_LOOP
async def test_a_stream_that_the_runtime_drops_leaves_no_connection_open(rig: Rig) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for _ in range(1000):
            await exchange.send(chunk("word "))
            if exchange.gone.is_set():
                return
            await asyncio.sleep(0.005)

    rig.upstream.script = script
    answer = rig.api.invoke(asking(stream=True))
    rig.api.drops.add(answer.request_id)
    await answer.until(lambda a: a.is_over.is_set())
    await rig.upstream.until_open(0, within_s=5)
    assert (await rig.answer(event("ping"))).prelude


@IN_ONE_LOOP
async def test_an_answer_that_comes_too_late_is_noted_and_the_loop_goes_on(rig: Rig) -> None:
    answer = rig.api.invoke(event("ping"))
    rig.api.stale.add(answer.request_id)
    await answer.until(lambda a: a.is_over.is_set())
    assert (await rig.answer(event("ping"))).prelude


@IN_ONE_LOOP
async def test_the_invocations_id_is_echoed_where_there_is_one(rig: Rig) -> None:
    answer = await rig.answer(event("ping"), id_again="again-1")
    assert answer.headers["lambda-runtime-invocation-id"] == "again-1"
    failed = await rig.answer(b"{", id_again="again-2")
    assert failed.error_type


@IN_ONE_LOOP
async def test_the_connection_for_questions_is_kept(rig: Rig) -> None:
    await rig.answer(event("ping"))
    before = rig.api.connections
    for _ in range(5):
        await rig.answer(event("ping"))
    assert rig.api.connections - before == 5, "one a stream, which closes with it, and none a question"


# --- what is printed


async def test_each_request_is_a_line_and_its_metrics_and_nothing_holds_a_secret(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Its table is out of reach, so that this is told as well. `a` is asked twice before `b` is."""

    async def script(exchange: Exchange) -> None:
        if exchange.request.json["model"] == "picky":
            return await answers_json({"error": {"message": "not like that"}}, 400)(exchange)
        if exchange.request.json["model"] == "bad":
            return await answers_json({"error": {"message": f"bad key {UPSTREAM_TOKEN}"}}, 500)(exchange)
        return await events(chunk("Hi"), chunk(finish="stop"), USAGE, DONE)(exchange)

    upstream.script = script
    models = [
        model(upstream.url, "a", upstream_model="bad", fallbacks=["b"]),
        model(upstream.url, "b", requests_per_day=1),
        model(upstream.url, "c", upstream_model="picky"),
    ]
    state = {"store": "dynamodb", "table": "none", "region": "eu-west-1", "endpoint_url": "http://127.0.0.1:9"}
    config = config_file(tmp_path, *models, state=state)
    async with RuntimeApi() as api, function(api, config, POWERTOOLS_SERVICE_NAME="sluice-test") as process:
        for name, status in (("a", 200), ("b", 429), ("c", 400)):
            await until_ready(api)
            api.asked_next.clear()
            answer = api.invoke(asking(model=name, stream=True))
            await answer.until(lambda a: a.is_over.is_set(), 20)
            assert answer.prelude
            assert answer.prelude["statusCode"] == status
        await until_ready(api)
        api.asked_next.clear()
        await api.invoke(event("ping")).until(lambda a: a.is_over.is_set())
        await until_ready(api)
        process.process.kill()  # what is not written by the end of an invocation would be lost
        printed = await process.output()
    rows = [orjson.loads(line) for line in printed.splitlines()]
    first, second, third = [row for row in rows if row.get("message") == "request"]
    assert (first["level"], first["status"], first["model"], first["caller"]) == ("INFO", 200, "b", "app")
    assert (first["service"], first["function_request_id"]) == ("sluice-test", "request-1")
    assert first["timestamp"].endswith(("Z", "+00:00"))
    assert (second["status"], second["error"]) == (429, "rate_limit_exceeded")
    assert (third["status"], third["trail"]) == (400, ["c: client 400"])

    of_first, of_second, _ = [row for row in rows if "Requests" in row]
    (directive,) = of_first["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("Sluice", [["service"]])
    assert (of_first["service"], of_first["Errors"], of_first["BreakerOpenings"]) == ("sluice-test", [0.0], [1.0])
    assert of_first["Tokens"] == [5.0]
    assert 0 < of_first["TimeToFirstToken"][0] < 20_000
    assert 0 < of_first["Overhead"][0] < 20_000
    assert not {"Tokens", "TimeToFirstToken", "Overhead", "BreakerOpenings"} & of_second.keys()
    counted = {
        (name, row[by]): row[name][0]
        for name, by in (("Fallbacks", "reason"), ("Refusals", "rule"))
        for row in rows
        if name in row
    }
    assert counted == {("Fallbacks", "transient"): 2.0, ("Refusals", "requests_per_day"): 1.0}
    assert {row["how"] for row in rows if "StoreFailures" in row} == {"degraded"}
    assert TOKEN not in printed
    assert UPSTREAM_TOKEN not in printed


# --- the process


async def test_a_configuration_that_is_wrong_is_reported_and_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("models: 5\n")
    async with RuntimeApi() as api, function(api, str(tmp_path / "config.yaml")) as process:
        printed = await process.output()
        assert process.process.returncode == 1
    assert api.init_error
    assert "ConfigError" in api.init_error["errorType"]
    assert "config.yaml" in printed


async def test_sigterm_ends_it(upstream: FakeUpstream, tmp_path: Path) -> None:
    async with RuntimeApi() as api, function(api, config_file(tmp_path, model(upstream.url))) as process:
        await until_ready(api)
        process.process.terminate()
        assert await asyncio.wait_for(process.process.wait(), 5) == 0


async def test_under_snapstart_it_waits_to_be_restored_and_then_serves(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.script = answers_json(completion())
    async with RuntimeApi() as api:
        config = config_file(tmp_path, model(upstream.url))
        async with function(api, config, AWS_LAMBDA_INITIALIZATION_TYPE="snap-start"):
            async with asyncio.timeout(20):
                await api.restore_asked.wait()
            assert not api.asked_next.is_set()
            api.may_restore.set()
            await until_ready(api)
            answer = api.invoke(asking())
            await answer.until(lambda a: a.is_over.is_set())
            assert answer.prelude
            assert answer.prelude["statusCode"] == 200


async def test_several_invocations_run_at_once_where_lambda_says_so(upstream: FakeUpstream, tmp_path: Path) -> None:
    """Two that wait for each other: the provider answers neither before both have come."""
    both = asyncio.Barrier(2)

    async def script(exchange: Exchange) -> None:
        async with asyncio.timeout(10):
            await both.wait()
        await answers_json(completion())(exchange)

    upstream.script = script
    config = config_file(tmp_path, model(upstream.url))
    async with RuntimeApi() as api, function(api, config, AWS_LAMBDA_MAX_CONCURRENCY="4"):
        answers = [api.invoke(asking()) for _ in range(2)]
        for answer in answers:
            await answer.until(lambda a: a.is_over.is_set(), 25)
            assert answer.prelude
            assert answer.prelude["statusCode"] == 200


async def test_the_same_handler_answers_as_a_whole_under_lambdas_own_runtime(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    config = config_file(tmp_path, model(upstream.url))
    async with RuntimeApi() as api, function(api, config, command=STOCK) as process:
        upstream.script = answers_json(completion("Hi."))
        whole = api.invoke(asking())
        await whole.until(lambda a: a.is_over.is_set(), 30)
        upstream.script = events(chunk("Hi"), chunk(finish="stop"), DONE)
        streamed = api.invoke(asking(stream=True))
        await streamed.until(lambda a: a.is_over.is_set())
        bad = api.invoke({"Records": []})
        await bad.until(lambda a: a.is_over.is_set())
        printed = await process.stop()
    lines = [orjson.loads(line) for line in printed.splitlines() if '"message":"request"' in line]
    assert [line["function_request_id"] for line in lines] == [whole.request_id, streamed.request_id]
    assert whole.mode == streamed.mode == ""
    said = orjson.loads(whole.body)
    assert said["statusCode"] == 200
    assert orjson.loads(said["body"])["choices"][0]["message"]["content"] == "Hi."
    assert orjson.loads(streamed.body)["body"].endswith("data: [DONE]\n\n")
    assert bad.error


# --- through the function URL


async def test_make_dev_lambda_streams_until_it_is_told_to_stop(tmp_path: Path) -> None:
    quick = {"reply": "one two three", "first_token_ms": 1, "token_ms": 100}
    config_file(tmp_path, {"name": "m1", "provider": "demo", "demo": quick})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.dev_lambda", "--config", "config.yaml", "--port", str(port)),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC.parent)},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    async with asyncio.timeout(20):
        greeting = (await process.stderr.readline()).decode()
    url = f"http://127.0.0.1:{port}"
    assert url in greeting
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as client,
        client.stream("POST", "/v1/chat/completions", json=ask(stream=True)) as answer,
    ):
        came = [(time.monotonic(), line) async for line in answer.aiter_lines() if line]
    assert came[-1][1] == "data: [DONE]"
    assert came[-1][0] - came[0][0] > 0.1, "all at once"
    process.send_signal(signal.SIGINT)
    said, errors = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, errors) == (0, b"")
    assert b'"message":"request"' in said


def test_make_dev_lambda_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        result = CliRunner().invoke(dev_lambda, ["--port", str(somebody.getsockname()[1])])
    assert result.exit_code == 1
    assert "is taken; --port chooses another one" in result.output


async def test_the_official_package_streams_through_the_function_url_with_state_in_dynamodb(
    upstream: FakeUpstream, tmp_path: Path, dynamodb: str
) -> None:
    state = fresh_table(dynamodb)
    limited = {**model(upstream.url), "requests_per_minute": 2}
    config = config_file(
        tmp_path,
        limited,
        state=state.model_dump(exclude={"path"}),
    )
    upstream.script = events(chunk("Hel"), chunk("lo"), chunk(finish="stop"), DONE)
    said: Any = {"model": "m1", "messages": [{"role": "user", "content": "Hi"}]}
    async with (
        RuntimeApi() as api,
        FunctionUrl(api) as front,
        function(api, config),
        openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key=TOKEN, max_retries=0, timeout=30) as client,
    ):
        for _ in range(2):
            stream = await client.chat.completions.create(**said, stream=True)
            assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hello"
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**said)


async def test_through_the_function_url_an_answer_is_as_on_a_server(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.script = answers_json(completion())
    async with (
        RuntimeApi() as api,
        FunctionUrl(api) as front,
        function(api, config_file(tmp_path, model(upstream.url))),
    ):
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=front.url, headers=headers, timeout=30) as client:
            assert (await client.get("/ping")).status_code == 200
            answer = await client.post("/v1/chat/completions", json=ask())
            assert answer.json() == completion()
            packed = gzip.compress(orjson.dumps(ask()))
            refused = await client.post("/v1/chat/completions", content=packed)
            assert refused.status_code == 400
