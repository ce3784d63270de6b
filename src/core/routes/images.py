"""`POST /v1/images/generations` and `/v1/images/edits`; `POST /image` is the older form: a picture as it is."""

import math

from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ..drawing import Drawing, parse_drawing, parse_edit, parse_plain_drawing
from ..errors import InvalidRequest
from ..gateway import Gateway
from .openapi import EDITS, IMAGES, PLAIN_IMAGE

MOST_FILES = 17  # sixteen pictures and a mask, as OpenAI has it
MOST_FIELDS = 50


def image_routes(gateway: Gateway) -> APIRouter:
    router = APIRouter()

    async def draw(request: Request, drawing: Drawing) -> Response:
        scope = request.scope
        until = scope.get("sluice.deadline", math.inf)
        answer = await gateway.draw(drawing, scope["sluice.caller"], scope["sluice.record"], until=until)
        return Response(answer.body, headers=answer.headers, media_type=answer.media_type)

    @router.post("/v1/images/generations", openapi_extra=IMAGES)
    async def images(request: Request) -> Response:
        return await draw(request, parse_drawing(await request.body()))

    @router.post("/v1/images/edits", openapi_extra=EDITS)
    async def edits(request: Request) -> Response:
        return await draw(request, parse_edit(await _fields_of(request)))

    @router.post("/image", openapi_extra=PLAIN_IMAGE)
    async def image(request: Request) -> Response:
        return await draw(request, parse_plain_drawing(await request.body()))

    return router


async def _fields_of(request: Request) -> list[tuple[str, str | bytes]]:
    """Of a form; what is a file is bytes. Raises InvalidRequest."""
    try:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS) as form:
            rows = form.multi_items()
            return [(name, await one.read() if isinstance(one, UploadFile) else one) for name, one in rows]
    except HTTPException as error:
        raise InvalidRequest(f"The request body is not a form: {error.detail}") from error
