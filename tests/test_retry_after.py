"""When a provider says that it has room again: every form seen, and whatever else a header may hold."""

import math
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.retry_after import parse_wait, retry_after

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6ms", 0.006),
        ("12ms", 0.012),
        ("26ms", 0.026),
        ("0s", 0.0),
        ("6s", 6.0),
        ("17.39s", 17.39),
        ("34.4s", 34.4),
        ("1m2s", 62.0),
        ("1m2.5s", 62.5),
        ("6m0s", 360.0),
        ("1h2m3s", 3723.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        ("1m30.5s250ms", 90.75),
        ("33011.38", 33011.38),
        ("0", 0.0),
        ("60", 60.0),
        (" 60 ", 60.0),
        ("999999999", 999999999.0),
    ],
)
def test_a_length_of_time_is_that_long_whatever_the_clock_says(text: str, seconds: float) -> None:
    assert parse_wait(text, NOW) == pytest.approx(seconds)
    assert parse_wait(text, 0.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{NOW + 90:.0f}", id="epoch seconds"),
        pytest.param(f"{NOW + 90:.2f}", id="epoch seconds with a fraction"),
        pytest.param(f"{(NOW + 90) * 1000:.0f}", id="epoch milliseconds"),
        pytest.param("2026-11-20T12:01:30Z", id="RFC 3339"),
        pytest.param("2026-11-20T12:01:30.000000Z", id="RFC 3339 with a fraction"),
        pytest.param("2026-11-20T15:01:30+03:00", id="RFC 3339 elsewhere"),
        pytest.param("2026-11-20 12:01:30+00:00", id="RFC 3339 with a space"),
        pytest.param("Fri, 20 Nov 2026 12:01:30 GMT", id="HTTP date"),
        pytest.param("Friday, 20-Nov-26 12:01:30 GMT", id="HTTP date as RFC 850 had it"),
        pytest.param("Fri, 20 Nov 2026 09:01:30 -0300", id="date with an offset"),
    ],
)
def test_a_moment_is_counted_from_now(text: str) -> None:
    assert parse_wait(text, NOW) == pytest.approx(90.0)


@pytest.mark.parametrize(
    "text",
    [f"{NOW - 90:.0f}", f"{(NOW - 90) * 1000:.0f}", "2026-11-20T11:58:30Z", "Fri, 20 Nov 2026 11:58:30 GMT"],
)
def test_a_moment_that_has_passed_is_no_wait(text: str) -> None:
    assert parse_wait(text, NOW) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "-5",
        "-5s",
        "+5",
        "1e3",
        "1,5s",
        "5 s",
        "1.s",
        ".5",
        "s",
        "5x",
        "5s later",
        "later 5s",
        "1m-2s",
        "nan",
        "inf",
        "NaNs",
        "2026-11-20",
        "2026-11-20T12:01:30",
        "2026-13-45T99:99:99Z",
        "Fri, 32 Nov 2026 12:01:30 GMT",
        "Fri, 20 Nov 99999999999999999999 12:01:30 GMT",
        "Fri, 20 Nov 2026 12:01:30 +99999999999999999999",
        pytest.param("9" * 400, id="400 digits"),
        pytest.param("9" * 400 + "s", id="400 digits of seconds"),
        pytest.param("9" * 6000, id="6000 digits"),
    ],
)
def test_what_is_in_no_known_form_is_no_answer(text: str) -> None:
    assert parse_wait(text, NOW) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "6m0s"}, 360.0),
        ({"retry-after": "Fri, 20 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Fri, 20 Nov 2020 12:01:30 GMT"}, 0.0),
        ({"retry-after": "nonsense"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "12.5"}, 0.0125),
        ({"retry-after-ms": " 1500 "}, 1.5),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "1700000000000"}, 1.7e9),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "nonsense", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-1", "retry-after": "2"}, 2.0),
        pytest.param({"retry-after-ms": "9" * 400, "retry-after": "2"}, 2.0, id="400 digits"),
        ({"retry-after-ms": "nonsense"}, None),
        ({"x-ratelimit-reset": "7"}, None),
    ],
    ids=repr,
)
def test_the_more_exact_header_counts_when_it_is_legible(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == (seconds if seconds is None else pytest.approx(seconds))


_LIKE_A_WAIT = st.lists(
    st.sampled_from([*"0123456789.-+:TZ, ", "ms", "s", "m", "h", "d", "GMT", "Nov", "Fri", "2026", "9" * 20]),
    max_size=12,
).map("".join)


@settings(deadline=None)
@given(st.text(max_size=30) | _LIKE_A_WAIT, st.sampled_from([0.0, NOW, 1e11]))
@example("1 Jan 99999999999999999999 00:00:00 GMT", NOW)
@example("0001-01-01T00:00:00+23:59", NOW)
def test_a_wait_is_never_negative_nor_without_end_and_reading_it_never_fails(text: str, now: float) -> None:
    for wait in (parse_wait(text, now), retry_after({"retry-after": text, "retry-after-ms": text}, now)):
        assert wait is None or (wait >= 0 and math.isfinite(wait))


@settings(deadline=None)
@given(st.datetimes(datetime(2026, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_date_reads_the_same_in_both_of_its_forms(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    wait = max(0.0, moment.timestamp() - NOW)
    assert parse_wait(format_datetime(moment, usegmt=True), NOW) == wait
    assert parse_wait(moment.isoformat(), NOW) == wait


@pytest.mark.parametrize("tail", ["x", "sx", "."])
def test_a_long_line_of_digits_is_refused_quickly(tail: str) -> None:
    """The text is a stranger's; trying every start of it against every end would take minutes."""
    started = time.process_time()
    assert parse_wait("9" * 60_000 + tail, NOW) is None
    assert time.process_time() - started < 1
