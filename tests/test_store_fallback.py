"""When the shared store fails: each scope is counted here or refuses, nothing is a 500, and it comes back by itself."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from core.admission import Outcome, Refusal, Reservation, Scope
from core.breaker import Breaker, cool
from core.limits import Cost, Limit
from core.plan import Image, Plan
from core.store.fallback import FAILURES, PAUSE_S, FallbackStore
from core.store.memory import MemoryStore
from core.store.owing import LATE_MS, OwingStore
from core.store.port import StoreBusy, StoreError, StoreMisconfigured
from core.throttle import Throttle
from tests.dynamodb_endpoint import fresh_table
from tests.fake_upstream import Exchange, FakeUpstream, answers_json, completion
from tests.proxy import Act, Proxy
from tests.running_gateway import RunningGateway, model, running

NOW = 1_795_428_930_000
SCOPE = Scope("m#a", (Limit("requests", "minute", 10),), breaker=Breaker(1, 15_000, 600_000))
DENIES = replace(SCOPE, key="m#strict", denies_without_store=True)
LEASED = Scope("m#leased", SCOPE.limits, throttle=Throttle(max_in_flight=1))


class ShakyStore(MemoryStore):
    """Fails as it is told, and keeps the last image of each item as a store far away does."""

    def __init__(self) -> None:
        super().__init__()
        self.error: StoreError | None = None
        self.calls = 0
        self.images: dict[str, Image] = {}

    def _called(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        self._called()
        return await super().snapshot(keys)

    async def reserve(self, scope: Scope, cost: Cost, **more: Any) -> Reservation | Refusal:
        self._called()
        verdict = await super().reserve(scope, cost, **more)
        self.images |= await super().snapshot([scope.key])
        return verdict

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        self._called()
        await super().finish(reservation, outcome, now_ms=now_ms)

    async def write(self, key: str, *plans: Plan) -> None:
        self._called()
        await super().write(key, *plans)


class Case:
    def __init__(self, instances: int = 1) -> None:
        self.shared, self.now = ShakyStore(), 100.0
        self.told: list[str] = []
        self.store = FallbackStore(
            OwingStore(self.shared, tell=self.told.append),
            expected_instances=instances,
            tell=self.told.append,
            clock=lambda: self.now,
        )

    async def ask(self, scope: Scope = SCOPE, call_id: str = "c") -> Reservation | Refusal:
        return await self.store.reserve(scope, Cost(), now_ms=NOW, call_id=call_id)

    async def admitted(self, times: int) -> int:
        verdicts = [await self.ask(call_id=f"{number}") for number in range(times)]
        return sum(isinstance(verdict, Reservation) for verdict in verdicts)


BROKEN = StoreError("broken")


async def test_a_scope_is_counted_here_when_the_store_fails() -> None:
    case = Case()
    case.shared.error = BROKEN
    assert await case.admitted(12) == 10
    assert set(case.told) == {"degraded"}


async def test_a_scope_that_denies_refuses_when_the_store_fails() -> None:
    case = Case()
    case.shared.error = BROKEN
    with pytest.raises(StoreError):
        await case.ask(DENIES)
    assert case.told == ["denied"]


@pytest.mark.parametrize(("instances", "share"), [(1, 10), (3, 3), (4, 2), (10, 1), (50, 1)])
async def test_a_process_takes_its_share_of_a_limit_and_at_least_one(instances: int, share: int) -> None:
    case = Case(instances)
    case.shared.error = BROKEN
    assert await case.admitted(12) == share


async def test_it_goes_on_from_what_it_saw_last() -> None:
    case = Case()
    assert await case.admitted(4) == 4
    case.shared.error = BROKEN
    assert await case.admitted(12) == 6


async def test_after_three_failures_it_is_left_alone_for_five_seconds_and_then_asked_once() -> None:
    case = Case()
    case.shared.error = BROKEN
    await case.admitted(8)
    assert case.shared.calls == FAILURES == 3
    case.now += PAUSE_S - 0.1
    await case.admitted(1)
    assert case.shared.calls == 3
    case.now += 0.2
    await case.admitted(4)
    assert case.shared.calls == 4


async def test_it_is_back_with_the_first_answer() -> None:
    case = Case()
    case.shared.error = BROKEN
    await case.admitted(3)
    case.shared.error = None
    case.now += PAUSE_S + 0.1
    assert isinstance(await case.ask(), Reservation)
    assert case.told[-1] == "back"
    before = case.shared.calls
    await case.admitted(2)
    assert case.shared.calls == before + 2


async def test_what_was_counted_here_is_settled_here() -> None:
    case = Case()
    case.shared.error = BROKEN
    reservation = await case.ask(call_id="mine")
    assert isinstance(reservation, Reservation)
    await case.store.finish(reservation, Outcome(False), now_ms=NOW)
    refusal = await case.ask()
    assert isinstance(refusal, Refusal)
    assert [reason.rule for reason in refusal.reasons] == ["breaker"]
    case.shared.error, case.now = None, case.now + PAUSE_S + 1
    assert isinstance(await case.ask(), Reservation), "the others never heard of it"


async def test_nothing_is_remembered_of_calls_that_were_refused_or_settled_here() -> None:
    case = Case()
    case.shared.error = BROKEN
    for number in range(30):
        verdict = await case.ask(call_id=f"{number}")
        if isinstance(verdict, Reservation):
            await case.store.finish(verdict, Outcome(), now_ms=NOW)
    assert case.store._calls_counted_here == set()


async def test_a_write_that_is_lost_is_told_and_harms_nobody() -> None:
    case = Case()
    reservation = await case.ask()
    assert isinstance(reservation, Reservation)
    case.shared.error = BROKEN
    await case.store.finish(reservation, Outcome(is_refund=True), now_ms=NOW)
    await case.store.write(SCOPE.key, cool(NOW + 1))
    assert case.told == ["lost", "lost"]


async def test_a_store_that_is_left_alone_is_not_told_how_a_call_ended_and_gets_its_lease_back_later() -> None:
    case = Case()
    held = await case.ask(LEASED)
    assert isinstance(held, Reservation)
    case.shared.error = BROKEN
    await case.admitted(FAILURES)
    case.told.clear()
    await case.store.finish(held, Outcome(), now_ms=NOW)
    await case.store.write(SCOPE.key, cool(NOW + 1))
    assert (case.shared.calls, case.told) == (1 + FAILURES, ["lost", "lost"])
    case.shared.error, case.now = None, case.now + PAUSE_S + 1
    await case.ask()
    await asyncio.sleep(0)
    assert isinstance(await case.ask(LEASED, "next"), Reservation)


@pytest.mark.parametrize("scope", [LEASED, SCOPE], ids=["a lease", "a probe"])
async def test_what_could_not_be_given_back_is_given_back_when_the_store_answers_again(scope: Scope) -> None:
    shaky = ShakyStore()
    owing = OwingStore(shaky, tell=lambda _: None)
    opened = NOW - 600_001
    await shaky.write(SCOPE.key, Plan(set={"f": 1, "u": opened, "l": opened}))
    held = await owing.reserve(scope, Cost(), now_ms=NOW, call_id="held")
    assert isinstance(held, Reservation)
    shaky.error = BROKEN
    await owing.finish(held, Outcome(verdict=True, is_refund=True), now_ms=NOW)
    with pytest.raises(StoreError):
        await owing.reserve(scope, Cost(), now_ms=NOW, call_id="meanwhile")
    shaky.error = None
    assert isinstance(await owing.reserve(scope, Cost(), now_ms=NOW, call_id="first"), Refusal)
    await asyncio.sleep(0)
    [image] = (await shaky.snapshot([scope.key])).values()
    assert not {"q", "p"} & image.keys()
    assert [image[name] for name in image if name.startswith("rm")] == [1], "what was counted stays counted"
    assert isinstance(await owing.reserve(scope, Cost(), now_ms=NOW, call_id="second"), Reservation)


class LateStore(ShakyStore):
    """Does what it is told after everybody has given up."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Callable[[], Any]] = []

    async def reserve(self, scope: Scope, cost: Cost, **more: Any) -> Reservation | Refusal:
        if more["call_id"] != "late":
            return await super().reserve(scope, cost, **more)
        self.late.append(lambda: super(LateStore, self).reserve(scope, cost, **more))
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("error", [BROKEN, None], ids=["time-out of the store", "cancelled"])
async def test_a_reservation_that_nobody_got_is_given_back_once_it_cannot_come_any_more(
    error: StoreError | None,
) -> None:
    late = LateStore()
    late.error = error
    owing = OwingStore(late, tell=lambda _: None)
    with pytest.raises((StoreError, TimeoutError)):
        async with asyncio.timeout(0.01):
            await owing.reserve(LEASED, Cost(), now_ms=NOW, call_id="late")
    late.error = None
    for after_ms, is_late, is_held in [(0, False, False), (10, True, True), (LATE_MS - 1, False, True)]:
        for write in late.late if is_late else []:
            await write()
        await owing.reserve(SCOPE, Cost(), now_ms=NOW + after_ms, call_id="other")
        await asyncio.sleep(0)
        assert ("q" in (await late.snapshot([LEASED.key])).get(LEASED.key, {})) is is_held
    await owing.reserve(SCOPE, Cost(), now_ms=NOW + LATE_MS, call_id="other")
    await asyncio.sleep(0)
    assert "q" not in (await late.snapshot([LEASED.key]))[LEASED.key]


@pytest.mark.parametrize("error", [StoreBusy("hot"), StoreMisconfigured("no table")])
async def test_what_was_refused_by_the_store_is_not_looked_for(error: StoreError) -> None:
    shaky = ShakyStore()
    owing = OwingStore(shaky, tell=lambda _: None)
    shaky.error = error
    with pytest.raises(type(error)):
        await owing.reserve(LEASED, Cost(), now_ms=NOW, call_id="c")
    shaky.error = None
    await owing.reserve(SCOPE, Cost(), now_ms=NOW + LATE_MS, call_id="other")
    await asyncio.sleep(0)
    assert shaky.calls == 2


async def test_what_is_owed_is_given_back_at_the_end() -> None:
    shaky = ShakyStore()
    owing = OwingStore(shaky, tell=lambda _: None)
    held = await owing.reserve(LEASED, Cost(), now_ms=NOW, call_id="held")
    assert isinstance(held, Reservation)
    shaky.error = BROKEN
    await owing.finish(held, Outcome(), now_ms=NOW)
    shaky.error, before = None, shaky.calls
    await owing.aclose()
    assert shaky.calls == before + 2, "looked for, and given back"


async def test_an_answer_is_given_though_the_store_dies_before_it_hears_of_it(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"

    async def holds_the_file(exchange: Exchange) -> None:
        file.execute("BEGIN EXCLUSIVE")
        await answers_json(completion())(exchange)

    upstream.script = holds_the_file
    state = {"store": "sqlite", "path": str(path), "timeout_ms": 50}
    async with running(model(upstream.url, max_in_flight=1, requests_per_day=9), state=state) as gateway:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            assert (await gateway.chat()).status_code == 200
            refused = await gateway.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            file.execute("ROLLBACK")
        upstream.script = answers_json(completion())
        assert (await gateway.chat()).status_code == 200, "its lease is free again"
        assert gateway.telemetry.store_events == ["lost"]
        assert await gateway.used("m#m1", "rd") == 2


async def test_a_throttled_key_is_busy_and_not_a_failure() -> None:
    case = Case()
    case.shared.error = StoreBusy("hot")
    for _ in range(5):
        refusal = await case.ask()
        assert isinstance(refusal, Refusal)
        assert [reason.rule for reason in refusal.reasons] == ["store_busy"]
    assert case.shared.calls == 5
    assert set(case.told) == {"busy"}


async def test_a_configuration_error_is_loud_each_time(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    case.shared.error = StoreMisconfigured("the table t cannot be used: AccessDeniedException")
    await case.admitted(2)
    assert [record.levelname for record in caplog.records if "AccessDenied" in record.message] == ["ERROR"] * 2


async def test_images_of_last_time_serve_when_nobody_can_be_asked() -> None:
    case = Case()
    await case.admitted(1)
    seen = await case.store.snapshot(["m#a", "m#b"])
    case.shared.error = BROKEN
    assert await case.store.snapshot(["m#a", "m#b"]) == seen


# --- the whole gateway on an endpoint that dies, throttles or refuses


@pytest.fixture
async def proxy(dynamodb: str) -> AsyncIterator[Proxy]:
    async with Proxy(dynamodb) as proxy:
        yield proxy


def on(proxy: Proxy, dynamodb: str, upstream: FakeUpstream, **more: Any) -> Any:
    state = fresh_table(dynamodb).model_copy(update={"endpoint_url": proxy.url, "timeout_ms": 500})
    models = [
        model(upstream.url, "a", requests_per_minute=30, model_size="BIG"),
        model(upstream.url, "strict", requests_per_minute=30, store_failure="deny"),
        model(upstream.url, "spare", priority=200, model_size="BIG"),
    ]
    return running(*models, state=state.model_dump(exclude={"path"}, exclude_none=True), **more)


async def statuses(gateway: RunningGateway, name: str, times: int) -> list[int]:
    return [(await gateway.chat(model=name)).status_code for _ in range(times)]


async def test_a_store_that_dies_is_never_a_500_and_is_used_again_when_it_is_back(
    upstream: FakeUpstream, proxy: Proxy, dynamodb: str
) -> None:
    async with on(proxy, dynamodb, upstream) as gateway:
        assert await statuses(gateway, "a", 3) == [200] * 3
        await proxy.die()
        assert await statuses(gateway, "a", 5) == [200] * 5
        denied = await gateway.chat(model="strict")
        assert (denied.status_code, denied.headers["retry-after"]) == (503, "1")
        assert denied.json()["error"]["code"] == "store_unavailable"
        assert "degraded" in gateway.telemetry.store_events
        await proxy.come_back()
        (store,) = gateway.app._stores.values()
        assert isinstance(store, FallbackStore)
        store._ask_again_at = 0.0  # as if the five seconds were over
        assert await statuses(gateway, "strict", 2) == [200] * 2
        assert gateway.telemetry.store_events[-1] == "back"
        assert await gateway.used("m#a", "rm") == 3


async def test_a_throttled_key_leads_to_the_next_candidate_else_to_a_429(
    upstream: FakeUpstream, proxy: Proxy, dynamodb: str
) -> None:
    hot = orjson.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"})
    async with on(proxy, dynamodb, upstream) as gateway:
        await statuses(gateway, "a", 1)
        acts: Callable[[str], Act] = lambda _: Act(status=400, body=hot)  # noqa: E731
        proxy.decide = acts
        refused = await gateway.chat(model="a")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        turns = iter([Act(), Act(status=400, body=hot)])
        proxy.decide = lambda operation: next(turns, Act()) if operation == "UpdateItem" else Act()
        answers = [await gateway.chat(model="BIG") for _ in range(2)]
        assert [answer.headers["x-sluice-model"] for answer in answers] == ["a", "spare"]


async def test_a_missing_table_is_said_loudly_and_each_model_is_counted_here(
    upstream: FakeUpstream, proxy: Proxy, dynamodb: str, caplog: pytest.LogCaptureFixture
) -> None:
    gone = orjson.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"})
    proxy.decide = lambda _: Act(status=400, body=gone)
    async with on(proxy, dynamodb, upstream) as gateway:
        assert await statuses(gateway, "a", 2) == [200, 200]
        ready = await gateway.client.get("/ready")
        assert ready.status_code == 200, "it serves, each process for itself"
    assert any("ResourceNotFoundException" in message for message in caplog.messages)
