"""`POST /v1/embeddings` through a running gateway: OpenAI's embeddings, as they came."""

import asyncio
import base64
import struct
from typing import Any

import httpx
import openai
import pytest

from tests.fake_upstream import Exchange, FakeUpstream, Script, answers, answers_json, completion, took
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, RunningGateway, model, running

VECTOR = [0.5, -0.25, 0.125]
PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
CLIENTS = pytest.mark.parametrize("http_client", ["aiohttp", "httpx"])


def vectors(embedding: Any = VECTOR, **more: Any) -> dict[str, Any]:
    """An answer in OpenAI's form."""
    row = {"object": "embedding", "index": 0, "embedding": embedding}
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": [row], "model": "up-e", "usage": usage, **more}


def embedder(url: str, name: str = "e1", **more: Any) -> dict[str, Any]:
    return model(url, name, **{"kind": "embedding", "upstream_model": "up-e", **more})


async def embed(gateway: RunningGateway, **body: Any) -> httpx.Response:
    return await gateway.client.post("/v1/embeddings", json={"model": "e1", "input": "Hello", **body})


# What passes through


@CLIENTS
async def test_request_and_answer_pass_through_unchanged_but_for_the_model(
    upstream: FakeUpstream, http_client: str
) -> None:
    """Byte for byte on the way back; on the way there every field, known or not."""
    raw = b'{ "object":"list","data":[{"object":"embedding","index":0,"embedding":[1e-7, 0.10]}],"x_own":{"a":null}}'
    upstream.script = answers(raw)
    more = {"input": ["one", "zwei", "три"], "dimensions": 2, "encoding_format": "float", "user": "u", "x_new": [1]}
    async with running(embedder(upstream.url), server={"http_client": http_client}) as gateway:
        response = await embed(gateway, **more)
    assert (response.status_code, response.content) == (200, raw)
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["x-sluice-model"], response.headers["x-sluice-attempts"]) == ("e1", "1")
    assert response.headers["x-request-id"]
    asked = upstream.requests[0]
    assert (asked.method, asked.path) == ("POST", "/v1/embeddings")
    assert asked.json == {"model": "up-e", **more}
    assert asked.headers["authorization"] == f"Bearer {UPSTREAM_TOKEN}"
    assert TOKEN not in str(asked)


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
async def test_input_may_be_text_or_tokens_one_or_many(upstream: FakeUpstream, given: Any) -> None:
    upstream.script = answers_json(vectors())
    async with running(embedder(upstream.url)) as gateway:
        assert (await embed(gateway, input=given)).status_code == 200
    assert upstream.requests[0].json["input"] == given


async def test_a_full_address_is_asked_as_it_stands(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(vectors())
    entry = {**embedder(upstream.url), "url": f"{upstream.url}/elsewhere?v=2"}
    async with running(entry) as gateway:
        assert (await embed(gateway)).status_code == 200
    assert upstream.requests[0].path == "/elsewhere?v=2"


async def test_the_record_has_model_provider_and_usage(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(vectors())
    async with running(embedder(upstream.url)) as gateway:
        await embed(gateway)
        record = await gateway.next_record()
    assert (record.path, record.caller, record.model, record.provider) == ("/v1/embeddings", "app", "e1", "openai")
    assert (record.status, record.attempts, record.error) == (200, 1, None)
    assert (record.prompt_tokens, record.completion_tokens) == (7, None)


# Who may be asked


async def test_a_chat_model_is_not_asked_for_embeddings_nor_the_other_way_round(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url, "c1"), embedder(upstream.url, aliases=["vectors"])) as gateway:
        wrong = [await embed(gateway, model="c1"), await gateway.chat(model="e1"), await gateway.chat(model="vectors")]
    said = [(answer.status_code, answer.json()["error"]["message"]) for answer in wrong]
    assert said == [
        (400, "c1 is a model for chat, not for embeddings."),
        (400, "e1 is a model for embeddings, not for chat."),
        (400, "vectors is a model for embeddings, not for chat."),
    ]
    assert {answer.json()["error"]["param"] for answer in wrong} == {"model"}
    assert not upstream.requests


async def test_a_category_means_its_models_of_the_kind_that_is_asked_for(upstream: FakeUpstream) -> None:
    """The chat model comes first and has the better priority."""

    async def script(exchange: Exchange) -> None:
        is_chat = exchange.request.path.endswith("/chat/completions")
        await (answers_json(completion()) if is_chat else answers_json(vectors()))(exchange)

    upstream.script = script
    chat = model(upstream.url, "c1", model_size="SMALL", priority=1)
    async with running(chat, embedder(upstream.url, model_size="SMALL", priority=2)) as gateway:
        for asked in ("SMALL", "small", "", None):
            assert (await embed(gateway, model=asked)).headers["x-sluice-model"] == "e1"
            assert (await gateway.chat(model=asked)).headers["x-sluice-model"] == "c1"
        assert (await gateway.client.post("/v1/embeddings", json={"input": "x"})).headers["x-sluice-model"] == "e1"


async def test_a_category_without_an_embedding_model_is_not_found(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url, "c1", model_size="SMALL")) as gateway:
        answer = await embed(gateway, model="SMALL")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert not upstream.requests


async def test_a_name_that_nobody_has_is_not_found(upstream: FakeUpstream) -> None:
    async with running(embedder(upstream.url)) as gateway:
        answer = await embed(gateway, model="text-embedding-3-huge")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_key_is_confined_to_its_models_here_too(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(vectors())
    auth = {"keys": [{"name": "app", "token": TOKEN, "models": ["mine"]}]}
    async with running(embedder(upstream.url, "mine"), embedder(upstream.url, "others"), auth=auth) as gateway:
        assert (await embed(gateway, model="mine")).status_code == 200
        answer = await embed(gateway, model="others")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert len(upstream.requests) == 1


async def test_without_a_known_key_nobody_is_asked(upstream: FakeUpstream) -> None:
    async with running(embedder(upstream.url)) as gateway:
        for headers in ({"authorization": ""}, {"authorization": f"Bearer {TOKEN}x"}):
            answer = await gateway.client.post("/v1/embeddings", json={"model": "e1", "input": "x"}, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="sluice"')
    assert not upstream.requests


# What is refused


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"[]", 400, None),
        (b'{"model":"e1","input":', 400, None),
        (b'{"model":"e1"}', 400, "input"),
        (b'{"model":"e1","input":null}', 400, "input"),
        (b'{"model":"e1","input":{"text":"x"}}', 400, "input"),
        (b'{"model":["e1"],"input":"x"}', 400, "model"),
        (b'{"model":"e1","input":"' + b"x" * 2000 + b'"}', 413, None),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_before_anybody_is_asked(
    upstream: FakeUpstream, body: bytes, status: int, param: str | None
) -> None:
    async with running(embedder(upstream.url), server={"max_body_bytes": 1000}) as gateway:
        answer = await gateway.client.post("/v1/embeddings", content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert not upstream.requests


async def test_only_post_is_taken(upstream: FakeUpstream) -> None:
    async with running(embedder(upstream.url)) as gateway:
        answer = await gateway.client.get("/v1/embeddings")
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST",
    )


# What goes wrong


def fails(status: int, message: str = "because", **headers: str) -> Script:
    return answers_json({"error": {"message": message, "type": "t", "param": None, "code": None}}, status, **headers)


async def hangs_up(exchange: Exchange) -> None:
    exchange.reset()


async def breaks_off(exchange: Exchange) -> None:
    await exchange.start(200, content_type="application/json", content_length="1000")
    await exchange.send(b'{"object":"list"')
    exchange.close()


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (fails(400, "`dimensions` must be positive"), 400, None),
        (fails(400, "This model's maximum context length is 8192 tokens"), 400, "context_length_exceeded"),
        (fails(401), 502, "upstream_refused"),
        (fails(403), 502, "upstream_refused"),
        (fails(404), 502, "upstream_refused"),
        (fails(422), 422, None),
        (fails(429, retry_after="7"), 429, "rate_limit_exceeded"),
        (fails(500), 502, "upstream_error"),
        (fails(503), 503, "overloaded"),
        (answers_json({"object": "list", "data": []}), 502, "upstream_error"),
        (answers_json(completion()), 502, "upstream_error"),
        (answers_json({"error": {"message": "slow down", "code": 429}}), 429, "rate_limit_exceeded"),
        (answers(b"<html>Bad Gateway</html>", content_type="text/html"), 502, "upstream_error"),
    ],
)
async def test_failures_are_told_as_a_chats_are(
    upstream: FakeUpstream, script: Script, status: int, code: str | None
) -> None:
    upstream.script = script
    async with running(embedder(upstream.url)) as gateway:
        answer = await embed(gateway)
        record = await gateway.next_record()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert answer.headers["x-sluice-attempts"] == str(record.attempts)
    assert record.status == status
    assert record.error is not None
    assert ("retry-after" in answer.headers) == (status in (429, 503))


@pytest.mark.parametrize("script", [hangs_up, breaks_off])
@CLIENTS
async def test_a_connection_that_breaks_is_the_providers_failure(
    upstream: FakeUpstream, http_client: str, script: Script
) -> None:
    upstream.script = script
    async with running(embedder(upstream.url), server={"http_client": http_client}) as gateway:
        answer = await embed(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


async def test_a_refusal_that_quotes_our_key_reaches_nobody(upstream: FakeUpstream) -> None:
    upstream.script = fails(400, f"Incorrect request with {UPSTREAM_TOKEN[:12]}*** for up-e")
    async with running(embedder(upstream.url)) as gateway:
        answer = await embed(gateway)
    assert answer.status_code == 400
    assert UPSTREAM_TOKEN[:12] not in answer.text


async def never(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def stops_half_way(exchange: Exchange) -> None:
    await exchange.start(200, content_type="application/json")
    await exchange.send(b'{"object":"list"')
    await exchange.gone.wait()


@pytest.mark.parametrize(
    ("settings", "script"),
    [
        ({"timeouts": {"response": 0.2}}, never),
        ({"timeouts": {"idle": 0.2}}, stops_half_way),
        ({"timeouts": {"total": 0.2}}, never),
        ({"http_client_config": {"timeout_seconds": 0.2}}, stops_half_way),
    ],
)
@CLIENTS
async def test_a_provider_that_is_silent_is_given_up_in_time(
    upstream: FakeUpstream, http_client: str, settings: dict[str, Any], script: Script
) -> None:
    upstream.script = script
    async with running(embedder(upstream.url, **settings), server={"http_client": http_client}) as gateway:
        with took(0.2, 1.5):
            answer = await embed(gateway)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        await upstream.until_open(0)


async def test_a_client_that_leaves_ends_the_request_to_the_provider(upstream: FakeUpstream) -> None:
    upstream.script = never
    async with running(embedder(upstream.url)) as gateway:
        request = asyncio.create_task(embed(gateway))
        await asyncio.wait_for(upstream.asked.wait(), 2)
        request.cancel()
        await upstream.until_open(0)
        record = await gateway.next_record()
    assert record.error == "client_left"


# Those who ask


async def test_the_official_package_gets_its_vectors(upstream: FakeUpstream) -> None:
    """It asks for base64 by itself, which is a third of the size, and unpacks it."""
    upstream.script = answers_json(vectors(PACKED))
    async with (
        running(embedder(upstream.url)) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client,
    ):
        answer = await client.embeddings.create(model="e1", input="Hello")
        assert upstream.requests[0].json == {"model": "up-e", "input": "Hello", "encoding_format": "base64"}
        assert answer.data[0].embedding == VECTOR
        assert answer.usage.prompt_tokens == 7

        upstream.script = answers_json(vectors())
        answer = await client.embeddings.create(model="e1", input=["Hello"], encoding_format="float", dimensions=3)
        assert answer.data[0].embedding == VECTOR


async def test_the_official_package_gets_its_vectors_without_asyncio_too(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(vectors(PACKED))
    async with running(embedder(upstream.url)) as gateway:

        def create() -> list[float]:
            with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:
                return client.embeddings.create(model="e1", input="Hello").data[0].embedding

        assert await asyncio.to_thread(create) == VECTOR


async def test_the_official_package_knows_our_errors(upstream: FakeUpstream) -> None:
    async with (
        running(model(upstream.url, "c1"), embedder(upstream.url)) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="c1 is a model for chat"):
            await client.embeddings.create(model="c1", input="Hello")
        upstream.script = fails(429, retry_after="3")
        with pytest.raises(openai.RateLimitError) as caught:
            await client.embeddings.create(model="e1", input="Hello")
    assert caught.value.response.headers["retry-after"] == "3"
