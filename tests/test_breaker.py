"""The breaker, row by row as its table is drawn in `core/breaker.py`, and what holds in whatever order things come."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.breaker import PROBE_MS, Breaker, cool, cooling_until, failed, open_until, pass_through, succeeded, unjudged
from core.plan import Plan, Value, kept_until, number

NOW = 1_800_000_000_000
BREAKER = Breaker(failures=3, cooldown_ms=10_000, max_cooldown_ms=60_000)

CLOSED: dict[str, Value] = {}
SHAKEN: dict[str, Value] = {"f": 2, "u": NOW + 9_000, "l": NOW - 1_000}
OPEN: dict[str, Value] = {"f": 3, "u": NOW + 4_000, "l": NOW - 6_000}
HALF_OPEN: dict[str, Value] = {"f": 3, "u": NOW, "l": NOW - 10_000}
PROBE_OUT: dict[str, Value] = {"f": 3, "u": NOW + 25_000, "l": NOW - 20_000, "p": "probe"}
PROBE_DEAD: dict[str, Value] = {"f": 3, "u": NOW, "l": NOW - 50_000, "p": "probe"}


@dataclass
class Call:
    failures_seen: int
    probe_id: str | None


@dataclass
class Item:
    """One breaker as all callers share it."""

    image: dict[str, Value] = field(default_factory=dict)
    breaker: Breaker = BREAKER

    def request(self, now_ms: int, call_id: str = "call") -> Call | None:
        """None: refused."""
        if open_until(self.breaker, self.image, now_ms) or cooling_until(self.image, now_ms):
            return None
        plan, seen = Plan(), number(self.image, "f")
        is_probe = pass_through(plan, self.breaker, self.image, now_ms, call_id)
        assert plan.holds(self.image)
        self.image = plan.apply(self.image)
        return Call(seen, call_id if is_probe else None)

    def succeed(self, call: Call) -> None:
        self._carry_out(succeeded(failures_seen=call.failures_seen, probe_id=call.probe_id))

    def fail(self, call: Call, now_ms: int) -> None:
        plans = failed(self.breaker, failures_seen=call.failures_seen, probe_id=call.probe_id, now_ms=now_ms)
        assert self._carry_out(plans) <= 1, "one failure is counted once"

    def say_nothing(self, call: Call, now_ms: int) -> None:
        self._carry_out(unjudged(probe_id=call.probe_id, now_ms=now_ms))

    def cool(self, until_ms: int) -> None:
        self._carry_out([cool(until_ms)])

    def _carry_out(self, plans: list[Plan]) -> int:
        """How many of them held."""
        held = 0
        for plan in plans:
            if plan.holds(self.image):
                self.image = plan.apply(self.image)
                held += 1
        return held


@pytest.mark.parametrize(
    ("image", "refused_until", "written"),
    [
        pytest.param(CLOSED, None, {}, id="closed: admitted, nothing written"),
        pytest.param(SHAKEN, None, {}, id="closed after failures: as well"),
        pytest.param(OPEN, NOW + 4_000, {}, id="open: refused"),
        pytest.param(HALF_OPEN, None, {"u": NOW + PROBE_MS, "p": "call"}, id="half-open: the probe"),
        pytest.param(PROBE_OUT, NOW + 25_000, {}, id="probe out: refused"),
        pytest.param(PROBE_DEAD, None, {"u": NOW + PROBE_MS, "p": "call"}, id="probe out for too long: the next one"),
        pytest.param({**CLOSED, "c": NOW + 1}, NOW + 1, {}, id="cooling: refused"),
        pytest.param({**CLOSED, "c": NOW}, None, {}, id="cooled down: admitted"),
        pytest.param({**HALF_OPEN, "c": NOW + 1}, NOW + 1, {}, id="cooling: not even a probe"),
    ],
)
def test_a_request_meets(image: dict[str, Value], refused_until: int | None, written: dict[str, Value]) -> None:
    until = open_until(BREAKER, image, NOW) or cooling_until(image, NOW)
    assert until == refused_until
    item = Item(dict(image))
    call = item.request(NOW)
    assert (call is None) is (refused_until is not None)
    assert item.image == {**image, **written}
    if call:
        assert call.probe_id == written.get("p")


@pytest.mark.parametrize(
    ("image", "call", "after"),
    [
        pytest.param(CLOSED, Call(0, None), CLOSED, id="closed: nothing to write"),
        pytest.param(SHAKEN, Call(2, None), CLOSED, id="closed after failures: they are forgotten"),
        pytest.param(SHAKEN, Call(1, None), SHAKEN, id="not those that came while it ran"),
        pytest.param(SHAKEN, Call(0, None), SHAKEN, id="nor by one that had seen none"),
        pytest.param(OPEN, Call(2, None), OPEN, id="open: it came from before"),
        pytest.param(PROBE_OUT, Call(2, None), PROBE_OUT, id="probe out: one from before does not close it"),
        pytest.param(PROBE_OUT, Call(3, "probe"), CLOSED, id="probe out: the probe closes it"),
        pytest.param(PROBE_OUT, Call(3, "earlier"), PROBE_OUT, id="a probe that was given up closes nothing"),
        pytest.param(PROBE_DEAD, Call(3, "probe"), CLOSED, id="a late probe closes it while there is no other"),
        pytest.param({**SHAKEN, "c": NOW + 5}, Call(2, None), {"c": NOW + 5}, id="a cooldown stays"),
    ],
)
def test_a_success_meets(image: dict[str, Value], call: Call, after: dict[str, Value]) -> None:
    item = Item(dict(image))
    item.succeed(call)
    assert item.image == after


OPENED = {"u": NOW + 10_000, "l": NOW}


@pytest.mark.parametrize(
    ("image", "call", "after"),
    [
        pytest.param(CLOSED, Call(0, None), {"f": 1, **OPENED}, id="closed: counts"),
        pytest.param(SHAKEN, Call(2, None), {"f": 3, **OPENED}, id="closed: the last one opens it"),
        pytest.param(SHAKEN, Call(0, None), {"f": 3, **OPENED}, id="whatever it had seen"),
        pytest.param(OPEN, Call(2, None), OPEN, id="open: it came from before and does not extend it"),
        pytest.param(HALF_OPEN, Call(2, None), HALF_OPEN, id="half-open: nor does it now"),
        pytest.param(PROBE_OUT, Call(2, None), PROBE_OUT, id="probe out: nor does it now"),
        pytest.param(PROBE_OUT, Call(3, "earlier"), PROBE_OUT, id="a probe that was given up changes nothing"),
        pytest.param(
            PROBE_OUT, Call(3, "probe"), {"f": 4, "u": NOW + 20_000, "l": NOW}, id="the probe: open for twice as long"
        ),
        pytest.param(
            {**PROBE_OUT, "f": 4}, Call(4, "probe"), {"f": 5, "u": NOW + 40_000, "l": NOW}, id="the second: four times"
        ),
        pytest.param(
            {**PROBE_OUT, "f": 5}, Call(5, "probe"), {"f": 6, "u": NOW + 60_000, "l": NOW}, id="the third: the maximum"
        ),
        pytest.param(
            {**PROBE_OUT, "f": 999}, Call(999, "probe"), {"f": 1000, "u": NOW + 60_000, "l": NOW}, id="never beyond it"
        ),
    ],
)
def test_a_failure_meets(image: dict[str, Value], call: Call, after: dict[str, Value]) -> None:
    item = Item(dict(image))
    item.fail(call, NOW)
    assert item.image == after


@pytest.mark.parametrize(
    ("image", "call", "after"),
    [
        pytest.param(CLOSED, Call(0, None), CLOSED, id="closed"),
        pytest.param(SHAKEN, Call(2, None), SHAKEN, id="closed after failures: it proves nothing good either"),
        pytest.param(OPEN, Call(2, None), OPEN, id="open"),
        pytest.param(PROBE_OUT, Call(2, None), PROBE_OUT, id="probe out: another's affair"),
        pytest.param(PROBE_OUT, Call(3, "earlier"), PROBE_OUT, id="a probe that was given up"),
        pytest.param(
            PROBE_OUT, Call(3, "probe"), {"f": 3, "u": NOW, "l": NOW - 20_000}, id="the probe: room for the next"
        ),
    ],
)
def test_a_clients_own_mistake_meets(image: dict[str, Value], call: Call, after: dict[str, Value]) -> None:
    item = Item(dict(image))
    item.say_nothing(call, NOW)
    assert item.image == after


def test_a_clients_mistake_frees_the_probe_at_once() -> None:
    item = Item(dict(HALF_OPEN))
    probe = item.request(NOW, "first")
    assert probe
    assert item.request(NOW + 500, "second") is None
    item.say_nothing(probe, NOW + 1_000)
    second = item.request(NOW + 1_000, "second")
    assert second
    assert second.probe_id == "second"


STATES = {"closed": CLOSED, "open": OPEN, "half-open": HALF_OPEN, "probe out": PROBE_OUT}


@pytest.mark.parametrize("judged", ["closed", "half-open"])
@pytest.mark.parametrize("met", [*STATES, "cooling"])
def test_an_admission_that_was_judged_by_an_old_image_does_not_hold_in_another_state(judged: str, met: str) -> None:
    plan = Plan()
    pass_through(plan, BREAKER, STATES[judged], NOW, "call")
    image = {**STATES[judged], "c": NOW + 1} if met == "cooling" else STATES[met]
    assert plan.holds(image) is (judged == met)


def test_of_two_probes_that_were_judged_by_one_image_one_goes() -> None:
    plans = [Plan(), Plan()]
    for plan, call_id in zip(plans, "ab", strict=True):
        assert pass_through(plan, BREAKER, HALF_OPEN, NOW, call_id)
    after = plans[0].apply(HALF_OPEN)
    assert not plans[1].holds(after)


def test_an_outage_is_probed_at_growing_distances_and_ends_with_the_first_probe_that_succeeds() -> None:
    item, now, waits = Item(breaker=Breaker()), NOW, []
    for turn in range(9):
        call = item.request(now, str(turn))
        assert call
        item.fail(call, now)
        until = open_until(item.breaker, item.image, now)
        assert until is not None
        assert item.request(until - 1) is None
        waits.append((until - now) // 1000)
        now = until
    assert waits == [15, 30, 60, 120, 240, 480, 600, 600, 600]
    probe = item.request(now, "last")
    assert probe
    item.succeed(probe)
    assert item.image == {}
    first = item.request(now)
    assert first
    item.fail(first, now)
    assert open_until(item.breaker, item.image, now) == now + 15_000, "the next outage begins anew"


@pytest.mark.parametrize(("quiet_ms", "wait_ms"), [(119_999, 60_000), (120_000, 10_000), (86_400_000, 10_000)])
def test_an_outage_of_long_ago_does_not_lengthen_the_next(quiet_ms: int, wait_ms: int) -> None:
    item = Item({**OPEN, "f": 9, "l": NOW - quiet_ms, "u": NOW - 1})
    probe = item.request(NOW, "probe")
    assert probe
    item.fail(probe, NOW)
    assert open_until(item.breaker, item.image, NOW) == NOW + wait_ms


@pytest.mark.parametrize(
    ("quiet_ms", "is_open"),
    [(59_999, True), (60_000, False), (600_000, False)],
)
def test_failures_that_are_older_than_the_longest_cooldown_no_longer_count(quiet_ms: int, is_open: bool) -> None:
    item = Item()
    for at_ms in (NOW, NOW, NOW + quiet_ms):
        item.fail(Call(0, None), at_ms)
    assert (open_until(BREAKER, item.image, NOW + quiet_ms) is not None) is is_open
    assert number(item.image, "f") == (3 if is_open else 1)


def test_after_a_long_quiet_time_an_open_breaker_still_asks_one_probe_first() -> None:
    item = Item(dict(OPEN))
    later = NOW + 86_400_000
    probe = item.request(later, "probe")
    assert probe
    assert probe.probe_id == "probe"
    assert item.request(later, "crowd") is None


@pytest.mark.parametrize(
    ("known", "said", "is_kept"),
    [
        pytest.param(None, NOW + 5, True, id="the first"),
        pytest.param(NOW + 5, NOW + 9, True, id="a later one"),
        pytest.param(NOW + 9, NOW + 5, False, id="an earlier one shortens nothing"),
        pytest.param(NOW - 9, NOW + 5, True, id="one after another that is over"),
    ],
)
def test_the_latest_cooldown_holds(known: int | None, said: int, is_kept: bool) -> None:
    before: dict[str, Value] = {} if known is None else {"c": known}
    item = Item(before)
    item.cool(said)
    assert item.image == ({"c": said, "x": kept_until(said)} if is_kept else before)


def test_an_item_outlives_the_cooldown_that_it_holds() -> None:
    """Of a month's quota, of a model that nobody asks meanwhile: the table would drop it after three days."""
    item, until = Item({"lr": NOW, "x": kept_until(NOW)}), NOW + 31 * 86_400_000
    item.cool(until)
    assert number(item.image, "x") * 1000 > until


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["request", "succeed", "fail", "say nothing", "wait"]),
            st.integers(0, 3),
            st.sampled_from([0, 1, 900, 5_000, 9_999, 10_000, 29_999, 30_000, 60_000]),
        ),
        max_size=60,
    ),
    st.integers(1, 3),
)
def test_whatever_comes_in_which_order(steps: list[tuple[str, int, int]], threshold: int) -> None:
    """While it is open one call at most is out that could close it, and only that one moves the deadline."""
    item, now, out = Item(breaker=Breaker(threshold, 10_000, 60_000)), NOW, list[Call]()
    for turn, (step, which, wait_ms) in enumerate(steps):
        now += wait_ms if step == "wait" else 0
        before = dict(item.image)
        was_open = number(before, "f") >= threshold
        if step == "request":
            call = item.request(now, f"call {turn}")
            out += [call] if call else []
            assert not (call and was_open) or (call.probe_id == item.image["p"] and number(before, "u") <= now)
        elif step != "wait" and out:
            call = out.pop(which % len(out))
            if step == "succeed":
                item.succeed(call)
            elif step == "fail":
                item.fail(call, now)
            else:
                item.say_nothing(call, now)
            if was_open and before.get("p") != call.probe_id:
                assert item.image == before
        assert number(item.image, "u") <= now + 60_000
        assert sum(call.probe_id is not None and call.probe_id == item.image.get("p") for call in out) <= 1
