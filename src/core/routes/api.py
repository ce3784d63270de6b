"""What FastAPI answers: all but the straight routes, which it only documents; its own verdicts in OpenAI's form."""

import logging
from collections.abc import Iterable

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from ..answers import in_wire_form
from ..catalog import Catalog
from ..errors import GatewayError, MethodNotAllowed, NotFound
from ..gateway import Gateway
from ..store.port import StoreError
from .embeddings import embedding_routes
from .images import image_routes
from .models import model_routes
from .straight import StraightRoute

_LOG = logging.getLogger("sluice")


def make_api(
    gateway: Gateway, catalog: Catalog, straight: Iterable[StraightRoute], *, version: str, started: int
) -> FastAPI:
    api = FastAPI(
        title="Sluice",
        version=version,
        summary="One OpenAI-compatible URL in front of many providers",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            GatewayError: _answer,
            HTTPException: _answer_http,
            StoreError: _answer_store,
            Exception: _answer_bug,
        },
    )
    for route in straight:
        api.add_api_route(route.path, _never_asked, methods=[route.method], **route.documented)
    api.include_router(embedding_routes(gateway))
    api.include_router(image_routes(gateway))
    api.include_router(model_routes(catalog, started))
    return api


async def _never_asked() -> Response:
    raise HTTPException(404)  # but by a line end behind the path, which FastAPI's patterns let pass


async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    request.scope["sluice.record"].error = error.code or error.type
    return Response(orjson.dumps(error.body()), error.status, error.headers, "application/json")


async def _answer_http(request: Request, error: Exception) -> Response:
    """Starlette's own verdicts: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 405:
        return await _answer(request, MethodNotAllowed(f"{path} does not take {method}.", headers=error.headers))
    return await _answer(request, NotFound(f"There is no {method} {path} here."))


async def _answer_store(request: Request, error: Exception) -> Response:
    _LOG.error("%s: %s", request.scope["sluice.record"].request_id, error)
    return await _answer(request, in_wire_form(error))


async def _answer_bug(request: Request, error: Exception) -> Response:
    return await _answer(request, in_wire_form(error))  # the front door logs it
