"""The official `openai` package in front of the providers with a language of their own, over real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.fake_upstream import Exchange, FakeUpstream, answers, answers_json, events
from tests.provider_samples import CALLS, OF_TRANSLATED, REASONING, TEXT, TOKENS
from tests.running_gateway import TOKEN, RunningGateway, running
from tests.translation import TOOL

IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # so that one gateway serves all of them
EVERY = pytest.mark.parametrize("name", OF_TRANSLATED)
ASKED: list[Any] = [{"role": "user", "content": "Hello"}]
OAUTH = {"access_token": "t", "expires_at": 4_000_000_000_000}


class Rig:
    def __init__(self, upstream: FakeUpstream, gateway: RunningGateway) -> None:
        self.upstream, self.gateway = upstream, gateway
        self.sdk = AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0)

    def plays(self, name: str, kind: str, status: int = 200, body: Any = None) -> None:
        """The provider answers with that sample, and a login with a token."""
        self.gateway.forget()
        samples = OF_TRANSLATED[name]
        raw = b"" if body is not None else samples.sent(kind)
        pieces = [raw[at : at + 61] for at in range(0, len(raw), 61)]
        answer = answers_json(body, status) if body is not None else None
        answer = answer or (events(*pieces) if kind.startswith("stream") else answers(raw))

        async def script(exchange: Exchange) -> None:
            await (answers_json(OAUTH) if exchange.request.path == "/oauth" else answer)(exchange)

        self.upstream.script = script


def entry(name: str, url: str) -> dict[str, Any]:
    places = {"account_id": "acc", "region": "eu-west-1", "auth_url": f"{url}/oauth"}
    return {"name": name, "provider": name, "token": "id:secret", "base_url": url, **places}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with (
        FakeUpstream() as upstream,
        running(*(entry(name, upstream.url) for name in OF_TRANSLATED)) as gateway,
    ):
        rig = Rig(upstream, gateway)
        yield rig
        await rig.sdk.close()


@IN_ONE_LOOP
@EVERY
async def test_a_whole_answer(rig: Rig, name: str) -> None:
    rig.plays(name, "answer")
    answer = await rig.sdk.chat.completions.create(model=name, messages=ASKED)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == TOKENS


@IN_ONE_LOOP
@EVERY
async def test_a_stream_with_usage(rig: Rig, name: str) -> None:
    rig.plays(name, "stream")
    stream = await rig.sdk.chat.completions.create(
        model=name, messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
    assert [chunk.usage.prompt_tokens for chunk in chunks if chunk.usage] == [TOKENS[0]]
    assert chunks[-1].usage


@IN_ONE_LOOP
@EVERY
async def test_a_stream_without_usage_ends_with_its_finish(rig: Rig, name: str) -> None:
    rig.plays(name, "stream")
    stream = await rig.sdk.chat.completions.create(model=name, messages=ASKED, stream=True)
    chunks = [chunk async for chunk in stream]
    assert not [chunk for chunk in chunks if chunk.usage]
    assert chunks[-1].choices[0].finish_reason == "stop"


@IN_ONE_LOOP
@EVERY
async def test_tool_calls_in_a_stream_that_the_package_puts_together(rig: Rig, name: str) -> None:
    rig.plays(name, "stream_tools")
    async with rig.sdk.chat.completions.stream(model=name, messages=ASKED, tools=[TOOL]) as stream:  # type: ignore[list-item]
        final = await stream.get_final_completion()
    (choice,) = final.choices
    calls = [(call.function.name, orjson.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]
    assert calls == (CALLS[:1] if name == "gigachat" else CALLS)
    assert choice.finish_reason == "tool_calls"


@IN_ONE_LOOP
@pytest.mark.parametrize("name", [name for name, one in OF_TRANSLATED.items() if "answer_reasoning" in one.kinds])
async def test_reasoning(rig: Rig, name: str) -> None:
    rig.plays(name, "answer_reasoning")
    answer = await rig.sdk.chat.completions.create(model=name, messages=ASKED)
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"] == REASONING


@IN_ONE_LOOP
@EVERY
async def test_a_stream_that_fails_in_the_middle_is_an_error_of_the_package(rig: Rig, name: str) -> None:
    rig.plays(name, "stream_error")
    heard: list[str] = []

    async def listen() -> None:
        async for chunk in await rig.sdk.chat.completions.create(model=name, messages=ASKED, stream=True):
            heard.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - up to what raises

    with pytest.raises(openai.APIError):
        await listen()
    assert "".join(heard) == "It is"


@IN_ONE_LOOP
@EVERY
async def test_a_parameter_that_is_left_out_is_named(rig: Rig, name: str) -> None:
    rig.plays(name, "answer")
    raw = await rig.sdk.chat.completions.with_raw_response.create(model=name, messages=ASKED, store=True)
    assert raw.headers["x-sluice-dropped"] == "store"


@IN_ONE_LOOP
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("store", "store"),
        ("\u043a", "%D0%BA"),
        ("a\r\nset-cookie: b", "a%0D%0Aset-cookie:%20b"),
        (" a,b ", "%20a%2Cb%20"),
        ("x" * 5000, "x" * 1000 + "..."),
    ],
)
async def test_a_field_is_named_in_a_header_whatever_it_is_called(
    rig: Rig, field: str, named: str, stream: bool
) -> None:
    rig.plays("anthropic", "stream" if stream else "answer")
    answer = await rig.gateway.chat(model="anthropic", stream=stream, **{field: 1})
    assert (answer.status_code, answer.headers["x-sluice-dropped"]) == (200, named)
    assert "set-cookie" not in answer.headers


@IN_ONE_LOOP
@EVERY
async def test_a_part_that_nobody_takes_is_a_clear_400(rig: Rig, name: str) -> None:
    rig.plays(name, "answer")
    parts = [{"type": "file", "file": {"file_id": "file-1"}}]
    asked = len(rig.upstream.requests)
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]\.content\[0\]: this provider does not take"):
        await rig.sdk.chat.completions.create(model=name, messages=[{"role": "user", "content": parts}])  # type: ignore[misc, list-item]
    assert len(rig.upstream.requests) == asked


@pytest.mark.parametrize("name", OF_TRANSLATED)
async def test_a_rate_limit_is_a_rate_limit(upstream: FakeUpstream, name: str) -> None:
    error = OF_TRANSLATED[name].json("errors")[0]
    async with running(entry(name, upstream.url)) as gateway:
        rig = Rig(upstream, gateway)
        rig.plays(name, "", error["status"], error["body"])
        with pytest.raises(openai.RateLimitError) as refused:
            await rig.sdk.chat.completions.create(model=name, messages=ASKED)
        await rig.sdk.close()
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_another_provider_takes_over_a_conversation_with_thoughts(upstream: FakeUpstream) -> None:
    """What Google wants back is sent to Google alone."""
    kept = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **kept}
    messages = [
        *ASKED,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]
    bodies = {}
    async with running(*(entry(name, upstream.url) for name in OF_TRANSLATED)) as gateway:
        rig = Rig(upstream, gateway)
        for name in OF_TRANSLATED:
            rig.plays(name, "answer")
            await rig.sdk.chat.completions.create(model=name, messages=messages)
            bodies[name] = upstream.requests[-1].body
        await rig.sdk.close()
    assert {name for name, body in bodies.items() if b"c2ln" in body} == {"google", "gemini", "vertex"}


# --- a certificate of their own


@pytest.mark.parametrize("client", ["aiohttp", "httpx"])
async def test_a_ca_bundle_is_trusted_for_its_provider_only(https: FakeUpstream, tmp_path: Path, client: str) -> None:
    https.script = answers(OF_TRANSLATED["anthropic"].sent("answer"))
    models = [
        {**entry("anthropic", https.url), "name": "trusts", "ca_bundle": str(tmp_path / "ca.pem")},
        {**entry("anthropic", https.url), "name": "does-not"},
    ]
    async with running(*models, server={"http_client": client}) as gateway:
        assert (await gateway.chat(model="trusts")).json()["choices"][0]["message"]["content"] == TEXT
        refused = await gateway.chat(model="does-not")
    assert refused.status_code == 502
    assert "certificate" in refused.json()["error"]["message"]
