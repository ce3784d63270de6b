"""Random operations on all stores side by side, and on a model that says in the plainest way what they should do.

The model shares no rule with the product: no plans, no conditions, days from a calendar that is written out.
"""

import asyncio
import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.admission import Outcome, Refusal, Reservation, Scope
from core.breaker import Breaker, cool
from core.limits import Cost, Limit
from core.store.dynamodb import DynamoDbStore
from core.store.memory import MemoryStore
from core.store.port import StateStore
from core.store.sqlite import SqliteStore
from core.throttle import Throttle
from tests.dynamodb_endpoint import fresh_table

STORES: dict[str, Callable[[Path, str], StateStore]] = {
    "memory": lambda _, __: MemoryStore(),
    "sqlite": lambda folder, _: SqliteStore(str(folder / "state.db"), timeout_ms=5_000),
    "dynamodb": lambda _, endpoint: DynamoDbStore(fresh_table(endpoint)),
}

PACIFIC = "02:30 America/Los_Angeles"  # a start that the clock skips once a year
SPANS_MS = {"minute": 60_000, "hour": 3_600_000}
FIRST_DAY = date(2026, 2, 20)
FIRST_DAYS = [FIRST_DAY + timedelta(days=number) for number in range(600)]


def day_starts_ms(start: time, zone: str) -> list[int]:
    """When each day begins; the start that is skipped is where it would have been without the change of clocks."""
    return [int(datetime.combine(day, start, ZoneInfo(zone)).timestamp()) * 1000 for day in FIRST_DAYS]


CALENDARS = {
    PACIFIC: day_starts_ms(time(2, 30), "America/Los_Angeles"),
    "00:00 Etc/UTC": day_starts_ms(time(0), "Etc/UTC"),
}


@dataclass
class Taken:
    """A reservation as the model knows it."""

    call_id: str
    counters: dict[tuple[str, str, int], int]
    lease_ends: int | None
    is_probe: bool
    failures_seen: int


@dataclass
class Model:
    """One item. Times are milliseconds."""

    scope: Scope
    counters: dict[tuple[str, str, int], int] = field(default_factory=dict)
    used_at: int | None = None
    needed_until: int | None = None
    leases: dict[str, int] = field(default_factory=dict)  # when each expires
    next_slot: int | None = None
    failures: int = 0
    open_until: int | None = None
    failed_at: int | None = None
    probe: str | None = None
    cool_until: int | None = None

    def number_of_window(self, span: str, now: int) -> int:
        if span == "day":
            return bisect.bisect_right(CALENDARS[self.scope.day_starts], now) - 1
        return now // SPANS_MS[span]

    def end_of_window(self, span: str, number: int) -> int:
        return CALENDARS[self.scope.day_starts][number + 1] if span == "day" else (number + 1) * SPANS_MS[span]

    def reserve(self, call_id: str, tokens: int, now: int, max_wait: int) -> Taken | dict[str, int | None]:
        """What was taken, or why not and until when."""
        rules, at_once = self.scope.breaker, self.scope.throttle.max_in_flight
        if at_once is not None and len(self.leases) >= at_once:
            self.leases = {mine: ends for mine, ends in self.leases.items() if ends > now}
        wanted = {
            (limit.what, limit.span, self.number_of_window(limit.span, now)): 1 if limit.what == "requests" else tokens
            for limit in self.scope.limits
        }
        reasons: dict[str, int | None] = {}
        for limit, (counter, amount) in zip(self.scope.limits, wanted.items(), strict=True):
            if self.counters.get(counter, 0) + amount > limit.most:
                ends = self.end_of_window(limit.span, counter[2])
                reasons[f"{limit.what}_per_{limit.span}"] = None if amount > limit.most else ends
        if rules and self.cool_until is not None and self.cool_until > now:
            reasons["cooldown"] = self.cool_until
        is_tripped = rules is not None and self.failures >= rules.failures
        if is_tripped and self.open_until is not None and self.open_until > now:
            reasons["breaker"] = self.open_until
        if at_once is not None and len(self.leases) >= at_once:
            reasons["in_flight"] = now + 1_000
        if self.slot(now) > now + max_wait:
            reasons["interval"] = self.slot(now) - max_wait
        if reasons:
            return reasons
        return self.take(call_id, wanted, now, is_tripped)

    def slot(self, now: int) -> int:
        if not self.scope.throttle.min_interval_ms or self.next_slot is None:
            return now
        return max(now, self.next_slot)

    def take(self, call_id: str, wanted: dict[tuple[str, str, int], int], now: int, is_tripped: bool) -> Taken:
        self.counters = {counter: amount for counter, amount in self.counters.items() if not self.is_past(counter, now)}
        for counter, amount in wanted.items():
            if amount:
                self.counters[counter] = self.counters.get(counter, 0) + amount
        taken = Taken(call_id, wanted, None, is_tripped, self.failures)
        if self.scope.throttle.max_in_flight is not None:
            taken.lease_ends = self.leases[call_id] = now + self.scope.throttle.lease_ms
        if self.scope.throttle.min_interval_ms:
            self.next_slot = self.slot(now) + self.scope.throttle.min_interval_ms
        if is_tripped:
            self.probe, self.open_until = call_id, now + 30_000
        self.used_at = self.needed_until = now
        return taken

    def is_past(self, counter: tuple[str, str, int], now: int) -> bool:
        """Neither this window nor the one before."""
        return counter[2] < self.number_of_window(counter[1], now) - 1

    def finish(self, taken: Taken, outcome: Outcome, now: int) -> None:
        self.leases.pop(taken.call_id, None)
        for counter, amount in taken.counters.items():
            really = amount
            if outcome.is_refund:
                really = 0
            elif counter[0] == "tokens" and outcome.tokens is not None:
                really = outcome.tokens
            if really != amount and not self.is_past(counter, now):
                self.counters[counter] = self.counters.get(counter, 0) + really - amount
        if self.scope.breaker:
            self.judge(taken, outcome.verdict, self.scope.breaker, now)
        if outcome.cool_until_ms is not None:
            self.cool(outcome.cool_until_ms)

    def judge(self, taken: Taken, verdict: bool | None, rules: Breaker, now: int) -> None:
        is_my_probe = taken.is_probe and self.probe == taken.call_id
        if verdict is True:
            is_news = is_my_probe if taken.is_probe else self.failures == taken.failures_seen > 0
            if is_news:
                self.failures, self.open_until, self.failed_at, self.probe = 0, None, None, None
        elif is_my_probe:
            self.probe, self.open_until = None, now
            if verdict is False:
                is_old = self.failed_at is None or now - self.failed_at >= 2 * rules.max_cooldown_ms
                self.failures = rules.failures if is_old else self.failures + 1
                wait = rules.cooldown_ms
                for _ in range(self.failures - rules.failures):
                    wait = min(2 * wait, rules.max_cooldown_ms)
                self.open_until, self.failed_at = now + wait, now
        elif verdict is False and not taken.is_probe and self.failures < rules.failures:
            is_old = self.failed_at is None or now - self.failed_at >= rules.max_cooldown_ms
            self.failures = 1 if is_old else self.failures + 1
            self.open_until, self.failed_at = now + rules.cooldown_ms, now

    def cool(self, until: int) -> None:
        if self.cool_until is None or until > self.cool_until:
            self.cool_until = self.needed_until = until

    def image(self) -> dict[str, object]:
        """As a store writes it."""
        known = {
            "lr": self.used_at,
            "x": None if self.needed_until is None else self.needed_until // 1000 + 3 * 86_400,
            "nx": self.next_slot,
            "f": self.failures or None,
            "u": self.open_until,
            "l": self.failed_at,
            "p": self.probe,
            "c": self.cool_until,
            "q": frozenset(f"{ends}.{call_id}" for call_id, ends in self.leases.items()) or None,
        }
        windows = {
            f"{what[0]}{span[0]}{number + (FIRST_DAY.toordinal() if span == 'day' else 0)}": amount
            for (what, span, number), amount in self.counters.items()
        }
        return {**windows, **{name: value for name, value in known.items() if value is not None}}


REQUESTS = (Limit("requests", "minute", 3), Limit("requests", "hour", 7), Limit("requests", "day", 12))
TOKENS = (Limit("tokens", "minute", 900), Limit("tokens", "hour", 2_500), Limit("tokens", "day", 5_000))
BREAKER, PATIENT = Breaker(1, 15_000, 60_000), Breaker(2, 10_000, 60_000)
SCOPES = (
    Scope("limits", (*REQUESTS, *TOKENS), PACIFIC),
    Scope("breaker", breaker=PATIENT),
    Scope("throttle", throttle=Throttle(2, 700, lease_ms=20_000)),
    Scope("all", (REQUESTS[0], TOKENS[2]), breaker=BREAKER, throttle=Throttle(3, 0, lease_ms=90_000)),
    Scope("all and patient", (REQUESTS[2], TOKENS[0]), PACIFIC, PATIENT, Throttle(None, 300)),
)


@dataclass(frozen=True)
class Wait:
    """`border`: to the end of that window first."""

    ms: int
    border: str | None = None


@dataclass(frozen=True)
class Reserve:
    tokens: int
    max_wait_ms: int


@dataclass(frozen=True)
class Finish:
    which: int
    outcome: Outcome
    cool_ms: int | None


@dataclass(frozen=True)
class Cool:
    ms: int


Step = Wait | Reserve | Finish | Cool


def some_step(random: Random) -> Step:
    """Mostly calls and short waits, so that hours and days fill up; at times over a border, or by a late clock."""
    kind = random.choices(["reserve", "finish", "wait", "border", "late clock", "cool"], [50, 22, 16, 9, 2, 1])[0]
    if kind == "reserve":
        return Reserve(random.choice([0, 1, 100, 100, 300, 900, 901]), random.choice([0, 0, 500, 2_000]))
    if kind == "finish":
        outcome = Outcome(
            verdict=random.choice([True, True, False, False, None]),
            tokens=random.choice([None, 0, 50, 400, 1_500]),
            is_refund=random.random() < 0.15,
        )
        return Finish(random.randrange(10), outcome, random.choice([None, None, None, None, None, 0, 1_000, 45_000]))
    if kind == "wait":
        return Wait(random.choice([1, 250, 700, 5_000, 9_999, 10_000, 15_000, 20_000, 30_000, 60_000]))
    if kind == "border":
        border = random.choices(["minute", "hour", "day"], [85, 10, 5])[0]
        return Wait(random.choice([-1, 0, 0, 1, 5_000]), border)
    if kind == "late clock":
        return Wait(random.choice([-1, -400, -30_000, -61_000]))
    return Cool(random.choice([-5, 1_000, 45_000]))


# Shortly before the clocks of Los Angeles change, and before a day's end in UTC.
BEGINNINGS = [
    datetime.fromisoformat(text) for text in ("2026-03-07T20:00-08:00", "2026-10-31T20:00-07:00", "2026-06-30T23:58Z")
]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def stores(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory, dynamodb: str
) -> Iterator[list[StateStore]]:
    stores = [make(tmp_path_factory.mktemp(name), dynamodb) for name, make in STORES.items()]
    yield stores
    for store in stores:
        runner.run(store.aclose())


FRESH = itertools.count()  # an item of its own for every example


class Play:
    """One item in all stores and in the model, step by step; every step ends with all of them alike."""

    def __init__(self, stores: list[StateStore], scope: Scope, begin: datetime) -> None:
        self.scope = replace(scope, key=f"{scope.key} {next(FRESH)}")
        self.stores, self.model = stores, Model(self.scope)
        self.now = int(begin.timestamp() * 1000)
        self.under_way: list[tuple[Taken, list[Reservation]]] = []
        self.calls = itertools.count()
        self.said: set[str] = set()

    async def play(self, steps: Iterable[Step]) -> None:
        for step in steps:
            await self.step(step)
            for store in self.stores:
                assert (await store.snapshot([self.scope.key])).get(self.scope.key, {}) == self.model.image()

    async def step(self, step: Step) -> None:
        if isinstance(step, Wait):
            if step.border:
                self.now = self.model.end_of_window(step.border, self.model.number_of_window(step.border, self.now))
            self.now += step.ms
        elif isinstance(step, Reserve):
            await self.reserve(step)
        elif isinstance(step, Finish) and self.under_way:
            taken, reservations = self.under_way.pop(step.which % len(self.under_way))
            until = None if step.cool_ms is None else self.now + step.cool_ms
            outcome = Outcome(step.outcome.verdict, step.outcome.tokens, step.outcome.is_refund, until)
            self.model.finish(taken, outcome, self.now)
            for store, reservation in zip(self.stores, reservations, strict=True):
                await store.finish(reservation, outcome, now_ms=self.now)
        elif isinstance(step, Cool):
            self.model.cool(self.now + step.ms)
            for store in self.stores:
                await store.write(self.scope.key, cool(self.now + step.ms))

    async def reserve(self, step: Reserve) -> None:
        call_id, slot = f"call{next(self.calls)}", self.model.slot(self.now)
        expected = self.model.reserve(call_id, step.tokens, self.now, step.max_wait_ms)
        verdicts = [
            await store.reserve(
                self.scope, Cost(1, step.tokens), now_ms=self.now, call_id=call_id, max_wait_ms=step.max_wait_ms
            )
            for store in self.stores
        ]
        if isinstance(expected, dict):
            assert all(isinstance(verdict, Refusal) for verdict in verdicts)
            for verdict in verdicts:
                assert isinstance(verdict, Refusal)
                assert {reason.rule: reason.until_ms for reason in verdict.reasons} == expected
            self.said |= expected.keys()
            return
        reservations = [verdict for verdict in verdicts if isinstance(verdict, Reservation)]
        assert len(reservations) == len(verdicts)
        for reservation in reservations:
            assert reservation == reservations[0]
            assert reservation.slot_ms == slot
            assert reservation.probe_id == (call_id if expected.is_probe else None)
            assert reservation.lease == (expected.lease_ends and f"{expected.lease_ends}.{call_id}")
            assert reservation.used == tuple(self.model.counters.get(counter, 0) for counter in expected.counters)
        self.said |= {"probe" if expected.is_probe else "admitted"}
        self.under_way.append((expected, reservations))


@settings(deadline=None, max_examples=40)
@given(
    random=st.randoms(use_true_random=False),
    length=st.integers(1, 60),
    scope=st.sampled_from(SCOPES),
    begin=st.sampled_from(BEGINNINGS),
)
def test_all_stores_and_the_model_agree_after_every_step(
    runner: asyncio.Runner, stores: list[StateStore], random: Random, length: int, scope: Scope, begin: datetime
) -> None:
    """Short, so that a difference is told by few steps."""
    runner.run(Play(stores, scope, begin).play(some_step(random) for _ in range(length)))


EVERY_VERDICT = {
    "limits": {"admitted", *(limit.rule for limit in (*REQUESTS, *TOKENS))},
    "breaker": {"admitted", "probe", "breaker", "cooldown"},
    "throttle": {"admitted", "in_flight", "interval"},
    "all": {"admitted", "probe", "breaker", "cooldown", "in_flight", "requests_per_minute", "tokens_per_day"},
    "all and patient": {
        "admitted",
        "probe",
        "breaker",
        "cooldown",
        "interval",
        "requests_per_day",
        "tokens_per_minute",
    },
}


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.key)
def test_they_agree_for_days_and_on_every_verdict_there_is(
    runner: asyncio.Runner, stores: list[StateStore], scope: Scope
) -> None:
    """DynamoDB, an HTTP call a step, plays along in shorter games."""
    random, quick = Random(scope.key), [store for store in stores if not isinstance(store, DynamoDbStore)]
    games = [Play(players, scope, begin) for players in (quick, stores) for begin in BEGINNINGS]
    for game in games:
        steps = 1_000 if game.stores is quick else 100
        runner.run(game.play(some_step(random) for _ in range(steps)))
    assert set[str]().union(*(game.said for game in games)) >= EVERY_VERDICT[scope.key]
