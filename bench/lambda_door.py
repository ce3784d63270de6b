"""`python -m bench.lambda_door`: how soon a function is there and has answered, and how long a chunk takes through it.

Lambda is the Runtime API of the tests, on this machine: no network, no AWS. The function is a process of its own, which
the exec wrapper starts; the provider shares this process and its clock with the Runtime API.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import orjson
from tabulate import tabulate

from core.config.schema import State
from tests.dynamodb_endpoint import CREDENTIALS, dynalite_endpoint, fresh_table, why_no_dynalite
from tests.fake_upstream import DONE, Exchange, FakeUpstream, answers_json, chunk, completion
from tests.function_url import EVENTS
from tests.lambda_function import SRC, STOCK, config_file, function, until_ready
from tests.running_gateway import TOKEN, ask, model
from tests.runtime_api import Answer, RuntimeApi

TABLE = {"store": "dynamodb", "table": "sluice", "region": "eu-west-1"}
SHOWN_MS = 8.0


def bytecode(folder: Path, what: str, config: str) -> str:
    """The folder with bytecode of `all`, or of the `standard` library only."""
    cache = str(folder / what)
    env = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"PYTHONPATH": f"{SRC}:{SRC.parent}", "SLUICE_CONFIG": config}
    subprocess.run([sys.executable, "-m", "bench.bytecode", what], env=env, check=True)
    return cache


async def cold_start(config: str, cache: str) -> tuple[float, float, float]:
    """From the start of a process to its first question: milliseconds, those of the CPU, and megabytes by then."""
    async with RuntimeApi() as api:
        began = time.perf_counter()
        async with function(api, config, PYTHONPYCACHEPREFIX=cache, PYTHONDONTWRITEBYTECODE="1") as running:
            await until_ready(api)
            took = time.perf_counter() - began
            return took * 1000, *used_by(running.process.pid)


async def first_answer(config: str, cache: str) -> float:
    """Milliseconds from the start of a process to the end of the answer to a question that was there already."""
    async with RuntimeApi() as api:
        answer, began = api.invoke(event()), time.perf_counter()
        async with function(api, config, PYTHONPYCACHEPREFIX=cache, PYTHONDONTWRITEBYTECODE="1"):
            await answer.until(lambda a: a.is_over.is_set(), 60)
            assert b"choices" in answer.body, answer.body
            return (time.perf_counter() - began) * 1000


def used_by(pid: int) -> tuple[float, float]:
    """Milliseconds of the CPU and megabytes, as in proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def imports(config: str, cache: str, code: str, rounds: int) -> dict[str, float]:
    """Milliseconds by package, each without what it imports of others, and each in its best round."""
    found = [imports_once(config, cache, code) for _ in range(rounds)]
    return {name: min(took.get(name, 0.0) for took in found) for name in found[0]}


def imports_once(config: str, cache: str, code: str) -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env={"PYTHONPATH": str(SRC), "SLUICE_CONFIG": config, "PYTHONPYCACHEPREFIX": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    took: defaultdict[str, float] = defaultdict(float)
    for line in ran.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            package = name.strip().partition(".")[0]
            took["Python itself" if package in sys.stdlib_module_names else package] += int(own) / 1000
    return took


async def chunk_delays(api: RuntimeApi, upstream: FakeUpstream, chunks: int) -> list[float]:
    """Milliseconds from the provider's write of each chunk until it is seen at the Runtime API. No chunk is sent before
    the one before it has been seen.
    """
    took: list[float] = []
    answer: Answer

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for number in range(chunks):
            word = f"word {number} "
            sent = time.monotonic()
            await exchange.send(chunk(word))
            await answer.until(partial(has_said, word.encode()))
            took.append((answer.pieces[-1][0] - sent) * 1000)
        await exchange.send(chunk(finish="stop") + DONE)
        await exchange.end()

    upstream.script = script
    answer = api.invoke(event(stream=True))
    await answer.until(lambda a: a.is_over.is_set(), 60)
    return took


def has_said(words: bytes, answer: Answer) -> bool:
    return any(words in piece for _, piece in answer.pieces[-2:])


async def round_trips(api: RuntimeApi, upstream: FakeUpstream, requests: int) -> list[float]:
    """Milliseconds from the invocation to the end of a whole answer."""
    took: list[float] = []
    upstream.script = answers_json(completion())
    for _ in range(requests):
        began = time.perf_counter()
        answer = api.invoke(event())
        await answer.until(lambda a: a.is_over.is_set(), 60)
        took.append((time.perf_counter() - began) * 1000)
    return took


def event(**more: bool) -> dict[str, object]:
    said: dict[str, object] = orjson.loads((EVENTS / "chat.json").read_bytes())
    return {**said, "headers": {"authorization": f"Bearer {TOKEN}"}, "body": orjson.dumps(ask(**more)).decode()}


async def measure(rounds: int, chunks: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await measure_starts(folder, rounds)
        await measure_first_answers(folder, rounds)
        await measure_answers(folder, chunks)


async def measure_starts(folder: Path, rounds: int) -> None:
    for client in ("httpx", "aiohttp"):
        (folder / client).mkdir()
    aiohttp, httpx = (
        config_file(folder / client, model("http://127.0.0.1:9"), state=TABLE, server={"http_client": client})
        for client in ("aiohttp", "httpx")
    )
    without, with_all = bytecode(folder, "standard", aiohttp), bytecode(folder, "all", aiohttp)
    kinds = [
        ("as it comes, no bytecode", aiohttp, without),
        ("bytecode, as make build leaves it", aiohttp, with_all),
        ("the same, http_client: httpx", httpx, with_all),
    ]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name, _, _ in kinds}
    for _ in range(rounds):
        for name, config, cache in kinds:
            found[name].append(await cold_start(config, cache))
    rows = [(name, *(statistics.median(values) for values in zip(*runs, strict=True))) for name, runs in found.items()]
    print(tabulate(rows, ["process start to first /next", "ms", "of the CPU", "MB"], floatfmt=".0f"), end="\n\n")
    at_start = imports(aiohttp, with_all, "import functions.lambda_stream.loop, functions.handler", rounds)
    later_too = "import functions.handler, core.routes.api, boto3, aws_lambda_powertools.metrics"
    all_of_it = imports(aiohttp, with_all, later_too, rounds)
    later = {name: ms for name, ms in all_of_it.items() if name not in at_start}
    for title, took in (("imported at start", at_start), ("imported on first use", later)):
        table = sorted(((ms, name) for name, ms in took.items() if ms >= SHOWN_MS), reverse=True)
        table.append((sum(took.values()), "all"))
        print(tabulate(table, ["ms", title], floatfmt=".0f"), end="\n\n")


async def measure_first_answers(folder: Path, rounds: int) -> None:
    """With the table on this machine, at a DynamoDB endpoint that is a process of its own."""
    if why_not := why_no_dynalite():
        print(f"the first answer was not measured: {why_not}")
        return
    os.environ |= CREDENTIALS
    found = {}
    with dynalite_endpoint() as endpoint:
        async with FakeUpstream() as upstream:
            upstream.script = answers_json(completion())
            for store in ("memory", "dynamodb"):
                state = fresh_table(endpoint, timeout_ms=150) if store == "dynamodb" else State(store="memory")
                (folder / store).mkdir()
                written = state.model_dump(exclude={"path"}, exclude_none=True)
                config = config_file(folder / store, model(upstream.url), state=written)
                cache = bytecode(folder / store, "all", config)
                found[store] = statistics.median([await first_answer(config, cache) for _ in range(rounds)])
    print(f"process start to the end of the first answer: {found['dynamodb']:.0f} ms,", end=" ")
    print(f"{found['memory']:.0f} with state in memory")


async def measure_answers(folder: Path, chunks: int) -> None:
    async with FakeUpstream() as upstream, RuntimeApi() as api, RuntimeApi() as stock:
        config = config_file(folder, model(upstream.url))
        async with function(api, config), function(stock, config, command=STOCK):
            await until_ready(api)
            await until_ready(stock)
            await chunk_delays(api, upstream, 50)  # warm
            await round_trips(stock, upstream, 50)
            delays = sorted(await chunk_delays(api, upstream, chunks))
            whole, buffered = [], []
            for _ in range(20):  # in turn: what else the machine does hits both
                whole += await round_trips(api, upstream, 50)
                buffered += await round_trips(stock, upstream, 50)
    print(f"a chunk from the provider to the Runtime API: median {statistics.median(delays):.2f} ms,", end=" ")
    print(f"p99 {delays[len(delays) * 99 // 100]:.2f} ms ({chunks} chunks, each seen before the next was sent)")
    print(f"a whole answer: median {statistics.median(whole):.2f} ms,", end=" ")
    print(f"under Lambda's own runtime {statistics.median(buffered):.2f} ms")


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m bench.lambda_door", description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--chunks", type=int, default=2000)
    chosen = options.parse_args()
    asyncio.run(measure(chosen.rounds, chosen.chunks))
