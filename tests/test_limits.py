"""Windows of requests and tokens: where they begin and end, what is taken from them, which are out of date."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.limits import Cost, Limit, Window, day_end, stale, take, windows
from core.plan import Plan

PACIFIC = "America/Los_Angeles"
MIDNIGHT = "00:00 Etc/UTC"


def at(text: str) -> float:
    """Unix seconds of an ISO time with its offset."""
    return datetime.fromisoformat(text).timestamp()


def window_at(span: str, now: float, day_starts: str = MIDNIGHT, *, what: str = "requests") -> Window:
    [window] = windows((Limit(what, span, 10),), day_starts, int(now // 60))
    return window


def day_at(now: float, day_starts: str) -> date:
    window = window_at("day", now, day_starts)
    assert window.attribute.startswith("rd")
    return date.fromordinal(int(window.attribute[2:]))


@pytest.mark.parametrize(
    ("span", "now", "attribute", "ends"),
    [
        ("minute", "2026-11-23T10:15:00.000Z", "rm29923815", "2026-11-23T10:16:00Z"),
        ("minute", "2026-11-23T10:15:59.999Z", "rm29923815", "2026-11-23T10:16:00Z"),
        ("minute", "2026-11-23T10:16:00.000Z", "rm29923816", "2026-11-23T10:17:00Z"),
        ("hour", "2026-11-23T10:00:00.000Z", "rh498730", "2026-11-23T11:00:00Z"),
        ("hour", "2026-11-23T10:59:59.999Z", "rh498730", "2026-11-23T11:00:00Z"),
        ("hour", "2026-11-23T11:00:00.000Z", "rh498731", "2026-11-23T12:00:00Z"),
        ("day", "2026-11-23T00:00:00.000Z", "rd739943", "2026-11-24T00:00:00Z"),
        ("day", "2026-11-23T23:59:59.999Z", "rd739943", "2026-11-24T00:00:00Z"),
        ("day", "2026-11-24T00:00:00.000Z", "rd739944", "2026-11-25T00:00:00Z"),
    ],
)
def test_a_window_holds_from_its_first_to_its_last_millisecond(span: str, now: str, attribute: str, ends: str) -> None:
    window = window_at(span, at(now))
    assert (window.attribute, window.ends) == (attribute, at(ends))


def test_every_limit_has_a_counter_of_its_own() -> None:
    limits = tuple(Limit(what, span, 1) for what in ("requests", "tokens") for span in ("minute", "hour", "day"))
    found, cost = windows(limits, MIDNIGHT, MINUTE), Cost(2, 900)
    assert [(window.attribute[:2], cost.of(window.limit)) for window in found] == [
        ("rm", 2), ("rh", 2), ("rd", 2), ("tm", 900), ("th", 900), ("td", 900),
    ]  # fmt: skip
    assert [window.limit.rule for window in found][::5] == ["requests_per_minute", "tokens_per_day"]


# In Los Angeles clocks went from 02:00 to 03:00 on 8 March 2026 and from 02:00 back to 01:00 on 1 November 2026.
@pytest.mark.parametrize(
    ("day_starts", "day", "begins", "hours"),
    [
        pytest.param("00:00 Etc/UTC", "2026-03-08", "2026-03-08T00:00+00:00", 24, id="UTC knows no such days"),
        pytest.param(f"00:00 {PACIFIC}", "2026-03-07", "2026-03-07T00:00-08:00", 24, id="in winter"),
        pytest.param(f"00:00 {PACIFIC}", "2026-03-08", "2026-03-08T00:00-08:00", 23, id="the day of 23 hours"),
        pytest.param(f"00:00 {PACIFIC}", "2026-03-09", "2026-03-09T00:00-07:00", 24, id="in summer"),
        pytest.param(f"00:00 {PACIFIC}", "2026-11-01", "2026-11-01T00:00-07:00", 25, id="the day of 25 hours"),
        pytest.param(f"00:00 {PACIFIC}", "2026-11-02", "2026-11-02T00:00-08:00", 24, id="in winter again"),
        pytest.param(f"12:30 {PACIFIC}", "2026-03-07", "2026-03-07T12:30-08:00", 23, id="noon to noon, 23 hours"),
        pytest.param(f"12:30 {PACIFIC}", "2026-10-31", "2026-10-31T12:30-07:00", 25, id="noon to noon, 25 hours"),
        pytest.param(f"02:30 {PACIFIC}", "2026-03-07", "2026-03-07T02:30-08:00", 24, id="before the skipped start"),
        pytest.param(f"02:30 {PACIFIC}", "2026-03-08", "2026-03-08T03:30-07:00", 23, id="a start that is skipped"),
        pytest.param(f"01:30 {PACIFIC}", "2026-10-31", "2026-10-31T01:30-07:00", 24, id="before the doubled start"),
        pytest.param(f"01:30 {PACIFIC}", "2026-11-01", "2026-11-01T01:30-07:00", 25, id="the first of two starts"),
        pytest.param("00:00 America/Havana", "2026-03-08", "2026-03-08T01:00-04:00", 23, id="midnight is skipped"),
        pytest.param("23:30 Asia/Kolkata", "2026-05-01", "2026-05-01T23:30+05:30", 24, id="half hours"),
        pytest.param("00:00 Pacific/Kiritimati", "2026-05-01", "2026-05-01T00:00+14:00", 24, id="the first of all"),
    ],
)
def test_a_day_begins_when_the_providers_does(day_starts: str, day: str, begins: str, hours: int) -> None:
    begin, end = at(begins), at(begins) + hours * 3600
    today = date.fromisoformat(day)
    assert day_at(begin - 0.001, day_starts) == today - timedelta(days=1)
    for moment in (begin, begin + 1, (begin + end) / 2, end - 0.001):
        assert day_at(moment, day_starts) == today
        assert window_at("day", moment, day_starts).ends == day_end(day_starts, moment) == end
    assert day_at(end, day_starts) == today + timedelta(days=1)
    assert day_end(day_starts, begin - 0.001) == begin


@settings(deadline=None)
@given(
    st.integers(int(at("2020-01-01T00:00Z")), int(at("2037-01-01T00:00Z"))),
    st.sampled_from(
        ["Etc/UTC", PACIFIC, "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Atlantic/Azores", "Asia/Beirut",
         "America/Nuuk", "Asia/Kathmandu", "Pacific/Chatham", "Africa/Casablanca"]
    ),
    st.integers(0, 23),
    st.integers(0, 59),
)  # fmt: skip
@example(int(at("2026-03-08T10:15Z")), PACIFIC, 2, 30)
@example(int(at("2026-11-01T09:15Z")), PACIFIC, 1, 30)
def test_days_follow_each_other_without_a_gap(now: int, zone: str, hour: int, minute: int) -> None:
    day_starts = f"{hour:02}:{minute:02} {zone}"
    today, end = day_at(now, day_starts), day_end(day_starts, now)
    assert now < end <= now + 26 * 3600
    assert day_at(end, day_starts) == today + timedelta(days=1)
    assert day_at(end - 0.001, day_starts) == today
    begins = datetime.fromtimestamp(end, ZoneInfo(zone)).replace(tzinfo=None)
    asked = datetime.combine(today + timedelta(days=1), datetime.min.time().replace(hour=hour, minute=minute))
    assert begins == asked or begins - asked <= timedelta(hours=1)  # later only where the clock skipped it


@settings(deadline=None)
@given(st.sampled_from(["minute", "hour", "day"]), st.integers(1_600_000_000_000, 2_100_000_000_000))
def test_a_window_ends_where_the_next_begins(span: str, now_ms: int) -> None:
    window = window_at(span, now_ms / 1000)
    assert now_ms / 1000 < window.ends
    assert window_at(span, window.ends - 0.001).attribute == window.attribute
    following = window_at(span, window.ends)
    assert int(following.attribute[2:]) == int(window.attribute[2:]) + 1


@pytest.mark.parametrize(
    ("most", "amount", "used", "has_room"),
    [
        (10, 1, None, True),
        (10, 1, 9, True),
        (10, 1, 10, False),
        (10, 1, 11, False),
        (10, 4, 6, True),
        (10, 4, 7, False),
        (10, 10, None, True),
        (10, 11, 0, False),
        (0, 1, None, False),
        (1, 1, None, True),
        (10, 0, 10, True),
        (10, 0, 11, False),
        (10, 1, -3, True),
    ],
)
def test_a_window_takes_up_to_its_limit_and_not_one_more(
    most: int, amount: int, used: int | None, has_room: bool
) -> None:
    """The verdict by an image, and the condition that the write itself carries, are one and the same.

    Where an amount above the limit meets an empty item only the verdict refuses it, before anything is written."""
    window = Window(Limit("requests", "minute", most), "rm1", 60.0)
    image = {} if used is None else {"rm1": used}
    assert window.is_over(window.used(image) + amount) is not has_room
    plan = Plan()
    take(plan, [window], Cost(amount))
    if amount <= most or used is not None:
        assert plan.holds(image) is has_room
    if has_room:
        assert plan.apply(image).get("rm1", 0) == (used or 0) + amount


def test_what_takes_nothing_writes_nothing() -> None:
    plan = Plan()
    take(plan, [Window(Limit("tokens", "minute", 10), "tm1", 60.0)], Cost(1, 0))
    assert plan.is_empty


NOW = at("2026-11-23T10:15:30Z")
MINUTE, HOUR, DAY = int(NOW // 60), int(NOW // 3600), date(2026, 11, 23).toordinal()


@pytest.mark.parametrize(
    ("attribute", "is_stale"),
    [
        (f"rm{MINUTE + 1}", False),  # of a caller whose clock is early
        (f"rm{MINUTE}", False),
        (f"rm{MINUTE - 1}", False),  # of one whose clock is late
        (f"rm{MINUTE - 2}", True),
        (f"tm{MINUTE - 2}", True),
        (f"rm{MINUTE - 5000}", True),
        (f"rh{HOUR}", False),
        (f"rh{HOUR - 1}", False),
        (f"th{HOUR - 2}", True),
        (f"rd{DAY}", False),
        (f"td{DAY - 1}", False),
        (f"rd{DAY - 2}", True),
        ("f", False),
        ("lr", False),
        ("x", False),
        ("rm", False),
        ("rm1x", False),
        ("arm1", False),
        ("xm1", False),
    ],
)
def test_windows_before_the_previous_one_are_dropped_and_nothing_else(attribute: str, is_stale: bool) -> None:
    assert stale({attribute: 3}, MIDNIGHT, MINUTE) == ([attribute] if is_stale else [])


@pytest.mark.parametrize(
    ("moment", "is_stale"),
    [("2026-03-09T23:59-07:00", False), ("2026-03-10T00:00-07:00", True)],
)
def test_days_are_dropped_by_the_providers_own_calendar(moment: str, is_stale: bool) -> None:
    """8 March 2026 had 23 hours."""
    attribute = f"rd{date(2026, 3, 8).toordinal()}"
    assert bool(stale({attribute: 3}, f"00:00 {PACIFIC}", int(at(moment) // 60))) is is_stale


def test_a_few_are_dropped_at_a_time() -> None:
    image = {f"rm{MINUTE - age}": 1 for age in range(50)}
    dropped = stale(image, MIDNIGHT, MINUTE)
    assert len(dropped) == 20
    assert set(dropped) <= {f"rm{MINUTE - age}" for age in range(2, 50)}


def test_a_day_is_that_of_its_beginning() -> None:
    """The number is the date's, so that items written by different releases agree."""
    assert day_at(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp(), "13:00 Etc/UTC") == date(2025, 12, 31)
