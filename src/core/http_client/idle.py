"""aiohttp's connections between two requests: so many at most, for so long at most, the latest used first.

Its connector would keep them as well, but bounds those in use only, so that after a burst all of them linger, and takes
one up that has been sent what nobody asked for: the next request would be answered with that.
"""

import asyncio
from time import monotonic

from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection


class IdleConnections:
    """`key` is host, port and TLS: connections with the same one are interchangeable."""

    def __init__(self, *, idle_s: float, at_most: int, per_host: int) -> None:
        self._idle_s = idle_s
        self._at_most = at_most
        self._per_host = per_host
        self._by_key: dict[ConnectionKey, list[tuple[Connection, float]]] = {}  # with since when, the latest last
        self._count = 0
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, key: ConnectionKey) -> Connection | None:
        waiting = self._by_key.get(key)
        while waiting:
            connection, since = waiting.pop()
            self._count -= 1
            protocol = connection.protocol
            is_usable = protocol is not None and protocol.is_connected() and not protocol.should_close
            if is_usable and monotonic() - since <= self._idle_s:
                return connection
            connection.close()
        return None

    def give(self, key: ConnectionKey, connection: Connection) -> None:
        """A connection whose answer was read to its end. It is closed where there are enough."""
        protocol, here = connection.protocol, len(self._by_key.get(key, ()))
        if protocol is None or protocol.should_close or self._count >= self._at_most or here >= self._per_host:
            connection.close()
            return
        self._by_key.setdefault(key, []).append((connection, monotonic()))
        self._count += 1
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._close_old)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._close_before(float("inf"))

    def _close_old(self) -> None:
        self._close_before(monotonic() - self._idle_s)
        self._sweep = None
        if self._count:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._close_old)

    def _close_before(self, moment: float) -> None:
        for key, waiting in list(self._by_key.items()):
            while waiting and waiting[0][1] < moment:
                waiting.pop(0)[0].close()
                self._count -= 1
            if not waiting:
                del self._by_key[key]
