"""What a failure means: whether the same model is asked again, after how long, and what the store is told."""

import itertools
from typing import Any

import pytest

from core.admission import Outcome
from core.errors import (
    Busy,
    ClientFault,
    Exhausted,
    Operator,
    OutOfTime,
    Refused,
    Silent,
    TooLong,
    Transient,
    Unsupported,
    UpstreamError,
)
from core.retries import QUICK_S, RetryPolicy, cooldown_of, outcome_of, pause_before_again, pause_when_alone
from tests.running_gateway import catalog_of, model

NOW_MS = 1_800_000_000_000  # 08:00 UTC
POLICY = RetryPolicy(max_retries=3, base_delay_s=1.0, max_delay_s=5.0, jitter=0.1)
NEVER_AGAIN = [Exhausted, Silent, OutOfTime, Operator, TooLong, Unsupported, Refused, ClientFault]


def pause(
    error: UpstreamError,
    *,
    asked: int = 1,
    by_name: bool = True,
    is_last: bool = True,
    policy: RetryPolicy = POLICY,
    luck: float = 0.5,
) -> float | None:
    return pause_before_again(error, asked=asked, by_name=by_name, is_last=is_last, policy=policy, random=lambda: luck)


@pytest.mark.parametrize(
    ("asked", "luck", "expected"),
    [
        (1, 0.5, 1.0),
        (2, 0.5, 2.0),
        (3, 0.5, 4.0),
        (4, 0.5, None),  # three retries
        (1, 0.0, 0.9),
        (1, 1.0, 1.1),
        (3, 1.0, 4.4),
    ],
)
def test_without_fallbacks_each_wait_doubles_with_jitter_until_the_retries_are_used_up(
    asked: int, luck: float, expected: float | None
) -> None:
    found = pause(Transient("500"), asked=asked, luck=luck)
    assert found == (None if expected is None else pytest.approx(expected))


def test_no_wait_is_longer_than_the_longest_delay() -> None:
    policy = RetryPolicy(max_retries=9, base_delay_s=1.0, max_delay_s=5.0, jitter=0.0)
    waits = [pause(Transient("500"), asked=asked, policy=policy) for asked in range(1, 11)]
    assert waits == [1.0, 2.0, 4.0, *[5.0] * 6, None]


def test_no_retries_means_none() -> None:
    assert pause(Transient("500"), policy=RetryPolicy(max_retries=0)) is None


@pytest.mark.parametrize(("luck", "expected"), [(0.0, 0.0), (0.5, QUICK_S / 2), (1.0, QUICK_S)])
def test_with_fallbacks_a_transient_failure_is_retried_once_and_quickly(luck: float, expected: float) -> None:
    assert pause(Transient("500"), is_last=False, luck=luck) == pytest.approx(expected)
    assert pause(Transient("500"), is_last=False, luck=luck, asked=2) is None


@pytest.mark.parametrize(
    ("retry_after_s", "asked", "is_last", "expected"),
    [
        (None, 1, True, None),
        (0.0, 1, True, 0.0),
        (1.5, 1, True, 1.5),
        (2.0, 1, True, 2.0),
        (2.001, 1, True, None),
        (60.0, 1, True, None),
        (1.5, 1, False, 1.5),
        (1.5, 2, False, None),
        (0.0, 2, True, 2.0),  # it said so before, and it was not true: from now on at least as long as after a 500
        (0.0, 3, True, 4.0),
        (0.0, 4, True, None),
    ],
)
def test_busy_model_is_waited_for_if_it_has_room_within_two_seconds(
    retry_after_s: float | None, asked: int, is_last: bool, expected: float | None
) -> None:
    assert pause(Busy("429", retry_after_s=retry_after_s), asked=asked, is_last=is_last) == expected


@pytest.mark.parametrize("kind", NEVER_AGAIN)
@pytest.mark.parametrize("is_last", [True, False])
def test_other_failures_are_never_tried_again(kind: type[UpstreamError], is_last: bool) -> None:
    error = kind("no", retry_after_s=0.1)
    assert pause(error, is_last=is_last) is None
    assert pause_when_alone(error, random=lambda: 0.5) is None


@pytest.mark.parametrize("error", [Transient("500"), Busy("429", retry_after_s=0.5)])
def test_in_a_category_the_next_one_is_asked_at_once(error: UpstreamError) -> None:
    assert pause(error, by_name=False) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Transient("500"), QUICK_S / 2),
        (Transient("500", retry_after_s=60.0), QUICK_S / 2),
        (Busy("429", retry_after_s=1.5), 1.5),
        (Busy("429", retry_after_s=3.0), None),
        (Busy("429"), None),
    ],
)
def test_when_nobody_else_has_room_one_more_try_is_worth_a_short_wait(
    error: UpstreamError, expected: float | None
) -> None:
    assert pause_when_alone(error, random=lambda: 0.5) == expected


def models(**settings: Any) -> Any:
    """A model with an alternative, and one without."""
    breaker = {"cooldown_seconds": 15, "max_cooldown_seconds": 600}
    both = catalog_of(
        model("http://u", "one", model_size="SMALL", **settings),
        model("http://u", "other", model_size="SMALL"),
        model("http://u", "alone", **settings),
        model("http://u", "own rules", breaker=breaker, **settings),
    )
    return both.by_name


@pytest.mark.parametrize(
    ("error", "name", "outcome"),
    [
        (Transient("500"), "one", Outcome(verdict=False, tokens=0)),
        (Transient("500"), "alone", Outcome(verdict=None, tokens=0)),
        (Transient("500"), "own rules", Outcome(verdict=False, tokens=0)),
        (Transient("refused", reached=False), "one", Outcome(verdict=False, tokens=0, is_refund=True)),
        (Silent("..."), "one", Outcome(verdict=False)),  # it may have worked all that time: the estimate stays
        (Silent("..."), "alone", Outcome(verdict=None)),
        (OutOfTime("..."), "one", Outcome(verdict=None)),  # nor is it the provider's fault
        (Operator("401"), "one", Outcome(verdict=False, tokens=0)),
        (Operator("401"), "alone", Outcome(verdict=False, tokens=0)),
        (Operator("TLS", reached=False), "alone", Outcome(verdict=False, tokens=0, is_refund=True)),
        (Busy("429"), "one", Outcome(tokens=0, cool_until_ms=NOW_MS + 15_000)),
        (Busy("429"), "alone", Outcome(tokens=0, cool_until_ms=NOW_MS + 15_000)),
        (Busy("429", retry_after_s=1.5), "alone", Outcome(tokens=0, cool_until_ms=NOW_MS + 1_500)),
        (Exhausted("402"), "alone", Outcome(tokens=0, cool_until_ms=NOW_MS + 600_000)),
        *((kind("no"), "one", Outcome(tokens=0)) for kind in (TooLong, Unsupported, Refused, ClientFault)),
    ],
)
def test_store_hears_what_the_failure_says_of_the_model(error: UpstreamError, name: str, outcome: Outcome) -> None:
    assert outcome_of(error, models()[name], now_ms=NOW_MS) == outcome


HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("day_starts", "hours"),
    [
        ("00:00 Etc/UTC", 16),
        ("08:00 Etc/UTC", 24),
        ("09:30 Etc/UTC", 1.5),
        ("00:00 America/Los_Angeles", 24),  # it is midnight there
        ("00:00 Europe/Moscow", 13),
    ],
)
def test_daily_quota_cools_until_the_providers_next_day(day_starts: str, hours: float) -> None:
    one = models(day_starts=day_starts)["one"]
    assert cooldown_of(Exhausted("day", resets_daily=True), one, now_ms=NOW_MS) == NOW_MS + hours * HOUR_MS


@pytest.mark.parametrize(
    ("error", "wait_ms"),
    [
        (Busy("429"), 4_000),
        (Busy("429", retry_after_s=90), 90_000),
        (Exhausted("quota"), 50_000),
        (Exhausted("quota", retry_after_s=7), 7_000),
        (Exhausted("day", resets_daily=True, retry_after_s=7), 7_000),  # it knows better than the calendar
        (Operator("401", is_account=True), 4_000),
        (Operator("403"), None),
        (Transient("500"), None),
        (Transient("500", retry_after_s=7), None),
        (Silent("..."), None),
        (ClientFault("400"), None),
    ],
)
def test_cooldown_is_what_the_provider_said_else_what_is_configured(error: UpstreamError, wait_ms: int | None) -> None:
    one = models()["one"]
    quick = catalog_of(model("http://u", breaker={"cooldown_seconds": 4, "max_cooldown_seconds": 50})).models[0]
    assert one.breaker != quick.breaker
    expected = None if wait_ms is None else NOW_MS + wait_ms
    assert cooldown_of(error, quick, now_ms=NOW_MS) == expected


def test_every_class_of_failure_has_a_rule_here() -> None:
    named = {Transient, Busy, *NEVER_AGAIN}
    assert named == set(UpstreamError.__subclasses__())
    assert all(len(set(pair)) == 2 for pair in itertools.combinations([kind.kind for kind in named], 2))
