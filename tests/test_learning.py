"""The provider knows best: what it says of its limits along with good answers corrects what we have counted."""

from typing import Any

import pytest

from core.admission import Outcome, Reservation, Scope, plan_finish, plan_reserve
from core.breaker import Breaker
from core.learning import learnt
from core.limits import Cost, Limit
from core.plan import Image, first_to_hold, kept_until
from core.providers.limit_headers import ReportedLimit
from tests.fake_upstream import DONE, FakeUpstream, answers_json, chunk, completion, event, events
from tests.running_gateway import Clock, RunningGateway, model, running
from tests.settled import finish_in

NOW = 1_795_428_930_000  # 2026-11-23, 10:15:30 UTC
MINUTE, TOKENS = "rm29923815", "tm29923815"
SCOPE = Scope(
    "m#a",
    (Limit("requests", "minute", 30), Limit("tokens", "minute", 6000)),
    breaker=Breaker(1, 15_000, 600_000),
)


def reserved(image: Image) -> tuple[Image, Reservation]:
    step = plan_reserve(SCOPE, Cost(1, 500), image, now_ms=NOW, call_id="id", max_wait_ms=0)
    assert isinstance(step, tuple)
    plan, reservation = step
    assert reservation
    return plan.apply(image), reservation


def after(image: Image, *reported: ReportedLimit, now_ms: int = NOW, tokens: int | None = 500) -> Image:
    held, reservation = reserved(image)
    outcome = learnt(Outcome(True, tokens=tokens), reported, reservation, now_ms)
    return finish_in(held, reservation, outcome, now_ms=now_ms)


def requests(
    remaining: int, *, limit: int | None = 30, window: Any = "minute", reset_s: float | None = 20
) -> ReportedLimit:
    return ReportedLimit("requests", window, limit, remaining, reset_s)


@pytest.mark.parametrize(
    ("counted", "reported", "then"),
    [
        pytest.param(4, requests(10), 20, id="others use the account, too"),
        pytest.param(4, requests(25), 5, id="it counts as we do"),
        pytest.param(20, requests(28), 21, id="never lowered: another of ours may be on its way"),
        pytest.param(4, requests(15, limit=20), 15, id="its limit is lower than the configured one"),
        pytest.param(4, requests(900, limit=1000), 5, id="its limit is higher"),
        pytest.param(4, requests(3, window="day"), 5, id="of a window that we do not count"),
        pytest.param(4, requests(3, window=None), 5, id="of a window that it does not name"),
        pytest.param(4, requests(-1), 5, id="minus one is no number of requests"),
        pytest.param(4, requests(0, limit=0), 5, id="nothing of nothing is said where there is no limit"),
    ],
)
def test_a_counter_is_raised_to_what_the_provider_counts(counted: int, reported: ReportedLimit, then: int) -> None:
    assert after({MINUTE: counted}, reported)[MINUTE] == then


def test_tokens_are_corrected_and_settled_in_one() -> None:
    said = ReportedLimit("tokens", "minute", 6000, 2000, 40)
    assert after({TOKENS: 100}, said, tokens=80)[TOKENS] == 4000
    assert after({TOKENS: 5000}, said, tokens=80)[TOKENS] == 5080


def test_each_counter_is_judged_by_itself() -> None:
    said = (requests(10), ReportedLimit("tokens", "minute", 6000, 5990, 1))
    found = after({MINUTE: 4, TOKENS: 3000}, *said)
    assert (found[MINUTE], found[TOKENS]) == (20, 3500)


def test_what_was_said_of_a_window_that_is_over_is_no_news() -> None:
    assert after({MINUTE: 4}, requests(0, reset_s=None), now_ms=NOW + 30_000)[MINUTE] == 5


@pytest.mark.parametrize(
    ("reported", "until"),
    [
        (requests(0), NOW + 20_000),
        (requests(0, window="day", reset_s=3_600), NOW + 3_600_000),
        (requests(1), None),
        (requests(0, reset_s=None), None),
        (requests(0, reset_s=0), None),
        (requests(0, reset_s=1_000_000), None),
        (requests(-1), None),
        (requests(0, limit=0), None),
    ],
    ids=repr,
)
def test_a_limit_that_is_used_up_is_a_cooldown_until_it_has_room(reported: ReportedLimit, until: int | None) -> None:
    assert after({}, reported).get("c") == until


def test_a_later_deadline_is_never_shortened() -> None:
    assert after({"c": NOW - 5}, requests(0, reset_s=9))["c"] == NOW + 9_000
    held, reservation = reserved({})
    outcome = learnt(Outcome(True), [requests(0, reset_s=9)], reservation, NOW)
    later = {**held, "c": NOW + 60_000}
    assert finish_in(later, reservation, outcome, now_ms=NOW)["c"] == NOW + 60_000


def test_all_of_it_is_one_write() -> None:
    held, reservation = reserved({MINUTE: 3})
    outcome = learnt(Outcome(True, tokens=3), [requests(0)], reservation, NOW)
    plan = first_to_hold(plan_finish(reservation, outcome, now_ms=NOW), held)
    assert plan
    assert (plan.set, plan.add) == ({MINUTE: 30, "c": NOW + 20_000, "x": kept_until(NOW + 20_000)}, {TOKENS: -497})


# --- through a gateway


GROQ = {"x-ratelimit-limit-requests": "1000", "x-ratelimit-limit-tokens": "6000", "x-ratelimit-reset-tokens": "7.5s"}


def groq(upstream: FakeUpstream, **more: Any) -> dict[str, Any]:
    base_url = f"{upstream.url}/openai/v1"
    return model(upstream.url, "groq/a", provider="groq", **{"base_url": base_url, "requests_per_day": 1000, **more})


async def ask(gateway: RunningGateway, *, stream: bool) -> int:
    return (await gateway.chat(model="groq/a", stream=stream)).status_code


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_of_a_good_answer_are_learnt_from(upstream: FakeUpstream, stream: bool) -> None:
    """The day's count jumps to what Groq says; and once it says that the minute's tokens are gone, nobody asks it."""

    def says(requests: int, tokens: int) -> None:
        headers = {**GROQ, "x-ratelimit-remaining-requests": f"{requests}", "x-ratelimit-remaining-tokens": f"{tokens}"}
        usage = event({"choices": [], "usage": completion()["usage"]})
        answer = events(chunk("Hi"), chunk(finish="stop"), usage, DONE, **headers)
        upstream.script = answer if stream else answers_json(completion(), 200, **headers)

    clock = Clock()
    async with running(groq(upstream), door={"clock": clock}) as gateway:
        says(requests=400, tokens=5000)
        assert await ask(gateway, stream=stream) == 200
        await gateway.next_record(1)
        assert await gateway.used("m#groq/a", "rd") == 600
        says(requests=399, tokens=0)
        assert await ask(gateway, stream=stream) == 200
        await gateway.next_record(2)
        assert await gateway.used("m#groq/a", "rd") == 601
        assert await ask(gateway, stream=stream) == 429
        clock.advance(7.5)
        assert await ask(gateway, stream=stream) == 200
    assert len(upstream.requests) == 3
