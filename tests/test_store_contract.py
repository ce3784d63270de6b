"""What every store promises, whichever it is; and at the end what only one that lives in a file can promise.

A further store is one more line in STORES.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.admission import Outcome, Reason, Refusal, Reservation, Scope
from core.breaker import Breaker
from core.config.schema import State
from core.limits import Cost, Limit
from core.plan import Plan
from core.store import make_store
from core.store.dynamodb import DynamoDbStore
from core.store.memory import MemoryStore
from core.store.port import StateStore, StoreError
from core.store.sqlite import SqliteStore
from core.throttle import Throttle
from tests.dynamodb_endpoint import fresh_table

STORES: dict[str, Callable[[Path, str], StateStore]] = {
    "memory": lambda _, __: MemoryStore(),
    "sqlite": lambda folder, _: SqliteStore(str(folder / "state.db"), timeout_ms=5_000),
    "dynamodb": lambda _, endpoint: DynamoDbStore(fresh_table(endpoint)),
}

NOW = 1_795_428_930_000  # 2026-11-23, 10:15:30 UTC
MINUTE, DAY = 29923815, 739943
LATER = NOW + 2_000
LIMITED = Scope("m#a", (Limit("requests", "minute", 5), Limit("tokens", "day", 10_000)))
FRAGILE = Scope("m#b", breaker=Breaker(1, 15_000, 600_000))
NARROW = Scope("p#c", throttle=Throttle(max_in_flight=2, lease_ms=60_000))


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, dynamodb: str) -> AsyncIterator[StateStore]:
    store = STORES[request.param](tmp_path, dynamodb)
    yield store
    await store.aclose()


def open_file(folder: Path) -> SqliteStore:
    return SqliteStore(str(folder / "state.db"), timeout_ms=5_000)


@pytest.fixture
async def file_store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = open_file(tmp_path)
    yield store
    await store.aclose()


async def ask(
    store: StateStore,
    scope: Scope = LIMITED,
    *,
    now_ms: int = NOW,
    tokens: int = 300,
    call_id: str = "call",
    max_wait_ms: int = 0,
) -> Reservation | Refusal:
    return await store.reserve(scope, Cost(1, tokens), now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)


async def take(store: StateStore, scope: Scope = LIMITED, *, now_ms: int = NOW, call_id: str = "call") -> Reservation:
    verdict = await ask(store, scope, now_ms=now_ms, call_id=call_id)
    assert isinstance(verdict, Reservation), verdict
    return verdict


async def image_of(store: StateStore, scope: Scope = LIMITED) -> dict[str, object]:
    return dict((await store.snapshot([scope.key])).get(scope.key, {}))


# --- what is there


async def test_a_snapshot_leaves_out_what_is_not_there(store: StateStore) -> None:
    assert await store.snapshot([]) == {}
    assert await store.snapshot(["m#a", "m#b"]) == {}
    await take(store)
    assert (await store.snapshot(["m#b", "m#a"])).keys() == {"m#a"}


async def test_what_is_refused_or_does_not_hold_makes_no_item(store: StateStore) -> None:
    assert isinstance(await ask(store, tokens=10_001), Refusal)
    plan = Plan(set={"a": 1})
    plan.require("a", "at_least", 1)
    await store.write("m#b", plan)
    assert await store.snapshot(["m#a", "m#b"]) == {}


async def test_an_item_holds_numbers_texts_and_sets(store: StateStore) -> None:
    await store.write("m#a", Plan(set={"n": 2**53 + 1, "less": -7, "t": "größer"}, include={"q": "a"}))
    await store.write("m#a", Plan(include={"q": "b"}))
    assert await image_of(store) == {"n": 2**53 + 1, "less": -7, "t": "größer", "q": frozenset({"a", "b"})}


async def test_a_snapshot_does_not_change_with_the_store(store: StateStore) -> None:
    await take(store)
    before = await store.snapshot(["m#a"])
    copy = dict(before["m#a"])
    await take(store)
    assert before["m#a"] == copy


# --- reserve


async def test_a_reservation_writes_what_it_takes(store: StateStore) -> None:
    reservation = await take(store)
    assert await image_of(store) == {
        f"rm{MINUTE}": 1,
        f"td{DAY}": 300,
        "lr": NOW,
        "x": NOW // 1000 + 259_200,
    }
    assert (reservation.slot_ms, reservation.used) == (NOW, (1, 300))


async def test_a_refusal_says_why_and_until_when_and_writes_nothing(store: StateStore) -> None:
    for _ in range(5):
        await take(store)
    before = await image_of(store)
    refusal = await ask(store, now_ms=LATER)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == (Reason("requests_per_minute", (MINUTE + 1) * 60_000),)
    assert await image_of(store) == before


async def test_calls_at_the_same_time_get_exactly_what_there_is(store: StateStore) -> None:
    verdicts = await asyncio.gather(*(ask(store, call_id=str(n)) for n in range(50)))
    assert sum(isinstance(verdict, Reservation) for verdict in verdicts) == 5
    assert (await image_of(store))[f"rm{MINUTE}"] == 5


async def test_a_new_window_has_room_again(store: StateStore) -> None:
    for _ in range(5):
        await take(store)
    await take(store, now_ms=(MINUTE + 1) * 60_000)
    image = await image_of(store)
    assert (image[f"rm{MINUTE}"], image[f"rm{MINUTE + 1}"], image[f"td{DAY}"]) == (5, 1, 1_800)


async def test_scopes_do_not_touch_each_other(store: StateStore) -> None:
    other = replace(LIMITED, key="m#z")
    await asyncio.gather(*(take(store, scope) for scope in (LIMITED, other) for _ in range(5)))
    assert isinstance(await ask(store), Refusal)
    assert isinstance(await ask(store, other), Refusal)


async def test_slots_lie_apart_and_the_queue_is_bounded(store: StateStore) -> None:
    scope = Scope("m#s", throttle=Throttle(min_interval_ms=500))
    verdicts = await asyncio.gather(*(ask(store, scope, max_wait_ms=1_200) for _ in range(6)))
    slots = sorted(verdict.slot_ms - NOW for verdict in verdicts if isinstance(verdict, Reservation))
    assert slots == [0, 500, 1_000]


async def test_dead_leases_make_room(store: StateStore) -> None:
    await take(store, NARROW, call_id="dies")
    await take(store, NARROW, call_id="lives", now_ms=NOW + 1_000)
    assert isinstance(await ask(store, NARROW, now_ms=NOW + 59_999), Refusal)
    await take(store, NARROW, call_id="next", now_ms=NOW + 60_000)
    assert (await image_of(store, NARROW))["q"] == {f"{NOW + 61_000}.lives", f"{NOW + 120_000}.next"}


# --- finish


async def test_a_settlement_corrects_and_a_refund_gives_back(store: StateStore) -> None:
    first, second = await take(store), await take(store)
    await store.finish(first, Outcome(True, tokens=120), now_ms=LATER)
    await store.finish(second, Outcome(is_refund=True), now_ms=LATER)
    image = await image_of(store)
    assert (image[f"rm{MINUTE}"], image[f"td{DAY}"]) == (1, 120)


async def test_failures_open_the_breaker_for_everyone_and_one_probe_closes_it(store: StateStore) -> None:
    call = await take(store, FRAGILE)
    await store.finish(call, Outcome(False), now_ms=NOW)
    refusal = await ask(store, FRAGILE, now_ms=NOW + 14_999)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == (Reason("breaker", NOW + 15_000),)
    verdicts = await asyncio.gather(*(ask(store, FRAGILE, now_ms=NOW + 15_000, call_id=str(n)) for n in range(20)))
    [probe] = [verdict for verdict in verdicts if isinstance(verdict, Reservation)]
    await store.finish(probe, Outcome(True), now_ms=NOW + 16_000)
    await take(store, FRAGILE, now_ms=NOW + 16_000)
    assert "f" not in await image_of(store, FRAGILE)


async def test_one_failure_is_counted_once(store: StateStore) -> None:
    scope = replace(FRAGILE, breaker=Breaker(3, 15_000, 600_000))
    for failures in (1, 2, 3):
        call = await take(store, scope)
        await store.finish(call, Outcome(False), now_ms=NOW)
        assert (await image_of(store, scope))["f"] == failures
    assert isinstance(await ask(store, scope), Refusal)


async def test_a_cooldown_is_never_shortened(store: StateStore) -> None:
    first, second = await take(store, FRAGILE), await take(store, FRAGILE)
    await store.finish(first, Outcome(cool_until_ms=NOW + 9_000), now_ms=NOW)
    await store.finish(second, Outcome(cool_until_ms=NOW + 5_000), now_ms=NOW)
    assert (await image_of(store, FRAGILE))["c"] == NOW + 9_000


async def test_to_finish_twice_is_harmless_to_leases_and_to_the_breaker(store: StateStore) -> None:
    scope = Scope("m#d", breaker=Breaker(), throttle=Throttle(max_in_flight=2))
    kept, ended = await take(store, scope, call_id="kept"), await take(store, scope, call_id="ended")
    for _ in range(2):
        await store.finish(ended, Outcome(False), now_ms=NOW)
    image = await image_of(store, scope)
    assert (image["q"], image["f"], image["u"]) == ({kept.lease}, 1, NOW + 15_000)


async def test_amounts_are_settled_as_often_as_it_is_asked_for(store: StateStore) -> None:
    """Which is why the port says: once for each reservation. Whoever retries would admit too many."""
    first, _ = await take(store), await take(store)
    for _ in range(2):
        await store.finish(first, Outcome(is_refund=True), now_ms=LATER)
    assert (await image_of(store))[f"rm{MINUTE}"] == 0


async def test_what_has_gone_meanwhile_is_not_made_again(store: StateStore) -> None:
    call = await take(store)
    two_days_on = NOW + 2 * 86_400_000
    await take(store, now_ms=two_days_on)
    before = await image_of(store)
    await store.finish(call, Outcome(is_refund=True), now_ms=two_days_on)
    assert await image_of(store) == before
    assert f"rm{MINUTE}" not in before
    assert f"td{DAY}" not in before


# --- write


async def test_a_plan_is_carried_out_only_if_it_holds(store: StateStore) -> None:
    plan = Plan(set={"c": 7})
    plan.require("c", "at_most", 6)
    await store.write("m#a", plan)
    assert await image_of(store) == {"c": 7}
    await store.write("m#a", replace(plan, set={"c": 9}))
    assert await image_of(store) == {"c": 7}


# --- cancelled, from several threads, closed


async def test_who_is_cancelled_while_it_reserves_leaves_nothing_behind(store: StateStore) -> None:
    """At whatever moment: those whose reservation came through are counted, and nobody else."""
    scope = Scope("m#e", (Limit("requests", "minute", 1_000),), throttle=Throttle(max_in_flight=1_000))
    kept = []
    for turns in range(12):
        tasks = [asyncio.create_task(ask(store, scope, call_id=f"{turns}.{n}")) for n in range(6)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, (Reservation, asyncio.CancelledError)) for result in results)
        kept += [result.lease for result in results if isinstance(result, Reservation)]
    assert len(kept) >= 36
    async with asyncio.timeout(30):  # what is given back over a network takes its time
        while (image := await image_of(store, scope))[f"rm{MINUTE}"] != len(kept):
            await asyncio.sleep(0.01)
    assert image["q"] == set(kept)


async def test_who_is_cancelled_while_it_settles_has_settled(store: StateStore) -> None:
    call = await take(store)
    task = asyncio.create_task(store.finish(call, Outcome(is_refund=True), now_ms=LATER))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(5):
        while (await image_of(store))[f"rm{MINUTE}"]:
            await asyncio.sleep(0.01)


async def test_threads_with_event_loops_of_their_own_share_one_store(store: StateStore) -> None:
    scope = Scope("m#f", (Limit("requests", "minute", 50),))
    start = threading.Barrier(8)

    def work(number: int) -> int:
        async def reserve() -> int:
            verdicts = [await ask(store, scope, call_id=f"{number}.{n}") for n in range(10)]
            return sum(isinstance(verdict, Reservation) for verdict in verdicts)

        start.wait(10)
        return asyncio.run(reserve())

    with ThreadPoolExecutor(8) as pool:
        admitted = await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, work, n) for n in range(8)))
    assert sum(admitted) == 50
    assert (await image_of(store, scope))[f"rm{MINUTE}"] == 50


async def test_a_store_may_be_closed_twice(store: StateStore) -> None:
    await take(store)
    await store.aclose()
    await store.aclose()


# --- the configuration's store


@pytest.mark.parametrize(("name", "kind"), [("memory", MemoryStore), ("sqlite", SqliteStore)])
async def test_the_store_that_the_configuration_names_is_made(name: str, kind: type, tmp_path: Path) -> None:
    store = make_store(State.model_validate({"store": name, "path": str(tmp_path / "state.db")}))
    try:
        assert type(store) is kind
        await take(store)
    finally:
        await store.aclose()


# --- a store in a file


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The file as another process holds it, in the middle of writing."""
    with closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def stuck(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> "asyncio.Task[None]":
    """A job that its thread cannot get on with while the file is held: what comes now waits together."""
    is_taken, carry_out = threading.Event(), store._carry_out

    def take_note(jobs: list[Any]) -> Exception | None:
        is_taken.set()
        return carry_out(jobs)

    monkeypatch.setattr(store, "_carry_out", take_note)
    job = asyncio.create_task(store.write("m#stuck", Plan(set={"c": 1})))
    assert await asyncio.to_thread(is_taken.wait, 5)
    return job


async def test_the_days_count_survives_closing_and_opening(tmp_path: Path) -> None:
    scope = Scope("m#a", (Limit("requests", "day", 3),), breaker=Breaker(), throttle=Throttle(max_in_flight=5))
    for number in range(3):
        store = open_file(tmp_path)
        call = await take(store, scope, call_id=str(number))
        assert call.used == (number + 1,)
        await store.aclose()
    store = open_file(tmp_path)
    assert isinstance(await ask(store, scope), Refusal)
    assert len((await store.snapshot(["m#a"]))["m#a"]["q"]) == 3  # type: ignore[arg-type]
    await store.aclose()


async def test_two_stores_on_one_file_are_one(tmp_path: Path, file_store: SqliteStore) -> None:
    other = open_file(tmp_path)
    try:
        for number in range(5):
            await take((file_store, other)[number % 2])
        assert isinstance(await ask(file_store), Refusal)
        assert isinstance(await ask(other), Refusal)
        assert await image_of(other) == await image_of(file_store)
    finally:
        await other.aclose()


async def test_what_another_process_gave_back_can_be_had_at_once(tmp_path: Path, file_store: SqliteStore) -> None:
    """Nobody is refused by what he saw before."""
    other = open_file(tmp_path)
    try:
        calls = [await take(file_store) for _ in range(5)]
        assert isinstance(await ask(other), Refusal)
        for call in calls:
            await file_store.finish(call, Outcome(is_refund=True), now_ms=LATER)
            await take(other)
            assert isinstance(await ask(other), Refusal)
            assert await image_of(file_store) == await image_of(other)
    finally:
        await other.aclose()


async def test_a_reservation_that_was_waiting_for_the_file_when_it_was_cancelled_is_given_back(
    tmp_path: Path, file_store: SqliteStore
) -> None:
    scope = replace(LIMITED, breaker=Breaker(), throttle=Throttle(max_in_flight=1))
    await file_store.write(scope.key, Plan(set={"f": 1, "u": NOW}))
    with held(tmp_path):
        waiting = asyncio.create_task(ask(file_store, scope, call_id="cancelled"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    image = await image_of(file_store, scope)
    assert (image[f"rm{MINUTE}"], image[f"td{DAY}"]) == (0, 0)
    assert "q" not in image
    assert "p" not in image
    assert (await take(file_store, scope, call_id="next")).probe_id == "next"


async def test_what_was_rolled_back_is_not_given_back(
    tmp_path: Path, file_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the counter would go below what was taken, and too many would be admitted."""
    await take(file_store)
    with closing(sqlite3.connect(tmp_path / "state.db")) as other, other:
        other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON items WHEN NEW.key = 'm#no' BEGIN SELECT RAISE(ABORT, 'disk'); END"
        )
    with held(tmp_path):
        first = await stuck(file_store, monkeypatch)
        reserving = asyncio.create_task(ask(file_store, call_id="cancelled"))
        failing = asyncio.create_task(file_store.write("m#no", Plan(set={"c": 1})))
        await asyncio.sleep(0)
    with ThreadPoolExecutor(1) as pool, contextlib.suppress(StoreError):  # blocks this loop: it hears of nothing yet
        pool.submit(lambda: asyncio.run(image_of(file_store))).result(10)
    reserving.cancel()
    await asyncio.wait([first, reserving, failing])
    assert reserving.cancelled()
    assert isinstance(failing.exception(), StoreError)
    assert (await image_of(file_store))[f"rm{MINUTE}"] == 1


async def test_what_was_asked_for_before_it_was_closed_is_carried_out(tmp_path: Path) -> None:
    store = open_file(tmp_path)
    with held(tmp_path):
        tasks = [asyncio.create_task(take(store, call_id=str(n))) for n in range(3)]
        await asyncio.sleep(0)
        ending = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, ending)
    reopened = open_file(tmp_path)
    assert (await image_of(reopened))[f"rm{MINUTE}"] == 3
    await reopened.aclose()


@pytest.mark.parametrize("what", ["snapshot", "reserve", "finish", "write"])
async def test_whoever_comes_after_it_was_closed_hears_so_and_does_not_wait_for_ever(tmp_path: Path, what: str) -> None:
    store = open_file(tmp_path)
    call = await take(store)
    await store.aclose()
    late: dict[str, Callable[[], Awaitable[object]]] = {
        "snapshot": lambda: store.snapshot(["m#a"]),
        "reserve": lambda: ask(store),
        "finish": lambda: store.finish(call, Outcome(True), now_ms=LATER),
        "write": lambda: store.write("m#a", Plan(set={"c": 1})),
    }
    async with asyncio.timeout(5):
        with pytest.raises(StoreError, match=r"state\.db is closed"):
            await late[what]()


async def test_a_loop_that_ends_while_it_waits_harms_nobody_else(tmp_path: Path, file_store: SqliteStore) -> None:
    async def leave() -> None:
        waiting = asyncio.create_task(ask(file_store, call_id="gone"))
        await asyncio.sleep(0)
        del waiting  # `asyncio.run` cancels it

    with held(tmp_path):
        await asyncio.to_thread(lambda: asyncio.run(leave()))
    await take(file_store)
    assert (await image_of(file_store))[f"rm{MINUTE}"] == 1


async def test_an_item_that_cannot_be_read_is_the_affair_of_its_own_callers(
    tmp_path: Path, file_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of those who happen to wait with them."""
    await take(file_store)
    with closing(sqlite3.connect(tmp_path / "state.db")) as other, other:
        other.execute("INSERT INTO items (key, image) VALUES ('m#b', 'nonsense')")
    with held(tmp_path):
        first = await stuck(file_store, monkeypatch)
        tasks = [asyncio.create_task(ask(file_store, scope)) for scope in (LIMITED, FRAGILE, LIMITED)]
        await asyncio.sleep(0)
    before, broken, after = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert isinstance(before, Reservation)
    assert isinstance(after, Reservation)
    assert isinstance(broken, StoreError)
    assert (await image_of(file_store))[f"rm{MINUTE}"] == 3
