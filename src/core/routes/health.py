"""`GET /ping` and `GET /ready`: no auth, no details."""

from fastapi import APIRouter, Response

from ..catalog import Catalog
from ..ledger import Ledger
from ..store.port import StoreError


def health_routes(catalog: Catalog, ledger: Ledger) -> APIRouter:
    router = APIRouter()

    @router.get("/ping", summary="Whether the process answers")
    async def ping() -> Response:
        return Response("OK", media_type="text/plain")

    @router.get("/ready", summary="Whether requests can be served: configuration and store are fine")
    async def ready() -> Response:
        try:
            await ledger.images(catalog.models[:1])
        except StoreError:
            return Response("the store does not answer", 503, {"retry-after": "1"}, "text/plain")
        return Response("OK", media_type="text/plain")

    return router
