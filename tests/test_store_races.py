"""Four processes with 16 threads each on one sqlite file or one DynamoDB table (of two makes), and 64 threads on each
store of one process: exactly as much as there is.

The last tests are the negative controls: who looks first and adds afterwards, or begins a window anew without asking
whether it has begun, admits too many here.
"""

import asyncio
import itertools
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

import pytest

from core.admission import Outcome, Refusal, Reservation, Scope, plan_reserve
from core.breaker import Breaker
from core.config.schema import State
from core.limits import Cost, Limit
from core.plan import Image, Plan
from core.store import make_store
from core.store.port import StateStore
from core.throttle import Throttle
from tests.dynamodb_endpoint import fresh_table

PROCESSES, THREADS = 4, 16
EVERYONE = PROCESSES * THREADS
NOW = 1_795_428_930_000  # 2026-11-23, 10:15:30 UTC
T = TypeVar("T")

Work = Callable[[StateStore, int], Awaitable[T]]
"""What one thread does, in an event loop of its own; it is told its number."""

GENEROUS_MS = 60_000  # nobody is turned away because the file is busy: a StoreError fails the test


async def ask(store: StateStore, scope: Scope, *, now_ms: int = NOW, **more: Any) -> Reservation | Refusal:
    given = {"call_id": random.randbytes(6).hex(), "max_wait_ms": 0, **more}
    return await store.reserve(scope, Cost(1, 100), now_ms=now_ms, **given)


def in_threads(store: StateStore, count: int, work: Work[T], *, first: int = 0) -> list[T]:
    """All at once, and changing places as often as Python can."""
    start = threading.Barrier(count)

    def run(number: int) -> T:
        async def main() -> T:
            start.wait(30)
            return await work(store, number)

        return asyncio.run(main())

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(run, range(first, first + count)))
    finally:
        sys.setswitchinterval(usual)


START: list[Barrier] = []  # of the processes; each has it from its parent


def remember(start: Barrier) -> None:
    START.append(start)


def one_process(state: State, number: int, work: Work[T]) -> list[T]:
    """One worker's part: a store of its own, as a worker of the gateway has it."""
    store = make_store(state)
    try:
        START[0].wait(30)
        return in_threads(store, THREADS, work, first=number * THREADS)
    finally:
        asyncio.run(store.aclose())


@dataclass(frozen=True)
class Crowd:
    """Makes everyone do the same at once."""

    name: str
    run: Callable[[Work[Any]], list[Any]]
    look: Callable[[str], Image]
    prepare: Callable[[str, Plan], None]


@pytest.fixture(scope="module")
def processes(aws_credentials: None) -> Iterator[ProcessPoolExecutor]:
    spawn = multiprocessing.get_context("spawn")  # a fork would take the threads of other tests with it, half alive
    with ProcessPoolExecutor(PROCESSES, spawn, remember, (spawn.Barrier(PROCESSES),)) as pool:
        yield pool


CROWDS = [
    "4 processes, sqlite",
    "4 processes, dynamodb",
    "4 processes, dynalite",
    "64 threads, sqlite",
    "64 threads, dynalite",
    "64 threads, memory",
]


@pytest.fixture(params=CROWDS)
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crowd]:
    kind = request.param.rpartition(" ")[2]
    if kind in ("dynamodb", "dynalite"):
        state = fresh_table(request.getfixturevalue(kind), timeout_ms=GENEROUS_MS)
    else:
        state = State(store=kind, path=str(tmp_path / "state.db"), timeout_ms=GENEROUS_MS)
    store = make_store(state)

    def run(work: Work[T]) -> list[T]:
        if not request.param.startswith("4 processes"):
            return in_threads(store, EVERYONE, work)
        pool = request.getfixturevalue("processes")
        parts = [pool.submit(one_process, state, number, work) for number in range(PROCESSES)]
        return [one for part in parts for one in part.result(60)]

    def look(key: str) -> Image:
        return asyncio.run(store.snapshot([key])).get(key, {})

    yield Crowd(request.param, run, look, lambda key, plan: asyncio.run(store.write(key, plan)))
    asyncio.run(store.aclose())


# --- limits

LIMITS = [(1, 1), (7, 1), (64, 1), (100, 3), (250, 3)]  # with how often each of the 64 asks


async def ask_often(store: StateStore, number: int, *, scopes: list[tuple[Scope, int]]) -> list[int]:
    """How many of its calls were admitted, for each scope."""
    admitted = []
    for scope, times in scopes:
        verdicts = await asyncio.gather(*(ask(store, scope) for _ in range(times)))
        admitted.append(sum(isinstance(verdict, Reservation) for verdict in verdicts))
    return admitted


def counters_of(image: Image) -> dict[str, int]:
    return {name: value for name, value in image.items() if name[0] in "rt" and isinstance(value, int)}


def test_exactly_the_limit_is_admitted_never_one_more_never_one_fewer(crowd: Crowd) -> None:
    scopes = [(Scope(f"m#{most}", (Limit("requests", "minute", most),)), times) for most, times in LIMITS]
    admitted = crowd.run(partial(ask_often, scopes=scopes))
    for (most, times), got in zip(LIMITS, zip(*admitted, strict=True), strict=True):
        expected = min(most, EVERYONE * times)
        assert sum(got) == expected
        assert sum(counters_of(crowd.look(f"m#{most}")).values()) == expected


def test_of_several_limits_the_tightest_is_reached_and_none_is_passed(crowd: Crowd) -> None:
    limits = (Limit("requests", "minute", 40), Limit("requests", "day", 60), Limit("tokens", "minute", 3_350))
    admitted = crowd.run(partial(ask_often, scopes=[(Scope("m#a", limits), 2)]))
    assert sum(count for [count] in admitted) == 33
    assert sorted(counters_of(crowd.look("m#a")).values()) == [33, 33, 3_300]


async def ask_and_refund(store: StateStore, number: int, *, scope: Scope) -> tuple[int, int]:
    """Every other call is given back. Kept, and the most that was ever seen in use."""
    kept, most_used = 0, 0
    for turn in range(10):
        verdict = await ask(store, scope)
        if isinstance(verdict, Refusal):
            continue
        most_used = max(most_used, *verdict.used)
        if (number + turn) % 2:
            await store.finish(verdict, Outcome(is_refund=True), now_ms=NOW)
        else:
            kept += 1
    return kept, most_used


def test_refunds_make_room_for_exactly_as_many_others(crowd: Crowd) -> None:
    scope = Scope("m#a", (Limit("requests", "minute", 100),))
    done = crowd.run(partial(ask_and_refund, scope=scope))
    kept = sum(mine for mine, _ in done)
    assert list(counters_of(crowd.look("m#a")).values()) == [kept]
    assert max(most for _, most in done) <= 100
    filled_up = crowd.run(partial(ask_often, scopes=[(scope, 2)]))
    assert kept + sum(count for [count] in filled_up) == 100


# --- leases

NARROW = Scope("p#a", throttle=Throttle(max_in_flight=5, lease_ms=600_000))


async def hold_one(store: StateStore, number: int) -> Reservation | None:
    verdict = await ask(store, NARROW)
    return verdict if isinstance(verdict, Reservation) else None


async def give_back(store: StateStore, number: int, *, held: list[Reservation]) -> None:
    if number < len(held):
        await store.finish(held[number], Outcome(True), now_ms=NOW)


def test_exactly_as_many_leases_are_out_as_may_be_round_after_round(crowd: Crowd) -> None:
    for _ in range(3):
        held = [reservation for reservation in crowd.run(hold_one) if reservation]
        assert len(held) == 5
        assert crowd.look("p#a")["q"] == frozenset(str(reservation.lease) for reservation in held)
        crowd.run(partial(give_back, held=held))
        assert "q" not in crowd.look("p#a")


async def come_and_go(store: StateStore, number: int) -> list[tuple[int, int]]:
    """From when to when it surely had a lease, by the clock that all processes of a machine share."""
    spans = []
    for _ in range(6):
        verdict = await ask(store, NARROW)
        if isinstance(verdict, Reservation):
            began = time.monotonic_ns()
            await asyncio.sleep(0.001)
            spans.append((began, time.monotonic_ns()))
            await store.finish(verdict, Outcome(True), now_ms=NOW)
    return spans


def test_there_are_never_more_leases_than_may_be(crowd: Crowd) -> None:
    spans = [span for mine in crowd.run(come_and_go) for span in mine]
    moments = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    assert max(itertools.accumulate(change for _, change in moments)) <= 5
    assert len(spans) >= 5
    assert "q" not in crowd.look("p#a")


# --- slots


async def queue_up(store: StateStore, number: int, *, scope: Scope, skew_ms: int) -> list[int]:
    """The slots it got. Clocks differ by up to `skew_ms`."""
    verdicts = [await ask(store, scope, now_ms=NOW + number * skew_ms // EVERYONE, max_wait_ms=1_000) for _ in range(2)]
    return [verdict.slot_ms for verdict in verdicts if isinstance(verdict, Reservation)]


def test_every_slot_is_given_out_once_and_the_queue_is_as_long_as_it_may_be(crowd: Crowd) -> None:
    scope = Scope("p#a", throttle=Throttle(min_interval_ms=30))
    slots = sorted(slot for mine in crowd.run(partial(queue_up, scope=scope, skew_ms=0)) for slot in mine)
    assert slots == [NOW + 30 * place for place in range(34)]


def test_slots_are_never_closer_than_the_interval_whatever_the_clocks_say(crowd: Crowd) -> None:
    scope = Scope("p#a", throttle=Throttle(min_interval_ms=30))
    slots = sorted(slot for mine in crowd.run(partial(queue_up, scope=scope, skew_ms=700)) for slot in mine)
    assert len(slots) >= 10, "300 ms at least lie between the earliest first slot and what the last clock may wait for"
    assert min(later - earlier for earlier, later in itertools.pairwise(slots)) >= 30


# --- the probe


async def try_once(store: StateStore, number: int, *, scope: Scope, now_ms: int) -> Reservation | None:
    verdict = await ask(store, scope, now_ms=now_ms)
    return verdict if isinstance(verdict, Reservation) else None


def test_exactly_one_probe_goes_each_time_the_breaker_may_be_tried(crowd: Crowd) -> None:
    scope = Scope("m#a", breaker=Breaker(1, 15_000, 600_000))
    crowd.prepare("m#a", Plan(set={"f": 1, "u": NOW, "l": NOW - 15_000}))
    now_ms = NOW
    for _ in range(3):
        [probe] = [one for one in crowd.run(partial(try_once, scope=scope, now_ms=now_ms)) if one]
        assert probe.probe_id == crowd.look("m#a")["p"]
        now_ms += 30_000  # the first one dies; the next has its turn when its time is over
        assert not any(crowd.run(partial(try_once, scope=scope, now_ms=now_ms - 1)))


async def fail_all(store: StateStore, number: int, *, scope: Scope) -> None:
    verdict = await ask(store, scope)
    if isinstance(verdict, Reservation):
        await store.finish(verdict, Outcome(False), now_ms=NOW)


def test_no_failure_is_lost_and_none_is_counted_twice(crowd: Crowd) -> None:
    """All but the last three are needed to open it; nobody who failed later makes it more."""
    crowd.run(partial(fail_all, scope=Scope("m#many", breaker=Breaker(EVERYONE + 1, 15_000, 600_000))))
    assert crowd.look("m#many")["f"] == EVERYONE
    crowd.run(partial(fail_all, scope=Scope("m#few", breaker=Breaker(EVERYONE - 3, 15_000, 600_000))))
    assert crowd.look("m#few")["f"] == EVERYONE - 3


# --- negative control

BETWEEN_S = 0.001  # a file or memory leaves next to no time between the two, a network leaves that


async def look_then_add(store: StateStore, number: int, *, keys: list[str]) -> int:
    """How it must not be done: the verdict is right for the image, but the image is old when it is written."""
    admitted = 0
    for key in keys:
        scope = Scope(key, (Limit("requests", "minute", 7),))
        image = (await store.snapshot([key])).get(key, {})
        await asyncio.sleep(BETWEEN_S)
        step = plan_reserve(scope, Cost(), image, now_ms=NOW, call_id="x", max_wait_ms=0)
        if not isinstance(step, Refusal):
            await store.write(key, Plan(add=step[0].add))
            admitted += 1
    return admitted


def test_to_look_first_and_to_add_afterwards_admits_too_many(crowd: Crowd) -> None:
    """So these crowds do come at the same time. On four items: one may be spared by chance."""
    keys = [f"m#{number}" for number in range(4)]
    admitted = sum(crowd.run(partial(look_then_add, keys=keys)))
    assert admitted > 7 * len(keys)
    assert sum(sum(counters_of(crowd.look(key)).values()) for key in keys) == admitted


async def begin_anew_unasked(store: StateStore, number: int, *, keys: list[str]) -> int:
    """Nor like this: one attribute for all windows, set to nothing by whoever finds it to be of the one before."""
    admitted = 0
    for key in keys:
        image = (await store.snapshot([key])).get(key, {})
        await asyncio.sleep(BETWEEN_S)
        if image.get("window") != 2:
            await store.write(key, Plan(set={"window": 2, "used": 0}))
        plan = Plan(add={"used": 1})
        plan.require("used", "at_most", 6)
        before = (await store.snapshot([key])).get(key, {})
        await store.write(key, plan)
        admitted += plan.holds(before)
    return admitted


def test_to_begin_a_window_anew_without_asking_admits_too_many(crowd: Crowd) -> None:
    keys = [f"m#{number}" for number in range(4)]
    for key in keys:
        crowd.prepare(key, Plan(set={"window": 1, "used": 7}))
    assert sum(crowd.run(partial(begin_anew_unasked, keys=keys))) > 7 * len(keys)


async def process_id(store: StateStore, number: int) -> tuple[int, int]:
    return os.getpid(), number


def test_the_crowd_is_as_large_as_it_is_said_to_be(crowd: Crowd) -> None:
    done = crowd.run(process_id)
    assert sorted(number for _, number in done) == list(range(EVERYONE))
    assert len({process for process, _ in done}) == (PROCESSES if crowd.name.startswith("4") else 1)
