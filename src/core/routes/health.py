"""`GET /ping` and `GET /ready`: no auth, no details."""

from fastapi import APIRouter, Response


def health_routes() -> APIRouter:
    router = APIRouter()

    @router.get("/ping", summary="Whether the process answers")
    async def ping() -> Response:
        return Response("OK", media_type="text/plain")

    @router.get("/ready", summary="Whether requests can be served")
    async def ready() -> Response:
        return Response("OK", media_type="text/plain")

    return router
