"""Clients: many that ask again as soon as they are answered, or streams that begin at a pace."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SENT = re.compile(rb"t=(\d{20})")
PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Question:
    """A request as bytes for the wire."""

    port: int
    wire: bytes

    @classmethod
    def of(cls, port: int, path: str, headers: Mapping[str, str], body: bytes) -> "Question":
        said = {"host": "bench", "content-type": "application/json", "content-length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        return cls(port, f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


@dataclass(slots=True)
class Answers:
    """`took` has the seconds of each answer with status 200; `failed` counts the others."""

    took: list[float] = field(default_factory=list)
    failed: int = 0


class _Client(asyncio.Protocol):
    """Asks until `until` or `left` is used up, each time as soon as it is answered."""

    def __init__(self, question: Question, answers: Answers, until: float, left: list[int]) -> None:
        self._question, self._answers, self._until, self._left = question, answers, until, left
        self._seen = bytearray()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        end = self._seen.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._seen, 0, end)
        is_whole = len(self._seen) >= end + 4 + int(length[1]) if length else self._seen.endswith(b"\r\n0\r\n\r\n")
        if is_whole:
            if self._seen.startswith(b"HTTP/1.1 200"):
                self._answers.took.append(time.perf_counter() - self._asked)
            else:
                self._answers.failed += 1
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.over.done():
            self._answers.failed += 1
            self.over.set_result(None)

    def _ask(self) -> None:
        self._seen.clear()
        self._asked = time.perf_counter()
        if self._asked < self._until and self._left[0] > 0:
            self._left[0] -= 1
            self._transport.write(self._question.wire)
        elif not self.over.done():
            self.over.set_result(None)
            self._transport.close()


async def ask_all(question: Question, connections: int, *, seconds: float = 60.0, count: int = 10**9) -> Answers:
    """As many as `connections` can ask one after the other in that time, at most `count`."""
    answers, loop, left = Answers(), asyncio.get_running_loop(), [count]
    until = time.perf_counter() + seconds
    clients = [
        (await loop.create_connection(lambda: _Client(question, answers, until, left), "127.0.0.1", question.port))[1]
        for _ in range(connections)
    ]
    await asyncio.wait_for(asyncio.gather(*(client.over for client in clients)), seconds + PATIENCE_S)
    return answers


@dataclass(frozen=True, slots=True)
class Line:
    """One connection on which somebody asks now and then."""

    question: Question
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, question: Question) -> "Line":
        return cls(question, *await asyncio.open_connection("127.0.0.1", question.port))

    async def ask(self) -> float:
        """Seconds until the answer is whole."""
        began = time.perf_counter()
        self.writer.write(self.question.wire)
        length = _LENGTH.search(await self.reader.readuntil(b"\r\n\r\n"))
        await (self.reader.readexactly(int(length[1])) if length else self.reader.readuntil(b"\r\n0\r\n\r\n"))
        return time.perf_counter() - began


@dataclass(slots=True)
class Stream:
    """Seconds: `first` until the first chunk with words, `delays` of each from its sending to here."""

    first: float | None = None
    delays: list[float] = field(default_factory=list)
    is_whole: bool = False


class _Listener(asyncio.Protocol):
    def __init__(self, question: Question) -> None:
        self._question = question
        self._tail = b""
        self.stream = Stream()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._asked = time.monotonic()
        transport.write(self._question.wire)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        seen, stream, last = self._tail + data, self.stream, 0
        for sent in _SENT.finditer(seen):
            if stream.first is None:
                stream.first = now - self._asked
            stream.delays.append(now - int(sent[1]) / 1e9)
            last = sent.end()
        if b"[DONE]" in seen[last:]:
            stream.is_whole = True
            self._transport.close()
        self._tail = seen[max(last, len(seen) - 32) :]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.over.done():
            self.over.set_result(None)


async def listen_to(question: Question, *, streams: int, a_second: float) -> list[Stream]:
    """Streams that begin one after the other at that pace, however long the earlier ones take."""
    loop, listeners = asyncio.get_running_loop(), []
    began = loop.time()
    for number in range(streams):
        await asyncio.sleep(began + number / a_second - loop.time())
        _, listener = await loop.create_connection(lambda: _Listener(question), "127.0.0.1", question.port)
        listeners.append(listener)
    await asyncio.wait([listener.over for listener in listeners], timeout=PATIENCE_S)
    return [listener.stream for listener in listeners]
