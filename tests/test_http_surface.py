"""The HTTP surface from outside, through a running gateway: paths, keys, bodies, OpenAI's form for every refusal."""

import asyncio
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from core.providers import PROVIDERS
from core.providers.dialect import Provider
from core.providers.openai import OpenAIDialect
from core.providers.quirks import Notes
from tests.fake_upstream import Exchange, FakeUpstream, answers_json, chunk, completion, events
from tests.running_gateway import TOKEN, RunningGateway, ask, model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_BODY_BYTES = 4096
HEAD_LIMIT = 64 * 1024
CYRILLIC_TOKEN = "токен-из-многих-букв"
HASHED_TOKEN = "known-by-its-hash-only"
KEYS = [
    {"name": "app", "token": TOKEN},
    {"name": "abroad", "token": CYRILLIC_TOKEN},
    {"name": "hashed", "sha256": hashlib.sha256(HASHED_TOKEN.encode()).hexdigest()},
    {"name": "one model", "token": "confined-to-one-model", "models": ["meta/llama-3:free"]},
    {"name": "one size", "token": "confined-to-one-size", "models": ["big"]},
    {"name": "one alias", "token": "confined-to-one-alias", "models": ["gpt-4o-mini"]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(provider: FakeUpstream) -> AsyncIterator[RunningGateway]:
    """One for the whole file: no test here changes what another sees."""
    models = [
        model(provider.url, "acme/small", model_size="SMALL", priority=2, aliases=["gpt-4o-mini"]),
        model(provider.url, "acme/first", model_size="SMALL", priority=1),
        model(provider.url, "meta/llama-3:free", model_size="BIG"),
        model(provider.url, "@cf/by-name-only"),
        model(provider.url, "гига/чат"),
    ]
    server = {"max_body_bytes": MAX_BODY_BYTES}
    async with running(*models, server=server, auth={"keys": KEYS}) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as client:
        yield client


def is_refusal(answer: httpx.Response, status: int, code: str | None, param: str | None = None) -> bool:
    """Asserts OpenAI's error form with everything that goes with it; `return True` lets a test read as a sentence."""
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
    return True


async def say(gateway: RunningGateway, *pieces: bytes) -> httpx.Response:
    """Bytes that no HTTP client would send; the answer up to the end of the connection."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in pieces:
            writer.write(piece)
        async with asyncio.timeout(5):
            raw = await reader.read()
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return httpx.Response(int(status.split(" ")[1]), headers=headers, content=body)


# Paths


@pytest.mark.parametrize("path", ["/ping", "/ready"])
async def test_health_is_answered_to_everybody(stranger: httpx.AsyncClient, path: str) -> None:
    answer = await stranger.get(path)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_chat_is_answered_on_both_paths(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.client.post(path, json=ask(model="acme/small"))
    assert (answer.status_code, answer.json()) == (200, completion())
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-sluice-model"] == "acme/small"
    assert answer.headers["x-sluice-attempts"] == "1"


@pytest.mark.parametrize(
    "path", ["/nope", "/", "/v1", "/v1/chat/completions/", "/ping/", "/docs", "/v1/%ff%00", "/ping%0A"]
)
async def test_an_unknown_path_is_not_found(gateway: RunningGateway, path: str) -> None:
    assert is_refusal(await gateway.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/acme/small", "GET"),
        ("POST", "/ping", "GET"),
        ("OPTIONS", "/ready", "GET"),
        ("PATCH", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_hears_the_right_one(
    gateway: RunningGateway, method: str, path: str, allowed: str
) -> None:
    answer = await gateway.client.request(method, path)
    assert is_refusal(answer, 405, "method_not_allowed")
    assert sorted(answer.headers["allow"].split(", ")) == allowed.split(", ")


async def test_the_openapi_document_describes_the_paths(gateway: RunningGateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert document["info"] == {**document["info"], "title": "Sluice", "version": "test"}
    assert {"/v1/chat/completions", "/v1/models", "/v1/models/{name}", "/ping", "/ready"} <= set(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["responses"], f"{method} {path}"
            assert operation["summary"], f"{method} {path}"
    for reference in references_in(document):
        spot = document
        for name in reference.removeprefix("#/").split("/"):
            spot = spot[name]


def references_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for inner in value.values() for found in references_in(inner)]
    return [found for inner in value for found in references_in(inner)] if isinstance(value, list) else []


# Keys


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
    ],
)
async def test_without_a_known_key_there_is_no_way_in(stranger: httpx.AsyncClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await stranger.post("/v1/chat/completions", json=ask(), headers=headers)
    assert is_refusal(answer, 401, "invalid_api_key")
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == 'Bearer realm="sluice"'


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}", f"Bearer {CYRILLIC_TOKEN}", f"Bearer {HASHED_TOKEN}"],
)
async def test_a_known_key_is_let_in(stranger: httpx.AsyncClient, authorization: str) -> None:
    answer = await stranger.get("/v1/models", headers=[(b"authorization", authorization.encode())])
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("DELETE", "/v1/models"), ("GET", "/openapi.json"), ("GET", "/ping/"), ("GET", "//ping")],
)
async def test_a_stranger_is_asked_for_a_key_before_anything_else(
    stranger: httpx.AsyncClient, method: str, path: str
) -> None:
    assert is_refusal(await stranger.request(method, path), 401, "invalid_api_key")


async def test_a_strangers_body_is_not_judged(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post("/v1/chat/completions", content=b"x" * (MAX_BODY_BYTES + 1))
    assert is_refusal(answer, 401, "invalid_api_key")


# Bodies


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"model=m1", None),
        (b"[]", None),
        (b'"text"', None),
        (b"null", None),
        (b"[" * 4000, None),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', None),
        (b"{}", "messages"),
        (b'{"messages": null}', "messages"),
        (b'{"messages": "Hello"}', "messages"),
        (b'{"messages": {"role": "user"}}', "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": ["Hello"]}', "messages"),
        (b'{"messages": [{"role": "user", "content": "Hi"}, null]}', "messages"),
        (b'{"messages": [{}], "model": 4}', "model"),
        (b'{"messages": [{}], "model": ["acme/small"]}', "model"),
        (b'{"messages": [{}], "stream": "yes"}', "stream"),
        (b'{"messages": [{}], "stream": 1}', "stream"),
    ],
)
async def test_a_body_that_is_no_chat_is_refused(
    gateway: RunningGateway, provider: FakeUpstream, body: bytes, param: str | None
) -> None:
    asked = len(provider.requests)
    answer = await gateway.client.post("/v1/chat/completions", content=body)
    assert is_refusal(answer, 400, None, param)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(provider.requests) == asked


def chat_of(size: int) -> bytes:
    """A chat request of exactly so many bytes."""
    empty = orjson.dumps({"messages": [{"role": "user", "content": ""}]})
    return empty.replace(b'""', b'"' + b"a" * (size - len(empty)) + b'"')


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Sent so, a body is chunked: how long it is shows only when it is read."""
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("as_sent", [bytes, in_pieces])
async def test_a_body_is_taken_up_to_the_limit_and_not_a_byte_more(
    gateway: RunningGateway, as_sent: Callable[[bytes], Any]
) -> None:
    taken = await gateway.client.post("/v1/chat/completions", content=as_sent(chat_of(MAX_BODY_BYTES)))
    refused = await gateway.client.post("/v1/chat/completions", content=as_sent(chat_of(MAX_BODY_BYTES + 1)))
    assert taken.status_code == 200
    assert is_refusal(refused, 413, "request_too_large")


@pytest.mark.parametrize("as_sent", [bytes, in_pieces])
async def test_a_body_may_be_far_longer_than_headers_may(
    provider: FakeUpstream, as_sent: Callable[[bytes], Any]
) -> None:
    body = chat_of(20 * HEAD_LIMIT)
    async with running(model(provider.url, model_size="SMALL")) as gateway:
        answer = await gateway.client.post("/v1/chat/completions", content=as_sent(body))
    assert answer.status_code == 200
    assert provider.requests[-1].json["messages"] == orjson.loads(body)["messages"]


async def test_an_announced_body_is_refused_before_it_is_sent(gateway: RunningGateway) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
        b"expect: 100-continue\r\ncontent-length: 1000000000\r\n\r\n" % TOKEN.encode()
    )
    assert is_refusal(await say(gateway, head), 413, "request_too_large")


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure_of_ours(gateway: RunningGateway) -> None:
    seen, failures = len(gateway.records), len(gateway.telemetry.errors)
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %b\r\n"
            b"content-length: 100\r\n\r\n{" % TOKEN.encode()
        )
    record = await gateway.next_record(seen + 1)
    assert (record.status, record.error) == (499, "client_left")
    assert len(gateway.telemetry.errors) == failures


# What is not quite HTTP


HEAD = b"GET /ping HTTP/1.1\r\nhost: h\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"hello there\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS at the door of plain HTTP
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /ping HTTP/9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: h\r\n\r\n",
        HEAD + b"no colon here\r\n\r\n",
        HEAD + b"x-a: a\x00b\r\n\r\n",
        b"POST /ping HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
        b"POST /ping HTTP/1.1\r\nhost: h\r\ncontent-length: \xb2\r\n\r\na",
    ],
)
async def test_what_is_not_http_is_told_so(gateway: RunningGateway, said: bytes) -> None:
    assert is_refusal(await say(gateway, said), 400, "invalid_http")


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, b"x-huge: ", b"a" * (HEAD_LIMIT + 1)],  # it never ends
        [HEAD, b"x-huge: " + b"a" * (HEAD_LIMIT + 1), b"\r\n\r\n"],
        [HEAD, *[b"x-%d: %b\r\n" % (number, b"a" * 100) for number in range(700)], b"\r\n"],
        [b"GET /" + b"a" * (HEAD_LIMIT + 1), b" HTTP/1.1\r\nhost: h\r\n\r\n"],
        [
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %b\r\n" % TOKEN.encode(),
            b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
            *[b"x-trailer-%d: %b\r\n" % (number, b"a" * 1000) for number in range(700)],
        ],
    ],
    ids=["one without end", "one", "many", "the path", "trailers"],
)
async def test_headers_beyond_the_limit_are_refused(gateway: RunningGateway, pieces: list[bytes]) -> None:
    assert is_refusal(await say(gateway, *pieces), 431, "headers_too_large")


async def test_headers_below_the_limit_are_read(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/ping", headers={"x-large": "a" * (HEAD_LIMIT - 1000)})
    assert answer.status_code == 200


async def test_many_requests_on_one_connection_may_together_be_longer_than_the_limit(
    stranger: httpx.AsyncClient,
) -> None:
    for _ in range(4):
        answer = await stranger.get("/ping", headers={"x-large": "a" * (HEAD_LIMIT // 2)})
        assert answer.status_code == 200


async def test_nonsense_after_a_request_does_not_get_into_its_answer() -> None:
    """The connection is closed: the client sees a cut, not the words of a second answer amid the first."""

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("Hello"))
        await exchange.gone.wait()

    async with FakeUpstream() as upstream, running(model(upstream.url)) as gateway:
        upstream.script = script
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = orjson.dumps(ask(stream=True))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (TOKEN.encode(), len(body), body)
        )
        async with asyncio.timeout(5):
            got = await reader.readuntil(b"Hello")
            writer.write(b"this is no request\r\n\r\n")
            got += await reader.read()
        writer.close()
    assert got.count(b"HTTP/1.1") == 1
    assert b"error" not in got


# Request ids


@pytest.mark.parametrize("given", ["my-id_1.2", "a", "A" * 128])
async def test_a_harmless_request_id_is_kept(gateway: RunningGateway, given: str) -> None:
    seen = len(gateway.records)
    answer = await gateway.client.get("/v1/models", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == given
    assert (await gateway.next_record(seen + 1)).request_id == given


@pytest.mark.parametrize("given", ["", "two words", "semi;colon", "A" * 129, "номер", "%0a", '"quoted"'])
async def test_a_harmful_request_id_is_replaced(gateway: RunningGateway, given: str) -> None:
    answer = await gateway.client.get("/v1/models", headers=[(b"x-request-id", given.encode())])
    assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])


async def test_every_request_has_an_id_of_its_own(gateway: RunningGateway) -> None:
    ids = {(await gateway.client.get(path)).headers["x-request-id"] for path in ("/ping", "/ping", "/nope")}
    assert len(ids) == 3


# Who answers


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ({}, "acme/first"),
        ({"model": None}, "acme/first"),
        ({"model": ""}, "acme/first"),
        ({"model": "SMALL"}, "acme/first"),
        ({"model": "small"}, "acme/first"),
        ({"model": "bIg"}, "meta/llama-3:free"),
        ({"model": "acme/small"}, "acme/small"),
        ({"model": "gpt-4o-mini"}, "acme/small"),
        ({"model": "@cf/by-name-only"}, "@cf/by-name-only"),
    ],
)
async def test_the_model_that_is_meant_answers(gateway: RunningGateway, asked: dict[str, Any], answers: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], **asked}
    answer = await gateway.client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["x-sluice-model"]) == (200, answers)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_named_in_letters_that_headers_do_not_know_answers(stream: bool) -> None:
    async with FakeUpstream() as upstream, running(model(upstream.url, "гига/чат")) as gateway:
        upstream.script = events(chunk("Да"), chunk(finish="stop")) if stream else answers_json(completion("Да"))
        answer = await gateway.chat(model="гига/чат", stream=stream)
    assert (answer.status_code, answer.headers["x-sluice-model"]) == (
        200,
        "%D0%B3%D0%B8%D0%B3%D0%B0/%D1%87%D0%B0%D1%82",
    )


@pytest.mark.parametrize("asked", ["gpt-9", "small ", "Acme/Small", "GPT-4O-MINI", "0", "by-name-only"])
async def test_an_unknown_model_is_not_found(gateway: RunningGateway, asked: str) -> None:
    assert is_refusal(await gateway.chat(model=asked), 404, "model_not_found", "model")


async def test_an_unknown_model_may_mean_a_category_by_configuration(provider: FakeUpstream) -> None:
    models = [model(provider.url, "acme/small", model_size="SMALL"), model(provider.url, "acme/big", model_size="BIG")]
    async with running(*models, server={"unknown_model": "BIG"}) as gateway:
        answer = await gateway.chat(model="gpt-9")
    assert answer.headers["x-sluice-model"] == "acme/big"


CONFINED = pytest.mark.parametrize(
    ("token", "may", "may_not", "listed"),
    [
        ("confined-to-one-model", "BIG", "SMALL", ["meta/llama-3:free", "BIG"]),
        ("confined-to-one-size", "meta/llama-3:free", "acme/small", ["meta/llama-3:free", "BIG"]),
        ("confined-to-one-alias", "acme/small", "acme/first", ["acme/small", "SMALL"]),
    ],
)


@CONFINED
async def test_a_confined_key_knows_no_other_models(
    gateway: RunningGateway, token: str, may: str, may_not: str, listed: list[str]
) -> None:
    headers = {"authorization": f"Bearer {token}"}
    allowed = await gateway.client.post("/v1/chat/completions", json=ask(model=may), headers=headers)
    refused = await gateway.client.post("/v1/chat/completions", json=ask(model=may_not), headers=headers)
    models = (await gateway.client.get("/v1/models", headers=headers)).json()["data"]
    shown = await gateway.client.get(f"/v1/models/{may}", headers=headers)
    hidden = await gateway.client.get(f"/v1/models/{may_not}", headers=headers)
    assert allowed.status_code == shown.status_code == 200
    assert is_refusal(refused, 404, "model_not_found", "model")
    assert is_refusal(hidden, 404, "model_not_found", "model")
    assert [row["id"] for row in models] == listed


async def test_a_category_asks_only_those_that_the_key_may_use(gateway: RunningGateway) -> None:
    headers = {"authorization": "Bearer confined-to-one-alias"}
    answer = await gateway.client.post("/v1/chat/completions", json=ask(model="SMALL"), headers=headers)
    assert answer.headers["x-sluice-model"] == "acme/small"


# The list of models


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
async def test_models_are_listed_in_order_and_categories_after_them(gateway: RunningGateway, path: str) -> None:
    listed = (await gateway.client.get(path)).json()
    names = ["acme/small", "acme/first", "meta/llama-3:free", "@cf/by-name-only", "гига/чат", "SMALL", "BIG"]
    owners = ["openai"] * 5 + ["sluice"] * 2
    rows = [
        {"id": name, "object": "model", "created": 1, "owned_by": owner}
        for name, owner in zip(names, owners, strict=True)
    ]
    assert listed == {"object": "list", "data": rows}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/meta/llama-3:free", "meta/llama-3:free"),
        ("/v1/models/meta%2Fllama-3%3Afree", "meta/llama-3:free"),
        ("/models/%40cf%2Fby-name-only", "@cf/by-name-only"),
        ("/v1/models/%D0%B3%D0%B8%D0%B3%D0%B0/%D1%87%D0%B0%D1%82", "гига/чат"),
        ("/v1/models/gpt-4o-mini", "gpt-4o-mini"),
        ("/v1/models/SMALL", "SMALL"),
        ("/v1/models/big", "BIG"),
    ],
)
async def test_one_model_is_shown_by_its_name(gateway: RunningGateway, path: str, name: str) -> None:
    answer = await gateway.client.get(path)
    owner = "sluice" if name.isupper() else "openai"
    assert (answer.status_code, answer.json()) == (
        200,
        {"id": name, "object": "model", "created": 1, "owned_by": owner},
    )


@pytest.mark.parametrize("path", ["/v1/models/gpt-9", "/v1/models/", "/v1/models/acme", "/models/acme/small/"])
async def test_a_model_that_does_not_exist_is_not_shown(gateway: RunningGateway, path: str) -> None:
    assert is_refusal(await gateway.client.get(path), 404, "model_not_found", "model")


# CORS


PREFLIGHT = {
    "origin": "https://app.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}


async def test_other_origins_are_unknown_by_default(gateway: RunningGateway, stranger: httpx.AsyncClient) -> None:
    preflight = await stranger.options("/v1/chat/completions", headers=PREFLIGHT)
    answer = await gateway.client.get("/v1/models", headers={"origin": "https://app.example"})
    assert is_refusal(preflight, 401, "invalid_api_key")
    assert not [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")]


async def test_a_configured_origin_is_answered_before_auth_and_may_read_answers(provider: FakeUpstream) -> None:
    async with (
        running(model(provider.url), server={"cors_origins": ["https://app.example"]}) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as stranger,
    ):
        preflight = await stranger.options("/v1/chat/completions", headers=PREFLIGHT)
        other = await stranger.options("/v1/models", headers={**PREFLIGHT, "origin": "https://evil.example"})
        refused = await stranger.get("/v1/models", headers={"origin": "https://app.example"})
        answer = await gateway.client.get("/v1/models", headers={"origin": "https://app.example"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in other.headers
    assert refused.status_code == 401
    for readable in (refused, answer):
        assert readable.headers["access-control-allow-origin"] == "https://app.example"
        exposed = readable.headers["access-control-expose-headers"]
        assert {"x-request-id", "x-sluice-model", "x-sluice-attempts", "retry-after"} <= set(exposed.split(", "))


# A bug of ours


def forgets_how_to_ask(_: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("canary")


def trips_over_two(body: dict[str, Any], _: Notes) -> bool:
    if body["choices"][0]["delta"].get("content") == "two":
        raise RuntimeError("canary")
    return False


@pytest.fixture
def buggy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two providers with a bug in what is their own: how they are asked, how their answers are read."""
    for name, dialect in (
        ("asks-wrong", OpenAIDialect(mend_request=forgets_how_to_ask)),
        ("reads-wrong", OpenAIDialect(mends=(trips_over_two,))),
    ):
        monkeypatch.setitem(PROVIDERS, name, Provider(name=name, dialect=dialect))


@pytest.mark.usefixtures("buggy")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_of_ours_is_a_500_and_is_recorded(provider: FakeUpstream, stream: bool) -> None:
    async with running(model(provider.url, provider="asks-wrong")) as gateway:
        answer = await gateway.chat(stream=stream)
        record = await gateway.next_record()
    assert is_refusal(answer, 500, "internal_error")
    assert answer.json()["error"]["type"] == "server_error"
    assert "canary" not in answer.text
    assert (record.status, record.error) == (500, "internal_error")
    assert record.request_id == answer.headers["x-request-id"]
    assert [str(error) for error in gateway.telemetry.errors] == ["canary"]


@pytest.mark.usefixtures("buggy")
async def test_a_bug_of_ours_in_mid_stream_is_a_cut_and_is_recorded() -> None:
    """An answer that just ended would pass for a whole one."""
    async with FakeUpstream() as upstream, running(model(upstream.url, provider="reads-wrong")) as gateway:
        one_read, got = asyncio.Event(), b""

        async def script(exchange: Exchange) -> None:
            await exchange.start(200, content_type="text/event-stream")
            await exchange.send(chunk("one"))
            await one_read.wait()
            await exchange.send(chunk("two"))
            await exchange.gone.wait()

        upstream.script = script
        async with gateway.stream() as response:
            pieces = response.aiter_raw()
            got += await anext(pieces)
            one_read.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(pieces)
        record = await gateway.next_record()
        await upstream.until_open(0)
    assert got == chunk("one")
    assert (record.status, record.error) == (200, "internal_error")
    assert [str(error) for error in gateway.telemetry.errors] == ["canary"]
