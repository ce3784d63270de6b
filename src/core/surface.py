"""The HTTP surface as one ASGI application: routes behind the front door, OpenAI's error form, CORS if asked for."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from .auth import Keyring
from .catalog import Catalog
from .fetcher import IpAddress, is_public
from .front_door import BODY_S, FrontDoor, Places
from .gateway import Gateway
from .ledger import Ledger
from .retries import RetryPolicy
from .routes.chat import chat_routes
from .routes.health import health_routes
from .routes.straight import Shortcut, StraightRoute
from .telemetry import Telemetry
from .upstream import Upstream

MakeRoutes = Callable[[Catalog, Ledger], Iterable[StraightRoute]]

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
    routes: Sequence[MakeRoutes] = ()
    body_s: float = BODY_S
    places: Places = field(default_factory=Places)
    may_fetch: Callable[[IpAddress], bool] = is_public


def make_surface(catalog: Catalog, upstream: Upstream, ledger: Ledger, door: Door) -> ASGIApp:
    gateway = Gateway(catalog, upstream, ledger, door.telemetry, retry=door.retry)
    straight = [*chat_routes(gateway), *health_routes(catalog, ledger)]
    for make_routes in door.routes:
        straight += make_routes(catalog, ledger)

    def make_others() -> ASGIApp:
        from .routes.api import make_api

        return make_api(gateway, catalog, straight, version=door.version, started=door.started)

    server = catalog.config.server
    app: ASGIApp = FrontDoor(
        Shortcut(straight, make_others),
        keyring=Keyring(catalog.config.auth.keys),
        max_body_bytes=server.max_body_bytes,
        max_in_flight=server.max_in_flight,
        places=door.places,
        telemetry=door.telemetry,
        body_s=door.body_s,
    )
    if server.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        app = CORSMiddleware(
            app,
            allow_origins=server.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    return app
