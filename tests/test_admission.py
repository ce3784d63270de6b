"""Limits, breaker and throttle together: who is admitted, why not and until when, and what is settled afterwards."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.admission import Outcome, Reason, Refusal, Reservation, Scope, plan_finish, plan_reserve
from core.breaker import Breaker
from core.limits import Cost, Limit
from core.plan import Image, Plan, Value, kept_until
from core.store.port import reserve_in
from core.throttle import Throttle
from tests.settled import finish_in


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


NOW = at("2026-11-23T10:15:30Z")
MINUTE_ENDS, HOUR_ENDS, DAY_ENDS = at("2026-11-23T10:16Z"), at("2026-11-23T11:00Z"), at("2026-11-24T00:00Z")
MINUTE, HOUR, DAY = 29923815, 498730, 739943
LIMITS = (
    Limit("requests", "minute", 2),
    Limit("requests", "hour", 20),
    Limit("requests", "day", 100),
    Limit("tokens", "minute", 1_000),
)
SCOPE = Scope("m#a", LIMITS, breaker=Breaker(1, 15_000, 600_000), throttle=Throttle(2, 1_000, lease_ms=60_000))


def reserve(image: Image, *, scope: Scope = SCOPE, now_ms: int = NOW, **more: Any) -> tuple[Image, Any]:
    given = {"cost": Cost(1, 300), "call_id": "call", "max_wait_ms": 0, **more}
    return reserve_in(image, scope, now_ms=now_ms, **given)


def admitted(image: Image, **how: Any) -> tuple[Image, Reservation]:
    after, verdict = reserve(image, **how)
    assert isinstance(verdict, Reservation), verdict
    return after, verdict


def refused(image: Image, **how: Any) -> Refusal:
    after, verdict = reserve(image, **how)
    assert isinstance(verdict, Refusal)
    assert after == image, "a refusal writes nothing"
    return verdict


def test_an_admission_takes_from_all_at_once() -> None:
    image, reservation = admitted({})
    assert image == {
        f"rm{MINUTE}": 1,
        f"rh{HOUR}": 1,
        f"rd{DAY}": 1,
        f"tm{MINUTE}": 300,
        "lr": NOW,
        "x": kept_until(NOW),
        "q": frozenset({f"{NOW + 60_000}.call"}),
        "nx": NOW + 1_000,
    }
    assert reservation == Reservation(
        scope=SCOPE,
        call_id="call",
        cost=Cost(1, 300),
        windows=reservation.windows,
        slot_ms=NOW,
        lease=f"{NOW + 60_000}.call",
        probe_id=None,
        failures_seen=0,
        used=(1, 1, 1, 300),
    )


def test_a_scope_without_rules_admits_and_remembers_when_it_was_used() -> None:
    """What least recently used means rests on it."""
    image, reservation = admitted({}, scope=Scope("m#a"))
    assert image == {"lr": NOW, "x": kept_until(NOW)}
    assert (reservation.slot_ms, reservation.lease, reservation.used) == (NOW, None, ())


@pytest.mark.parametrize(
    ("scope", "is_free"),
    [
        (Scope("k#a"), True),
        (Scope("k#a", limits=(Limit("requests", "day", 1),)), False),
        (Scope("k#a", breaker=Breaker()), False),
        (Scope("k#a", throttle=Throttle(max_in_flight=1)), False),
        (Scope("k#a", throttle=Throttle(min_interval_ms=1)), False),
    ],
)
def test_a_scope_is_free_when_nothing_could_refuse_a_call(scope: Scope, is_free: bool) -> None:
    assert scope.is_free is is_free


FULL_Q = frozenset({f"{NOW + 1}.a", f"{NOW + 2}.b"})


@pytest.mark.parametrize(
    ("image", "reasons", "retry_at_ms", "is_throttled"),
    [
        pytest.param({f"rm{MINUTE}": 2}, {"requests_per_minute": MINUTE_ENDS}, MINUTE_ENDS, False, id="minute"),
        pytest.param({f"rh{HOUR}": 20}, {"requests_per_hour": HOUR_ENDS}, HOUR_ENDS, False, id="hour"),
        pytest.param({f"rd{DAY}": 100}, {"requests_per_day": DAY_ENDS}, DAY_ENDS, False, id="day"),
        pytest.param({f"tm{MINUTE}": 701}, {"tokens_per_minute": MINUTE_ENDS}, MINUTE_ENDS, False, id="tokens"),
        pytest.param(
            {f"rm{MINUTE}": 2, f"rd{DAY}": 100},
            {"requests_per_minute": MINUTE_ENDS, "requests_per_day": DAY_ENDS},
            DAY_ENDS,
            False,
            id="several limits: the last of them to have room",
        ),
        pytest.param({"c": NOW + 7_000}, {"cooldown": NOW + 7_000}, NOW + 7_000, False, id="cooldown"),
        pytest.param({"f": 1, "u": NOW + 9_000}, {"breaker": NOW + 9_000}, NOW + 9_000, False, id="open breaker"),
        pytest.param(
            {"f": 1, "u": NOW + 9_000, "c": NOW + 7_000, f"rm{MINUTE}": 2},
            {"requests_per_minute": MINUTE_ENDS, "cooldown": NOW + 7_000, "breaker": NOW + 9_000},
            MINUTE_ENDS,
            False,
            id="all told at once",
        ),
        pytest.param({"q": FULL_Q}, {"in_flight": NOW + 1_000}, NOW + 1_000, True, id="all leases out"),
        pytest.param({"nx": NOW + 400}, {"interval": NOW + 400}, NOW + 400, True, id="no slot yet"),
        pytest.param(
            {"q": FULL_Q, "nx": NOW + 400},
            {"in_flight": NOW + 1_000, "interval": NOW + 400},
            NOW + 1_000,
            True,
            id="only throttles",
        ),
        pytest.param(
            {"q": FULL_Q, f"rm{MINUTE}": 2},
            {"in_flight": NOW + 1_000, "requests_per_minute": MINUTE_ENDS},
            MINUTE_ENDS,
            False,
            id="a throttle, but not alone",
        ),
    ],
)
def test_a_refusal_names_every_reason_and_when_it_is_gone(
    image: Image, reasons: dict[str, int], retry_at_ms: int, is_throttled: bool
) -> None:
    refusal = refused(image)
    assert {reason.rule: reason.until_ms for reason in refusal.reasons} == reasons
    assert (refusal.retry_at_ms, refusal.is_throttled, refusal.scope) == (retry_at_ms, is_throttled, SCOPE)


@pytest.mark.parametrize(
    ("limits", "cost", "rule"),
    [
        pytest.param((Limit("tokens", "minute", 1_000),), Cost(1, 1_001), "tokens_per_minute", id="tokens"),
        pytest.param((Limit("requests", "day", 0),), Cost(), "requests_per_day", id="a limit of nothing"),
        pytest.param(
            (Limit("tokens", "minute", 1_000), Limit("tokens", "day", 500)), Cost(1, 600), "tokens_per_day", id="one"
        ),
    ],
)
def test_what_costs_more_than_the_limit_itself_never_has_room(limits: tuple[Limit, ...], cost: Cost, rule: str) -> None:
    refusal = refused({}, scope=Scope("m#a", limits), cost=cost)
    assert refusal.reasons == (Reason(rule, None),)
    assert refusal.retry_at_ms is None
    assert not refusal.is_throttled


def test_never_outweighs_every_moment() -> None:
    refusal = refused({f"rm{MINUTE}": 2}, cost=Cost(1, 5_000))
    assert refusal.retry_at_ms is None


def test_the_whole_limit_may_be_taken_by_one_call() -> None:
    image, _ = admitted({}, cost=Cost(1, 1_000))
    assert image[f"tm{MINUTE}"] == 1_000


def test_calls_wait_in_a_queue_for_slots_as_long_as_they_may() -> None:
    scope, image, slots = Scope("m#a", throttle=Throttle(min_interval_ms=1_000)), dict[str, Value](), []
    for _ in range(3):
        image, reservation = admitted(image, scope=scope, max_wait_ms=2_000)  # type: ignore[assignment]
        slots.append(reservation.slot_ms - NOW)
    assert slots == [0, 1_000, 2_000]
    refusal = refused(image, scope=scope, max_wait_ms=2_000)
    assert refusal.reasons == (Reason("interval", NOW + 1_000),), "then a wait of 2 s is enough again"
    assert admitted(image, scope=scope, max_wait_ms=2_000, now_ms=NOW + 1_000)[1].slot_ms == NOW + 3_000


def test_dead_leases_make_room_and_living_ones_stay() -> None:
    image: Image = {"q": frozenset({f"{NOW}.dead", f"{NOW + 1}.alive"})}
    after, reservation = admitted(image)
    assert after["q"] == frozenset({f"{NOW + 1}.alive", f"{NOW + 60_000}.call"})
    assert reservation.lease == f"{NOW + 60_000}.call"


def test_dead_leases_are_cleared_before_it_is_said_why_there_is_no_room() -> None:
    image: Image = {"q": frozenset({f"{NOW}.dead", f"{NOW + 1}.alive"}), f"rm{MINUTE}": 2}
    after, verdict = reserve(image)
    assert isinstance(verdict, Refusal)
    assert [reason.rule for reason in verdict.reasons] == ["requests_per_minute"]
    assert after == {"q": frozenset({f"{NOW + 1}.alive"}), f"rm{MINUTE}": 2}


def test_counters_that_are_out_of_date_are_dropped_with_an_admission() -> None:
    image: Image = {f"rm{MINUTE - 2}": 2, f"rm{MINUTE - 1}": 2, f"rd{DAY - 9}": 7}
    after, _ = admitted(image)
    assert {name: after[name] for name in after if name[:2] in ("rm", "rd")} == {
        f"rm{MINUTE - 1}": 2,
        f"rm{MINUTE}": 1,
        f"rd{DAY}": 1,
    }


PLAIN = replace(SCOPE, throttle=Throttle())
LATER = NOW + 2_000  # within the same minute
COOLED: dict[str, Value] = {"c": LATER + 5, "x": kept_until(LATER + 5)}
TOKENS, REQUESTS = f"tm{MINUTE}", f"rm{MINUTE}"


@pytest.mark.parametrize(
    ("outcome", "now_ms", "changed"),
    [
        pytest.param(Outcome(True), LATER, {}, id="success, nobody said how many tokens: the estimate stays"),
        pytest.param(Outcome(True, 300), LATER, {}, id="as many as was thought"),
        pytest.param(Outcome(True, 120), LATER, {TOKENS: 120}, id="fewer"),
        pytest.param(Outcome(True, 450), LATER, {TOKENS: 450}, id="more"),
        pytest.param(Outcome(True, 5_000), LATER, {TOKENS: 5_000}, id="more than the limit: the truth"),
        pytest.param(Outcome(True, 0), LATER, {TOKENS: 0}, id="none"),
        pytest.param(
            Outcome(is_refund=True), LATER, {TOKENS: 0, REQUESTS: 0, f"rh{HOUR}": 0, f"rd{DAY}": 0}, id="refund"
        ),
        pytest.param(
            Outcome(is_refund=True, tokens=120),
            LATER,
            {TOKENS: 0, REQUESTS: 0, f"rh{HOUR}": 0, f"rd{DAY}": 0},
            id="what was refunded took no tokens",
        ),
        pytest.param(Outcome(True, 120), MINUTE_ENDS + 59_999, {TOKENS: 120}, id="in the next minute: the old one"),
        pytest.param(Outcome(True, 120), MINUTE_ENDS + 60_000, {}, id="two minutes later: it is not made again"),
        pytest.param(Outcome(is_refund=True), HOUR_ENDS, {f"rh{HOUR}": 0, f"rd{DAY}": 0}, id="each window by itself"),
        pytest.param(Outcome(False), LATER, {"f": 1, "u": LATER + 15_000, "l": LATER}, id="a failure"),
        pytest.param(Outcome(None), LATER, {}, id="nothing said of the provider"),
        pytest.param(Outcome(cool_until_ms=LATER + 5), LATER, COOLED, id="a cooldown"),
        pytest.param(
            Outcome(False, 0, cool_until_ms=LATER + 5),
            LATER,
            {TOKENS: 0, "f": 1, "u": LATER + 15_000, "l": LATER, **COOLED},
            id="all of it",
        ),
    ],
)
def test_what_was_reserved_is_settled_by_what_was(outcome: Outcome, now_ms: int, changed: dict[str, Value]) -> None:
    image, reservation = admitted({}, scope=PLAIN)
    assert finish_in(image, reservation, outcome, now_ms=now_ms) == {**image, **changed}


@pytest.mark.parametrize("now_ms", [NOW, MINUTE_ENDS + 60_000, DAY_ENDS + 2 * 86_400_000])
def test_a_window_that_is_gone_is_not_made_again(now_ms: int) -> None:
    """The item may be gone altogether, or others may have dropped the counter; a negative one would admit too many."""
    image, reservation = admitted({}, scope=PLAIN)
    gone = {window.attribute for window in reservation.windows if window.ends * 1000 + 60_000 <= now_ms}
    rest = {name: value for name, value in image.items() if name not in gone}
    after = finish_in(rest, reservation, Outcome(is_refund=True), now_ms=now_ms)
    assert not gone & after.keys()


def test_a_day_of_23_hours_is_gone_when_the_calendar_says_so() -> None:
    """Held against 24 hours, a refund would make a counter that others have dropped."""
    scope = Scope("m#a", (Limit("requests", "day", 5),), day_starts="00:00 America/Los_Angeles")
    image, reservation = admitted({}, scope=scope, now_ms=at("2026-03-07T12:00-08:00"))
    two_days_on = at("2026-03-09T00:30-07:00")
    image, _ = admitted(image, scope=scope, now_ms=two_days_on)
    assert reservation.windows[0].attribute not in image
    after = finish_in(image, reservation, Outcome(is_refund=True), now_ms=two_days_on)
    assert after == image


def test_a_success_that_took_what_it_reserved_writes_nothing() -> None:
    _, reservation = admitted({}, scope=PLAIN)
    assert plan_finish(reservation, Outcome(True, 300), now_ms=LATER) == []


def test_the_lease_is_given_back_however_the_call_ended_and_the_slot_stays_taken() -> None:
    image, reservation = admitted({})
    for outcome in (Outcome(True), Outcome(False), Outcome(), Outcome(is_refund=True)):
        after = finish_in(image, reservation, outcome, now_ms=LATER)
        assert "q" not in after
        assert after["nx"] == NOW + 1_000


def test_a_lease_that_expired_and_was_cleared_meanwhile_is_not_missed() -> None:
    image, reservation = admitted({})
    cleared = {name: value for name, value in image.items() if name != "q"}
    assert finish_in(cleared, reservation, Outcome(True, 300), now_ms=LATER) == cleared


def test_a_scope_without_a_breaker_hears_no_verdict() -> None:
    """A caller's key has none: its calls fail for the provider's sake."""
    scope = Scope("k#app", LIMITS)
    image, reservation = admitted({"f": 1, "u": NOW + 5, "c": NOW + 5}, scope=scope)
    assert finish_in(image, reservation, Outcome(False), now_ms=LATER) == image


def test_the_probe_of_a_half_open_breaker_is_judged_by_its_own_end() -> None:
    half_open: Image = {"f": 1, "u": NOW, "l": NOW - 15_000}
    image, reservation = admitted(half_open, scope=PLAIN)
    assert reservation.probe_id == "call"
    assert refused(image, scope=PLAIN, now_ms=NOW + 1).reasons == (Reason("breaker", NOW + 30_000),)
    closed = finish_in(image, reservation, Outcome(True, 300), now_ms=LATER)
    assert not {"f", "u", "p", "l"} & closed.keys()
    longer = finish_in(image, reservation, Outcome(False), now_ms=LATER)
    assert (longer["f"], longer["u"]) == (2, LATER + 30_000)


@pytest.mark.parametrize("outcome", [Outcome(), Outcome(is_refund=True), Outcome(tokens=10)])
def test_a_probe_that_proved_nothing_makes_room_for_the_next_at_once(outcome: Outcome) -> None:
    image, reservation = admitted({"f": 1, "u": NOW, "l": NOW - 15_000}, scope=PLAIN)
    freed = finish_in(image, reservation, outcome, now_ms=LATER)
    assert admitted(freed, scope=PLAIN, now_ms=LATER, call_id="next")[1].probe_id == "next"


# What may lie in an item: the attributes of the windows around NOW with numbers around the limits, and all the others.
NUMBERS = {"rm": MINUTE, "rh": HOUR, "rd": DAY, "tm": MINUTE}
COUNTERS = st.sampled_from([f"{kind}{number - age}" for kind, number in NUMBERS.items() for age in (0, 1, 2)])
MOMENTS = st.integers(NOW - 40_000, NOW + 40_000)
LEASES = st.builds(lambda moment, name: f"{moment}.{name}", MOMENTS, st.sampled_from("abc"))
IMAGES = st.builds(
    lambda counters, more: {**counters, **more},
    st.dictionaries(COUNTERS, st.sampled_from([0, 1, 2, 3, 19, 20, 99, 100, 699, 700, 701, 1_000])),
    st.fixed_dictionaries(
        {},
        optional={
            "f": st.integers(0, 4),
            "u": MOMENTS,
            "l": MOMENTS,
            "c": MOMENTS,
            "p": st.just("probe"),
            "nx": MOMENTS,
            "q": st.frozensets(LEASES, min_size=1, max_size=3),
        },
    ),
)
SCOPES = st.builds(
    Scope,
    key=st.just("m#a"),
    limits=st.lists(st.sampled_from(LIMITS), unique=True).map(tuple),
    breaker=st.none() | st.builds(Breaker, st.integers(1, 3), st.just(15_000), st.just(60_000)),
    throttle=st.builds(Throttle, st.none() | st.integers(1, 2), st.sampled_from([0, 1_000]), st.just(60_000)),
)
PATIENCE = st.sampled_from([0, 2_000])


def step(scope: Scope, image: Image, max_wait_ms: int, now_ms: int = NOW) -> tuple[Plan, Reservation | None] | Refusal:
    return plan_reserve(scope, Cost(1, 300), image, now_ms=now_ms, call_id="call", max_wait_ms=max_wait_ms)


@settings(deadline=None)
@given(SCOPES, IMAGES, PATIENCE)
def test_a_plan_holds_in_the_image_that_it_was_made_for(scope: Scope, image: Image, max_wait_ms: int) -> None:
    planned = step(scope, image, max_wait_ms)
    if not isinstance(planned, Refusal):
        assert planned[0].holds(image)


@settings(deadline=None, max_examples=200)
@given(SCOPES, IMAGES, st.data(), PATIENCE)
def test_a_plan_that_holds_in_another_image_is_an_admission_there_too(
    scope: Scope, old: Image, data: st.DataObject, max_wait_ms: int
) -> None:
    """On this rests a store that judges by an image it has seen some time ago: the conditions are the whole verdict.

    The images differ in a few attributes, so that often enough a plan of the one does hold in the other."""
    planned = step(scope, old, max_wait_ms)
    assume(not isinstance(planned, Refusal))
    assert not isinstance(planned, Refusal)
    plan, reservation = planned
    assume(reservation is not None)
    other = data.draw(IMAGES)
    changed = data.draw(st.sets(st.sampled_from(sorted({*old, *other}) or ["f"]), max_size=3))
    true = {name: value for name, value in old.items() if name not in changed}
    true |= {name: value for name, value in other.items() if name in changed}
    fresh = step(scope, true, max_wait_ms)
    if plan.holds(true):
        assert not isinstance(fresh, Refusal)
        assert fresh[1] is not None
    elif not isinstance(fresh, Refusal) and fresh[1] is not None:
        assert fresh[0].conditions != plan.conditions, "the same conditions cannot both hold and not"


@settings(deadline=None)
@given(SCOPES, IMAGES, PATIENCE)
def test_no_attribute_is_changed_in_two_ways_by_one_plan(scope: Scope, image: Image, max_wait_ms: int) -> None:
    planned = step(scope, image, max_wait_ms)
    assume(not isinstance(planned, Refusal))
    assert not isinstance(planned, Refusal)
    plans, reservation = [planned[0]], planned[1]
    if reservation is not None:
        for verdict in (True, False, None):
            outcome = Outcome(verdict, 10, cool_until_ms=NOW + 9)
            plans += plan_finish(reservation, outcome, now_ms=NOW + 5)
    for plan in plans:
        changed = [*plan.set, *plan.add, *plan.remove, *plan.include, *plan.exclude]
        assert len(changed) == len(set(changed))


@settings(deadline=None, max_examples=200)
@given(SCOPES, IMAGES)
def test_at_the_moment_that_a_refusal_names_there_is_room_and_not_a_millisecond_before(
    scope: Scope, image: Image
) -> None:
    """Unless a lease is waited for: nobody knows when that comes back."""
    _, refusal = reserve(image, scope=scope)
    assume(isinstance(refusal, Refusal) and refusal.retry_at_ms is not None)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_at_ms is not None
    assume(all(reason.rule != "in_flight" for reason in refusal.reasons))
    assert isinstance(reserve(image, scope=scope, now_ms=refusal.retry_at_ms - 1)[1], Refusal)
    assert isinstance(reserve(image, scope=scope, now_ms=refusal.retry_at_ms)[1], Reservation)
