"""A bare relay: bytes in, bytes out, one connection for one. What Python costs where nothing at all is done.

`python -m bench.relay PORT UPSTREAM_PORT`
"""

import asyncio
import sys


class _Half(asyncio.Protocol):
    """Passes what one side says to the other."""

    def __init__(self, other: asyncio.Transport | None = None) -> None:
        self.other = other
        self._early: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def joined(self, other: asyncio.Transport) -> None:
        self.other = other
        other.writelines(self._early)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - either way the other side goes too
        if self.other is not None:
            self.other.close()


class _Client(_Half):
    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self._upstream_port = upstream_port

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joining = asyncio.ensure_future(self._join(transport))

    async def _join(self, client: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        upstream, _ = await loop.create_connection(lambda: _Half(client), "127.0.0.1", self._upstream_port)
        self.joined(upstream)


async def main(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(upstream_port), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
