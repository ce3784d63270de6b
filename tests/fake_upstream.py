"""A provider on a real socket that does exactly what a test tells it to, byte by byte.

    upstream.script = answers_json({...})            # or events(chunk("Hi"), DONE), or a function of your own
    upstream.requests[-1].json                       # what it was asked

A script of one's own is `async def script(exchange)`: it may wait between pieces for what the test does meanwhile.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Received:
    """One request as it came over the wire; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(slots=True)
class Exchange:
    """The server's end of one request. `gone` is set as soon as the other side closes the connection."""

    request: Received
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    keeps_alive: bool = True
    _chunked: bool = False

    async def start(self, status: int = 200, **headers: str) -> None:
        """Status line and headers (`content_type="x"` is `content-type: x`). Without a length the body is chunked."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._chunked = "content-length" not in named
        named |= {"transfer-encoding": "chunked"} if self._chunked else {}
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in named.items()), "", ""]
        await self.raw("\r\n".join(lines).encode("latin-1"))

    async def send(self, piece: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def end(self) -> None:
        if self._chunked:
            await self.raw(b"0\r\n\r\n")

    async def raw(self, piece: bytes) -> None:
        self.writer.write(piece)
        await self.writer.drain()

    def close(self) -> None:
        """Hang up in good order (FIN), wherever the answer stands."""
        self.keeps_alive = False
        self.writer.close()

    def reset(self) -> None:
        """Hang up rudely (RST)."""
        self.keeps_alive = False
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def answers(body: bytes, status: int = 200, **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        length = {"content_length": str(len(body))}
        await exchange.start(status, **{"content_type": "application/json", **length, **headers})
        await exchange.send(body)

    return script


def answers_json(body: Any, status: int = 200, **headers: str) -> Script:
    return answers(orjson.dumps(body), status, **headers)


def events(*pieces: bytes, **headers: str) -> Script:
    """A stream, one write a piece."""

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, **{"content_type": "text/event-stream", **headers})
        for piece in pieces:
            await exchange.send(piece)
        await exchange.end()

    return script


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event in OpenAI's form; `more` goes into the delta."""
    delta = {**({} if content is None else {"content": content}), **more}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def event(body: Any, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(body) + b"\n\n"


def completion(content: str = "Hello.", **more: Any) -> dict[str, Any]:
    """A whole answer in OpenAI's form; `more` goes into the message."""
    message = {"role": "assistant", "content": content, "refusal": None, **more}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


@contextlib.contextmanager
def took(at_least_s: float, at_most_s: float) -> Iterator[None]:
    """What is inside takes a time between the two: a time-out came, and came when it was meant to."""
    started = time.perf_counter()
    yield
    elapsed = time.perf_counter() - started
    clock_s = 0.01  # a loop may fire a timer early by what its clock cannot tell apart
    assert at_least_s - clock_s <= elapsed <= at_most_s, f"took {elapsed:.3f} s"


class FakeUpstream:
    """`async with FakeUpstream() as upstream`. Counts connections; with `tls` it is asked by https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.script: Script = answers_json(completion())
        self.requests: list[Received] = []
        self.connections = 0  # ever accepted
        self.open_connections = 0
        self.asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "FakeUpstream":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_open(self, count: int, within_s: float = 2) -> None:
        """Waits until as many connections are open: the other side's leave takes a moment to arrive."""
        async with asyncio.timeout(within_s):
            while self.open_connections != count:
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        first = b""  # of the next request, when it was read ahead
        try:
            while request := await _read_request(first, reader):
                self.requests.append(request)
                self.asked.set()
                exchange = Exchange(request, writer)
                first = await self._play(exchange, reader)
                if not exchange.keeps_alive or exchange.gone.is_set():
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side went away, or the test is over
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _play(self, exchange: Exchange, reader: asyncio.StreamReader) -> bytes:
        """Runs the script beside a watch for the other side's leave; returns what that watch read ahead."""
        watch = asyncio.create_task(_watch(reader, exchange.gone))
        try:
            await self.script(exchange)
        finally:
            if not watch.done():
                watch.cancel()
            await asyncio.wait({watch})
        return b"" if watch.cancelled() else watch.result()


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> bytes:
    """While an answer is under way nothing but the end can come, or the first byte of a next request."""
    try:
        ahead = await reader.read(1)
    except OSError:
        ahead = b""
    if not ahead:
        gone.set()
    return ahead


async def _read_request(first: bytes, reader: asyncio.StreamReader) -> Received | None:
    try:
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head.split("\r\n")[:-2]
    method, path, _ = start.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body)
