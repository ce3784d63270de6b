"""The official `openai` package against a running gateway: what callers really use, both in its sync and async form."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pydantic
import pytest
import pytest_asyncio

from tests.fake_upstream import DONE, FakeUpstream, Script, answers_json, chunk, completion, event, events
from tests.running_gateway import TOKEN, RunningGateway, model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

Client = openai.OpenAI | openai.AsyncOpenAI
HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"town":"Riga"}'}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(provider: FakeUpstream) -> AsyncIterator[RunningGateway]:
    models = [model(provider.url, model_size="SMALL"), model(provider.url, "meta/llama-3:free", aliases=["gpt-4o"])]
    async with running(*models) as gateway:
        yield gateway


class Sdk:
    """Calls the package in one of its two forms; the sync one in a thread, since the gateway lives in this loop."""

    def __init__(self, client: Client) -> None:
        self.client: Any = client

    async def __call__(self, call: Callable[[Any], Any]) -> Any:
        if isinstance(self.client, openai.OpenAI):
            return await asyncio.to_thread(call, self.client)
        return await call(self.client)

    async def chat(self, **options: Any) -> Any:
        asked = {"model": "m1", "messages": HELLO, **options}
        return await self(lambda client: client.chat.completions.create(**asked))

    async def pieces(self, things: Any, into: list[Any]) -> list[Any]:
        """Everything that a stream or a list of pages yields; `into` has what came even when an error ends it."""
        if isinstance(self.client, openai.OpenAI):
            await asyncio.to_thread(into.extend, things)
        else:
            async for thing in things:
                into.append(thing)  # noqa: PERF401 - what came before an error counts
        return into

    async def stream(self, **options: Any) -> list[Any]:
        return await self.pieces(await self.chat(stream=True, **options), [])


@pytest_asyncio.fixture(loop_scope="module", params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
async def sdk(
    request: pytest.FixtureRequest, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sdk]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # the package heeds the environment's proxies
    sdk = Sdk(request.param(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0, timeout=10))
    yield sdk
    await sdk(lambda client: client.close())


async def test_a_chat_is_answered(sdk: Sdk, provider: FakeUpstream) -> None:
    provider.script = answers_json(completion("Hello yourself."))
    answer = await sdk.chat()
    assert answer.choices[0].message.content == "Hello yourself."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 5


@pytest.mark.parametrize("name", ["SMALL", "gpt-4o", "meta/llama-3:free", ""])
async def test_every_kind_of_model_name_is_understood(sdk: Sdk, provider: FakeUpstream, name: str) -> None:
    provider.script = answers_json(completion())
    assert (await sdk.chat(model=name)).choices[0].message.content == "Hello."


async def test_a_stream_is_read_to_its_end(sdk: Sdk, provider: FakeUpstream) -> None:
    said = [chunk(role="assistant", content=""), chunk("Hello"), chunk(" yourself."), chunk(finish="stop"), DONE]
    provider.script = events(*said)
    chunks = await sdk.stream()
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello yourself."
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert provider.requests[-1].json["stream"] is True


async def test_a_stream_with_usage_ends_with_it(sdk: Sdk, provider: FakeUpstream) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    provider.script = events(chunk("Hi"), chunk(finish="stop"), event({"choices": [], "usage": usage}), DONE)
    chunks = await sdk.stream(stream_options={"include_usage": True})
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 5)
    assert provider.requests[-1].json["stream_options"] == {"include_usage": True}


async def test_a_tool_call_and_its_result_pass_both_ways(sdk: Sdk, provider: FakeUpstream) -> None:
    provider.script = answers_json(completion("", tool_calls=[TOOL_CALL]))
    message = (await sdk.chat(tools=[WEATHER_TOOL], tool_choice="auto")).choices[0].message
    assert provider.requests[-1].json["tools"] == [WEATHER_TOOL]
    assert message.tool_calls[0].function.name == "weather"
    assert message.tool_calls[0].function.arguments == '{"town":"Riga"}'

    provider.script = answers_json(completion("It rains."))
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    answer = await sdk.chat(messages=[*HELLO, message, result], tools=[WEATHER_TOOL])
    asked = provider.requests[-1].json["messages"]
    assert asked[1]["tool_calls"] == [TOOL_CALL]
    assert asked[2] == result
    assert answer.choices[0].message.content == "It rains."


async def test_a_streamed_tool_call_is_put_together(sdk: Sdk, provider: FakeUpstream) -> None:
    begun = {"index": 0, **TOOL_CALL, "function": {"name": "weather", "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"town"', ':"Riga"}')]
    calls = [chunk(tool_calls=[call]) for call in (begun, *rest)]
    provider.script = events(*calls, chunk(finish="tool_calls"), DONE)
    chunks = await sdk.stream(tools=[WEATHER_TOOL])
    parts = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert (parts[0].id, parts[0].function.name) == ("call_1", "weather")
    assert "".join(part.function.arguments for part in parts) == '{"town":"Riga"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


class Weather(pydantic.BaseModel):
    town: str
    is_wet: bool


async def test_a_structured_answer_is_parsed(sdk: Sdk, provider: FakeUpstream) -> None:
    provider.script = answers_json(completion('{"town": "Riga", "is_wet": true}'))
    answer = await sdk(
        lambda client: client.chat.completions.parse(model="m1", messages=HELLO, response_format=Weather)
    )
    assert answer.choices[0].message.parsed == Weather(town="Riga", is_wet=True)
    asked = provider.requests[-1].json["response_format"]
    assert asked["type"] == "json_schema"
    assert set(asked["json_schema"]["schema"]["properties"]) == {"town", "is_wet"}


async def test_models_are_listed(sdk: Sdk) -> None:
    listed = await sdk.pieces(await sdk(lambda client: client.models.list()), [])
    assert [(row.id, row.owned_by) for row in listed] == [
        ("m1", "openai"),
        ("meta/llama-3:free", "openai"),
        ("SMALL", "sluice"),
    ]


@pytest.mark.parametrize("name", ["m1", "meta/llama-3:free", "gpt-4o", "SMALL"])
async def test_a_model_is_retrieved(sdk: Sdk, name: str) -> None:
    assert (await sdk(lambda client: client.models.retrieve(name))).id == name


async def test_answers_and_errors_carry_the_request_id(
    sdk: Sdk, gateway: RunningGateway, provider: FakeUpstream
) -> None:
    seen = len(gateway.records)
    provider.script = answers_json(completion())
    answer = await sdk.chat()
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.chat(model="gpt-9")
    await gateway.next_record(seen + 2)
    ids = [record.request_id for record in gateway.records[seen:]]
    assert [answer._request_id, caught.value.request_id] == ids


# Errors


def fails(status: int, **error: Any) -> Script:
    return answers_json({"error": {"message": "No.", "type": None, "param": None, "code": None, **error}}, status)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("script", "asked", "kind", "code"),
    [
        (None, {"extra_headers": {"Authorization": "Bearer wrong"}}, openai.AuthenticationError, "invalid_api_key"),
        (None, {"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        (None, {"messages": []}, openai.BadRequestError, None),
        (fails(400, code="out_of_range"), {}, openai.BadRequestError, "out_of_range"),
        (fails(400, code="context_length_exceeded"), {}, openai.BadRequestError, "context_length_exceeded"),
        (fails(422), {}, openai.UnprocessableEntityError, None),
        (fails(429), {}, openai.RateLimitError, "rate_limit_exceeded"),
        (fails(429, code="insufficient_quota"), {}, openai.RateLimitError, "insufficient_quota"),
        (fails(401), {}, openai.InternalServerError, "upstream_refused"),
        (fails(500), {}, openai.InternalServerError, "upstream_error"),
        (fails(503), {}, openai.InternalServerError, "overloaded"),
    ],
)
async def test_an_error_is_raised_as_its_class(
    sdk: Sdk,
    provider: FakeUpstream,
    script: Script | None,
    asked: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str | None,
    stream: bool,
) -> None:
    provider.script = script or answers_json(completion())
    with pytest.raises(kind) as caught:
        await sdk.chat(stream=stream, **asked)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.type is not None
    assert caught.value.message


async def test_an_error_in_mid_stream_is_raised_after_the_good_chunks(sdk: Sdk, provider: FakeUpstream) -> None:
    provider.script = events(chunk("Hello"), event({"error": {"message": "No.", "code": 429}}))
    got: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        await sdk.pieces(await sdk.chat(stream=True), got)
    assert not isinstance(caught.value, openai.APIStatusError)
    assert caught.value.code == "rate_limit_exceeded"
    assert [c.choices[0].delta.content for c in got] == ["Hello"]


async def test_a_stream_that_breaks_off_is_raised_not_ended(sdk: Sdk, provider: FakeUpstream) -> None:
    provider.script = events(chunk("Hello"))
    with pytest.raises(openai.APIError) as caught:
        await sdk.stream()
    assert caught.value.code == "upstream_error"
