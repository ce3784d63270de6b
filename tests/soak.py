"""`make soak`: the gateway as people start it, under mixed traffic, while providers fail in every known way at random
and the store goes away and comes back. In the end all accounts must agree, and nothing may be left.

    make soak ARGS="--hours 2 --store dynamodb"

What each client sees is judged as it comes: a cut answer that looks finished, a status that nobody can explain, or an
answer that takes longer than a request may, ends the run.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import random
import resource
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import yaml

from core.config.schema import State
from core.plan import Image
from core.store import make_store
from core.store.fallback import PAUSE_S
from tests.dynamodb_endpoint import CREDENTIALS, dynamodb_endpoint, fresh_table
from tests.fake_upstream import Exchange, FakeUpstream, Script
from tests.misbehaviour import AFTER, BEFORE, ODD, SHORT_S, answers_well, fails, streams
from tests.proxy import Proxy
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, ask
from tests.served import Served, environment, served

ANSWER = "The answer is 42."
LONGEST_S = 12.0  # `total`, and what a busy machine adds
WELL = 0.75  # of all calls
REST_S = 0.05  # of a client that was told that there is no room
CLIENTS = 12
SHORT = {"connect": 1, "first_token": 2 * SHORT_S, "response": 2 * SHORT_S, "idle": 2 * SHORT_S, "total": 5}
BREAKER = {"failures": 3, "cooldown_seconds": 0.2, "max_cooldown_seconds": 1}
STATUSES = frozenset({200, 400, 429, 502, 503, 504})
LEFT = "left by the client"  # some before the gateway heard of it
NAMES = ("a", "b", "c", "d")
FALLS_BACK, GONE = "falls-back", "gone"  # the last is at an address where nobody listens

EXPECTED = (b"The store ", b"Limits are counted by this process alone", b"database is locked")

_LONG_WAITS = {"429 with retry-after"}  # 40 s, in which a model would learn nothing new
STREAMED = [failure.does[0] for failure in (*BEFORE, *AFTER) if failure.streamed and failure.name not in _LONG_WAITS]
STREAMED += [*ODD.values(), fails(429, retry_after="1")]
WHOLE = [failure.does[0] for failure in BEFORE if failure.whole and failure.name not in _LONG_WAITS]
WHOLE += [fails(429, retry_after="1")]


class Dishonest(AssertionError):
    """A client was shown what is not so."""


@dataclass
class Report:
    """What the run came to. `counted`: calls in the store, `seen`: calls that reached a provider."""

    seconds: float = 0.0
    store: str = ""
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    outages: int = 0
    store_told: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    held: list[str] = field(default_factory=list)
    log_lines: int = 0
    errors: list[str] = field(default_factory=list)
    exit_code: int | None = None
    files: tuple[int, int] = (0, 0)
    memory: tuple[float, float] = (0.0, 0.0)
    slowest_s: float = 0.0

    def complaints(self) -> list[str]:
        """Empty: all is well."""
        lost, alone = self.store_told["lost"], self.store_told["degraded"]
        strays = self.outages * CLIENTS  # an answer of the store that was lost with it counts a call too many
        found = [f"logged: {line}" for line in self.errors]
        found += [f"held in the store: {one}" for one in self.held]
        for name in (*NAMES, FALLS_BACK):
            seen, counted = self.seen[name], self.counted[name]
            if not seen - alone <= counted <= seen + lost + strays:
                found.append(
                    f"{name}: {counted} calls counted, {seen} seen ({lost} writes lost, {alone} counted alone)"
                )
        if not self.requests - self.statuses[LEFT] <= self.log_lines <= self.requests:
            found.append(f"{self.requests} requests, {self.log_lines} lines in the log")
        if self.files[1] > self.files[0]:
            found.append(f"{self.files[0]} open files after the beginning, {self.files[1]} in the end")
        if self.memory[1] > 1.1 * self.memory[0] + 8:
            found.append(f"{self.memory[0]:.0f} MB after the beginning, {self.memory[1]:.0f} MB in the end")
        if self.exit_code != 0:
            found.append(f"exit code {self.exit_code}")
        return found

    def table(self) -> str:
        calls, failed = self.seen.total(), self.failures
        differs = self.counted.total() - calls
        statuses = ", ".join(f"{count:,} {status}" for status, count in self.statuses.most_common())
        told = ", ".join(f"{count:,} {how}" for how, count in sorted(self.store_told.items())) or "none"
        rows = {
            "Store": f"{self.store}, out of reach {self.outages} times",
            "Time": f"{self.seconds / 60:.1f} minutes",
            "Requests": f"{self.requests:,} ({statuses})",
            "Calls that providers saw": f"{calls:,}, {failed:,} of them answered by a failure",
            "Calls in the store": f"{self.counted.total():,} ({differs:+,}; store operations: {told})",
            "Slowest answer": f"{self.slowest_s:.1f} s",
            "Memory": f"{self.memory[0]:.0f} MB after the first tenth, {self.memory[1]:.0f} MB in the end",
            "Open files at rest": f"{self.files[0]} after the first tenth, {self.files[1]} in the end",
            "Leases and probes left": str(len(self.held)),
        }
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows.items())])


class Provider:
    """Every model's, on one socket: it answers well, or fails in one of the ways of `misbehaviour.py`."""

    def __init__(self, dice: random.Random, report: Report) -> None:
        self._dice = dice
        self._report = report

    async def script(self, exchange: Exchange) -> None:
        self._report.seen[exchange.request.json["model"]] += 1
        script: Script = answers_well
        if self._dice.random() > WELL:
            self._report.failures += 1
            script = self._dice.choice(STREAMED if streams(exchange) else WHOLE)
        await script(exchange)


class Client:
    """Asks one thing after another, and believes nothing."""

    def __init__(self, http: httpx.AsyncClient, dice: random.Random, report: Report) -> None:
        self._http = http
        self._dice = dice
        self._report = report

    async def ask(self) -> None:
        visits: list[tuple[Callable[[], Awaitable[str]], int]] = [
            (self._whole, 8), (self._stream, 8), (self._leave, 2), (self._stranger, 1), (self._nonsense, 1)
        ]  # fmt: skip
        [visit] = self._dice.choices([visit for visit, _ in visits], [weight for _, weight in visits])
        began = time.monotonic()
        came_to = await visit()
        took_s = time.monotonic() - began
        self._report.statuses[came_to] += 1
        self._report.requests += 1
        self._report.slowest_s = max(self._report.slowest_s, took_s)
        if took_s > LONGEST_S:
            raise Dishonest(f"{visit.__name__} took {took_s:.1f} s")
        await asyncio.sleep(REST_S if came_to in ("429", "503") else 0)

    def _wish(self) -> dict[str, Any]:
        return ask(model=self._dice.choice([*NAMES, FALLS_BACK, "BIG", "BIG", GONE]))

    async def _whole(self) -> str:
        answer = await self._http.post("/v1/chat/completions", json=self._wish())
        _judge(answer)
        if answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] != ANSWER:
            raise Dishonest(answer.text)
        return str(answer.status_code)

    async def _stream(self) -> str:
        headers = {"x-sluice-recover": "true"} if self._dice.random() < 0.5 else {}
        answer = await self._http.post("/v1/chat/completions", json={**self._wish(), "stream": True}, headers=headers)
        _judge(answer)
        return str(answer.status_code) if answer.status_code != 200 else judge_stream(answer.text)

    async def _leave(self) -> str:
        """At a moment that nobody has chosen."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._dice.random() * 0.1):
                await self._http.post(
                    "/v1/chat/completions", json={**self._wish(), "stream": self._dice.random() < 0.5}
                )
        return LEFT

    async def _stranger(self) -> str:
        headers = {"authorization": "Bearer wrong-canary-ccddeeff0011"}
        return _expect(await self._http.post("/v1/chat/completions", json=self._wish(), headers=headers), 401)

    async def _nonsense(self) -> str:
        return _expect(await self._http.post("/v1/chat/completions", content=self._dice.randbytes(64)), 400)


def _judge(answer: httpx.Response) -> None:
    if answer.status_code not in STATUSES:
        raise Dishonest(f"{answer.status_code}: {answer.text}")
    if answer.status_code != 200 and not answer.json()["error"]["message"]:
        raise Dishonest(answer.text)
    if answer.status_code in (429, 503) and "retry-after" not in answer.headers:
        raise Dishonest(f"{answer.status_code} without retry-after: {answer.text}")


def judge_stream(text: str) -> str:
    """Whole, or said to be broken; never both, and never neither."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    bodies = [orjson.loads(event) for event in events if event != "[DONE]"]
    choices = [choice for body in bodies for choice in body.get("choices", ())]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    finishes = {choice["finish_reason"] for choice in choices if choice.get("finish_reason")}
    is_done, has_error = events[-1:] == ["[DONE]"], any("error" in body for body in bodies)
    if is_done and not has_error and finishes == {"stop"} and said == ANSWER:
        return "whole stream"
    if has_error and not is_done and not finishes and ANSWER.startswith(said):
        return "broken stream, and said so"
    raise Dishonest(text)


def _expect(answer: httpx.Response, status: int) -> str:
    if answer.status_code != status:
        raise Dishonest(f"{answer.status_code} instead of {status}: {answer.text}")
    return str(status)


# --- stores that go away


@dataclass
class Store:
    """What the configuration says of it, how to read it behind the gateway's back, an outage, the time that this takes
    until all is as before, and the most between two.
    """

    state: dict[str, Any]
    direct: State
    outage: Callable[[], Awaitable[None]]
    outage_s: float
    apart_s: float


@contextlib.asynccontextmanager
async def sqlite_file(folder: Path) -> AsyncIterator[Store]:
    """Another process locks the file."""
    state = State(store="sqlite", path=str(folder / "state.db"))

    async def outage() -> None:
        with contextlib.closing(sqlite3.connect(state.path, timeout=1, isolation_level=None)) as file:
            file.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(0.4)
            file.execute("ROLLBACK")

    yield Store({"store": "sqlite", "path": state.path}, state, outage, 1.5, 20)


@contextlib.asynccontextmanager
async def dynamodb_table(_: Path) -> AsyncIterator[Store]:
    """An endpoint that is not there for a second."""
    os.environ.update(CREDENTIALS)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every call
    with dynamodb_endpoint() as endpoint:
        table = fresh_table(endpoint)
        async with Proxy(endpoint) as proxy:

            async def outage() -> None:
                await proxy.die()
                await asyncio.sleep(1)
                await proxy.come_back()

            shown = table.model_copy(update={"endpoint_url": proxy.url, "timeout_ms": 5000})
            state = shown.model_dump(exclude={"path"}, exclude_none=True)
            yield Store(state, table, outage, 1.5 + PAUSE_S, 80)


STORES = {"sqlite": sqlite_file, "dynamodb": dynamodb_table}


# --- the run


async def soak(folder: Path, *, store: str, seconds: float, seed: int = 1) -> Report:
    """Raises Dishonest as soon as a client is shown what is not so."""
    report, dice = Report(store=store, seconds=seconds), random.Random(seed)
    async with STORES[store](folder) as kept, FakeUpstream() as upstream:
        upstream.script = Provider(dice, report).script
        (folder / "config.yaml").write_text(yaml.safe_dump(_configuration(upstream.url, kept)))
        env = environment(folder, {**CREDENTIALS, "RETRY_BASE_DELAY": "10ms"})
        async with served("--addr", "127.0.0.1:0", cwd=folder, env=env, token=TOKEN) as running:
            listening = [
                asyncio.create_task(_read_log(running, report)),
                asyncio.create_task(_read_errors(running, report)),
            ]
            try:
                await _play(running, kept, upstream, dice, report)
                report.store_told = await _store_told(running)
                report.requests += 1  # that was one, too
                running.process.terminate()
                report.exit_code = await asyncio.wait_for(running.process.wait(), 30)
            except BaseException:
                for task in listening:
                    task.cancel()
                raise
            await asyncio.gather(*listening)
        report.counted, report.held = await _read_store(kept)
    return report


async def _play(running: Served, kept: Store, upstream: FakeUpstream, dice: random.Random, report: Report) -> None:
    first = report.seconds / 10
    await _traffic(running, kept, dice, report, first)
    report.files, report.memory = (await _files_at_rest(running, upstream), 0), (_memory_mb(running), 0.0)
    upstream.requests.clear()
    await _traffic(running, kept, dice, report, report.seconds - first)
    report.files = report.files[0], await _files_at_rest(running, upstream)
    report.memory = report.memory[0], _memory_mb(running)


async def _traffic(running: Served, kept: Store, dice: random.Random, report: Report, seconds: float) -> None:
    until = time.monotonic() + seconds

    async def client() -> None:
        async with httpx.AsyncClient(
            base_url=running.url, headers=running.client.headers, timeout=30, trust_env=False
        ) as http:
            visitor = Client(http, dice, report)
            while time.monotonic() < until:
                await visitor.ask()

    async def outages() -> None:
        while (left := until - time.monotonic() - kept.outage_s) > 0:
            await asyncio.sleep(min(left, dice.uniform(0.5, kept.apart_s)))
            report.outages += 1
            await kept.outage()

    async with asyncio.TaskGroup() as group:
        group.create_task(outages())
        for _ in range(CLIENTS):
            group.create_task(client())


def _configuration(url: str, kept: Store) -> dict[str, Any]:
    """Limits that are counted and never reached: what is counted is to be compared."""
    models = [_model(url, name, model_size="BIG", priority=1 + at // 2) for at, name in enumerate(NAMES)]
    models.append(_model(url, FALLS_BACK, fallbacks=["a", "c"]))
    models.append(_model("http://127.0.0.1:9", GONE, fallbacks=["b"]))
    providers = {f"p-{name}": _account() for name in (*NAMES, FALLS_BACK, GONE)}
    keys = [{"name": "app", "token": TOKEN, "requests_per_day": 10**9}]
    return {"auth": {"keys": keys}, "state": kept.state, "providers": providers, "models": models}


def _account() -> dict[str, Any]:
    return {"dialect": "openai", "token": UPSTREAM_TOKEN, "requests_per_day": 10**9, "max_in_flight": 50}


def _model(url: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "provider": f"p-{name}",
        "base_url": f"{url}/v1",
        "upstream_model": name,
        "requests_per_day": 10**9,
        "max_in_flight": 4,
        "max_wait_ms": 200,
        "timeouts": SHORT,
        "breaker": BREAKER,
        "http_client_config": {"idle_conn_timeout_seconds": 1},
        **more,
    }


async def _read_log(running: Served, report: Report) -> None:
    assert running.process.stdout is not None
    async for line in running.process.stdout:
        report.log_lines += 1
        if b"canary" in line or orjson.loads(line).get("status") == 500:
            report.errors.append(line.decode())


async def _read_errors(running: Served, report: Report) -> None:
    """That the store fails and comes back is to be said; anything else is not to happen."""
    assert running.process.stderr is not None
    async for line in running.process.stderr:
        if not any(words in line for words in EXPECTED):
            report.errors.append(line.decode())


async def _store_told(running: Served) -> Counter[str]:
    answer = await running.client.get("/metrics", headers={"connection": "close"})
    rows = [line.split('"') for line in answer.text.splitlines() if line.startswith("sluice_store_total{")]
    return Counter({how: int(float(count.removeprefix("} "))) for _, how, count in rows})


async def _read_store(kept: Store) -> tuple[Counter[str], list[str]]:
    """Calls counted by model, and scopes in which a lease or a probe is left."""
    names = (*NAMES, FALLS_BACK, GONE)
    store = make_store(kept.direct)
    try:
        images = await store.snapshot([f"{kind}{name}" for kind in ("m#", "p#p-") for name in names])
    finally:
        await store.aclose()
    counted = Counter({name: _calls(images.get(f"m#{name}", {})) for name in names})
    return counted, [key for key, image in images.items() if {"q", "p"} & image.keys()]


def _calls(image: Image) -> int:
    return sum(count for name, count in image.items() if name.startswith("rd") and isinstance(count, int))


async def _files_at_rest(running: Served, upstream: FakeUpstream) -> int:
    """Open files of the gateway, once the connections to providers that nobody needs have been closed."""
    await running.client.get("/ping")
    await upstream.until_open(0, within_s=10)
    counts = []
    for _ in range(5):
        counts.append(_open_files(running))
        await asyncio.sleep(0.1)
    return min(counts)


def _open_files(running: Served) -> int:
    return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))


def _memory_mb(running: Served) -> float:
    pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    options = argparse.ArgumentParser(prog="make soak")
    options.add_argument("--minutes", type=float, default=4.0)
    options.add_argument("--hours", type=float, default=0.0)
    options.add_argument("--store", choices=[*STORES, "both"], default="both")
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    stores = list(STORES) if asked.store == "both" else [asked.store]
    seconds = (asked.hours * 3600 or asked.minutes * 60) / len(stores)
    complaints = []
    for store in stores:
        with tempfile.TemporaryDirectory(prefix="sluice-soak-") as folder:
            report = asyncio.run(soak(Path(folder), store=store, seconds=seconds, seed=asked.seed))
        print(report.table(), end="\n\n", flush=True)
        complaints += [f"{store}: {complaint}" for complaint in report.complaints()]
    raise SystemExit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()
