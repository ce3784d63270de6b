"""HTTP/1.1 to the Runtime API, by hand: one request at a time over a connection that is kept alive.

The other side is Lambda itself on the same machine, so there is no TLS, no redirect and no time-out: `next` waits for
as long as nobody calls the function.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

MAX_LINE_BYTES = 2**20  # a client context comes in a header


@dataclass(frozen=True, slots=True)
class Reply:
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """Not for two requests at once."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """Raises ConnectionError. A connection that the other side closed while it was idle is opened anew."""
        while True:
            was_idle = self._streams is not None
            try:
                return await self._exchange(method, path, headers, body)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.close()
                if not was_idle:
                    raise ConnectionResetError("it does not answer") from error

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        reader, writer = self._streams = self._streams or await self.open()
        length = {"content-length": str(len(body))} if method == "POST" else {}
        writer.write(self.head(method, path, {**headers, **length}) + body)
        await writer.drain()
        reply = await read_reply(reader)
        if reply.headers.get("connection", "").lower() == "close":
            self.close()
        return reply

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of the caller's own, which closes it."""
        return await asyncio.open_connection(self._host, self._port, limit=MAX_LINE_BYTES)

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Raises IncompleteReadError or ConnectionError when the other side ends before its answer does."""
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Reply(int(start.split(" ", 2)[1]), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return b"".join(pieces)
