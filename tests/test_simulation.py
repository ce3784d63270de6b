"""A million requests on a fake clock, and an independent count from the log of what was admitted and refused.

The rules are driven as the memory store drives them, less its lock and its event loop. The count knows nothing of them:
it has its own calendar, and judges every line of the log by those before it. Planted bugs show that it can find some.
"""

import bisect
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random

import pytest

from core.admission import Outcome, Refusal, Reservation, Scope, plan_reserve
from core.breaker import Breaker
from core.limits import Cost, Limit
from core.plan import Image
from core.store.port import reserve_in
from tests.settled import finish_in


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


# Around the day of 23 hours in Los Angeles, from midnight and from a start that was skipped on that day; and in UTC.
DAYS = {
    "00:00 America/Los_Angeles": [
        *(at(f"2026-03-{day:02}T00:00-08:00") for day in range(5, 9)),
        *(at(f"2026-03-{day:02}T00:00-07:00") for day in range(9, 20)),
    ],
    "02:30 America/Los_Angeles": [
        *(at(f"2026-03-{day:02}T02:30-08:00") for day in range(5, 9)),
        *(at(f"2026-03-{day:02}T02:30-07:00") for day in range(9, 20)),
    ],
    "00:00 Etc/UTC": [at(f"2026-03-{day:02}T00:00Z") for day in range(5, 20)],
}
BORDERS = {"minute": 60_000, "hour": 3_600_000}

MODELS = (
    Scope(
        "m#requests",
        (Limit("requests", "minute", 60), Limit("requests", "hour", 2_000), Limit("requests", "day", 35_000)),
        "00:00 America/Los_Angeles",
        Breaker(5, 5_000, 60_000),
    ),
    Scope(
        "m#tokens",
        (Limit("tokens", "minute", 30_000), Limit("tokens", "day", 24_000_000)),
        "00:00 Etc/UTC",
        Breaker(1, 2_000, 30_000),
    ),
    Scope(
        "m#both",
        (Limit("requests", "minute", 50), Limit("tokens", "hour", 600_000), Limit("requests", "day", 30_000)),
        "02:30 America/Los_Angeles",
        Breaker(3, 3_000, 60_000),
    ),
)


# --- the log: what happened to whom at which moment


@dataclass(frozen=True, slots=True)
class Admitted:
    model: str
    at: int
    call: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    model: str
    at: int
    tokens: int
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call really took: nothing when it never reached the provider."""

    model: str
    call: int
    requests: int
    tokens: int


Entry = Admitted | Refused | Settled


# --- the simulation

Reserve = Callable[[Image, Scope, Cost, int, str], tuple[Image, Reservation | Refusal]]
Finish = Callable[[Image, Reservation, Outcome, int], Image]


def reserve_rightly(
    image: Image, scope: Scope, cost: Cost, now_ms: int, call_id: str
) -> tuple[Image, Reservation | Refusal]:
    return reserve_in(image, scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=0)


def finish_rightly(image: Image, reservation: Reservation, outcome: Outcome, now_ms: int) -> Image:
    return finish_in(image, reservation, outcome, now_ms=now_ms)


def simulate(
    models: Sequence[Scope],
    requests: int,
    *,
    begin: int,
    reserve: Reserve = reserve_rightly,
    finish: Finish = finish_rightly,
) -> Iterator[Entry]:
    """Each request asks a model by chance, and when that refuses now and then the next one."""
    random, now = Random(4), begin
    images: dict[str, Image] = {model.key: {} for model in models}
    under_way: list[tuple[int, int, Reservation]] = []
    for call in range(requests):
        is_rush = (now // 600_000) % 3
        now += int(random.expovariate(1 / (180 if is_rush else 1_500)))
        while under_way and under_way[0][0] <= now:
            ended_at, number, reservation = heapq.heappop(under_way)
            outcome, entry = how_it_ended(random, number, reservation, ended_at)
            key = reservation.scope.key
            images[key] = finish(images[key], reservation, outcome, ended_at)
            yield entry
        tokens, which = random.randint(1, 1_500), random.randrange(len(models))
        for model in (models[which], models[which - 1]) if random.random() < 0.2 else (models[which],):
            images[model.key], verdict = reserve(images[model.key], model, Cost(1, tokens), now, str(call))
            if isinstance(verdict, Reservation):
                yield Admitted(model.key, now, call, tokens)
                takes_ms = random.expovariate(1 / 60_000 if random.random() < 0.02 else 1 / 2_000)
                heapq.heappush(under_way, (now + int(takes_ms), call, verdict))
                break
            yield Refused(model.key, now, tokens, tuple(reason.rule for reason in verdict.reasons))


def how_it_ended(random: Random, call: int, reservation: Reservation, now_ms: int) -> tuple[Outcome, Settled]:
    """Nobody takes more than was estimated: only then limits on tokens can be exact."""
    chance, model, estimate = random.random(), reservation.scope.key, reservation.cost.tokens
    if chance < 0.02:
        return Outcome(random.choice([None, False]), is_refund=True), Settled(model, call, 0, 0)
    if chance < 0.024:
        return Outcome(None, 0, cool_until_ms=now_ms + random.randint(1, 20_000)), Settled(model, call, 1, 0)
    if chance < 0.06:
        return Outcome(False, 0), Settled(model, call, 1, 0)
    if chance < 0.08:
        return Outcome(None), Settled(model, call, 1, estimate)
    tokens = random.randint(0, estimate)
    return Outcome(True, tokens), Settled(model, call, 1, tokens)


# --- the independent count


@dataclass
class Book:
    """What was taken from one model, by limit and window."""

    model: Scope
    taken: Counter[tuple[str, int]] = field(default_factory=Counter)
    filled: set[tuple[str, int]] = field(default_factory=set)  # where somebody was refused for it
    under_way: dict[int, tuple[int, int]] = field(default_factory=dict)

    def windows(self, moment: int) -> Iterator[tuple[Limit, tuple[str, int]]]:
        for limit in self.model.limits:
            if limit.span == "day":
                number = bisect.bisect_right(DAYS[self.model.day_starts], moment)
            else:
                number = moment // BORDERS[limit.span]
            yield limit, (f"{limit.what}_per_{limit.span}", number)

    def admit(self, entry: Admitted) -> Iterator[str]:
        for limit, window in self.windows(entry.at):
            self.taken[window] += 1 if limit.what == "requests" else entry.tokens
            if self.taken[window] > limit.most:
                yield f"{self.model.key}: {window} has {self.taken[window]} of {limit.most}"
        self.under_way[entry.call] = (entry.at, entry.tokens)

    def refuse(self, entry: Refused) -> Iterator[str]:
        if not entry.rules:
            yield f"{self.model.key}: refused at {entry.at} for no reason"
        for limit, window in self.windows(entry.at):
            if window[0] in entry.rules:
                self.filled.add(window)
                if self.taken[window] + (1 if limit.what == "requests" else entry.tokens) <= limit.most:
                    yield f"{self.model.key}: {window} has {self.taken[window]} of {limit.most}, yet it refused"

    def settle(self, entry: Settled) -> Iterator[str]:
        began, estimate = self.under_way.pop(entry.call)
        for limit, window in self.windows(began):
            self.taken[window] += entry.requests - 1 if limit.what == "requests" else entry.tokens - estimate
        yield from ()


class Audit:
    """Complaints about a log, and afterwards what the books say."""

    def __init__(self, models: Iterable[Scope]) -> None:
        self.books = {model.key: Book(model) for model in models}
        self.lines: Counter[str] = Counter()

    def complaints(self, log: Iterable[Entry]) -> Iterator[str]:
        for entry in log:
            book = self.books[entry.model]
            if isinstance(entry, Admitted):
                self.lines["admitted"] += 1
                yield from book.admit(entry)
            elif isinstance(entry, Settled):
                yield from book.settle(entry)
            else:
                self.lines.update(entry.rules)
                yield from book.refuse(entry)

    def filled(self, model: str, rule: str) -> int:
        """How many windows of that limit somebody found full."""
        return sum(name == rule for name, _ in self.books[model].filled)


def test_in_a_million_requests_no_limit_is_passed_and_every_one_is_reached_where_there_was_demand() -> None:
    audit = Audit(MODELS)
    log = simulate(MODELS, 1_000_000, begin=at("2026-03-07T10:00Z"))
    assert next(audit.complaints(log), None) is None
    assert min(audit.filled(model.key, f"{model.limits[-1].what}_per_day") for model in MODELS) >= 2
    short_day = bisect.bisect_right(DAYS["00:00 America/Los_Angeles"], at("2026-03-08T12:00-07:00"))
    assert ("requests_per_day", short_day) in audit.books["m#requests"].filled
    assert audit.filled("m#requests", "requests_per_minute") > 500
    assert audit.filled("m#tokens", "tokens_per_minute") > 500
    assert audit.filled("m#requests", "requests_per_hour") > 10
    assert audit.filled("m#both", "tokens_per_hour") > 10
    assert audit.lines["admitted"] > 200_000
    assert 1_000 < audit.lines["breaker"] < 100_000
    assert 1_000 < audit.lines["cooldown"] < 100_000


# --- planted bugs: a rule that is a little wrong, over a few hours with limits that are soon reached


def with_limits(model: Scope, change: Callable[[Limit], Limit]) -> Scope:
    return replace(model, limits=tuple(change(limit) for limit in model.limits))


def smaller(limit: Limit) -> Limit:
    return limit._replace(most=limit.most // {"minute": 1, "hour": 5, "day": 25}[limit.span])


SMALL = tuple(with_limits(model, smaller) for model in MODELS)
EVENING = at("2026-03-08T22:30-07:00")  # of the day of 23 hours
HOURS = 50_000


def by(change: Callable[[Scope], Scope], later_ms: int = 0) -> Reserve:
    """A rule that takes the limits, or the time, for others than they are."""

    def reserve(
        image: Image, scope: Scope, cost: Cost, now_ms: int, call_id: str
    ) -> tuple[Image, Reservation | Refusal]:
        return reserve_rightly(image, change(scope), cost, now_ms + later_ms, call_id)

    return reserve


def off_by(amount: int, span: str) -> Reserve:
    def change(limit: Limit) -> Limit:
        return limit._replace(most=limit.most + amount) if limit.span == span else limit

    return by(lambda scope: with_limits(scope, change))


def days_from(start: str) -> Reserve:
    return by(lambda scope: replace(scope, day_starts=start) if "Los_Angeles" in scope.day_starts else scope)


def look_then_add() -> Reserve:
    """By an image that is one admission old, and without asking again when it is written."""
    seen: dict[str, Image] = {}

    def reserve(
        image: Image, scope: Scope, cost: Cost, now_ms: int, call_id: str
    ) -> tuple[Image, Reservation | Refusal]:
        old = seen.get(scope.key, {})
        seen[scope.key] = image
        step = plan_reserve(scope, cost, old, now_ms=now_ms, call_id=call_id, max_wait_ms=0)
        if isinstance(step, Refusal):
            return image, step
        plan, reservation = step
        assert reservation is not None
        return plan.apply(image), reservation

    return reserve


def settle_without_refunds(image: Image, reservation: Reservation, outcome: Outcome, now_ms: int) -> Image:
    return finish_rightly(image, reservation, replace(outcome, is_refund=False), now_ms)


def settle_refunds_twice(image: Image, reservation: Reservation, outcome: Outcome, now_ms: int) -> Image:
    image = finish_rightly(image, reservation, outcome, now_ms)
    return finish_rightly(image, reservation, outcome, now_ms) if outcome.is_refund else image


def settle_by_the_estimate(image: Image, reservation: Reservation, outcome: Outcome, now_ms: int) -> Image:
    return finish_rightly(image, reservation, replace(outcome, tokens=None), now_ms)


def complaint_about(reserve: Reserve = reserve_rightly, finish: Finish = finish_rightly) -> str | None:
    """The first one."""
    log = simulate(SMALL, HOURS, begin=EVENING, reserve=reserve, finish=finish)
    return next(Audit(SMALL).complaints(log), None)


def test_over_the_same_hours_the_right_rule_gives_no_cause_for_complaint() -> None:
    assert complaint_about() is None


@pytest.mark.parametrize(
    ("reserve", "is_said"),
    [
        pytest.param(off_by(1, "minute"), "per_minute", id="one more a minute"),
        pytest.param(off_by(1, "hour"), "per_hour", id="one more an hour"),
        pytest.param(off_by(1, "day"), "per_day", id="one more a day"),
        pytest.param(off_by(-1, "minute"), "yet it refused", id="one less a minute"),
        pytest.param(off_by(-1, "hour"), "yet it refused", id="one less an hour"),
        pytest.param(off_by(-1, "day"), "yet it refused", id="one less a day"),
        pytest.param(by(lambda scope: scope, 30_000), "per_minute", id="minutes that are rounded, not cut off"),
        pytest.param(by(lambda scope: scope, -1_000), "per_", id="borders that come a second late"),
        pytest.param(days_from("00:00 Etc/UTC"), "requests_per_day", id="days of UTC where others are meant"),
        pytest.param(days_from("08:00 Etc/UTC"), "requests_per_day", id="the change of clocks forgotten"),
        pytest.param(look_then_add(), "per_", id="look first, add afterwards"),
    ],
)
def test_a_bug_in_admission_is_found(reserve: Reserve, is_said: str) -> None:
    complaint = complaint_about(reserve)
    assert complaint is not None
    assert is_said in complaint


@pytest.mark.parametrize("finish", [settle_without_refunds, settle_refunds_twice, settle_by_the_estimate])
def test_a_bug_in_settlement_is_found(finish: Finish) -> None:
    assert complaint_about(finish=finish) is not None
