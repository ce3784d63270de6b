"""The HTTP surface as one ASGI application: routes behind the front door, OpenAI's error form, CORS if asked for."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from .answers import in_wire_form
from .auth import Keyring
from .catalog import Catalog
from .errors import GatewayError, MethodNotAllowed, NotFound
from .fetcher import IpAddress, is_public
from .front_door import BODY_S, FrontDoor, Places
from .gateway import Gateway
from .ledger import Ledger
from .retries import RetryPolicy
from .routes.chat import Shortcut, chat_endpoint, chat_routes
from .routes.embeddings import embedding_routes
from .routes.health import health_routes
from .routes.images import image_routes
from .routes.models import model_routes
from .store.port import StoreError
from .telemetry import Telemetry
from .upstream import Upstream

_LOG = logging.getLogger("sluice")
_EXPOSED = [
    "x-request-id",
    "x-sluice-model",
    "x-sluice-attempts",
    "x-sluice-dropped",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "retry-after",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What a door brings along.

    `started`: Unix seconds, shown as the models' age; `routes`: paths of its own; `body_s`: how long a client may take
    to send its request; `may_fetch`: which addresses a picture may be fetched from.
    """

    telemetry: Telemetry
    version: str
    started: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    clock: Callable[[], float] = time.time
    routes: Sequence[Callable[[Catalog, Ledger], APIRouter]] = ()
    body_s: float = BODY_S
    places: Places = field(default_factory=Places)
    may_fetch: Callable[[IpAddress], bool] = is_public


def make_surface(catalog: Catalog, upstream: Upstream, ledger: Ledger, door: Door) -> ASGIApp:
    api = FastAPI(
        title="Sluice",
        version=door.version,
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
    gateway = Gateway(catalog, upstream, ledger, door.telemetry, retry=door.retry)
    chat = chat_endpoint(gateway)
    api.include_router(chat_routes(chat))
    api.include_router(embedding_routes(gateway))
    api.include_router(image_routes(gateway))
    api.include_router(model_routes(catalog, door.started))
    api.include_router(health_routes(catalog, ledger))
    for make_routes in door.routes:
        api.include_router(make_routes(catalog, ledger))
    server = catalog.config.server
    app: ASGIApp = FrontDoor(
        Shortcut(chat, api),
        keyring=Keyring(catalog.config.auth.keys),
        max_body_bytes=server.max_body_bytes,
        max_in_flight=server.max_in_flight,
        places=door.places,
        telemetry=door.telemetry,
        body_s=door.body_s,
    )
    if server.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=server.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    return app


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
