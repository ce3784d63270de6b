"""`GET /metrics`: what happened, in Prometheus' own form, from `sluice serve` with one worker and with several."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from core.app import build
from core.config import load
from core.telemetry import Record
from sluice.metrics import Metrics, path_label
from tests.canaries import told
from tests.running_gateway import Recorder, configuration, model
from tests.served import LOCAL_TOKEN, Served, served

QUICK = {"first_token_ms": 1, "token_ms": 1, "reply": "one two three"}
MODELS: list[dict[str, Any]] = [
    {"name": "demo/quick", "demo": QUICK, "model_size": "SMALL", "requests_per_day": 900, "tokens_per_day": 90_000},
    {"name": "demo/limited", "demo": QUICK, "requests_per_day": 1},
    {"name": "demo/broken", "demo": {"status": 500}, "breaker": {"failures": 1, "cooldown_seconds": 100}},
    {"name": "demo/busy", "demo": {"status": 429, "retry_after_seconds": 200}},
    {"name": "demo/endless", "demo": {"first_token_ms": 1, "stall_after": 1}},
]


class Read:
    """One answer of /metrics; a sample that is not there counts as 0. No family may come twice."""

    def __init__(self, text: str) -> None:
        found = list(text_string_to_metric_families(text))
        self.families = {family.name: family for family in found}
        assert len(self.families) == len(found)
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples.get((f"sluice_{name}", frozenset(labels.items())), 0.0)

    def label_values(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.families[f"sluice_{name}"].samples}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    keys = {"keys": [{"name": "app", "token": LOCAL_TOKEN}]}
    models = [{"provider": "demo", "priority": at, **entry} for at, entry in enumerate(MODELS)]
    state = {"store": "sqlite", "path": "state.db", "timeout_ms": 2000}
    config = {"auth": keys, "models": models, "state": state, "server": {"max_attempts": 2}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {"RETRY_BASE_DELAY": "1ms", "TMPDIR": str(home / "tmp")}


async def read(running: Served) -> Read:
    answer = await running.client.get("/metrics", headers={"connection": "close"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    told("metrics", answer.text)
    return Read(answer.text)


async def until_read(running: Served, name: str, value: float, **labels: str) -> None:
    """Waits: a request is over for the client a moment before it is for us."""
    async with asyncio.timeout(15):
        while (await read(running))(name, **labels) != value:
            await asyncio.sleep(0.05)


async def chat(client: httpx.AsyncClient, name: str, **more: Any) -> int:
    body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], **more}
    answer = await client.post("/v1/chat/completions", json=body, headers={"connection": "close"})
    return answer.status_code


async def test_who_reads_the_log_may_be_gone(home: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    async with served("--addr", "127.0.0.1:0", cwd=home, env=environment(home), stdout=writes) as running:
        os.close(writes)
        assert [await chat(running.client, "demo/quick") for _ in range(3)] == [200] * 3
        assert (await read(running))("requests_total", path="/v1/chat/completions", status="200") == 3


async def test_everything_that_happened_is_counted(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", cwd=home, env=environment(home)) as running:
        client = running.client
        assert (await client.get("/metrics", headers={"authorization": ""})).status_code == 401
        assert [await chat(client, "demo/quick") for _ in range(2)] == [200, 200]
        assert await chat(client, "SMALL", stream=True) == 200
        assert [await chat(client, "demo/limited") for _ in range(3)] == [200, 429, 429]
        assert [await chat(client, "demo/broken") for _ in range(2)] == [502, 503]
        assert [await chat(client, "demo/busy") for _ in range(2)] == [429, 429]
        found = await read(running)

    chats = "/v1/chat/completions"
    statuses = {status: found("requests_total", path=chats, status=status) for status in ("200", "429", "502", "503")}
    assert statuses == {"200": 4, "429": 4, "502": 1, "503": 1}
    assert found("requests_total", path="/metrics", status="401") == 1

    attempts = {
        (name, outcome): found("attempts_total", model=f"demo/{name}", outcome=outcome)
        for name, outcome in (("quick", "ok"), ("limited", "ok"), ("broken", "transient"), ("busy", "busy"))
    }
    assert list(attempts.values()) == [3, 1, 2, 1]
    refusals = [
        found("refusals_total", scope=f"m#demo/{name}", rule=rule)
        for name, rule in (("limited", "requests_per_day"), ("broken", "breaker"), ("busy", "cooldown"))
    ]
    assert refusals == [2, 1, 1]
    openings = [found("breaker_openings_total", model=f"demo/{name}") for name in ("quick", "broken", "busy")]
    assert openings == [0, 1, 0]

    assert found("tokens_total", model="demo/quick", kind="completion") == 9  # three words each
    assert found("tokens_total", model="demo/quick", kind="prompt") > 9
    assert found("first_token_seconds_count", model="demo/quick") == 1  # a whole answer has no first token
    assert found("first_token_seconds_bucket", model="demo/quick", le="2.0") == 1
    assert found("overhead_seconds_count") == 6  # not those that no provider was asked for
    assert 0 < found("overhead_seconds_sum") < 6

    assert 90 < found("breaker_open_seconds", model="demo/broken") <= 100
    assert 190 < found("cooldown_seconds", model="demo/busy") <= 200
    assert found("breaker_open_seconds", model="demo/quick") == found("cooldown_seconds", model="demo/quick") == 0
    assert found.label_values("cooldown_seconds", "model") == {entry["name"] for entry in MODELS}


async def test_streams_are_open_until_they_are_not(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", cwd=home, env=environment(home)) as running:
        body = {"model": "demo/endless", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        async with running.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.aiter_raw()  # held, or the connection would be closed with it
            await anext(pieces)
            assert (await read(running))("streams_open") == 1
        await until_read(running, "streams_open", 0)
        found = await read(running)
    assert found("attempts_total", model="demo/endless", outcome="client_left") == 1


async def test_paths_and_methods_that_anybody_makes_up_become_no_labels(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", cwd=home, env=environment(home)) as running:
        for number in range(30):
            assert (await running.client.get(f"/wp-{number}.php", headers={"authorization": ""})).status_code == 401
            assert (await running.client.get(f"/v2/{number}")).status_code == 404
            assert (await running.client.get(f"/v1/models/gpt-{number}")).status_code == 404
            assert (await running.client.delete(f"/ping?{number}")).status_code == 405
            assert await chat(running.client, f"gpt-{number}") == 404
        found = await read(running)
    assert found.label_values("requests", "path") == {"other", "/v1/models/{id}", "/ping", "/v1/chat/completions"}
    assert found("requests_total", path="other", status="401") == 30
    assert found("requests_total", path="other", status="404") == 30
    assert len(found.families) < 30
    assert sum(len(family.samples) for family in found.families.values()) < 150


@pytest.mark.skipif(os.name != "posix", reason="uvicorn's workers are ended by signals")
async def test_with_several_workers_the_numbers_of_all_are_added_up(home: Path) -> None:
    args = ("--addr", "127.0.0.1:0", "--workers", "2")
    async with served(*args, cwd=home, env=environment(home)) as running:
        chats = await until_both_serve(running, home) + 40
        statuses = await asyncio.gather(*(chat(running.client, "demo/quick") for _ in range(40)))
        assert statuses == [200] * 40
        await until_read(running, "requests_total", chats, path="/v1/chat/completions", status="200")
        for _ in range(6):  # whoever answers
            found = await read(running)
            assert found("requests_total", path="/v1/chat/completions", status="200") == chats
            assert found("attempts_total", model="demo/quick", outcome="ok") == chats
            assert found("tokens_total", model="demo/quick", kind="completion") == 3 * chats
            labels = {label for family in found.families.values() for s in family.samples for label in s.labels}
            assert labels == {"path", "status", "model", "kind", "outcome", "le"}  # no worker for itself
        running.process.send_signal(signal.SIGTERM)
        assert (await running.ended())[0] == 0
    assert list((home / "tmp").glob("sluice-metrics-*")) == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the workers' numbers are read from /proc")
async def test_streams_of_a_worker_that_was_killed_are_not_open_any_more(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", "--workers", "2", cwd=home, env=environment(home)) as running:
        chats = await until_both_serve(running, home)
        body = {"model": "demo/endless", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        async with running.client.stream("POST", "/v1/chat/completions", json=body) as response:
            pieces = response.aiter_raw()  # held, or the connection would be closed with it
            await anext(pieces)
            await until_read(running, "streams_open", 1)
            for pid in workers(running):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(httpx.HTTPError):
                await anext(pieces)
        await until_read(running, "streams_open", 0)  # by workers that were started in their place
        found = await read(running)
    assert found("attempts_total", model="demo/quick", outcome="ok") == chats, "what the dead have counted stays"


async def until_both_serve(running: Served, home: Path) -> int:
    """How many chats that took. A worker's files are there as soon as it has answered; the second one starts later."""
    chats = 0
    async with asyncio.timeout(20):
        while len(list((home / "tmp").glob("sluice-metrics-*/counter_*.db"))) < 2:
            await asyncio.gather(*(chat(running.client, "demo/quick") for _ in range(4)))
            chats += 4
    return chats


def workers(running: Served) -> list[int]:
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def test_every_path_of_ours_is_a_label_of_its_own() -> None:
    metrics = Metrics()
    loaded = load(yaml.safe_dump(configuration(model("http://upstream"))), name="test.yaml", env={})
    front_door: Any = build(loaded, Recorder(), version="test", started=1, routes=[metrics.routes])._served[-1].surface
    api = await front_door._app._load()
    assert isinstance(api, FastAPI)
    paths = api.openapi()["paths"]
    assert {"/metrics", "/v1/chat/completions", "/v1/models/{name}"} <= set(paths)
    assert "other" not in {path_label(path) for path in paths}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/models", "/models"),
        ("/openapi.json", "/openapi.json"),
        ("/v1/models/a/b/c", "/v1/models/{id}"),
        ("/models/a", "/v1/models/{id}"),
        ("/v1/chat/completions/", "other"),
        ("/V1/models", "other"),
        ("", "other"),
    ],
)
def test_label_of_a_path(path: str, label: str) -> None:
    assert path_label(path) == label


def test_request_without_an_answer_is_counted_as_status_0() -> None:
    metrics = Metrics()
    metrics.request_done(Record("id", "POST", "/v1/chat/completions", 0.0))
    assert Read(metrics.text().decode())("requests_total", path="/v1/chat/completions", status="0") == 1


def test_metrics_of_one_application_are_not_anothers() -> None:
    one, other = Metrics(), Metrics()
    one.attempted(Record("id", "POST", "/", 0.0, model="m"), "ok")
    counts = Counter(metrics.text().decode().count('outcome="ok"') > 0 for metrics in (one, other))
    assert counts == {True: 1, False: 1}
