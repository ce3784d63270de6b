"""More than the gateway takes, slower than it waits, and nobody it knows: turned away early, cheaply and in words."""

import asyncio
import contextlib
import socket
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

import sluice.http_protocol
import sluice.serve
from core.store.memory import MemoryStore
from tests.fake_upstream import Exchange, FakeUpstream, answers_json, chunk, completion, took
from tests.running_gateway import TOKEN, RunningGateway, ask, model, running


@contextlib.asynccontextmanager
async def connection(gateway: RunningGateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()


def head(length: int, token: str = TOKEN) -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


async def test_one_request_too_many_is_a_503_at_once_and_the_place_is_free_again_afterwards(
    upstream: FakeUpstream,
) -> None:
    goes_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await goes_on.wait()
        await answers_json(completion())(exchange)

    upstream.script = script
    async with running(model(upstream.url), server={"max_in_flight": 2}) as gateway:
        first = [asyncio.create_task(gateway.chat()) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(upstream.requests) < 2:
                await asyncio.sleep(0.005)
        with took(0, 1):
            refused = await gateway.chat()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "gateway_overloaded"
        assert (await gateway.client.get("/ping")).status_code == 200, "whoever looks after us is still answered"
        goes_on.set()
        assert [response.status_code for response in await asyncio.gather(*first)] == [200, 200]
        assert (await gateway.chat()).status_code == 200
        assert len(upstream.requests) == 3


async def test_a_client_that_trickles_its_request_is_cut(upstream: FakeUpstream) -> None:
    body = orjson.dumps(ask())
    async with (
        running(model(upstream.url), door={"body_s": 0.2}) as gateway,
        connection(gateway) as (reader, writer),
    ):
        writer.write(head(len(body)) + body[:10])
        with took(0.2, 2):
            async with asyncio.timeout(5):
                answer = await reader.read()  # up to the end of the connection
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b'"request_too_slow"' in answer
        assert (await gateway.next_record()).error == "request_too_slow"


async def test_a_slow_model_is_not_a_slow_client(upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        await answers_json(completion())(exchange)

    upstream.script = script
    async with running(model(upstream.url), door={"body_s": 0.1}) as gateway:
        assert (await gateway.chat()).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"])
async def test_a_client_that_never_ends_its_headers_is_cut(
    upstream: FakeUpstream, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sluice.http_protocol, "HEAD_S", 0.2)
    async with running(model(upstream.url)) as gateway:
        with took(0.2, 2):
            async with connection(gateway) as (reader, writer), asyncio.timeout(5):
                writer.write(sent)
                assert await reader.read() == b""


async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 200 " in await reader.readline()
    await reader.readuntil(b"OK")


async def test_a_second_request_on_a_connection_has_its_own_time_for_headers(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sluice.http_protocol, "HEAD_S", 0.2)
    async with running(model(upstream.url)) as gateway, connection(gateway) as (reader, writer):
        await ping(reader, writer)
        await asyncio.sleep(0.3)  # idle between two requests is no slowness
        await ping(reader, writer)
        writer.write(b"GET /pi")
        async with asyncio.timeout(5):
            assert await reader.read() == b""


async def test_blank_lines_between_two_requests_do_not_hold_a_connection(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sluice.http_protocol, "HEAD_S", 0.2)
    async with running(model(upstream.url)) as gateway, connection(gateway) as (reader, writer):
        await ping(reader, writer)
        with took(0.2, 5):
            async with asyncio.timeout(5):
                writer.write(b"\r\n")
                await asyncio.sleep(0.1)
                writer.write(b"\r\n")
                assert await reader.read() == b""


async def test_a_stranger_that_sends_on_after_its_401_is_cut(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sluice.http_protocol, "LINGER_S", 0.2)
    async with running(model(upstream.url)) as gateway, connection(gateway) as (reader, writer):
        writer.write(head(1_000_000, token="not-a-key-of-this-gateway"))
        assert b" 401 " in await reader.readline()
        with took(0.2, 5), pytest.raises(ConnectionError):
            await trickle(writer)


async def trickle(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(5):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("comes_late", [False, True])
async def test_a_stranger_whose_request_was_whole_keeps_its_connection_as_anybody_does(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, comes_late: bool
) -> None:
    monkeypatch.setattr(sluice.http_protocol, "LINGER_S", 0.2)
    monkeypatch.setattr(sluice.serve, "KEEP_ALIVE_S", 2)
    async with running(model(upstream.url)) as gateway, connection(gateway) as (reader, writer):
        for _ in range(2):
            writer.write(head(2, token="not-a-key-of-this-gateway") + (b"" if comes_late else b"{}"))
            assert b" 401 " in await reader.readline()
            await reader.readuntil(b"}}")
            writer.write(b"{}" if comes_late else b"")
            await asyncio.sleep(0.4)
        with took(0.1, 5):
            async with asyncio.timeout(10):
                assert await reader.read() == b"", "and no longer"


@pytest.fixture
def store_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that the store is asked from now on."""
    calls: list[str] = []

    class CountedStore(MemoryStore):
        def __getattribute__(self, name: str) -> Any:
            if name in ("snapshot", "reserve", "finish", "write"):
                calls.append(name)
            return super().__getattribute__(name)

    monkeypatch.setattr("core.store.memory.MemoryStore", CountedStore)
    return calls


async def test_a_flood_of_wrong_tokens_costs_no_store_call_and_no_provider(
    upstream: FakeUpstream, store_calls: list[str]
) -> None:
    async with running(model(upstream.url, requests_per_day=5)) as gateway:
        assert (await gateway.chat()).status_code == 200
        assert store_calls == ["reserve", "finish"]
        store_calls.clear()
        wrong = {"authorization": "Bearer not-a-key-of-this-gateway"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=wrong, trust_env=False) as stranger:
            answers = await asyncio.gather(*(stranger.post("/v1/chat/completions", json=ask()) for _ in range(200)))
        assert {answer.status_code for answer in answers} == {401}
        assert (len(upstream.requests), store_calls) == (1, [])


async def test_strangers_that_ask_whether_it_is_ready_cost_one_look_at_the_store_a_second(
    upstream: FakeUpstream, store_calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.routes.health.FRESH_S", 60.0)
    async with running(model(upstream.url)) as gateway, httpx.AsyncClient(base_url=gateway.url) as stranger:
        answers = await asyncio.gather(*(stranger.get("/ready") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert store_calls == ["snapshot"]
        monkeypatch.setattr("core.routes.health.FRESH_S", 0.0)
        assert (await stranger.get("/ready")).status_code == 200
        assert store_calls == ["snapshot", "snapshot"]


async def test_a_reader_that_does_not_read_holds_the_provider_back_and_fills_no_memory(upstream: FakeUpstream) -> None:
    """60 MB are offered; once the sockets' own buffers are full the provider cannot write on."""
    sent, blocked = 0, asyncio.Event()
    event = chunk("x" * 60_000)

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.start(200, content_type="text/event-stream")
        for _ in range(1000):
            try:
                async with asyncio.timeout(0.5):
                    await exchange.send(event)
            except TimeoutError:
                blocked.set()
                await exchange.gone.wait()
                return
            sent += len(event)

    upstream.script = script
    async with running(model(upstream.url)) as gateway:
        body = orjson.dumps(ask(stream=True))
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as slow:
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(slow, head(len(body)) + body)
            async with asyncio.timeout(20):
                await blocked.wait()
        assert sent < 30_000_000
        assert (await gateway.next_record()).error == "client_left"


async def test_readers_that_do_not_read_are_hung_up_on_and_cost_little_memory_until_then(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of them, to whom a provider would send for ever: what both ends hold for one is a few buffers."""
    monkeypatch.setattr(sluice.http_protocol, "STALLED_S", 1.0)
    piece = chunk("x" * 60_000)

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        while not exchange.gone.is_set():
            await exchange.send(piece)

    upstream.script = script
    async with running(model(upstream.url), keep_alive_s=0.05) as gateway, contextlib.AsyncExitStack() as stack:
        body = orjson.dumps(ask(stream=True))
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(10):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))))
            slow.sendall(head(len(body)) + body)
        with took(1, 15):
            for record in [await gateway.next_record(count, within_s=15) for count in range(1, 11)]:
                assert record.error == "client_left"
        assert tracemalloc.get_traced_memory()[1] < 10 * 4_000_000
        await upstream.until_open(0)
