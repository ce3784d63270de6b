"""A small HTTP/1.1 server on h11, whose requests and answers may come and go piece by piece."""

import asyncio
from typing import Any, Self

import h11


class Visit:
    """One connection. What is read and written is h11's events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        self.writer = writer
        self._reader = reader

    async def read(self) -> Any:
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(await self._reader.read(65536))
        return event

    async def read_body(self) -> bytes:
        pieces = []
        while isinstance(event := await self.read(), h11.Data):
            pieces.append(bytes(event.data))
        return b"".join(pieces)

    async def write(self, *events: Any) -> None:
        self.writer.write(b"".join(self.h11.send(event) or b"" for event in events))
        await self.writer.drain()

    async def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        told = [*headers.items(), ("content-length", str(len(body)))]
        await self.write(h11.Response(status_code=status, headers=told), h11.Data(data=body), h11.EndOfMessage())


class H11Server:
    """`async with`. Subclasses answer in `exchange`."""

    def __init__(self, port: int = 0) -> None:
        self.connections = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def exchange(self, request: h11.Request, visit: Visit) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        visit = Visit(reader, writer)
        try:
            while isinstance(request := await visit.read(), h11.Request):
                await self.exchange(request, visit)
                if visit.h11.our_state is not h11.DONE or visit.h11.their_state is not h11.DONE:
                    break
                visit.h11.start_next_cycle()
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass  # the other side went away, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()


def headers_of(request: h11.Request) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in request.headers}
