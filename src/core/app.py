"""What the application is made of, in one place. Only the doors call it."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .aws_credentials import AwsCredentials
from .catalog import build_catalog
from .config import Loaded
from .config.schema import State
from .fetcher import Fetcher
from .http_client import make_http_client
from .http_client.demo import DemoClient
from .http_client.port import HttpClient
from .ledger import Ledger
from .store import make_serving_store
from .store.port import StateStore
from .surface import Door, make_surface
from .telemetry import Telemetry
from .tokens import Tokens
from .upstream import KEEP_ALIVE_S, Upstream

DEFAULT_IDLE_S = 90.0
CUT_S = 2.0  # at the end a request that was cut has this long for what it owes


def build(loaded: Loaded, telemetry: Telemetry, *, keep_alive_s: float = KEEP_ALIVE_S, **door: Any) -> "App":
    """The gateway for a configuration; `door` as in `surface.Door`. Raises StoreError when its store cannot be used."""
    app = App(Door(telemetry=telemetry, **door), keep_alive_s=keep_alive_s)
    app.use(loaded)
    return app


@dataclass(slots=True, eq=False)
class _Configured:
    """What serves by one configuration, the clients that it asks providers with, and the requests under way."""

    surface: ASGIApp
    clients: tuple[HttpClient, ...]
    under_way: int = 0


class App:
    """The ASGI application. It owns what outlives a configuration and must be closed when the process ends."""

    def __init__(self, door: Door, *, keep_alive_s: float) -> None:
        self._door = door
        self._keep_alive_s = keep_alive_s
        self._demo = DemoClient()
        self._tokens, self._aws = Tokens(door.clock), AwsCredentials()
        self._clients: dict[tuple[str, float, str], HttpClient] = {}  # the last: a CA bundle to trust besides
        self._stores: dict[str, StateStore] = {}
        self._quiet: asyncio.Event | None = None  # at the end: set when nothing is under way
        self._served: list[_Configured] = []  # the last is in use; those before it end what they began

    def use(self, loaded: Loaded) -> None:
        """Serve by this configuration from the next request on; those under way end by the one they began with."""
        catalog, client = build_catalog(loaded), self._client_for(loaded)
        bundles = {model.endpoint.ca_bundle for model in catalog.models} - {None, ""}
        trusting = {bundle: self._client_for(loaded, bundle) for bundle in bundles if bundle}
        upstream = Upstream(
            {"https": client, "http": client, "demo": self._demo},
            trusting=trusting,
            tokens=self._tokens,
            aws=self._aws,
            fetcher=Fetcher(client, allows=self._door.may_fetch),
            keep_alive_s=self._keep_alive_s,
            clock=self._door.clock,
        )
        ledger = Ledger(self._store(loaded.config.state or State()), self._door.clock)
        surface = make_surface(catalog, upstream, ledger, self._door)
        self._served = [*self._under_way(), _Configured(surface, (client, *trusting.values()))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        configured = self._served[-1]
        configured.under_way += 1
        try:
            await configured.surface(scope, receive, send)
        finally:
            configured.under_way -= 1
            if self._quiet is not None and not self._under_way():
                self._quiet.set()
            if len(self._served) > 1 or len(self._clients) > len(configured.clients):
                await self._close_unused()

    async def drop_idle_connections(self) -> None:
        """To providers. What nobody watched for a while may be dead without our knowing."""
        for client in self._clients.values():
            if not any(client in each.clients for each in self._under_way()):
                await client.aclose()

    def _under_way(self) -> list[_Configured]:
        return [each for each in self._served if each.under_way]

    async def _close_unused(self) -> None:
        """The client of a former configuration goes with the last request that it serves."""
        last = self._served[-1]
        self._served = [*(each for each in self._under_way() if each is not last), last]
        for settings, client in list(self._clients.items()):
            if not any(client in each.clients for each in self._served):
                self._clients.pop(settings, None)  # another request that ends may have come first
                await client.aclose()

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await self._end_what_was_cut()
        for client in (*self._clients.values(), self._demo):
            await client.aclose()
        for store in self._stores.values():
            await store.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _end_what_was_cut(self) -> None:
        """Requests that the server has given up have accounts to settle, and are told in the turn after."""
        if self._under_way():
            self._quiet = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), CUT_S)
        await asyncio.sleep(0)

    def _client_for(self, loaded: Loaded, ca_bundle: str = "") -> HttpClient:
        """The same one, with its connections, as long as no setting of it changes."""
        kind, idle_s = loaded.config.server.http_client, _idle_s(loaded)
        settings = (kind, idle_s, ca_bundle)
        if settings not in self._clients:
            tls = _trusting(ca_bundle) if ca_bundle else None
            self._clients[settings] = make_http_client(kind, idle_s=idle_s, tls=tls)
        return self._clients[settings]

    def _store(self, state: State) -> StateStore:
        key = state.model_dump_json()
        if key not in self._stores:
            self._stores[key] = make_serving_store(state, self._door.telemetry.store_fared)
        return self._stores[key]


def _trusting(ca_bundle: str) -> ssl.SSLContext:
    """Besides the usual ones."""
    tls = ssl.create_default_context()
    tls.load_verify_locations(ca_bundle)
    return tls


def _idle_s(loaded: Loaded) -> float:
    """One pool serves all models, so the shortest `idle_conn_timeout_seconds` holds for every connection."""
    entries = (*loaded.config.models, *loaded.config.providers.values())
    blocks = [entry.http_client_config for entry in entries if entry.http_client_config]
    return min((b.idle_conn_timeout_seconds for b in blocks if b.idle_conn_timeout_seconds), default=DEFAULT_IDLE_S)
