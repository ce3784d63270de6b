"""`GET /ping` and `GET /ready`: no auth, no details."""

import asyncio
import time

from starlette.types import Receive, Scope, Send

from ..catalog import Catalog
from ..ledger import Ledger
from ..store.port import StoreError
from .straight import StraightRoute, send_whole

FRESH_S = 1.0  # strangers may ask as often as they like: the store is looked at once in this time
_TEXT = (b"content-type", b"text/plain; charset=utf-8")


def health_routes(catalog: Catalog, ledger: Ledger) -> list[StraightRoute]:
    look = _Look(catalog, ledger)

    async def ping(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send_whole(send, b"OK", [_TEXT])

    async def ready(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if await look.is_fine():
            await send_whole(send, b"OK", [_TEXT])
        else:
            await send_whole(send, b"the store does not answer", [_TEXT, (b"retry-after", b"1")], status=503)

    ready_means = "Whether requests can be served: configuration and store are fine"
    return [
        StraightRoute("GET", "/ping", ping, {"name": "ping", "summary": "Whether the process answers"}),
        StraightRoute("GET", "/ready", ready, {"name": "ready", "summary": ready_means}),
    ]


class _Look:
    """At the store; whoever asks meanwhile, or soon after, is told the same."""

    def __init__(self, catalog: Catalog, ledger: Ledger) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._began = 0.0
        self._under_way: asyncio.Task[bool] | None = None

    async def is_fine(self) -> bool:
        is_old = time.monotonic() - self._began > FRESH_S
        if self._under_way is None or (self._under_way.done() and is_old):
            self._began, self._under_way = time.monotonic(), asyncio.create_task(self._ask())
        return await asyncio.shield(self._under_way)

    async def _ask(self) -> bool:
        try:
            await self._ledger.images(self._catalog.models[:1])
        except StoreError:
            return False
        return True
