"""The DynamoDB store beyond what every store promises: what it asks for, when, and what becomes of lost answers."""

import asyncio
import gc
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from core.admission import Outcome, Refusal, Reservation, Scope
from core.breaker import Breaker
from core.config.schema import State
from core.ledger import Ledger
from core.limits import Cost, Limit
from core.plan import Plan, members, number
from core.store.dynamodb import FIRST_OPERATION_S, LOOK_AGAIN_MS, MAX_TRIES, DynamoDbStore
from core.store.dynamodb_client import make_client
from core.store.owing import LATE_MS, OwingStore
from core.store.port import StateStore, StoreBusy, StoreError, StoreMisconfigured
from core.throttle import Throttle
from tests.dynamodb_endpoint import fresh_table
from tests.fake_upstream import took
from tests.proxy import Act, Proxy
from tests.running_gateway import Clock, catalog_of, model

NOW = 1_795_428_930_000  # 2026-11-23, 10:15:30 UTC
COST = Cost(1, 514)
PER_MINUTE = Scope("m#a", (Limit("requests", "minute", 50),))


@pytest.fixture
async def proxy(dynamodb: str) -> AsyncIterator[Proxy]:
    async with Proxy(dynamodb) as proxy:
        yield proxy


@pytest.fixture
def state(dynamodb: str, proxy: Proxy) -> State:
    """A new table, reached through the proxy."""
    return fresh_table(dynamodb).model_copy(update={"endpoint_url": proxy.url})


@pytest.fixture
async def store(state: State) -> AsyncIterator[DynamoDbStore]:
    store = DynamoDbStore(state)
    yield store
    await store.aclose()


async def ask(store: StateStore, scope: Scope = PER_MINUTE, *, now_ms: int = NOW, call_id: str = "") -> Any:
    return await store.reserve(scope, Cost(1, 100), now_ms=now_ms, call_id=call_id or random.randbytes(6).hex())


def used(image: Any) -> int:
    return sum(int(value) for name, value in image.items() if name.startswith("rm"))


# --- the endpoint itself


@pytest.mark.parametrize("endpoint", ["dynamodb", "dynalite"])
def test_increments_that_come_at_once_all_land(endpoint: str, request: pytest.FixtureRequest) -> None:
    """Of an endpoint that loses some, no race would prove anything."""
    store = DynamoDbStore(fresh_table(request.getfixturevalue(endpoint)))
    start = threading.Barrier(16)

    def add(_: int) -> None:
        async def main() -> None:
            start.wait(30)
            for _ in range(20):
                await store.write("m#a", Plan(add={"rm1": 1}))

        asyncio.run(main())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(add, range(16)))

    async def look() -> int:
        image = (await store.snapshot(["m#a"]))["m#a"]
        await store.aclose()
        return number(image, "rm1")

    assert asyncio.run(look()) == 16 * 20


# --- what is asked for


async def test_admission_is_one_write_and_a_success_none(store: DynamoDbStore, proxy: Proxy) -> None:
    for _ in range(10):
        reservation = await ask(store)
        await store.finish(reservation, Outcome(verdict=True), now_ms=NOW)
    assert proxy.operations == {"UpdateItem": 10}


async def test_what_the_last_image_says_is_full_costs_nothing_until_there_is_room(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    scope = Scope("m#a", (Limit("requests", "minute", 2),))
    assert [type(await ask(store, scope)) for _ in range(5)] == [Reservation] * 2 + [Refusal] * 3
    assert proxy.operations == {"UpdateItem": 2}
    assert isinstance(await ask(store, scope, now_ms=NOW + 30_000), Reservation)
    assert proxy.operations == {"UpdateItem": 3}


async def test_what_the_last_image_says_is_open_costs_nothing_until_it_may_be_tried(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    scope = Scope("m#a", breaker=Breaker(1, 15_000, 600_000))
    await store.finish(await ask(store, scope), Outcome(verdict=False), now_ms=NOW)
    assert [type(await ask(store, scope)) for _ in range(5)] == [Refusal] * 5
    assert proxy.operations == {"UpdateItem": 2}
    assert (await ask(store, scope, now_ms=NOW + 15_000)).probe_id
    assert proxy.operations == {"UpdateItem": 3}


async def test_a_breaker_that_somebody_reset_is_heard_of_within_a_minute(state: State, store: DynamoDbStore) -> None:
    scope = Scope("m#a", breaker=Breaker(1, 600_000, 600_000))
    await store.finish(await ask(store, scope), Outcome(verdict=False), now_ms=NOW)
    assert isinstance(await ask(store, scope, now_ms=NOW + 1), Refusal)
    operator = DynamoDbStore(state)
    await operator.write(scope.key, Plan(remove=["f", "u", "l"]))
    await operator.aclose()
    assert isinstance(await ask(store, scope, now_ms=NOW + LOOK_AGAIN_MS), Refusal)
    assert isinstance(await ask(store, scope, now_ms=NOW + 1 + LOOK_AGAIN_MS), Reservation)


async def test_a_breaker_that_stays_open_is_looked_at_once_a_minute(store: DynamoDbStore, proxy: Proxy) -> None:
    scope = Scope("m#a", breaker=Breaker(1, 600_000, 600_000))
    await store.finish(await ask(store, scope), Outcome(verdict=False), now_ms=NOW)
    for second in range(1, 182):
        assert isinstance(await ask(store, scope, now_ms=NOW + second * 1000), Refusal)
    assert proxy.operations == {"UpdateItem": 2, "GetItem": 3}


async def test_failure_settlement_and_cooldown_are_one_write(store: DynamoDbStore, proxy: Proxy) -> None:
    scope = Scope("m#a", (Limit("tokens", "minute", 1000),), breaker=Breaker(1, 15_000, 600_000), throttle=Throttle(2))
    reservation = await ask(store, scope)
    await store.finish(reservation, Outcome(False, tokens=7, cool_until_ms=NOW + 9_000), now_ms=NOW)
    assert proxy.operations == {"UpdateItem": 2}
    image = store.images["m#a"]
    assert (image["f"], image["c"], image["tm29923815"]) == (1, NOW + 9_000, 7)
    assert "q" not in image


async def test_a_single_candidate_is_not_looked_up_and_several_equal_ones_in_one_read(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    catalog = catalog_of(*(model("http://x", name, requests_per_day=9) for name in ("a", "b", "c")))
    ledger = Ledger(store, Clock())
    assert await ledger.in_order(catalog.models[:1], COST) == catalog.models[:1]
    assert proxy.operations == {}
    assert len(await ledger.in_order(catalog.models, COST)) == 3
    assert proxy.operations == {"BatchGetItem": 1}


async def test_of_several_equal_ones_those_without_room_by_their_last_image_are_not_looked_up(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    limits: list[dict[str, Any]] = [{"requests_per_day": 1}, {"max_in_flight": 1}, {"requests_per_day": 1}]
    models = catalog_of(*(model("http://x", name, **more) for name, more in zip("abc", limits, strict=True))).models
    clock = Clock()
    ledger = Ledger(store, clock)

    async def order() -> str:
        return "".join(one.name for one in await ledger.in_order(models, COST))

    for one in models[:2]:
        await ask(store, one.scope, now_ms=ledger.now_ms())
    assert await order() == "cba", "a lease may be given back any moment"
    assert proxy.operations == {"UpdateItem": 2, "BatchGetItem": 1}
    await ask(store, models[2].scope, now_ms=ledger.now_ms())
    assert await order() == "bac"
    assert proxy.operations == {"UpdateItem": 3, "BatchGetItem": 1}
    clock.advance(86_400)
    assert sorted(await order()) == ["a", "b", "c"]
    assert proxy.operations == {"UpdateItem": 3, "BatchGetItem": 2}


async def test_a_cold_start_knows_what_others_have_learnt(state: State, store: DynamoDbStore) -> None:
    """Of a model that is cooling until 17:03 a new environment hears with its first try."""
    scope = Scope("m#a", (Limit("requests", "day", 9),), breaker=Breaker(1, 15_000, 600_000))
    until = NOW + 6 * 3_600_000
    await store.finish(await ask(store, scope), Outcome(cool_until_ms=until), now_ms=NOW)
    newcomer = DynamoDbStore(state)
    refusal = await ask(newcomer, scope)
    assert isinstance(refusal, Refusal)
    assert [(reason.rule, reason.until_ms) for reason in refusal.reasons] == [("cooldown", until)]
    await newcomer.aclose()


async def test_windows_roll_over_and_only_the_previous_one_is_kept(store: DynamoDbStore) -> None:
    for minute in range(4):
        assert isinstance(await ask(store, now_ms=NOW + minute * 60_000), Reservation)
        first = 29923815 + minute
        kept = {f"rm{first}"} | ({f"rm{first - 1}"} if minute else set())
        assert {name for name in store.images["m#a"] if name.startswith("rm")} == kept


async def test_two_clocks_two_seconds_apart_share_a_limit(state: State) -> None:
    """Around a border both windows have their own room, and no window has more than that."""
    early, late = DynamoDbStore(state), DynamoDbStore(state)
    border = NOW + 30_000
    admitted = 0
    for step in range(-3_000, 3_000, 100):
        for store, skew in ((early, 1_000), (late, -1_000)):
            admitted += isinstance(await ask(store, now_ms=border + step + skew), Reservation)
    image = (await early.snapshot(["m#a"]))["m#a"]
    counted = [value for name, value in image.items() if name.startswith("rm")]
    assert sorted(map(str, counted)) == ["50", "50"]
    assert admitted == 100
    for store in (early, late):
        await store.aclose()


# --- lost answers


async def test_of_lost_answers_one_over_counts_and_none_admits_too_many(state: State, proxy: Proxy) -> None:
    """One answer in ten is thrown away after the endpoint has done what was asked."""
    dice, lost = random.Random(7), 0

    def decide(operation: str) -> Act:
        nonlocal lost
        loses = operation == "UpdateItem" and dice.random() < 0.1
        lost += loses
        return Act(loses=loses)

    proxy.decide = decide
    store = DynamoDbStore(state)

    async def call(number: int) -> int:
        try:
            verdict = await ask(store, call_id=f"{number}")
        except StoreError:
            return 0
        return int(isinstance(verdict, Reservation))

    admitted = sum(await asyncio.gather(*(call(number) for number in range(120))))
    proxy.decide = lambda _: Act()
    counted = used((await store.snapshot(["m#a"]))["m#a"])
    assert lost >= 5
    assert admitted <= counted <= 50
    assert admitted >= 50 - lost
    await store.aclose()


async def test_a_refund_whose_answer_is_lost_is_not_repeated(store: DynamoDbStore, proxy: Proxy) -> None:
    first, second = await ask(store), await ask(store)
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    proxy.decide = lambda _: Act(loses=True)
    before = proxy.operations["UpdateItem"]
    with pytest.raises(StoreError):
        await store.finish(second, Outcome(is_refund=True), now_ms=NOW)
    assert proxy.operations["UpdateItem"] == before + 1
    proxy.decide = lambda _: Act()
    assert used((await store.snapshot(["m#a"]))["m#a"]) == 1


async def test_a_lease_whose_return_is_lost_is_given_back_again(store: DynamoDbStore, proxy: Proxy) -> None:
    scope = Scope("p#a", throttle=Throttle(1))
    reservation = await ask(store, scope)
    answers = iter([Act(loses=True)])
    proxy.decide = lambda _: next(answers, Act())
    await store.finish(reservation, Outcome(), now_ms=NOW)
    assert isinstance(await ask(store, scope), Reservation)


async def test_a_call_whose_admission_is_lost_has_its_lease_all_the_same(store: DynamoDbStore, proxy: Proxy) -> None:
    """Asked again, the item is full: with the call's own lease."""
    scope = Scope("p#a", throttle=Throttle(1))
    answers = iter([Act(loses=True)])
    proxy.decide = lambda _: next(answers, Act())
    reservation = await ask(store, scope)
    assert isinstance(reservation, Reservation)
    await store.finish(reservation, Outcome(), now_ms=NOW)
    assert "q" not in (await store.snapshot(["p#a"]))["p#a"]


async def test_a_lease_of_which_nobody_knows_is_given_back_when_the_table_answers_again(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    """Admitted, and both answers lost: the call is not made, and its lease would be held for eleven minutes."""
    scope = Scope("p#a", throttle=Throttle(1))
    owing = OwingStore(store, tell=lambda _: None)
    proxy.decide = lambda _: Act(loses=True)
    with pytest.raises(StoreError):
        await ask(owing, scope)
    proxy.decide = lambda _: Act()
    async with asyncio.timeout(5):
        while not isinstance(await ask(owing, scope, now_ms=NOW + LATE_MS), Reservation):
            await asyncio.sleep(0.005)


async def test_a_failure_of_which_nobody_waits_to_hear_is_no_alarm(
    state: State, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    store = DynamoDbStore(state)
    reservation = await ask(store, Scope("p#a", throttle=Throttle(1)))
    assert isinstance(reservation, Reservation)
    proxy.decide = lambda _: Act(loses=True)
    for work in (store.finish(reservation, Outcome(), now_ms=NOW), ask(store)):
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    async with asyncio.timeout(5):
        while store._under_way:
            await asyncio.sleep(0.005)
    gc.collect()
    assert "never retrieved" not in caplog.text
    await store.aclose()


async def test_an_admission_whose_answer_is_lost_stays_unknown_when_the_table_is_busy_afterwards(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    scope = Scope("p#a", throttle=Throttle(1))
    owing = OwingStore(store, tell=lambda _: None)
    hot = orjson.dumps({"__type": TOLD + "ThrottlingException"})
    acts = iter([Act(loses=True), Act(status=400, body=hot)])
    proxy.decide = lambda _: next(acts, Act())
    with pytest.raises(StoreError):
        await ask(owing, scope)
    async with asyncio.timeout(5):
        while not isinstance(await ask(owing, scope, now_ms=NOW + LATE_MS), Reservation):
            await asyncio.sleep(0.005)


async def test_a_probe_of_which_nobody_knows_makes_room_when_the_table_answers_again(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    scope = Scope("m#a", breaker=Breaker(failures=1), throttle=Throttle(1))
    failed = await ask(store, scope)
    assert isinstance(failed, Reservation)
    await store.finish(failed, Outcome(False), now_ms=NOW)
    later = NOW + 600_000
    owing = OwingStore(store, tell=lambda _: None)
    proxy.decide = lambda _: Act(loses=True)
    with pytest.raises(StoreError):
        await ask(owing, scope, now_ms=later)
    proxy.decide = lambda _: Act()
    async with asyncio.timeout(5):
        while not isinstance(await ask(owing, scope, now_ms=later + LATE_MS), Reservation):
            await asyncio.sleep(0.005)


async def test_a_probe_whose_admission_is_lost_is_the_probe_all_the_same(store: DynamoDbStore, proxy: Proxy) -> None:
    scope = Scope("m#a", breaker=Breaker(failures=1))
    failed = await ask(store, scope)
    assert isinstance(failed, Reservation)
    await store.finish(failed, Outcome(False), now_ms=NOW)
    answers = iter([Act(loses=True)])
    proxy.decide = lambda _: next(answers, Act())
    probe = await ask(store, scope, now_ms=NOW + 600_000)
    assert isinstance(probe, Reservation)
    assert probe.probe_id is not None


# --- other ways to fail


async def test_an_endpoint_that_does_not_show_the_item_is_asked_for_it(dynalite: str) -> None:
    async with Proxy(dynalite) as proxy:
        state = fresh_table(dynalite)
        scope = Scope("m#a", (Limit("requests", "minute", 1),))
        other = DynamoDbStore(state)
        assert isinstance(await ask(other, scope), Reservation)
        store = DynamoDbStore(state.model_copy(update={"endpoint_url": proxy.url}))
        refusal = await ask(store, scope)
        assert isinstance(refusal, Refusal)
        assert [reason.rule for reason in refusal.reasons] == ["requests_per_minute"]
        assert proxy.operations == {"UpdateItem": 1, "GetItem": 1}
        await other.aclose()
        await store.aclose()


async def test_the_first_operation_of_a_process_has_two_seconds_and_the_others_their_budget(
    state: State, proxy: Proxy
) -> None:
    """A cold start under a slow CPU is no failure of the store."""
    proxy.decide = lambda _: Act(delay_s=0.4)
    store = DynamoDbStore(state.model_copy(update={"timeout_ms": 100}))
    assert FIRST_OPERATION_S == 2
    assert isinstance(await ask(store), Reservation)
    with took(0.1, 0.35), pytest.raises(StoreError, match=r"did not answer within 0\.1 s"):
        await store.snapshot(["m#a"])
    await store.aclose()


async def test_a_budget_of_more_than_two_seconds_is_the_first_operations_too(state: State, proxy: Proxy) -> None:
    """Else a call that comes through late is asked for twice, and counted twice."""
    proxy.decide = lambda _: Act(delay_s=FIRST_OPERATION_S + 0.2)
    store = DynamoDbStore(state.model_copy(update={"timeout_ms": 10_000}))
    assert isinstance(await ask(store), Reservation)
    assert proxy.operations == {"UpdateItem": 1}
    await store.aclose()


TOLD = "com.amazonaws.dynamodb.v20120810#"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "AccessDeniedException", StoreMisconfigured),
        (400, "ResourceNotFoundException", StoreMisconfigured),
        (400, "ValidationException", StoreMisconfigured),
        (400, "UnrecognizedClientException", StoreMisconfigured),
        (400, "ExpiredTokenException", StoreMisconfigured),
        (400, "ProvisionedThroughputExceededException", StoreBusy),
        (400, "ThrottlingException", StoreBusy),
        (500, "InternalServerError", StoreError),
        (503, "ServiceUnavailable", StoreError),
    ],
)
async def test_each_refusal_is_told_as_what_it_is(
    store: DynamoDbStore, proxy: Proxy, status: int, code: str, error: type[StoreError]
) -> None:
    body = orjson.dumps({"__type": TOLD + code, "message": "secret-canary"})
    proxy.decide = lambda _: Act(status=status, body=body)
    with pytest.raises(StoreError) as raised:
        await ask(store)
    assert type(raised.value) is error
    assert "secret-canary" not in str(raised.value)


@pytest.mark.parametrize("keys", [["m#a"], ["m#a", "m#b"]], ids=["GetItem", "BatchGetItem"])
async def test_a_read_on_a_connection_that_died_in_a_freeze_is_repeated(
    store: DynamoDbStore, proxy: Proxy, keys: list[str]
) -> None:
    await ask(store)
    acts = iter([Act(loses=True)])
    proxy.decide = lambda _: next(acts, Act())
    assert used((await store.snapshot(keys))["m#a"]) == 1


async def test_a_read_of_which_a_part_is_put_off_asks_for_that_part_and_gives_up_when_it_is_put_off_for_ever(
    store: DynamoDbStore, proxy: Proxy
) -> None:
    await ask(store)
    item = {"pk": {"S": "m#b"}, "f": {"N": "1"}}
    table, put_off = store._table, {store._table: {"Keys": [{"pk": {"S": "m#a"}}]}}
    part = Act(status=200, body=orjson.dumps({"Responses": {table: [item]}, "UnprocessedKeys": put_off}))
    acts = iter([part])
    proxy.decide = lambda _: next(acts, Act())
    found = await store.snapshot(["m#a", "m#b"])
    assert (used(found["m#a"]), found["m#b"]) == (1, {"f": 1})
    proxy.decide = lambda _: part
    with pytest.raises(StoreBusy):
        await store.snapshot(["m#a", "m#b"])
    assert proxy.operations["BatchGetItem"] == 2 + MAX_TRIES


async def test_nobody_there_is_a_store_error(state: State, proxy: Proxy) -> None:
    await proxy.die()
    store = DynamoDbStore(state)
    with pytest.raises(StoreError):
        await ask(store)
    await store.aclose()


async def test_whoever_leaves_while_it_is_admitted_leaves_nothing_reserved(store: DynamoDbStore, proxy: Proxy) -> None:
    scope = Scope("m#a", (Limit("requests", "minute", 5),), throttle=Throttle(5))
    await ask(store, scope, call_id="first")
    proxy.decide = lambda _: Act(delay_s=0.1)
    leaving = asyncio.create_task(ask(store, scope, call_id="leaver"))
    async with asyncio.timeout(5):
        while proxy.operations["UpdateItem"] < 2:
            await asyncio.sleep(0.005)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.gather(*store._under_way)
    image = (await store.snapshot(["m#a"]))["m#a"]
    assert used(image) == 1
    assert len(members(image, "q")) == 1


async def test_a_ledger_whose_store_fails_in_between_gives_back_what_it_had(state: State, proxy: Proxy) -> None:
    """The model's reservation is there, and the account's cannot be made."""
    one = model("http://x", "a", requests_per_day=9, max_in_flight=3)
    (only,) = catalog_of(one, providers={"openai": {"requests_per_day": 9}}).models
    store = DynamoDbStore(state)
    acts = [Act(), Act(status=500), Act(status=500)]
    proxy.decide = lambda _: acts.pop(0) if acts else Act()
    with pytest.raises(StoreError):
        await Ledger(store, Clock()).admit(only, COST, 0)
    image = (await store.snapshot(["m#a"]))["m#a"]
    assert [value for name, value in image.items() if name.startswith("rd")] == [0]
    assert "q" not in image
    await store.aclose()


@pytest.mark.parametrize(("ahead_s", "says"), [(0, []), (0.5, []), (-0.5, []), (5, ["ahead of"]), (-61, ["behind"])])
async def test_a_clock_that_is_wrong_is_told(
    store: DynamoDbStore, proxy: Proxy, caplog: pytest.LogCaptureFixture, ahead_s: float, says: list[str]
) -> None:
    proxy.decide = lambda _: Act(status=200, date=formatdate(math.ceil(time.time()) - ahead_s, usegmt=True))
    await store.snapshot(["m#a"])
    assert [word for word in ("ahead of", "behind") if word in caplog.text] == says


# --- what is loaded


@pytest.mark.parametrize("store", ["memory", "sqlite", "dynamodb"])
def test_boto3_is_not_loaded_to_make_a_store(store: str) -> None:
    more = ", table='t', region='eu-west-1'" if store == "dynamodb" else ", path=':memory:'"
    code = (
        "import sys; from core.config.schema import State; from core.store import make_serving_store;"
        f"make_serving_store(State(store='{store}'{more}), print);"
        "print('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split()[-1] == "False"


async def test_the_client_is_made_off_the_loop(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(state: State) -> Any:
        threads.append(threading.current_thread())
        return make_client(state)

    monkeypatch.setattr("core.store.dynamodb.make_client", watched)
    store = DynamoDbStore(state)
    await asyncio.gather(*(ask(store) for _ in range(5)))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    await store.aclose()
