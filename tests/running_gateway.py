"""The gateway under uvicorn on a real socket, in the test's own loop, built by the same function as `sluice serve`."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
import yaml
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.admission import Refusal
from core.app import App, build
from core.catalog import Catalog, build_catalog
from core.config import load
from core.log_line import where
from core.plan import Image
from core.retries import RetryPolicy
from core.store.memory import MemoryStore
from core.telemetry import Record, Telemetry
from core.upstream import KEEP_ALIVE_S
from sluice.serve import uvicorn_config
from tests.canaries import CALLER, UPSTREAM, told

QUICK = RetryPolicy(base_delay_s=0.002, max_delay_s=0.005)
TOKEN, UPSTREAM_TOKEN = CALLER, UPSTREAM


@dataclass
class Clock:
    """Unix time that stands still until it is told to move: 30 seconds into a minute, an hour and 08:00 UTC."""

    now: float = 1_800_000_030.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Recorder:
    """A telemetry that keeps what it is told, and tells it to `others`. `attempts`: model and outcome of each call."""

    others: Sequence[Telemetry] = ()
    records: list[Record] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    attempts: list[tuple[str | None, str]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    open_streams: int = 0
    store_events: list[str] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)

    def request_done(self, record: Record) -> None:
        self.records.append(record)
        told("a record", repr(record))
        self.open_streams -= record.is_stream
        for other in self.others:
            other.request_done(record)

    def stream_began(self, record: Record) -> None:
        self.open_streams += 1

    def attempted(self, record: Record, outcome: str) -> None:
        self.attempts.append((record.model, outcome))

    def refused(self, record: Record, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def breaker_opened(self, record: Record, model: str) -> None:
        self.openings.append(model)

    def store_fared(self, how: str) -> None:
        self.store_events.append(how)

    def unexpected(self, record: Record, error: Exception) -> None:
        self.errors.append(error)
        told("what is logged of an exception", where(error))
        for other in self.others:
            other.unexpected(record, error)


@dataclass
class RunningGateway:
    """`client` sends the caller's key by itself; `records` has one entry a finished request."""

    url: str
    client: httpx.AsyncClient
    telemetry: Recorder
    app: App
    _scopes: Sequence[str]

    @property
    def records(self) -> list[Record]:
        return self.telemetry.records

    async def next_record(self, count: int = 1, within_s: float = 5) -> Record:
        """Waits until `count` requests are over: the record is written just after the client has the last byte."""
        async with asyncio.timeout(within_s):
            while len(self.records) < count:
                await asyncio.sleep(0.005)
        return self.records[count - 1]

    async def image(self, scope: str) -> Image:
        """What the store knows of a scope: `m#model`, `p#provider` or `k#key`."""
        (store,) = self.app._stores.values()
        return (await store.snapshot([scope])).get(scope, {})

    async def used(self, scope: str, counters: str) -> int:
        """A scope's counters of one kind over all windows: `rm` requests per minute, `td` tokens per day."""
        image = await self.image(scope)
        return sum(int(str(value)) for name, value in image.items() if name[:2] == counters)

    async def nothing_is_held(self) -> None:
        """Waits until no lease and no probe is out: whatever happened, nobody may hold one for ever."""
        async with asyncio.timeout(3):
            while [scope for scope in self._scopes if {"q", "p"} & (await self.image(scope)).keys()]:
                await asyncio.sleep(0.005)

    def forget(self) -> None:
        """As if nobody had asked anything before: for tests that share a gateway."""
        for store in self.app._stores.values():
            assert isinstance(store, MemoryStore)
            store._items.clear()

    async def chat(self, **body: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=ask(**body))

    def stream(self, **body: Any) -> Any:
        return self.client.stream("POST", "/v1/chat/completions", json=ask(stream=True, **body))


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "m1", "messages": [{"role": "user", "content": "Hello"}], **more}


def model(url: str, name: str = "m1", **more: Any) -> dict[str, Any]:
    """A model in OpenAI's dialect at a fake upstream."""
    return {
        "name": name,
        "provider": "openai",
        "base_url": f"{url}/v1",
        "token": UPSTREAM_TOKEN,
        "upstream_model": "up-1",
        **more,
    }


def configuration(*models: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    return {
        "auth": {"keys": [{"name": "app", "token": TOKEN}]},
        "state": {"store": "memory"},
        "models": list(models),
        **blocks,
    }


def catalog_of(*models: dict[str, Any], **blocks: Any) -> Catalog:
    """The same configuration for the pure rules, without a gateway."""
    return build_catalog(load(yaml.safe_dump(configuration(*models, **blocks)), name="test.yaml", env={}))


class _Server(uvicorn.Server):
    async def main_loop(self) -> None:
        """As it is, but it hears within 10 ms that it should end, not within 100."""
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


def watched(send: Send) -> Send:
    """Headers and errors are searched for canaries; what a provider has answered is the caller's own affair."""
    status = 0

    async def send_watched(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            told("headers", repr(message["headers"]))
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            told("an error", (body if status >= 400 else body.partition(b'data: {"error"')[2]).decode("latin-1"))
        await send(message)

    return send_watched


@contextlib.asynccontextmanager
async def running(
    *models: dict[str, Any],
    logs: Sequence[Telemetry] = (),
    keep_alive_s: float = KEEP_ALIVE_S,
    door: Mapping[str, Any] | None = None,
    time_s: float | None = None,
    tells_leave: bool = True,
    **blocks: Any,
) -> AsyncIterator[RunningGateway]:
    """`blocks` are the configuration's, `door` as in `surface.Door`; `logs` hear what the product's log would; `time_s`
    is what a door with a deadline, such as Lambda's, allows for a request; without `tells_leave` the server has to be
    asked whether a client has left, as Lambda's.

    When all went well, nothing may be held in the store in the end.
    """
    telemetry = Recorder(logs)
    loaded = load(yaml.safe_dump(configuration(*models, **blocks)), name="test.yaml", env={})
    options = {"version": "test", "started": 1, "keep_alive_s": keep_alive_s, "retry": QUICK, **(door or {})}
    app = build(loaded, telemetry, **options)
    scopes = [f"m#{entry.name}" for entry in loaded.config.models] + [f"p#{name}" for name in loaded.config.providers]

    async def as_the_door(scope: Scope, receive: Receive, send: Send) -> None:
        if time_s is not None:
            scope["sluice.deadline"] = asyncio.get_running_loop().time() + time_s
        if not tells_leave:
            scope.pop("sluice.gone", None)
        await app(scope, receive, watched(send))

    def make_app() -> ASGIApp:
        return as_the_door

    server = _Server(uvicorn_config(make_app, timeout_graceful_shutdown=5))
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where it can see that it is TCP
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.005)
    headers = {"authorization": f"Bearer {TOKEN}"}
    try:
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=20, trust_env=False, verify=False
        ) as client:
            gateway = RunningGateway(url, client, telemetry, app, scopes)
            yield gateway
            await gateway.nothing_is_held()
    finally:
        server.should_exit = True
        await task
        listener.close()
