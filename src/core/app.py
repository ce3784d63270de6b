"""What the application is made of, in one place. Only the doors call it."""

import ssl
from collections.abc import Sequence

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .auth import Keyring
from .catalog import Catalog, build_catalog
from .config import Loaded
from .errors import GatewayError, InternalError, MethodNotAllowed, NotFound
from .front_door import FrontDoor
from .gateway import Gateway
from .http_client import make_http_client
from .http_client.demo import DemoClient
from .http_client.port import HttpClient
from .routes.chat import chat_routes
from .routes.health import health_routes
from .routes.models import model_routes
from .telemetry import Telemetry
from .upstream import Upstream

DEFAULT_IDLE_S = 90.0


class App:
    """The ASGI application. It owns what must be closed when the process ends."""

    def __init__(self, http: ASGIApp, clients: Sequence[HttpClient]) -> None:
        self._http = http
        self._clients = clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        for client in self._clients:
            await client.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def build(loaded: Loaded, telemetry: Telemetry, *, version: str, started: int) -> App:
    """Everything the gateway is made of, for one configuration. `started`: Unix seconds."""
    catalog = build_catalog(loaded)
    client = make_http_client(
        loaded.config.server.http_client, idle_s=_idle_s(loaded), tls=ssl.create_default_context()
    )
    demo = DemoClient()
    upstream = Upstream({"https": client, "http": client, "demo": demo})
    return App(_http(catalog, upstream, telemetry, version=version, started=started), [client, demo])


def _http(catalog: Catalog, upstream: Upstream, telemetry: Telemetry, *, version: str, started: int) -> ASGIApp:
    api = FastAPI(
        title="Sluice",
        version=version,
        summary="One OpenAI-compatible URL in front of many providers",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={GatewayError: _answer, HTTPException: _answer_http, Exception: _answer_bug},
    )
    api.include_router(chat_routes(Gateway(catalog, upstream)))
    api.include_router(model_routes(catalog, started))
    api.include_router(health_routes())
    server = catalog.config.server
    app: ASGIApp = FrontDoor(
        api, keyring=Keyring(catalog.config.auth.keys), max_body_bytes=server.max_body_bytes, telemetry=telemetry
    )
    if server.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=server.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-sluice-model", "x-sluice-attempts", "retry-after"],
        )
    return app


def _idle_s(loaded: Loaded) -> float:
    """One pool serves all models, so the shortest `idle_conn_timeout_seconds` holds for every connection."""
    entries = (*loaded.config.models, *loaded.config.providers.values())
    blocks = [entry.http_client_config for entry in entries if entry.http_client_config]
    return min((b.idle_conn_timeout_seconds for b in blocks if b.idle_conn_timeout_seconds), default=DEFAULT_IDLE_S)


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


async def _answer_bug(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the front door logs it
    return await _answer(request, InternalError("The gateway failed; the request id names this failure in its log."))
