"""`GET /ping` and `GET /ready`: no auth, no details."""

import asyncio
import time

from fastapi import APIRouter, Response

from ..catalog import Catalog
from ..ledger import Ledger
from ..store.port import StoreError

FRESH_S = 1.0  # strangers may ask as often as they like: the store is looked at once in this time


def health_routes(catalog: Catalog, ledger: Ledger) -> APIRouter:
    router, look = APIRouter(), _Look(catalog, ledger)

    @router.get("/ping", summary="Whether the process answers")
    async def ping() -> Response:
        return Response("OK", media_type="text/plain")

    @router.get("/ready", summary="Whether requests can be served: configuration and store are fine")
    async def ready() -> Response:
        if await look.is_fine():
            return Response("OK", media_type="text/plain")
        return Response("the store does not answer", 503, {"retry-after": "1"}, "text/plain")

    return router


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
