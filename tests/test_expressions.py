"""Every expression that is sent to DynamoDB, word by word, and what must hold for each that ever could be.

A change here changes what is asked of AWS: read DynamoDB's rules on expressions before accepting one.
"""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.admission import Outcome, Reservation, Scope, plan_finish, plan_reserve
from core.breaker import Breaker, cool
from core.limits import Cost, Limit
from core.plan import Image, Plan, kept_until
from core.store.expressions import compile_plan, read_item, write_value
from core.throttle import Throttle

NOW = 1_795_428_930_000  # 2026-11-23, 10:15:30 UTC: minute 29923815, hour 498730, day 739943
LIMITS = (Limit("requests", "minute", 60), Limit("requests", "day", 10_000), Limit("tokens", "minute", 100_000))
LIMITED = Scope("m#a", LIMITS)
BREAKER = Breaker(5, 15_000, 600_000)
FRAGILE = Scope("m#a", breaker=BREAKER)
NARROW = Scope("p#a", throttle=Throttle(max_in_flight=8, lease_ms=60_000))
PACED = Scope("p#a", throttle=Throttle(min_interval_ms=500))
ALL = Scope("m#a", LIMITS, breaker=BREAKER, throttle=Throttle(8, 500, 60_000))


def reserved(scope: Scope, image: Image | None = None, *, max_wait_ms: int = 2_000) -> tuple[Plan, Reservation | None]:
    step = plan_reserve(scope, Cost(1, 900), image or {}, now_ms=NOW, call_id="id", max_wait_ms=max_wait_ms)
    assert isinstance(step, tuple)
    return step


def finished(scope: Scope, outcome: Outcome, image: Image | None = None) -> list[Plan]:
    _, reservation = reserved(scope, image)
    assert reservation
    return plan_finish(reservation, outcome, now_ms=NOW + 1_000)


def in_words(plan: Plan) -> tuple[str, str]:
    """Update and condition, with names and values in the place of their placeholders."""
    sent = compile_plan("m#a", plan)
    terms = {**sent["ExpressionAttributeNames"]}
    for placeholder, typed in sent.get("ExpressionAttributeValues", {}).items():
        terms[placeholder] = str(next(iter(typed.values())))
    update, condition = sent["UpdateExpression"], sent.get("ConditionExpression", "")
    return tuple(re.sub(r"[#:]\w+", lambda found: terms[found[0]], text) for text in (update, condition))  # type: ignore[return-value]


OPEN = {"f": 5, "u": NOW - 1, "l": NOW - 15_000}
SOON = NOW + 16_000  # a cooldown of 15 s after the call's second
LEASE = f"{NOW + 60_000}.id"

SENT: dict[str, tuple[list[Plan], list[tuple[str, str]]]] = {
    "admission by limits, with stale windows": (
        [reserved(LIMITED, {"rm29923810": 3, "rm29923814": 2, "rd739940": 9})[0]],
        [
            (
                (
                    f"SET lr = {NOW}, x = {NOW // 1000 + 3 * 86400} "
                    "ADD rm29923815 1, rd739943 1, tm29923815 900 REMOVE rm29923810, rd739940"
                ),
                (
                    "(attribute_not_exists(rm29923815) OR rm29923815 <= 59) "
                    "AND (attribute_not_exists(rd739943) OR rd739943 <= 9999) "
                    "AND (attribute_not_exists(tm29923815) OR tm29923815 <= 99100)"
                ),
            )
        ],
    ),
    "admission past a closed breaker": (
        [reserved(FRAGILE)[0]],
        [
            (
                f"SET lr = {NOW}, x = {NOW // 1000 + 3 * 86400}",
                f"(attribute_not_exists(c) OR c <= {NOW}) AND (attribute_not_exists(f) OR f <= 4)",
            )
        ],
    ),
    "the probe": (
        [reserved(FRAGILE, OPEN)[0]],
        [
            (
                f"SET lr = {NOW}, x = {NOW // 1000 + 3 * 86400}, u = {NOW + 30_000}, p = id",
                f"(attribute_not_exists(c) OR c <= {NOW}) AND f >= 5 AND (attribute_not_exists(u) OR u <= {NOW})",
            )
        ],
    ),
    "a lease": (
        [reserved(NARROW)[0]],
        [
            (
                f"SET lr = {NOW}, x = {NOW // 1000 + 3 * 86400} ADD q ['{LEASE}']",
                "(attribute_not_exists(q) OR size(q) < 8)",
            )
        ],
    ),
    "dead leases": (
        [reserved(Scope("p#a", throttle=Throttle(1)), {"q": frozenset({f"{NOW - 1}.dead"})})[0]],
        [(f"DELETE q ['{NOW - 1}.dead']", "")],
    ),
    "an idle slot": (
        [reserved(PACED)[0]],
        [
            (
                f"SET lr = {NOW}, x = {NOW // 1000 + 3 * 86400}, nx = {NOW + 500}",
                f"(attribute_not_exists(nx) OR nx <= {NOW})",
            )
        ],
    ),
    "a busy slot": (
        [reserved(PACED, {"nx": NOW + 700})[0]],
        [
            (
                f"SET lr = {NOW}, x = {NOW // 1000 + 3 * 86400} ADD nx 500",
                f"nx >= {NOW + 1} AND (attribute_not_exists(nx) OR nx <= {NOW + 2_000})",
            )
        ],
    ),
    "tokens corrected": (finished(LIMITED, Outcome(True, tokens=1200)), [("ADD tm29923815 300", "")]),
    "a refund": (
        finished(LIMITED, Outcome(is_refund=True)),
        [("ADD rm29923815 -1, rd739943 -1, tm29923815 -900", "")],
    ),
    "a success after failures": (finished(FRAGILE, Outcome(True), {"f": 2}), [("REMOVE f, u, p, l", "f = 2")]),
    "a success of the probe": (finished(FRAGILE, Outcome(True), OPEN), [("REMOVE f, u, p, l", "p = id")]),
    "a failure, by a fresh or an old one before it": (
        finished(FRAGILE, Outcome(False)),
        [
            (
                f"SET u = {SOON}, l = {NOW + 1_000} ADD f 1",
                f"l >= {NOW + 1_000 - 599_999} AND (attribute_not_exists(f) OR f <= 4)",
            ),
            (
                f"SET u = {SOON}, l = {NOW + 1_000}, f = 1",
                f"(attribute_not_exists(l) OR l <= {NOW + 1_000 - 600_000}) AND (attribute_not_exists(f) OR f <= 4)",
            ),
        ],
    ),
    "a failure of the probe": (
        finished(FRAGILE, Outcome(False), OPEN),
        [
            (f"SET u = {NOW + 31_000}, l = {NOW + 1_000} ADD f 1 REMOVE p", f"l >= {NOW - 1_198_999} AND p = id"),
            (
                f"SET f = 5, u = {NOW + 16_000}, l = {NOW + 1_000} REMOVE p",
                f"(attribute_not_exists(l) OR l <= {NOW - 1_199_000}) AND p = id",
            ),
        ],
    ),
    "a probe that says nothing": (finished(FRAGILE, Outcome(), OPEN), [(f"SET u = {NOW + 1_000} REMOVE p", "p = id")]),
    "a lease given back, tokens corrected and a cooldown": (
        finished(ALL, Outcome(tokens=0, cool_until_ms=NOW + 40_000)),
        [
            (
                f"SET c = {NOW + 40_000}, x = {kept_until(NOW + 40_000)} ADD tm29923815 -900 DELETE q ['{LEASE}']",
                f"(attribute_not_exists(c) OR c <= {NOW + 39_999})",
            ),
            (f"ADD tm29923815 -900 DELETE q ['{LEASE}']", ""),
        ],
    ),
    "a cooldown": (
        [cool(NOW)],
        [(f"SET c = {NOW}, x = {kept_until(NOW)}", f"(attribute_not_exists(c) OR c <= {NOW - 1})")],
    ),
    "sluice state reset": ([Plan(remove=["f", "u", "p", "l", "c"])], [("REMOVE f, u, p, l, c", "")]),
}


@pytest.mark.parametrize("what", SENT)
def test_what_is_sent_is_word_by_word(what: str) -> None:
    plans, words = SENT[what]
    assert [in_words(plan) for plan in plans] == words


def is_sound(sent: dict[str, Any]) -> None:
    """DynamoDB refuses names and values that are not used, placeholders without one, and a path changed twice."""
    expressions = f"{sent['UpdateExpression']} {sent.get('ConditionExpression', '')}"
    used = set(re.findall(r"[#:]\w+", expressions))
    values = sent.get("ExpressionAttributeValues", {})
    assert used == set(sent["ExpressionAttributeNames"]) | set(values)
    assert "ExpressionAttributeValues" not in sent or values
    assert len(set(sent["ExpressionAttributeNames"].values())) == len(sent["ExpressionAttributeNames"])
    clauses = re.split(r"(?:^| )(?:SET|ADD|DELETE|REMOVE) ", sent["UpdateExpression"])[1:]
    changed = [re.match(r"#\w+", part)[0] for clause in clauses for part in clause.split(", ")]  # type: ignore[index]
    assert changed
    assert len(changed) == len(set(changed))


amounts = st.integers(0, 120)
images = st.fixed_dictionaries(
    {},
    optional={
        "rm29923815": amounts,
        "rm29923801": amounts,
        "tm29923815": st.integers(0, 120_000),
        "f": st.integers(0, 9),
        "u": st.integers(NOW - 50_000, NOW + 50_000),
        "l": st.integers(NOW - 900_000, NOW),
        "c": st.integers(NOW - 50_000, NOW + 50_000),
        "nx": st.integers(NOW - 5_000, NOW + 5_000),
        "q": st.frozensets(st.integers(NOW - 9, NOW + 9).map(lambda ends: f"{ends}.x"), min_size=1, max_size=9),
    },
)
outcomes = st.builds(
    Outcome,
    verdict=st.sampled_from([True, False, None]),
    tokens=st.none() | st.integers(0, 2_000),
    is_refund=st.booleans(),
    cool_until_ms=st.none() | st.integers(NOW - 9, NOW + 90_000),
)


@settings(deadline=None, max_examples=300)
@given(scope=st.sampled_from([LIMITED, FRAGILE, NARROW, PACED, ALL]), image=images, outcome=outcomes)
def test_whatever_is_sent_is_sound(scope: Scope, image: dict[str, Any], outcome: Outcome) -> None:
    step = plan_reserve(scope, Cost(1, 900), image, now_ms=NOW, call_id="id", max_wait_ms=2_000)
    if not isinstance(step, tuple):
        return
    plan, reservation = step
    plans = [plan, *(plan_finish(reservation, outcome, now_ms=NOW + 5) if reservation else ())]
    for one in plans:
        is_sound(compile_plan(scope.key, one))


def test_an_item_reads_back_as_what_was_written() -> None:
    image: Image = {"lr": NOW, "p": "id", "q": frozenset({"1.a", "2.b"}), "tm1": -5}
    item = {"pk": {"S": "m#a"}, **{name: write_value(value) for name, value in image.items()}}
    assert read_item(item) == image
