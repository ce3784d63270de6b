"""What a request costs in DynamoDB's units, measured at the endpoint; the table in docs/state.md is held against it.

    make test ARGS="tests/test_units.py -s"        # prints what was measured

A write of an item below 1 KB is one write unit, also when its condition fails. An item of a BatchGetItem is half a read
unit (eventually consistent), one of a GetItem a whole one (consistent).
"""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from core.store.expressions import write_value
from tests.dynamodb_endpoint import fresh_table
from tests.fake_upstream import Exchange, FakeUpstream, answers_json, completion
from tests.proxy import Proxy
from tests.running_gateway import TOKEN, Clock, RunningGateway, model, running

DOCUMENT = Path(__file__).parents[1] / "docs" / "state.md"
REQUESTS = 120


@dataclass(frozen=True)
class Case:
    """`environments` share one table; a request goes to one of them by chance, every `every_s` seconds."""

    models: list[dict[str, Any]]
    environments: int = 1
    every_s: float = 1.0
    down: frozenset[str] = frozenset()
    blocks: dict[str, Any] | None = None
    expected_writes: tuple[float, float] = (1.0, 1.0)
    expected_reads: tuple[float, float] = (0.0, 0.0)


def small(name: str, priority: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "priority": priority, "requests_per_minute": 1000, "requests_per_day": 100_000, **more}


ONE = [small("a")]
TWO = [small("a", 1), small("b", 2)]
CASES = {
    "One model, request limits only": Case(ONE),
    "The same, four environments": Case(ONE, environments=4),
    "The same, at 98 % of its limit": Case(
        [small("a", requests_per_minute=51)], environments=4, every_s=60 / 50, expected_writes=(1.0, 1.03)
    ),
    "Two models, the first is down": Case(TWO, down=frozenset({"a"}), expected_writes=(1.0, 1.15)),
    "Two models, both are down": Case(TWO, down=frozenset({"a", "b"}), expected_writes=(0.0, 0.35)),
    "Two models of one priority": Case([small("a"), small("b")], expected_reads=(1.0, 1.0)),
    "The same, one of them is full": Case([small("a", requests_per_day=1), small("b")]),
    "With a limit on the caller's key": Case(
        ONE,
        blocks={"auth": {"keys": [{"name": "app", "token": TOKEN, "requests_per_minute": 1000}]}},
        expected_writes=(2.0, 2.0),
    ),
    "With a provider's pool": Case(
        ONE, blocks={"providers": {"openai": {"requests_per_minute": 1000}}}, expected_writes=(2.0, 2.0)
    ),
    "With leases (`max_in_flight`)": Case([small("a", max_in_flight=5)], expected_writes=(2.0, 2.0)),
    "With slots (`min_interval_ms`)": Case([small("a", min_interval_ms=1)]),
    "With a limit on tokens": Case([small("a", tokens_per_minute=10**6)], expected_writes=(2.0, 2.0)),
    "With leases and a limit on tokens": Case(
        [small("a", max_in_flight=5, tokens_per_minute=10**6)], expected_writes=(2.0, 2.0)
    ),
}


@contextlib.asynccontextmanager
async def environments(case: Case, upstream: FakeUpstream, proxy: Proxy, endpoint: str) -> AsyncIterator[Any]:
    clock = Clock()
    state = fresh_table(endpoint).model_copy(update={"endpoint_url": proxy.url})
    blocks = {"state": state.model_dump(exclude={"path"}, exclude_none=True), **(case.blocks or {})}
    models = [model(upstream.url, **{"model_size": "BIG", "upstream_model": row["name"], **row}) for row in case.models]
    async with contextlib.AsyncExitStack() as stack:
        gateways = [
            await stack.enter_async_context(running(*models, door={"clock": clock}, **blocks))
            for _ in range(case.environments)
        ]
        yield gateways, clock


async def measure(case: Case, upstream: FakeUpstream, endpoint: str) -> tuple[float, float]:
    """Write and read units a request."""

    async def script(exchange: Exchange) -> None:
        is_down = exchange.request.json["model"] in case.down
        await (answers_json({}, 500) if is_down else answers_json(completion()))(exchange)

    upstream.script = script
    dice, reads = Random(1), 0.0
    async with Proxy(endpoint) as proxy, environments(case, upstream, proxy, endpoint) as (gateways, clock):
        for gateway in gateways:
            await ask(gateway)  # the first image of each
        proxy.operations.clear()
        for _ in range(REQUESTS):
            clock.advance(case.every_s * dice.uniform(0.5, 1.5))
            await ask(dice.choice(gateways))
        reads = proxy.operations["BatchGetItem"] * 0.5 * len(case.models) + proxy.operations["GetItem"]
        return proxy.operations["UpdateItem"] / REQUESTS, reads / REQUESTS


async def ask(gateway: RunningGateway) -> None:
    await gateway.chat(model="BIG")


@pytest.mark.parametrize("name", CASES)
async def test_a_request_costs_as_many_units_as_the_document_says(
    name: str, upstream: FakeUpstream, dynamodb: str
) -> None:
    case = CASES[name]
    writes, reads = await measure(case, upstream, dynamodb)
    print(f"\n| {name} | {writes:.2f} | {reads:.2f} |")
    assert case.expected_writes[0] <= writes <= case.expected_writes[1]
    assert case.expected_reads[0] <= reads <= case.expected_reads[1]
    assert documented()[name] == (f"{writes:.2f}", f"{reads:.2f}")


BEFORE_THE_PROVIDER = {
    "One model, request limits only": {"UpdateItem": 1},
    "With leases (`max_in_flight`)": {"UpdateItem": 1},
    "With leases and a limit on tokens": {"UpdateItem": 1},
    "Two models of one priority": {"BatchGetItem": 1, "UpdateItem": 1},
    "With a limit on the caller's key": {"UpdateItem": 2},
}


@pytest.mark.parametrize("name", BEFORE_THE_PROVIDER)
async def test_one_round_trip_stands_between_a_caller_and_the_provider(
    name: str, upstream: FakeUpstream, dynamodb: str
) -> None:
    """But for what is named in docs/performance.md."""
    seen: list[dict[str, int]] = []
    async with Proxy(dynamodb) as proxy, environments(CASES[name], upstream, proxy, dynamodb) as ([gateway], clock):

        async def script(exchange: Exchange) -> None:
            seen.append(dict(proxy.operations))
            await answers_json(completion())(exchange)

        upstream.script = script
        for _ in range(2):  # the first finds nothing in the table
            proxy.operations.clear()
            await ask(gateway)
            clock.advance(1)
    assert seen == [BEFORE_THE_PROVIDER[name]] * 2


def documented() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| ([^|]+?) +\| ([\d.]+) +\| ([\d.]+) +\|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (writes, reads) for name, writes, reads in rows}


def test_the_document_lists_every_case_and_no_other() -> None:
    assert list(documented()) == list(CASES)


async def test_an_item_with_everything_in_it_is_below_a_kilobyte(upstream: FakeUpstream, dynamodb: str) -> None:
    """So that a write is one unit."""
    limits = {f"{what}_per_{span}": 10**6 for what in ("requests", "tokens") for span in ("minute", "hour", "day")}
    case = Case([small("a" * 60, max_in_flight=5, min_interval_ms=1, **limits)])
    async with Proxy(dynamodb) as proxy, environments(case, upstream, proxy, dynamodb) as ([gateway], clock):
        for _ in range(3):
            await ask(gateway)
            clock.advance(86_400)
        image = await gateway.image(f"m#{'a' * 60}")
    size = sum(len(name) + len(str(next(iter(write_value(value).values())))) for name, value in image.items())
    assert len(image) >= 11
    assert size < 1024 - 100
