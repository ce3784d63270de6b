"""What FastAPI answers: all but the chats, which it only documents. Its own verdicts are said in OpenAI's form."""

import logging
from collections.abc import Callable, Sequence

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from ..answers import in_wire_form
from ..catalog import Catalog
from ..errors import GatewayError, MethodNotAllowed, NotFound
from ..gateway import Gateway
from ..ledger import Ledger
from ..store.port import StoreError
from .chat import CHAT_PATHS, Endpoint
from .embeddings import embedding_routes
from .health import health_routes
from .images import image_routes
from .models import model_routes
from .openapi import CHAT

_LOG = logging.getLogger("sluice")

MakeRoutes = Callable[[Catalog, Ledger], APIRouter]


def make_api(
    gateway: Gateway,
    chat: Endpoint,
    catalog: Catalog,
    ledger: Ledger,
    *,
    version: str,
    started: int,
    more: Sequence[MakeRoutes],
) -> FastAPI:
    """`more`: paths that only one door has."""
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
    for path in CHAT_PATHS:
        is_shown = path == CHAT_PATHS[0]
        api.add_api_route(
            path, chat, methods=["POST"], openapi_extra=CHAT, include_in_schema=is_shown, response_model=None
        )
    api.include_router(embedding_routes(gateway))
    api.include_router(image_routes(gateway))
    api.include_router(model_routes(catalog, started))
    api.include_router(health_routes(catalog, ledger))
    for make_routes in more:
        api.include_router(make_routes(catalog, ledger))
    return api


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
