"""Calls at once and their distance: leases that expire, slots that keep apart, queues that stay short."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.plan import Plan, Value
from core.throttle import (
    Throttle,
    clear_expired,
    expired,
    is_full,
    lease,
    next_slot,
    take_lease,
    take_slot,
)

NOW = 1_800_000_000_000
TWO = Throttle(max_in_flight=2, lease_ms=60_000)


def take_one(image: dict[str, Value], throttle: Throttle, call_id: str, now_ms: int) -> str | None:
    """Changes `image`; None: it is full."""
    plan = Plan()
    mine = take_lease(plan, throttle, call_id, now_ms)
    if not plan.holds(image):
        return None
    image.update(plan.apply(image))
    return mine


def test_a_lease_says_when_it_expires_and_whose_it_is() -> None:
    assert lease(TWO, "abc", NOW) == f"{NOW + 60_000}.abc"


def test_as_many_leases_as_may_be_and_not_one_more() -> None:
    image: dict[str, Value] = {}
    assert [bool(take_one(image, TWO, call_id, NOW)) for call_id in "abc"] == [True, True, False]
    assert is_full(TWO, image)
    given_back = Plan(exclude={"q": frozenset({lease(TWO, "a", NOW)})}).apply(image)
    assert not is_full(TWO, given_back)
    assert take_one(given_back, TWO, "c", NOW)


def test_without_a_maximum_there_are_no_leases() -> None:
    plan = Plan()
    assert take_lease(plan, Throttle(), "a", NOW) is None
    assert plan == Plan()
    assert not is_full(Throttle(), {"q": frozenset("abc")})


@pytest.mark.parametrize(
    ("at_ms", "is_dead"), [(NOW, False), (NOW + 59_999, False), (NOW + 60_000, True), (NOW + 10**9, True)]
)
def test_the_lease_of_a_process_that_died_expires(at_ms: int, is_dead: bool) -> None:
    mine = lease(TWO, "a", NOW)
    image: dict[str, Value] = {"q": frozenset({mine, lease(TWO, "b", at_ms)})}
    assert expired(image, at_ms) == (frozenset({mine}) if is_dead else frozenset())
    clearing = clear_expired(image, at_ms)
    assert (clearing is not None) is is_dead
    if clearing:
        assert clearing.apply(image) == {"q": frozenset({lease(TWO, "b", at_ms)})}


def test_nothing_is_cleared_where_there_are_no_leases() -> None:
    assert clear_expired({}, NOW) is None


SLOTS = Throttle(min_interval_ms=1_000)


@pytest.mark.parametrize(
    ("next_free", "now_ms", "max_wait_ms", "slot"),
    [
        pytest.param(None, NOW, 0, NOW, id="idle: at once"),
        pytest.param(NOW - 1, NOW, 0, NOW, id="idle for a while: at once"),
        pytest.param(NOW, NOW, 0, NOW, id="free from now on: at once"),
        pytest.param(NOW + 1, NOW, 0, None, id="busy, and nobody may wait"),
        pytest.param(NOW + 1, NOW, 1, NOW + 1, id="busy: the next one"),
        pytest.param(NOW + 2_000, NOW, 2_000, NOW + 2_000, id="as late as may be waited"),
        pytest.param(NOW + 2_001, NOW, 2_000, None, id="later than that"),
    ],
)
def test_a_slot_is_taken(next_free: int | None, now_ms: int, max_wait_ms: int, slot: int | None) -> None:
    image: dict[str, Value] = {} if next_free is None else {"nx": next_free}
    plan = Plan()
    take_slot(plan, SLOTS, image, now_ms, max_wait_ms)
    assert plan.holds(image) is (slot is not None)
    if slot is not None:
        assert next_slot(SLOTS, image, now_ms) == slot
        assert plan.apply(image) == {"nx": slot + 1_000}


def test_without_an_interval_every_call_goes_at_once() -> None:
    plan = Plan()
    take_slot(plan, Throttle(), {"nx": NOW + 5}, NOW, 0)
    assert plan == Plan()
    assert next_slot(Throttle(), {"nx": NOW + 5}, NOW) == NOW


def test_of_two_that_were_judged_by_one_image_one_has_the_idle_slot() -> None:
    plans = [Plan(), Plan()]
    for plan in plans:
        take_slot(plan, SLOTS, {}, NOW, 0)
    assert not plans[1].holds(plans[0].apply({}))


def test_a_place_in_the_queue_does_not_hold_once_the_queue_is_gone() -> None:
    """The slot would lie in the past: the store has to judge anew."""
    plan = Plan()
    take_slot(plan, SLOTS, {"nx": NOW + 5}, NOW, 100)
    assert not plan.holds({"nx": NOW})
    assert not plan.holds({})


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 2_500)), min_size=1, max_size=50),
    st.integers(1, 2_000),
)
def test_slots_are_never_closer_than_the_interval_and_nobody_waits_too_long(
    arrivals: list[tuple[int, int]], interval_ms: int
) -> None:
    """Nor is anybody sent away who could have had one: `slots` alone say where the next would lie."""
    throttle, now = Throttle(min_interval_ms=interval_ms), NOW
    image: dict[str, Value] = {}
    slots: list[int] = []
    for pause_ms, max_wait_ms in arrivals:
        now += pause_ms
        expected = max(now, slots[-1] + interval_ms) if slots else now
        plan = Plan()
        take_slot(plan, throttle, image, now, max_wait_ms)
        slot = next_slot(throttle, image, now)
        assert plan.holds(image) is (expected <= now + max_wait_ms)
        if plan.holds(image):
            assert now <= slot == expected
            slots.append(slot)
            image = plan.apply(image)
    assert all(later - earlier >= interval_ms for earlier, later in itertools.pairwise(slots))
