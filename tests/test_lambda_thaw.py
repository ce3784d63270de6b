"""An environment that was frozen: what it knew may be old, and whom it was connected to may be gone."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from core.app import build
from core.config import Loaded
from functions.configuration import Configuration
from functions.telemetry import LambdaTelemetry
from functions.thaw import IDLE_S, WAIT_S, ThawingApp
from tests.fake_upstream import FakeUpstream, took
from tests.lambda_function import config_file
from tests.running_gateway import TOKEN, ask, model

TTL_S = 60.0
CANARY = "canary-of-a-key"


@dataclass
class Frozen:
    client: httpx.AsyncClient
    now: float = 1_000_000.0

    def clock(self) -> float:
        return self.now

    async def models(self) -> list[str]:
        return [row["id"] for row in (await self.client.get("/v1/models")).json()["data"]]

    async def chat(self) -> None:
        assert (await self.client.post("/v1/chat/completions", json=ask())).status_code == 200


@asynccontextmanager
async def frozen(
    config: str, *, kind: type[Configuration] = Configuration, wait_s: float = WAIT_S
) -> AsyncIterator[Frozen]:
    environment = Frozen(httpx.AsyncClient())
    configuration = kind({"SLUICE_CONFIG": config, "SLUICE_CONFIG_TTL": str(TTL_S)}, clock=environment.clock)
    telemetry = LambdaTelemetry("test")
    app = build(configuration.read(), telemetry, version="test", started=1)
    thawing = ThawingApp(app, configuration, telemetry, wait_s=wait_s, clock=environment.clock)
    headers = {"authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(thawing)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as environment.client:
        yield environment
    await app.drop_idle_connections()


async def test_a_configuration_that_is_due_is_read_beside_a_request_and_in_use_from_the_next(tmp_path: Path) -> None:
    async with frozen(config_file(tmp_path, model("http://127.0.0.1:9", "old"))) as environment:
        config_file(tmp_path, model("http://127.0.0.1:9", "new"))
        environment.now += TTL_S - 1
        assert [await environment.models() for _ in range(2)] == [["old"], ["old"]]
        environment.now += 1
        assert [await environment.models() for _ in range(2)] == [["old"], ["new"]]
        config_file(tmp_path, model("http://127.0.0.1:9", "newer"))
        environment.now += TTL_S
        assert [await environment.models() for _ in range(2)] == [["new"], ["newer"]]


async def test_one_that_is_much_too_old_serves_nobody_any_more(tmp_path: Path) -> None:
    """Two at once: neither is served by it."""
    async with frozen(config_file(tmp_path, model("http://127.0.0.1:9", "old"))) as environment:
        config_file(tmp_path, model("http://127.0.0.1:9", "new"))
        environment.now += 2 * TTL_S
        first, second = await asyncio.gather(environment.models(), environment.models())
        assert (first, second) == (["new"], ["new"])


async def test_one_that_is_wrong_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    async with frozen(config_file(tmp_path, model("http://127.0.0.1:9", "old"))) as environment:
        (tmp_path / "config.yaml").write_text("models: 5\n")
        environment.now += 2 * TTL_S
        assert [await environment.models() for _ in range(2)] == [["old"], ["old"]]


class Failing(Configuration):
    def refreshed(self) -> Loaded | None:
        if self._text is None:
            return super().refreshed()
        raise ValueError(CANARY)


async def test_one_that_cannot_be_read_for_a_reason_of_ours_is_told_without_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with frozen(config_file(tmp_path, model("http://127.0.0.1:9", "old")), kind=Failing) as environment:
        environment.now += 2 * TTL_S
        assert await environment.models() == ["old"]
    assert "reading the new one failed with ValueError" in caplog.text
    assert CANARY not in caplog.text
    assert "ConfigurationRefused" in capsys.readouterr().out


async def test_a_read_that_hangs_holds_a_request_for_a_while_at_most_and_the_old_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aws_credentials: None
) -> None:
    """Before its answer and behind it, in all. AWS takes the connection and says nothing until the test is over."""
    async with frozen(config_file(tmp_path, model("http://127.0.0.1:9", "old")), wait_s=1.0) as environment:
        with socket.create_server(("127.0.0.1", 0)) as says_nothing:
            monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{says_nothing.getsockname()[1]}")
            config_file(tmp_path, {**model("http://127.0.0.1:9", "new"), "token": "ssm:/hangs"})
            environment.now += 2 * TTL_S
            with took(1.0, 1.9):
                assert await environment.models() == ["old"]


async def test_a_connection_that_lay_idle_is_not_used_again(upstream: FakeUpstream, tmp_path: Path) -> None:
    async with frozen(config_file(tmp_path, model(upstream.url))) as environment:
        for _ in range(3):
            await environment.chat()
            environment.now += IDLE_S
        await environment.chat()
        assert upstream.connections == 1
        environment.now += IDLE_S + 1
        await environment.chat()
        assert upstream.connections == 2
    await upstream.until_open(0)
