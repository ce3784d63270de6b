"""`POST /v1/embeddings`."""

import math

from fastapi import APIRouter, Request, Response

from ..gateway import Gateway
from .openapi import EMBEDDINGS


def embedding_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", openapi_extra=EMBEDDINGS)
    async def embeddings(request: Request) -> Response:
        scope = request.scope
        until = scope.get("sluice.deadline", math.inf)
        answer = await gateway.embed(await request.body(), scope["sluice.caller"], scope["sluice.record"], until=until)
        return Response(answer.body, headers=answer.headers, media_type="application/json")

    return router
