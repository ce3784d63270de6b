"""The gateway under uvicorn on a real socket, in the test's own loop, built by the same function as `sluice serve`."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
import yaml

from core.app import App, build
from core.config import load
from core.telemetry import Record, Telemetry
from core.upstream import KEEP_ALIVE_S
from sluice.serve import uvicorn_config

TOKEN = "caller-canary-0123456789abcdef"
UPSTREAM_TOKEN = "upstream-canary-fedcba9876543210"


@dataclass
class Recorder:
    """A telemetry that keeps what it is told, and tells it to `others`."""

    others: Sequence[Telemetry] = ()
    records: list[Record] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def request_done(self, record: Record) -> None:
        self.records.append(record)
        for other in self.others:
            other.request_done(record)

    def unexpected(self, record: Record, error: Exception) -> None:
        self.errors.append(error)
        for other in self.others:
            other.unexpected(record, error)


@dataclass
class RunningGateway:
    """`client` sends the caller's key by itself; `records` has one entry a finished request."""

    url: str
    client: httpx.AsyncClient
    telemetry: Recorder

    @property
    def records(self) -> list[Record]:
        return self.telemetry.records

    async def next_record(self, count: int = 1) -> Record:
        """Waits until `count` requests are over: the record is written just after the client has the last byte."""
        async with asyncio.timeout(5):
            while len(self.records) < count:
                await asyncio.sleep(0.005)
        return self.records[count - 1]

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
    return {"auth": {"keys": [{"name": "app", "token": TOKEN}]}, "models": list(models), **blocks}


@contextlib.asynccontextmanager
async def running(
    *models: dict[str, Any], logs: Sequence[Telemetry] = (), keep_alive_s: float = KEEP_ALIVE_S, **blocks: Any
) -> AsyncIterator[RunningGateway]:
    """`blocks` are the configuration's; `logs` hear what the product's log would."""
    telemetry = Recorder(logs)
    loaded = load(yaml.safe_dump(configuration(*models, **blocks)), name="test.yaml", env={})

    def make_app() -> App:
        return build(loaded, telemetry, version="test", started=1, keep_alive_s=keep_alive_s)

    server = uvicorn.Server(uvicorn_config(make_app, timeout_graceful_shutdown=5))
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where it can see that it is TCP
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.005)
    headers = {"authorization": f"Bearer {TOKEN}"}
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False) as client:
            yield RunningGateway(url, client, telemetry)
    finally:
        server.should_exit = True
        await task
        listener.close()
