"""`POST /v1/images/generations`, and `POST /image`, the older form, which answers with a picture as it is."""

import math

from fastapi import APIRouter, Request, Response

from ..gateway import Gateway
from .openapi import IMAGES, PLAIN_IMAGE


def image_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    async def draw(request: Request, *, is_plain: bool) -> Response:
        scope = request.scope
        answer = await gateway.draw(
            await request.body(),
            scope["sluice.caller"],
            scope["sluice.record"],
            until=scope.get("sluice.deadline", math.inf),
            is_plain=is_plain,
        )
        return Response(answer.body, headers=answer.headers, media_type=answer.media_type)

    @router.post("/v1/images/generations", openapi_extra=IMAGES)
    async def images(request: Request) -> Response:
        return await draw(request, is_plain=False)

    @router.post("/image", openapi_extra=PLAIN_IMAGE)
    async def image(request: Request) -> Response:
        return await draw(request, is_plain=True)

    return router
