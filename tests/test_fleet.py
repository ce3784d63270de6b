"""Four `sluice serve` processes on one DynamoDB endpoint: one set of limits, and what one learns all know."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.dynamodb_endpoint import CREDENTIALS, fresh_table
from tests.fake_upstream import Exchange, FakeUpstream, answers_json, completion
from tests.running_gateway import TOKEN, ask, model
from tests.served import Served, served

PROCESSES, REQUESTS = 4, 400


def far_from_a_border() -> str:
    """A day that began twelve hours ago: no test runs over its end."""
    return f"{datetime.now(UTC) - timedelta(hours=12):%H:%M} Etc/UTC"


@contextlib.asynccontextmanager
async def fleet(folder: Path, endpoint: str, *models: dict[str, Any], **blocks: Any) -> AsyncIterator[list[Served]]:
    state = fresh_table(endpoint, timeout_ms=20_000).model_dump(exclude={"path"}, exclude_none=True)
    auth = {"keys": [{"name": "app", "token": TOKEN}]}
    text = yaml.safe_dump({"auth": auth, "state": state, "models": list(models), **blocks})
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    async with contextlib.AsyncExitStack() as stack:
        starting = [
            stack.enter_async_context(served("--addr", "127.0.0.1:0", cwd=folder, env=CREDENTIALS, token=TOKEN))
            for _ in range(PROCESSES)
        ]
        yield [await one for one in starting]


async def chat(process: Served, name: str) -> httpx.Response:
    return await process.client.post("/v1/chat/completions", json=ask(model=name))


@pytest.mark.parametrize("where", ["dynamodb", "dynalite"])
async def test_four_processes_under_400_requests_admit_exactly_the_sum_of_the_limits(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, upstream: FakeUpstream
) -> None:
    limits = {"a": 60, "b": 45, "c": 30}
    day_starts = far_from_a_border()
    models = [
        model(
            upstream.url,
            name,
            upstream_model=name,
            model_size="BIG",
            priority=priority,
            requests_per_day=most,
            day_starts=day_starts,
        )
        for priority, (name, most) in enumerate(limits.items())
    ]
    async with fleet(tmp_path, request.getfixturevalue(where), *models) as processes:
        answers = await asyncio.gather(*(chat(processes[number % PROCESSES], "BIG") for number in range(REQUESTS)))
    assert Counter(answer.status_code for answer in answers) == {200: 135, 429: REQUESTS - 135}
    assert Counter(asked.json["model"] for asked in upstream.requests) == limits
    assert {answer.headers["retry-after"].isdigit() for answer in answers if answer.status_code == 429} == {True}


async def test_what_one_process_hears_of_a_model_keeps_the_other_three_away_from_it(
    tmp_path: Path, upstream: FakeUpstream, dynamodb: str
) -> None:
    async def script(exchange: Exchange) -> None:
        asked = exchange.request.json["model"]
        if asked == "broken":
            await answers_json({"error": {"message": "no"}}, 500)(exchange)
        elif asked == "busy":
            await answers_json({"error": {"message": "no"}}, 429, retry_after="300")(exchange)
        else:
            await answers_json(completion())(exchange)

    upstream.script = script
    models = [
        model(upstream.url, name, upstream_model=name, model_size="BIG", priority=priority)
        for priority, name in enumerate(("broken", "busy", "steady"))
    ]
    async with fleet(tmp_path, dynamodb, *models) as processes:
        for process in processes:
            assert (await chat(process, "BIG")).headers["x-sluice-model"] == "steady"
    assert Counter(asked.json["model"] for asked in upstream.requests) == {"broken": 1, "busy": 1, "steady": 4}
