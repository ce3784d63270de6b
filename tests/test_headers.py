"""Headers do not travel: a provider gets what the configuration says, a caller what the gateway says, and neither can
make the other's connection theirs.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from tests.fake_upstream import DONE, FakeUpstream, Script, answers, answers_json, chunk, completion, events
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, RunningGateway, ask, model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

FROM_A_CALLER = {
    "connection": "keep-alive, x-hop",
    "x-hop": "1",
    "keep-alive": "timeout=99",
    "te": "trailers",
    "trailer": "x-sum",
    "upgrade": "h2c",
    "http2-settings": "AAMAAABkAAQAAP__",
    "proxy-authorization": "Basic b3RoZXI6b3RoZXI=",
    "proxy-connection": "keep-alive",
    "cookie": "session=1",
    "forwarded": "host=evil.example",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "evil.example",
    "x-original-url": "/admin",
    "x-rewrite-url": "http://evil.example/",
    "x-api-key": "another-key",
    "api-key": "another-key",
    "x-goog-api-key": "another-key",
    "openai-organization": "org-other",
    "openai-project": "proj-other",
    "anthropic-beta": "x",
    "host": "evil.example",
    "user-agent": "me/1.0",
    "accept": "text/plain",
    "accept-encoding": "gzip, br",
    "expect": "100-continue",
}
TO_A_PROVIDER = {
    "host", "authorization", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "connection"
}  # fmt: skip
FROM_A_PROVIDER = {
    "set_cookie": "a=b",
    "connection": "keep-alive, x-hop",
    "x_hop": "1",
    "keep_alive": "timeout=99",
    "server": "nginx/1.0",
    "via": "1.1 vegur",
    "alt_svc": 'h3=":443"',
    "location": "http://evil.example/",
    "refresh": "0; url=http://evil.example/",
    "www_authenticate": "Bearer",
    "proxy_authenticate": "Basic",
    "access_control_allow_origin": "*",
    "strict_transport_security": "max-age=1",
    "x_request_id": "theirs",
    "x_ratelimit_remaining_requests": "7",
    "openai_organization": "org-ours",
    "x_sluice_model": "theirs",
    "trailer": "x-sum",
}
TO_A_CALLER = {
    "date", "content-type", "content-length", "transfer-encoding", "cache-control", "x-accel-buffering", "retry-after",
    "x-request-id", "x-sluice-model", "x-sluice-attempts"
}  # fmt: skip

GOOD = answers_json(completion(), 200, **FROM_A_PROVIDER)
STREAM = events(chunk("Hi"), chunk(finish="stop"), DONE, **FROM_A_PROVIDER)
ANSWERS: list[tuple[str, Script, bool]] = [
    ("an answer", GOOD, False),
    ("a stream", STREAM, True),
    *[
        (f"a {status}", answers(b'{"error": {"message": "no"}}', status, **FROM_A_PROVIDER), False)
        for status in (301, 302, 400, 401, 407, 421, 429, 500, 503)
    ],
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["aiohttp", "httpx"])
async def gateway(request: pytest.FixtureRequest, provider: FakeUpstream) -> AsyncIterator[RunningGateway]:
    async with running(model(provider.url), server={"http_client": request.param}) as gateway:
        yield gateway


@pytest.fixture
def upstream(provider: FakeUpstream) -> FakeUpstream:
    """The one of the whole file, as if nobody had asked it before."""
    provider.requests.clear()
    return provider


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_of_a_callers_headers_reaches_the_provider(
    gateway: RunningGateway, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.script = STREAM if stream else GOOD
    answer = await gateway.client.post("/v1/chat/completions", json=ask(stream=stream), headers=FROM_A_CALLER)
    assert answer.status_code == 200
    [seen] = upstream.requests
    assert set(seen.headers) <= TO_A_PROVIDER
    assert seen.headers["host"] == upstream.url.removeprefix("http://")
    assert (seen.headers["authorization"], seen.headers["user-agent"]) == (f"Bearer {UPSTREAM_TOKEN}", "sluice")
    told = {name: value for name, value in seen.headers.items() if name not in ("host", "authorization")}
    assert not set(told.values()) & set(FROM_A_CALLER.values())


@pytest.mark.parametrize(("what", "script", "stream"), ANSWERS, ids=[what for what, _, _ in ANSWERS])
async def test_nothing_of_a_providers_headers_reaches_the_caller(
    gateway: RunningGateway, upstream: FakeUpstream, what: str, script: Script, stream: bool
) -> None:
    upstream.script = script
    answer = await gateway.chat(stream=stream)
    assert set(answer.headers) <= TO_A_CALLER
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers.get("x-sluice-model", "m1") == "m1"


async def test_no_redirect_of_a_provider_is_followed(gateway: RunningGateway, upstream: FakeUpstream) -> None:
    async with FakeUpstream() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            gateway.forget()
            upstream.script = answers(b"", status, location=f"{elsewhere.url}/v1/chat/completions")
            assert (await gateway.chat()).status_code == 502
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "more",
    [
        {"base_url": "http://127.0.0.1:9/v1", "url": "http://127.0.0.1:9", "api_base": "http://127.0.0.1:9"},
        {"api_key": "another-key", "token": "another-key", "provider": "another", "upstream_model": "another"},
        {"extra_headers": {"authorization": "Bearer another-key"}, "extra_query": {"a": "b"}},
    ],
    ids=["addresses", "keys", "headers"],
)
async def test_no_field_of_a_request_chooses_where_we_connect_or_as_whom(
    gateway: RunningGateway, upstream: FakeUpstream, more: dict[str, Any]
) -> None:
    """They go to the provider as any field that we do not know; it is asked as ever."""
    upstream.script = GOOD
    assert (await gateway.chat(**more)).status_code == 200
    [seen] = upstream.requests
    assert (seen.path, seen.json["model"]) == ("/v1/chat/completions", "up-1")
    assert seen.headers["authorization"] == f"Bearer {UPSTREAM_TOKEN}"
    assert {name: seen.json[name] for name in more} == more


async def test_neither_does_the_address_that_was_asked_for(gateway: RunningGateway, upstream: FakeUpstream) -> None:
    """`POST http://elsewhere/...`, as a proxy is asked: we are none."""
    upstream.script = GOOD
    async with FakeUpstream() as elsewhere, httpx.AsyncClient(trust_env=False) as client:
        request = client.build_request("POST", f"{gateway.url}/v1/chat/completions?url={elsewhere.url}", json=ask())
        request.headers["authorization"] = f"Bearer {TOKEN}"
        request.extensions = {"target": f"{elsewhere.url}/v1/chat/completions".encode()}
        answer = await client.send(request)
        assert (answer.status_code, elsewhere.connections) == (200, 0)
        assert orjson.loads(answer.content)["choices"]
    assert upstream.requests[0].path == "/v1/chat/completions"


async def test_no_proxy_of_the_environment_is_used(
    gateway: RunningGateway, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.script = GOOD
    async with FakeUpstream() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (await gateway.chat()).status_code == 200
        assert proxy.connections == 0
