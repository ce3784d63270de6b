"""Streams over real sockets: what the client has, and when, against what the provider has sent."""

import asyncio

import pytest

from tests.fake_upstream import DONE, Exchange, FakeUpstream, chunk, events
from tests.running_gateway import model, running

CLIENTS = pytest.mark.parametrize("http_client", ["aiohttp", "httpx"])


@CLIENTS
async def test_client_has_chunk_n_before_upstream_sends_the_next(upstream: FakeUpstream, http_client: str) -> None:
    """The upstream sends a piece only after the client has seen the one before: buffering would stand still."""
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for word in ("one", "two", "three"):
            await exchange.send(chunk(word))
            assert word.encode() in await asyncio.wait_for(seen.get(), 2)
        await exchange.send(chunk(finish="stop") + DONE)
        await exchange.end()

    upstream.script = script
    async with (
        running(model(upstream.url), server={"http_client": http_client}) as gateway,
        gateway.stream() as response,
    ):
        got = b""
        async for piece in response.aiter_raw():
            got += piece
            seen.put_nowait(piece)
    assert got == chunk("one") + chunk("two") + chunk("three") + chunk(finish="stop") + DONE


async def test_a_client_that_leaves_closes_the_upstream_within_a_second(upstream: FakeUpstream) -> None:
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("Hello"))
        await exchange.gone.wait()
        gone.set()

    upstream.script = script
    async with running(model(upstream.url)) as gateway:
        async with gateway.stream() as response:
            await anext(response.aiter_raw())
        await asyncio.wait_for(gone.wait(), 1)
        record = await gateway.next_record()
    assert (record.status, record.error) == (200, "client_left")


async def test_connection_serves_the_next_stream(upstream: FakeUpstream) -> None:
    upstream.script = events(chunk("Hi"), chunk(finish="stop"), DONE)
    async with running(model(upstream.url)) as gateway:
        for number in range(3):
            async with gateway.stream() as response:
                await response.aread()
            await gateway.next_record(number + 1)
    assert upstream.connections == 1
