"""A proxy on a socket between a client and an HTTP endpoint, which a test can make slow, forgetful or dead."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Act:
    """What becomes of one exchange. `loses`: carried out, and its answer thrown away; `status`: answered here."""

    delay_s: float = 0.0
    loses: bool = False
    status: int | None = None
    body: bytes = b"{}"
    date: str = "Mon, 23 Nov 2026 10:15:30 GMT"


PASS = Act()


class Proxy:
    """`async with Proxy(endpoint) as proxy`; `proxy.decide` is asked for every request with its operation's name."""

    def __init__(self, endpoint: str) -> None:
        self._there = urlsplit(endpoint)
        self.decide: Callable[[str], Act] = lambda _: PASS
        self.operations: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """From now on nobody is there."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def come_back(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        request = await _message(reader)
        name = _header(request, b"x-amz-target").rpartition(".")[2]
        self.operations[name] += 1
        act = self.decide(name)
        if act.delay_s:
            await asyncio.sleep(act.delay_s)
        answer = await self._forward(request) if act.status is None else _answer(act)
        if act.loses:
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._there.hostname, self._there.port)
        with contextlib.closing(writer):
            writer.write(request)
            return await _message(reader)


def _answer(act: Act) -> bytes:
    head = f"HTTP/1.1 {act.status} Told\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {len(act.body)}"
    head += f"\r\ndate: {act.date}"
    return head.encode() + b"\r\n\r\n" + act.body


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(int(_header(head, b"content-length") or 0))


def _header(head: bytes, name: bytes) -> str:
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode()
    return ""
