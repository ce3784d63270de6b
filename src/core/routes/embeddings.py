"""`POST /v1/embeddings`."""

from fastapi import APIRouter, Request, Response

from ..gateway import Gateway
from .openapi import EMBEDDINGS


def embedding_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", openapi_extra=EMBEDDINGS)
    async def embeddings(request: Request) -> Response:
        scope = request.scope
        answer = await gateway.embed(await request.body(), scope["sluice.caller"], scope["sluice.record"])
        return Response(answer.body, headers=answer.headers, media_type="application/json")

    return router
