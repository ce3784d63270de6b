"""A gateway that serves for weeks: many requests and many clients that leave take nothing that is not given back.

Gateway, provider and clients share one loop and one process, so that tasks, sockets and objects can be counted. Nothing
else is in that process: what other tests left in its memory would move about meanwhile. Provider and clients are as
light as HTTP/1.1 allows: most of the time here is the gateway's.
"""

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import re
import resource
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fake_upstream import DONE, chunk, completion
from tests.running_gateway import TOKEN, RunningGateway, ask, model, running

REQUESTS = 10_000
ABANDONED = 1_000
WARM_UP = 500
AT_A_TIME = {"aiohttp": 32, "httpx": 6}  # with 32 httpx takes 6.6 ms a request instead of 1.4

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_FIRST_EVENT = chunk("Hello")
_LAST_EVENTS = chunk(finish="stop") + DONE
_WHOLE = orjson.dumps(completion("word " * 800))  # large enough to be seen in the memory of the process
_REFUSAL = orjson.dumps({"error": {"message": "`top_p` must be at most 1", "type": "invalid_request_error"}})


def head(status: int, kind: bytes, framing: bytes) -> bytes:
    return b"HTTP/1.1 %d Scripted\r\ncontent-type: %b\r\n%b\r\n\r\n" % (status, kind, framing)


def buffered(status: int, body: bytes) -> bytes:
    return head(status, b"application/json", b"content-length: %d" % len(body)) + body


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_START = head(200, b"text/event-stream", b"transfer-encoding: chunked") + piece(_FIRST_EVENT)
ANSWERS = {  # by a word in the question
    b"whole": buffered(200, _WHOLE),
    b"refused": buffered(400, _REFUSAL),
    b"streamed": _START + piece(_LAST_EVENTS) + piece(b""),
    b"endless": _START,
}


class Provider(asyncio.Protocol):
    """One connection to the provider."""

    def __init__(self, connections: "set[Provider]") -> None:
        self._connections = connections
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        top, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(top)
        if found and length and len(body) >= int(length[1]):
            self._received = b""
            self.transport.write(next(answer for word, answer in ANSWERS.items() if word in body))


@dataclass
class Scene:
    """The gateway and what stands around it. `connections`: the provider's."""

    http_client: str
    gateway: RunningGateway
    connections: set[Provider]

    @property
    def port(self) -> int:
        return int(self.gateway.url.rpartition(":")[2])


@contextlib.asynccontextmanager
async def scene(http_client: str) -> AsyncIterator[Scene]:
    connections: set[Provider] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Provider(connections), "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with running(model(url), server={"http_client": http_client}) as gateway:
            yield Scene(http_client, gateway, connections)
    finally:
        server.close()
        for connection in list(connections):
            connection.transport.abort()
        await server.wait_closed()


def question(word: str, **more: Any) -> bytes:
    body = orjson.dumps(ask(user=word, **more))
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: gateway",
        b"authorization: Bearer " + TOKEN.encode(),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


WHOLE = (question("whole"), b"200")
STREAMED = (question("streamed", stream=True), b"200")
REFUSED = (question("refused"), b"400")
ENDLESS = question("endless", stream=True)


async def ask_many(here: Scene, count: int) -> None:
    """Whole answers, streams and refusals in turn, by clients that keep their connections."""
    turns = iter(itertools.islice(itertools.cycle([WHOLE, STREAMED, WHOLE, STREAMED, REFUSED]), count))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        for request, status in turns:
            writer.write(request)
            top = await reader.readuntil(b"\r\n\r\n")
            assert top[9:12] == status
            length = _LENGTH.search(top)
            body = await (reader.readexactly(int(length[1])) if length else reader.readuntil(b"\r\n0\r\n\r\n"))
            assert length or b"[DONE]" in body
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(AT_A_TIME[here.http_client])))


async def leave_many(here: Scene, count: int) -> None:
    """Clients that go away after the first token: every second one in good order, the others rudely."""
    turns = iter(range(count))

    async def client() -> None:
        for number in turns:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(ENDLESS)
            await reader.readuntil(b"Hello")
            if number % 2:
                writer.close()
                await writer.wait_closed()
            else:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    await asyncio.gather(*(client() for _ in range(AT_A_TIME[here.http_client])))


@dataclass
class Held:
    """What the process has at a moment of rest."""

    objects: Counter[str]  # by type; what can hold others
    blocks: int  # of memory for small objects of any type
    resident_bytes: int


async def at_rest(here: Scene, idle: tuple[int, list[str]]) -> Held:
    """Waits until sockets and tasks are what they were before the first request, and counts the rest then."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while open_now(here) != idle:
                await asyncio.sleep(0.02)
    assert open_now(here) == idle
    assert len(here.connections) <= AT_A_TIME[here.http_client]
    return count_memory()


def count_memory() -> Held:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    objects = Counter(type(thing).__qualname__ for thing in gc.get_objects())
    return Held(objects, sys.getallocatedblocks(), pages * resource.getpagesize())


def open_now(here: Scene) -> tuple[int, list[str]]:
    """Files and tasks. Connections that wait for the next request are none of it; both ends of them are here."""
    tasks = sorted(str(task.get_coro()).partition(" at ")[0] for task in asyncio.all_tasks())
    return len(list(Path("/proc/self/fd").iterdir())) - 2 * len(here.connections), tasks


@pytest.mark.parametrize("http_client", ["aiohttp", "httpx"])
def test_ten_thousand_requests_and_a_thousand_abandoned_streams_leave_nothing_behind(http_client: str) -> None:
    """Less than one thing of any kind a hundred requests; the allowance is for caches and pools that fill up."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        before, after = pool.submit(serve_for_weeks, http_client).result()
    grown = {name: count for name, count in (after.objects - before.objects).items() if count > REQUESTS / 100}
    assert not grown
    assert after.blocks - before.blocks < ABANDONED
    assert after.resident_bytes - before.resident_bytes < REQUESTS * 1000


def serve_for_weeks(http_client: str) -> tuple[Held, Held]:
    """What is held when the caches are warm, and after all the requests."""

    async def serve() -> tuple[Held, Held]:
        async with scene(http_client) as here:
            idle = open_now(here)
            await use(here, WARM_UP, WARM_UP)
            before = await at_rest(here, idle)
            await use(here, REQUESTS, ABANDONED)
            return before, await at_rest(here, idle)

    return asyncio.run(serve())


async def use(here: Scene, requests: int, abandoned: int) -> None:
    await ask_many(here, requests)
    await leave_many(here, abandoned)
    await here.gateway.next_record(requests + abandoned)
    seen = Counter(record.error for record in here.gateway.records)
    assert seen["client_left"] == abandoned
    here.gateway.records.clear()
    here.gateway.telemetry.attempts.clear()
