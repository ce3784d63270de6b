"""A door that must end a request in time (Lambda): the truth before the axe falls, and no provider blamed for it."""

import asyncio

import orjson

from tests.fake_upstream import Exchange, FakeUpstream, chunk, took
from tests.running_gateway import model, running

TIME_S = 0.3


async def says_nothing(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def stalls(exchange: Exchange) -> None:
    await exchange.start(200, content_type="text/event-stream")
    await exchange.send(chunk("The answer"))
    await exchange.gone.wait()


async def test_a_model_that_takes_longer_is_a_504_in_time_and_nobody_else_is_asked(upstream: FakeUpstream) -> None:
    upstream.script = says_nothing
    models = [model(upstream.url, "a", fallbacks=["b"]), model(upstream.url, "b")]
    async with running(*models, time_s=TIME_S) as gateway:
        for stream in (False, True):
            with took(TIME_S, 2):
                answer = await gateway.chat(model="a", stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "out_of_time")
        assert len(upstream.requests) == 2
        image = await gateway.image("m#a")
        assert not {"f", "c", "q"} & image.keys(), "the provider is not to blame"
        await upstream.until_open(0)


async def test_a_stream_is_ended_by_us_with_an_error_event(upstream: FakeUpstream) -> None:
    upstream.script = stalls
    async with running(model(upstream.url), time_s=TIME_S) as gateway:
        with took(TIME_S, 2):
            answer = await gateway.chat(stream=True)
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert orjson.loads(lines[-1])["error"]["code"] == "out_of_time"
        assert "The answer" in lines[0]
        assert (await gateway.next_record()).error == "out_of_time"
        assert "f" not in await gateway.image("m#m1")
        await upstream.until_open(0)


async def test_when_no_time_is_left_nobody_is_asked(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url), time_s=-1.0) as gateway:
        answer = await gateway.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "out_of_time")
    assert upstream.requests == []


async def test_an_answer_in_time_is_an_answer(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url), time_s=30.0) as gateway:
        answers = await asyncio.gather(*(gateway.chat() for _ in range(3)))
        assert {answer.status_code for answer in answers} == {200}
