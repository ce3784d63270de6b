"""`hold_status_seconds`: a status that is held back for a model that thinks, but no longer than that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.fake_upstream import DONE, Exchange, FakeUpstream, Script, answers_json, chunk, events, took
from tests.running_gateway import RunningGateway, ask, model, running

HOLD_S = 0.1
ANSWER = [chunk("", role="assistant"), chunk("Hi"), chunk(finish="stop"), DONE]


def after(wait: asyncio.Event, then: Script) -> Script:
    async def script(exchange: Exchange) -> None:
        await wait.wait()
        await then(exchange)

    return script


@contextlib.asynccontextmanager
async def holding(upstream: FakeUpstream, hold_s: float | None = HOLD_S, **more: Any) -> AsyncIterator[RunningGateway]:
    server = {"hold_status_seconds": hold_s} if hold_s else {}
    async with running(model(upstream.url, **more), server=server, keep_alive_s=0.05) as gateway:
        yield gateway


async def lines_of(response: Any) -> list[str]:
    return [line async for line in response.aiter_lines() if line]


async def test_status_and_comments_come_before_a_model_that_thinks_longer_than_that(upstream: FakeUpstream) -> None:
    thinks = asyncio.Event()
    upstream.script = after(thinks, events(*ANSWER))
    async with holding(upstream) as gateway:
        with took(HOLD_S, 2):
            async with gateway.stream() as response:
                assert response.status_code == 200
                assert response.headers["content-type"].startswith("text/event-stream")
                assert not [name for name in response.headers if name.startswith(("x-sluice", "x-ratelimit"))]
                lines = response.aiter_lines()
                comments = [line for line in [await anext(lines) for _ in range(6)] if line]
                assert comments == [": keep-alive"] * 3
                thinks.set()
                rest = [line async for line in lines if line and line != ": keep-alive"]
        assert rest == [piece.decode().strip() for piece in ANSWER]
        record = await gateway.next_record()
        assert (record.status, record.error, record.attempts) == (200, None, 1)


async def test_an_answer_that_begins_in_time_has_its_headers(upstream: FakeUpstream) -> None:
    upstream.script = events(*ANSWER)
    async with holding(upstream, hold_s=5) as gateway, gateway.stream() as response:
        assert response.headers["x-sluice-model"] == "m1"
        assert (await lines_of(response))[-1] == "data: [DONE]"


async def test_a_failure_in_time_is_a_status(upstream: FakeUpstream) -> None:
    upstream.script = answers_json({"error": {"message": "No."}}, 400)
    async with holding(upstream, hold_s=5) as gateway:
        response = await gateway.chat(stream=True)
        assert (response.status_code, response.json()["error"]["message"]) == (400, "No.")


async def test_a_failure_after_that_is_said_in_band_and_is_the_end(upstream: FakeUpstream) -> None:
    thinks = asyncio.Event()
    upstream.script = after(thinks, answers_json({"error": {"message": "No."}}, 400))
    async with holding(upstream) as gateway, gateway.stream() as response:
        thinks.set()
        lines = [line for line in await lines_of(response) if line != ": keep-alive"]
        [error] = lines
        assert orjson.loads(error.removeprefix("data: "))["error"]["message"] == "No."
        record = await gateway.next_record()
        assert (record.status, record.error) == (200, "invalid_request_error")


async def test_fallback_goes_on_behind_the_status(upstream: FakeUpstream) -> None:
    thinks = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.request.json["model"] == "slow":
            await thinks.wait()
            await answers_json({}, 500)(exchange)
        else:
            await events(*ANSWER)(exchange)

    upstream.script = script
    models = [
        model(upstream.url, "a", upstream_model="slow", model_size="BIG", priority=1),
        model(upstream.url, "b", upstream_model="other", model_size="BIG", priority=2),
    ]
    async with (
        running(*models, server={"hold_status_seconds": HOLD_S}) as gateway,
        gateway.client.stream("POST", "/v1/chat/completions", json=ask(model="BIG", stream=True)) as response,
    ):
        thinks.set()
        assert (await lines_of(response))[-1] == "data: [DONE]"
        record = await gateway.next_record()
        assert (record.model, record.attempts) == ("b", 2)


@pytest.mark.parametrize("leaves_after_the_status", [False, True])
async def test_a_client_that_leaves_a_thinking_model_leaves_nothing_behind(
    upstream: FakeUpstream, leaves_after_the_status: bool
) -> None:
    async def thinks_for_ever(exchange: Exchange) -> None:
        await exchange.gone.wait()

    upstream.script = thinks_for_ever
    async with holding(upstream, hold_s=HOLD_S if leaves_after_the_status else 5, max_in_flight=1) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        body = orjson.dumps(ask(stream=True))
        headers = f"host: x\r\nauthorization: {gateway.client.headers['authorization']}\r\ncontent-length: {len(body)}"
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
        async with asyncio.timeout(5):
            if leaves_after_the_status:
                assert b" 200 " in await reader.readline()
            else:
                await upstream.asked.wait()
            writer.close()
            record = await gateway.next_record()
        assert record.error == "client_left"
        await upstream.until_open(0)


async def test_without_the_setting_a_model_may_think_as_long_as_its_first_token_allows(upstream: FakeUpstream) -> None:
    thinks = asyncio.Event()
    upstream.script = after(thinks, answers_json({"error": {"message": "No."}}, 400))
    async with holding(upstream, hold_s=None) as gateway:
        asking = asyncio.create_task(gateway.chat(stream=True))
        await upstream.asked.wait()
        done, _ = await asyncio.wait({asking}, timeout=2 * HOLD_S)
        assert not done
        thinks.set()
        assert (await asking).status_code == 400
