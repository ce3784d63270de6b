"""The best model that still has room, over real sockets: order, limits, throttles, breaker, retries, fallbacks.

Time is a clock that stands still until a test moves it; only pauses and time-outs are real.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.admission import Outcome, Refusal, Reservation, Scope
from core.ledger import Grant, Ledger
from core.limits import Cost
from core.plan import members, number
from core.retries import RetryPolicy
from core.store.sqlite import LOG_AT_MOST, SqliteStore
from tests.fake_upstream import (
    DONE,
    Exchange,
    FakeUpstream,
    Script,
    answers_json,
    chunk,
    completion,
    event,
    events,
    took,
)
from tests.running_gateway import TOKEN, Clock, RunningGateway, ask, catalog_of, model, running

QUICK = RetryPolicy(max_retries=3, base_delay_s=0.005, max_delay_s=0.02, jitter=0.0)
BIG_PICTURE = "data:image/png;base64," + "A" * 20_000
STREAM = events(chunk("Hi"), chunk(finish="stop"), DONE)
OTHER_TOKEN = "other-caller-0123456789abcdef"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def small(upstream: FakeUpstream, name: str, **more: Any) -> dict[str, Any]:
    """A model of SMALL whose leases are counted, so that one that is never given back is seen."""
    return model(
        upstream.url,
        name,
        **{"model_size": "SMALL", "priority": 1, "upstream_model": name, "max_in_flight": 99, **more},
    )


@contextlib.asynccontextmanager
async def serving(
    *models: dict[str, Any], clock: Clock, retry: RetryPolicy = QUICK, **blocks: Any
) -> AsyncIterator[RunningGateway]:
    async with running(*models, door={"clock": clock, "retry": retry}, **blocks) as gateway:
        yield gateway


def by_model(**scripts: Script) -> Script:
    """Each model does what is said of it; others answer."""

    async def script(exchange: Exchange) -> None:
        await scripts.get(exchange.request.json["model"], answers_json(completion()))(exchange)

    return script


def in_turn(*scripts: Script) -> Script:
    """One request after another; the last one is for all that follow."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


def fails(status: int = 500, message: str = "no", code: str | None = None, **headers: str) -> Script:
    return answers_json({"error": {"message": message, "code": code}}, status, **headers)


async def resets(exchange: Exchange) -> None:
    exchange.reset()


async def says_nothing(exchange: Exchange) -> None:
    await exchange.gone.wait()


ANSWERS = answers_json(completion())


def asked(upstream: FakeUpstream) -> list[str]:
    return [request.json["model"] for request in upstream.requests]


async def answered_by(gateway: RunningGateway, **body: Any) -> str:
    """The model that answered, or the status of the refusal."""
    answer = await gateway.chat(**{"model": "SMALL", **body})
    return str(answer.headers.get("x-sluice-model", answer.status_code))


def what_failed(answer: httpx.Response) -> list[tuple[str, str, int | None]]:
    return [(a["model"], a["reason"], a["status"]) for a in answer.json()["error"]["attempts"]]


# --- order


async def test_equal_priorities_alternate(upstream: FakeUpstream, clock: Clock) -> None:
    async with serving(small(upstream, "a"), small(upstream, "b"), clock=clock) as gateway:
        used = []
        for _ in range(6):
            used.append(await answered_by(gateway))
            clock.advance(0.01)
    assert used == ["a", "b", "a", "b", "a", "b"]


async def test_better_priority_wins_while_it_has_room(upstream: FakeUpstream, clock: Clock) -> None:
    models = [small(upstream, "spare", priority=2), small(upstream, "best", requests_per_minute=2)]
    async with serving(*models, clock=clock) as gateway:
        assert [await answered_by(gateway) for _ in range(4)] == ["best", "best", "spare", "spare"]
        clock.advance(30)
        assert await answered_by(gateway) == "best"
    assert Counter(asked(upstream)) == {"best": 3, "spare": 2}


@pytest.mark.parametrize("limit", [{"max_request_length": 1000}, {"context_tokens": 250}])
async def test_long_request_goes_to_the_model_that_can_take_it(
    upstream: FakeUpstream, clock: Clock, limit: dict[str, int]
) -> None:
    models = [small(upstream, "short", **limit), small(upstream, "long", priority=2)]
    long = [{"role": "user", "content": "x" * 1000}]
    picture = {"type": "image_url", "image_url": {"url": BIG_PICTURE}}
    with_picture = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    async with serving(*models, clock=clock) as gateway:
        assert await answered_by(gateway) == "short"
        assert await answered_by(gateway, messages=long) == "long"
        assert await answered_by(gateway, messages=with_picture) == "short"  # a picture's bytes are no text


@pytest.mark.parametrize(
    ("capability", "body"),
    [
        ("vision", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("json_schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}}),
        ("streaming", {"stream": True}),
    ],
)
async def test_request_never_goes_to_a_model_that_lacks_what_it_needs(
    upstream: FakeUpstream, clock: Clock, capability: str, body: dict[str, Any]
) -> None:
    """Not even when the only one that could has no room."""
    every = ["tools", "vision", "json_schema", "streaming"]
    models = [
        small(upstream, "cannot", capabilities=[name for name in every if name != capability]),
        small(upstream, "can", priority=2, capabilities=every, requests_per_minute=1),
    ]
    upstream.script = STREAM if capability == "streaming" else ANSWERS
    async with serving(*models, clock=clock) as gateway:
        assert await answered_by(gateway, **body) == "can"
        refused = await gateway.chat(model="SMALL", **body)
        by_name = await gateway.chat(model="cannot", **body)
    assert asked(upstream) == ["can"]
    assert what_failed(refused) == [("cannot", capability, None), ("can", "requests_per_minute", None)]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert (by_name.status_code, by_name.json()["error"]["code"]) == (400, "unsupported")
    assert capability in by_name.json()["error"]["message"]


async def test_of_two_that_were_idle_for_an_hour_the_smaller_goes_first(upstream: FakeUpstream, clock: Clock) -> None:
    models = [small(upstream, "large", max_request_length=100_000), small(upstream, "little", max_request_length=9_000)]
    async with serving(*models, clock=clock) as gateway:
        used = []
        for pause_s in (1, 1, 3600, 1, 3601, 1):
            used.append(await answered_by(gateway))
            clock.advance(pause_s)
    # Before the last both had been idle for longer than an hour, `large` the longest; else it is the idle one's turn.
    assert used == ["little", "large", "little", "large", "little", "little"]


# --- limits


async def test_fifty_clients_get_exactly_what_the_limits_allow(upstream: FakeUpstream, clock: Clock) -> None:
    models = [small(upstream, "five", requests_per_minute=5), small(upstream, "three", requests_per_minute=3)]
    async with serving(*models, clock=clock) as gateway:
        answers = await asyncio.gather(*(gateway.chat(model="SMALL") for _ in range(50)))
        assert Counter(answer.status_code for answer in answers) == {200: 8, 429: 42}
        assert Counter(asked(upstream)) == {"five": 5, "three": 3}
        for answer in answers:
            if answer.status_code == 429:
                assert (answer.headers["retry-after"], answer.json()["error"]["code"]) == ("30", "rate_limit_exceeded")
        clock.advance(29.999)
        assert (await gateway.chat(model="SMALL")).headers["retry-after"] == "1"
        clock.advance(0.001)
        answers = await asyncio.gather(*(gateway.chat(model="SMALL") for _ in range(50)))
        assert Counter(answer.status_code for answer in answers) == {200: 8, 429: 42}
        assert {a.headers["retry-after"] for a in answers if a.status_code == 429} == {"60"}


async def test_days_count_survives_a_restart(upstream: FakeUpstream, clock: Clock, tmp_path: Path) -> None:
    state = {"store": "sqlite", "path": str(tmp_path / "state.db"), "timeout_ms": 2000}
    only = small(upstream, "a", requests_per_day=3)
    async with serving(only, clock=clock, state=state) as gateway:
        assert [await answered_by(gateway) for _ in range(2)] == ["a", "a"]
    clock.advance(60)
    async with serving(only, clock=clock, state=state) as gateway:
        assert [await answered_by(gateway) for _ in range(2)] == ["a", "429"]
        refused = await gateway.chat(model="a")
        assert refused.headers["retry-after"] == str(16 * 3600 - 90)  # to 00:00 UTC
        clock.advance(16 * 3600 - 90)
        assert await answered_by(gateway) == "a"
    assert len(upstream.requests) == 4


async def test_by_name_over_its_limit_the_answer_is_429_and_nobody_is_asked(
    upstream: FakeUpstream, clock: Clock
) -> None:
    async with serving(small(upstream, "a", requests_per_hour=1), small(upstream, "b"), clock=clock) as gateway:
        assert (await gateway.chat(model="a")).status_code == 200
        refused = await gateway.chat(model="a")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, str(3600 - 30))
    assert what_failed(refused) == [("a", "requests_per_hour", None)]
    assert refused.headers["x-sluice-attempts"] == "0"
    assert asked(upstream) == ["a"]


async def test_by_name_over_its_limit_its_fallbacks_answer_in_order(upstream: FakeUpstream, clock: Clock) -> None:
    models = [
        small(upstream, "a", requests_per_minute=1, fallbacks=["c", "b"]),
        small(upstream, "b", requests_per_minute=1),
        small(upstream, "c", requests_per_minute=1, priority=9),
    ]
    async with serving(*models, clock=clock) as gateway:
        assert [await answered_by(gateway, model="a") for _ in range(4)] == ["a", "c", "b", "429"]


async def test_rate_headers_are_of_the_tightest_window(upstream: FakeUpstream, clock: Clock) -> None:
    models = [
        small(upstream, "a", requests_per_minute=3, requests_per_hour=3, requests_per_day=9, tokens_per_minute=9999),
        small(upstream, "free", priority=2, tokens_per_minute=9999),
    ]
    names = [f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")]
    async with serving(*models, clock=clock) as gateway:
        first = await gateway.chat(model="a")
        clock.advance(60)
        second = await gateway.chat(model="a")  # of the minute two are left, of the hour one
        unlimited = await gateway.chat(model="free")
        upstream.script = STREAM
        streamed = await gateway.chat(model="a", stream=True)
    assert [first.headers[name] for name in names] == ["3", "2", "30"]
    assert [second.headers[name] for name in names] == ["3", "1", str(3600 - 90)]
    assert [streamed.headers[name] for name in names] == ["3", "0", str(3600 - 90)]
    assert not set(names) & set(unlimited.headers)


async def test_tokens_are_reserved_by_estimate_and_settled_by_report(upstream: FakeUpstream, clock: Clock) -> None:
    reserved = []

    async def script(exchange: Exchange) -> None:
        reserved.append(await gateway.used("m#a", "tm"))
        await ANSWERS(exchange)

    upstream.script = script
    async with serving(small(upstream, "a", tokens_per_minute=1000), clock=clock) as gateway:
        for _ in range(3):
            assert (await gateway.chat(model="a", max_tokens=300)).status_code == 200
        length = len(upstream.requests[0].body)
        used = await gateway.used("m#a", "tm")
    estimate = reserved[0]
    assert 300 + length // 4 - 10 <= estimate <= 300 + length // 4 + 10  # the body as we got it, before it was sent on
    assert (reserved, used) == ([estimate, estimate + 5, estimate + 10], 15)


async def test_streams_tokens_are_settled_by_the_usage_that_we_ask_for_and_hide(
    upstream: FakeUpstream, clock: Clock
) -> None:
    usage = event(
        {"id": "c1", "choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}}
    )
    upstream.script = events(chunk("Hi"), chunk(finish="stop"), usage, DONE)
    async with serving(small(upstream, "a", tokens_per_minute=9999), small(upstream, "b"), clock=clock) as gateway:
        hidden = await gateway.chat(model="a", stream=True)
        await gateway.next_record(1)
        assert await gateway.used("m#a", "tm") == 42
        shown = await gateway.chat(model="a", stream=True, stream_options={"include_usage": True})
        await gateway.next_record(2)
        assert await gateway.used("m#a", "tm") == 84
        unasked = await gateway.chat(model="b", stream=True)
    assert [r.json.get("stream_options") for r in upstream.requests] == [{"include_usage": True}] * 2 + [None]
    assert hidden.content == chunk("Hi") + chunk(finish="stop") + DONE
    assert shown.content == chunk("Hi") + chunk(finish="stop") + usage + DONE
    assert unasked.content == shown.content  # no limit wants to know: it comes as it came
    assert (gateway.records[0].prompt_tokens, gateway.records[0].completion_tokens) == (30, 12)


@pytest.mark.parametrize(
    ("script", "requests", "keeps_estimate"),
    [
        (answers_json({**completion(), "usage": None}), 1, True),
        (fails(400), 1, False),
        (fails(500), 4, False),  # each call counts
        (says_nothing, 1, True),  # who knows what it did all that time
    ],
)
async def test_tokens_that_nobody_reports(
    upstream: FakeUpstream, clock: Clock, script: Script, requests: int, keeps_estimate: bool
) -> None:
    """The estimate stays where the provider may have worked; an answer that says no takes no tokens."""
    upstream.script = script
    only = small(
        upstream, "a", tokens_per_minute=9999, requests_per_minute=9, timeouts={"first_token": 0.05, "response": 0.05}
    )
    async with serving(only, clock=clock) as gateway:
        await gateway.chat(model="a", max_tokens=300)
        assert await gateway.used("m#a", "rm") == requests
        assert (await gateway.used("m#a", "tm") > 300) is keeps_estimate


@pytest.mark.parametrize("total", [-1_000_000, 10**18, True, "12"])
async def test_tokens_that_nobody_can_have_used_are_not_counted(
    upstream: FakeUpstream, clock: Clock, total: object
) -> None:
    upstream.script = answers_json({**completion(), "usage": {"total_tokens": total}})
    async with serving(small(upstream, "a", tokens_per_minute=9999), clock=clock) as gateway:
        await gateway.chat(model="a", max_tokens=300)
        assert 300 < await gateway.used("m#a", "tm") < 400, "the estimate stays"


async def test_call_that_did_not_reach_the_provider_costs_nothing(clock: Clock) -> None:
    async with FakeUpstream() as gone:
        only = small(gone, "a", tokens_per_minute=9999, requests_per_minute=9)
    pool = {"openai": {"requests_per_minute": 9}}
    async with serving(only, clock=clock, providers=pool) as gateway:
        for name in ("a", "SMALL"):
            assert (await gateway.chat(model=name)).status_code == 502
        counts = [await gateway.used(*counter) for counter in (("m#a", "rm"), ("m#a", "tm"), ("p#openai", "rm"))]
    assert counts == [0, 0, 0]


async def test_request_above_a_token_limit_is_too_long_for_good(upstream: FakeUpstream, clock: Clock) -> None:
    async with serving(small(upstream, "a", tokens_per_minute=1000), clock=clock) as gateway:
        refused = await gateway.chat(model="a", max_tokens=5000)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "tokens_per_minute" in error["message"]
    assert ("retry-after" in refused.headers, upstream.requests) == (False, [])


async def test_account_is_one_pool_over_its_models(upstream: FakeUpstream, clock: Clock) -> None:
    """What the account refuses is given back to the model."""
    models = [
        small(upstream, "a", requests_per_day=50),
        small(upstream, "b", requests_per_day=50),
        small(upstream, "other", provider="second", priority=2),
    ]
    providers = {"openai": {"requests_per_minute": 3}, "second": {"dialect": "openai"}}
    async with serving(*models, clock=clock, providers=providers) as gateway:
        answers = []
        for _ in range(5):
            answers.append(await answered_by(gateway))
            clock.advance(0.01)
        refused = await gateway.chat(model="b")
        counted = [await gateway.used(f"m#{name}", "rd") for name in ("a", "b")]
    assert answers == ["a", "b", "a", "other", "other"]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    assert what_failed(refused) == [("b", "requests_per_minute", None)]
    assert counted == [2, 1]


# --- the caller's own limits


def keys(**limits: int) -> dict[str, Any]:
    return {"keys": [{"name": "app", "token": TOKEN, **limits}, {"name": "other", "token": OTHER_TOKEN}]}


async def test_caller_over_its_limit_hears_when_to_come_back_and_others_are_served(
    upstream: FakeUpstream, clock: Clock
) -> None:
    other = {"authorization": f"Bearer {OTHER_TOKEN}"}
    async with serving(small(upstream, "a"), clock=clock, auth=keys(requests_per_minute=2)) as gateway:
        assert [await answered_by(gateway) for _ in range(3)] == ["a", "a", "429"]
        refused = await gateway.chat(model="a")
        others = await gateway.client.post("/v1/chat/completions", json=ask(model="a"), headers=other)
        clock.advance(30)
        assert await answered_by(gateway) == "a"
    assert (refused.headers["retry-after"], others.status_code) == ("30", 200)
    assert "The key app has reached its limit (requests_per_minute)" in refused.json()["error"]["message"]
    assert len(upstream.requests) == 4


async def test_caller_is_charged_once_for_a_request_however_many_are_asked(
    upstream: FakeUpstream, clock: Clock
) -> None:
    upstream.script = by_model(a=fails(500), b=fails(500))
    models = [small(upstream, name, priority=at) for at, name in enumerate("abc")]
    async with serving(*models, clock=clock, auth=keys(requests_per_minute=9)) as gateway:
        answer = await gateway.chat(model="SMALL")
        assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("c", "3")
        assert await gateway.used("k#app", "rm") == 1


async def test_caller_gets_back_what_no_provider_was_asked_for(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(broken=fails(500))
    models = [
        small(upstream, "full", tokens_per_minute=1),
        small(upstream, "blind", capabilities=[]),
        small(upstream, "broken"),
        small(upstream, "fine"),
    ]
    requests: list[tuple[dict[str, Any], int]] = [
        ({"model": "full"}, 400),
        ({"model": "nobody"}, 404),
        ({"model": "blind", "tools": [{"type": "function"}]}, 400),
        ({"model": "broken"}, 502),
        ({"model": "fine"}, 200),
    ]
    charged = []
    async with serving(*models, clock=clock, auth=keys(requests_per_minute=9)) as gateway:
        for body, status in requests:
            assert (await gateway.chat(**body)).status_code == status
            charged.append(await gateway.used("k#app", "rm"))
    assert charged == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_callers_tokens_are_settled_by_report(upstream: FakeUpstream, clock: Clock, stream: bool) -> None:
    usage = event({"id": "c1", "choices": [], "usage": completion()["usage"]})
    upstream.script = events(chunk("Hi"), chunk(finish="stop"), usage, DONE) if stream else ANSWERS
    async with serving(small(upstream, "a"), clock=clock, auth=keys(tokens_per_minute=700)) as gateway:
        for number in range(3):
            assert await answered_by(gateway, stream=stream) == "a"  # reserves more than 512 each time
            await gateway.next_record(number + 1)
        assert await gateway.used("k#app", "tm") == 15
        refused = await gateway.chat(model="a", max_tokens=690)
        assert (refused.status_code, refused.headers.get("retry-after")) == (400, None)  # more than it may ever have
        upstream.script = fails(500)
        await gateway.chat(model="a", max_tokens=100)
        assert await gateway.used("k#app", "tm") == 15  # nobody answered


# --- throttles


class Crowd:
    """Counts calls at once, and keeps each for a moment."""

    def __init__(self, stay_s: float = 0.05) -> None:
        self.most = self.now = 0
        self.came: list[float] = []
        self._stay_s = stay_s

    async def script(self, exchange: Exchange) -> None:
        self.came.append(time.perf_counter())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self._stay_s)
        self.now -= 1
        await ANSWERS(exchange)


@pytest.mark.parametrize("where", ["model", "provider"])
async def test_never_more_calls_at_once_than_allowed_and_those_that_wait_are_answered(
    upstream: FakeUpstream, clock: Clock, where: str
) -> None:
    crowd = Crowd()
    upstream.script = crowd.script
    limit = {"max_in_flight": 2}
    models = [small(upstream, name, **(limit if where == "model" else {})) for name in ("a", "b")]
    providers = {"openai": limit} if where == "provider" else {}
    async with serving(*models, clock=clock, providers=providers) as gateway:
        answers = await asyncio.gather(*(gateway.chat(model="a") for _ in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert crowd.most == 2


async def test_wait_for_a_busy_model_is_bounded_and_then_the_fallback_answers(
    upstream: FakeUpstream, clock: Clock
) -> None:
    done = asyncio.Event()

    async def holds(exchange: Exchange) -> None:
        await done.wait()
        await ANSWERS(exchange)

    upstream.script = by_model(a=holds)
    models = [
        small(upstream, "a", max_in_flight=1, max_wait_ms=100, fallbacks=["b"]),
        small(upstream, "b", requests_per_minute=1),
    ]
    async with serving(*models, clock=clock) as gateway:
        first = asyncio.create_task(gateway.chat(model="a"))
        await upstream.asked.wait()
        with took(0.1, 1.5):
            assert await answered_by(gateway, model="a") == "b"
        with took(0.1, 1.5):
            refused = await gateway.chat(model="a")
        done.set()
        assert (await first).headers["x-sluice-model"] == "a"
        assert await answered_by(gateway, model="a") == "a"
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert what_failed(refused) == [("a", "in_flight", None), ("b", "requests_per_minute", None)]


async def test_in_a_category_the_next_one_is_asked_at_once_and_waited_for_only_if_there_is_no_other(
    upstream: FakeUpstream, clock: Clock
) -> None:
    crowd = Crowd()
    upstream.script = crowd.script
    models = [small(upstream, name, max_in_flight=1) for name in ("a", "b")]
    async with serving(*models, clock=clock) as gateway:
        answers = await asyncio.gather(*(gateway.chat(model="SMALL") for _ in range(4)))
    assert ([answer.status_code for answer in answers], crowd.most) == ([200] * 4, 2)
    assert asked(upstream)[:2] == ["a", "b"]


async def test_in_a_category_the_first_of_the_throttled_that_has_room_answers(
    upstream: FakeUpstream, clock: Clock
) -> None:
    ends = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def holds(exchange: Exchange) -> None:
        await ends[exchange.request.json["model"]].wait()
        await ANSWERS(exchange)

    upstream.script = holds
    models = [small(upstream, name, max_in_flight=1, max_wait_ms=5000) for name in ("a", "b")]
    async with serving(*models, clock=clock) as gateway:
        first = [asyncio.create_task(gateway.chat(model=name)) for name in ("a", "b")]
        async with asyncio.timeout(5):
            while len(upstream.requests) < 2:
                await asyncio.sleep(0.005)
        third = asyncio.create_task(answered_by(gateway))
        done, _ = await asyncio.wait({third}, timeout=0.1)
        assert not done
        with took(0, 2):
            ends["b"].set()
            assert await third == "b"
        refused = [refusal.scope.key for refusal in gateway.telemetry.refusals]
        assert sorted(refused) == ["m#a", "m#b"], "told once, however often it was looked"
        ends["a"].set()
        await asyncio.gather(*first)


async def test_nobody_is_waited_for_who_could_not_be_asked_any_more(upstream: FakeUpstream, clock: Clock) -> None:
    done = asyncio.Event()

    async def holds(exchange: Exchange) -> None:
        await done.wait()
        await ANSWERS(exchange)

    upstream.script = by_model(a=holds, b=fails(500))
    models = [small(upstream, "a", max_in_flight=1, max_wait_ms=2000), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock, server={"max_attempts": 1}) as gateway:
        first = asyncio.create_task(gateway.chat(model="a"))
        await upstream.asked.wait()
        with took(0, 1):
            assert (await gateway.chat(model="SMALL")).status_code == 502
        done.set()
        await first


async def test_calls_are_never_closer_together_than_the_interval(upstream: FakeUpstream) -> None:
    """By the machine's own clock: slots are moments of it."""
    crowd = Crowd(0)
    upstream.script = crowd.script
    only = small(upstream, "a", min_interval_ms=100, max_wait_ms=250)
    async with running(only) as gateway:
        answers = await asyncio.gather(*(gateway.chat(model="a") for _ in range(8)))
    gaps = [after - before for before, after in itertools.pairwise(crowd.came)]
    assert min(gaps) >= 0.05, gaps  # less what a busy machine is late by
    answered = [answer for answer in answers if answer.status_code == 200]
    assert 3 <= len(answered) <= 5  # at once, after 100 and after 200 ms; who would have to wait longer does not
    assert {(a.status_code, a.headers["retry-after"]) for a in answers if a not in answered} == {(429, "1")}


# --- breaker and cooldown


async def test_failing_model_is_skipped_by_everyone_and_comes_back_by_one_probe(
    upstream: FakeUpstream, clock: Clock
) -> None:
    """From its first failure on nobody asks it; x-sluice-model and the record say what happened."""
    upstream.script = by_model(a=fails(500))
    models = [small(upstream, "a", breaker={"failures": 1, "cooldown_seconds": 60}), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock) as gateway:
        first = await gateway.chat(model="SMALL")
        record = await gateway.next_record()
        assert (first.headers["x-sluice-model"], first.headers["x-sluice-attempts"]) == ("b", "2")
        assert (record.model, record.attempts, record.trail) == ("b", 2, ["a: transient 500"])
        assert gateway.telemetry.attempts == [("a", "transient"), ("b", "ok")]

        answers = await asyncio.gather(*(gateway.chat(model="SMALL") for _ in range(10)))
        assert {(a.headers["x-sluice-model"], a.headers["x-sluice-attempts"]) for a in answers} == {("b", "1")}
        by_name = await gateway.chat(model="a")
        assert (by_name.status_code, by_name.headers["retry-after"]) == (503, "60")
        assert what_failed(by_name) == [("a", "breaker", None)]
        assert asked(upstream).count("a") == 1
        assert gateway.telemetry.openings == ["a"]

        clock.advance(60)
        answers = await asyncio.gather(*(gateway.chat(model="SMALL") for _ in range(10)))
        assert asked(upstream).count("a") == 2, "one probe, which failed"
        assert gateway.telemetry.openings == ["a", "a"]
        assert {answer.headers["x-sluice-model"] for answer in answers} == {"b"}

        upstream.script = by_model()
        clock.advance(119)
        assert await answered_by(gateway) == "b"  # a failed probe doubles the time
        clock.advance(1)
        answers = await asyncio.gather(*(gateway.chat(model="SMALL") for _ in range(10)))
        assert Counter(answer.headers["x-sluice-model"] for answer in answers)["a"] >= 1
        assert await answered_by(gateway) == "a"


async def test_while_the_probe_is_out_nobody_else_asks(upstream: FakeUpstream, clock: Clock) -> None:
    came, go = asyncio.Event(), asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        came.set()
        await go.wait()
        await ANSWERS(exchange)

    upstream.script = by_model(a=fails(500))
    models = [small(upstream, "a"), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock) as gateway:
        assert await answered_by(gateway) == "b"
        clock.advance(15)
        upstream.script = by_model(a=slow)
        probe = asyncio.create_task(answered_by(gateway))
        await came.wait()
        assert {await answered_by(gateway) for _ in range(5)} == {"b"}
        go.set()
        assert await probe == "a"
        assert await answered_by(gateway) == "a"
    assert asked(upstream).count("a") == 3


async def test_probe_by_name_is_asked_once(upstream: FakeUpstream, clock: Clock) -> None:
    """Its failure opens the breaker anew; a retry would be a second probe."""
    upstream.script = fails(500)
    only = small(upstream, "a", breaker={"failures": 1, "cooldown_seconds": 15})
    async with serving(only, clock=clock) as gateway:
        assert (await gateway.chat(model="a")).headers["x-sluice-attempts"] == "4"
        clock.advance(15)
        assert (await gateway.chat(model="a")).headers["x-sluice-attempts"] == "1"
        assert (await gateway.chat(model="a")).headers["retry-after"] == "30"
    assert len(upstream.requests) == 5


async def test_probe_whose_client_leaves_makes_room_for_the_next(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(a=fails(500))
    models = [small(upstream, "a"), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock) as gateway:
        assert await answered_by(gateway) == "b"
        clock.advance(15)
        upstream.script = by_model(a=says_nothing)
        upstream.asked.clear()
        probe = asyncio.create_task(gateway.chat(model="SMALL"))
        await upstream.asked.wait()
        probe.cancel()
        assert (await gateway.next_record(2)).error == "client_left"
        upstream.script = ANSWERS
        assert await answered_by(gateway) == "a"


@pytest.mark.parametrize("asked_for", ["a", "SMALL"])
async def test_sole_model_is_not_dark_because_of_one_reset(
    upstream: FakeUpstream, clock: Clock, asked_for: str
) -> None:
    upstream.script = in_turn(*[resets] * 5, ANSWERS)
    async with serving(small(upstream, "a"), clock=clock, server={"max_attempts": 2}) as gateway:
        statuses = [(await gateway.chat(model=asked_for)).status_code for _ in range(4)]
    assert statuses == [502, 502, 200, 200]


@pytest.mark.parametrize("status", [400, 422])
async def test_clients_own_mistake_trips_nothing(upstream: FakeUpstream, clock: Clock, status: int) -> None:
    upstream.script = fails(status, "`temperature` must be a number.", code="bad_value")
    models = [small(upstream, "a", fallbacks=["b"], breaker={"failures": 1}), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock) as gateway:
        for asked_for in ("SMALL", "a", "SMALL"):
            answer = await gateway.chat(model=asked_for)
            error = answer.json()["error"]
            assert (answer.status_code, error["message"]) == (status, "`temperature` must be a number.")
            assert answer.headers["x-sluice-attempts"] == "1"
        assert set(await gateway.image("m#a")) <= {"lr", "x"}
    assert asked(upstream) == ["a", "a", "a"]


@pytest.mark.parametrize(("status", "seen", "code"), [(401, 502, "upstream_refused"), (402, 429, "insufficient_quota")])
async def test_refused_key_or_empty_account_cools_all_models_of_the_entry(
    upstream: FakeUpstream, clock: Clock, status: int, seen: int, code: str
) -> None:
    models = [
        small(upstream, "a"),
        small(upstream, "b"),
        small(upstream, "elsewhere", provider="second", priority=2),
    ]
    upstream.script = by_model(a=fails(status))
    providers = {"second": {"dialect": "openai"}}
    async with serving(*models, clock=clock, providers=providers) as gateway:
        first = await gateway.chat(model="a")
        assert (first.status_code, first.json()["error"]["code"]) == (seen, code)
        assert await answered_by(gateway) == "elsewhere"
        refused = await gateway.chat(model="b")
        assert (refused.status_code, what_failed(refused)) == (429, [("b", "cooldown", None)])
        clock.advance(15 if status == 401 else 600)
        assert await answered_by(gateway, model="b") == "b"
    assert asked(upstream) == ["a", "elsewhere", "b"]


async def test_refusal_of_one_model_is_no_matter_of_its_neighbours(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(a=fails(403), b=fails(404))
    async with serving(*(small(upstream, name) for name in "abc"), clock=clock) as gateway:
        assert [(await gateway.chat(model=name)).status_code for name in "ab"] == [502, 502]
        assert [await answered_by(gateway) for _ in range(2)] == ["c", "c"]


async def test_retry_after_that_no_store_can_hold_is_a_month(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.script = by_model(a=fails(429, retry_after="9" * 30))
    models = [small(upstream, "a", fallbacks=["b"]), small(upstream, "b")]
    state = {"store": "sqlite", "path": str(tmp_path / "state.db")}
    async with running(*models, state=state) as gateway:
        assert await answered_by(gateway, model="a") == "b"
        cooled_s = number(await gateway.image("m#a"), "c") / 1000 - time.time()
    assert 30 * 86_400 < cooled_s <= 31 * 86_400


async def test_daily_quota_cools_until_the_providers_day_begins(upstream: FakeUpstream, clock: Clock) -> None:
    used_up = fails(429, "Rate limit reached: free requests per day.")
    upstream.script = by_model(a=used_up)
    models = [small(upstream, "a", day_starts="01:30 America/Los_Angeles"), small(upstream, "b")]
    until_half_past_one = 90 * 60 - 30  # it is midnight there, and half a minute
    async with serving(*models, clock=clock) as gateway:
        assert (await gateway.chat(model="a")).headers["retry-after"] == str(until_half_past_one)
        upstream.script = ANSWERS
        clock.advance(until_half_past_one - 1)
        assert await answered_by(gateway, model="a") == "429"
        assert await answered_by(gateway, model="b") == "b"  # another model has a quota of its own
        clock.advance(1)
        assert await answered_by(gateway, model="a") == "a"


async def test_failure_in_mid_stream_counts_for_the_breaker(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(a=events(chunk("Hi")), b=STREAM)
    models = [small(upstream, "a", tokens_per_minute=9999), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock) as gateway:
        broken = await gateway.chat(model="SMALL", stream=True)
        record = await gateway.next_record()
        assert gateway.telemetry.openings == ["a"]
        assert await answered_by(gateway, stream=True) == "b"
        assert await gateway.used("m#a", "tm") > 512  # it did work; nobody said how much
    assert broken.headers["x-sluice-model"] == "a"
    assert b"[DONE]" not in broken.content
    assert (record.status, record.error) == (200, "upstream_error")
    assert gateway.telemetry.attempts == [("a", "transient"), ("b", "ok")]


async def test_quota_that_ends_in_mid_stream_cools_the_account(upstream: FakeUpstream, clock: Clock) -> None:
    quota = event({"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}})
    upstream.script = by_model(a=events(chunk("Hi"), quota))
    async with serving(small(upstream, "a"), small(upstream, "b"), clock=clock) as gateway:
        await gateway.chat(model="a", stream=True)
        await gateway.next_record()
        refused = await gateway.chat(model="b")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "600")
    assert asked(upstream) == ["a"]


# --- the same again, and the next


@pytest.mark.parametrize("stream", [False, True])
async def test_by_name_a_500_once_is_retried_within_a_quarter_of_a_second(
    upstream: FakeUpstream, clock: Clock, stream: bool
) -> None:
    """Before its fallbacks: the caller wants that model."""
    moments: list[float] = []
    good = STREAM if stream else ANSWERS

    async def script(exchange: Exchange) -> None:
        moments.append(time.perf_counter())
        await (fails(500) if len(moments) == 1 else good)(exchange)

    upstream.script = script
    models = [small(upstream, "a", fallbacks=["b"]), small(upstream, "b")]
    async with serving(*models, clock=clock, retry=RetryPolicy()) as gateway:
        answer = await gateway.chat(model="a", stream=stream)
        assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("a", "2")
        assert await gateway.image("m#a") == {"lr": int(clock() * 1000), "x": int(clock()) + 3 * 86_400}
    assert moments[1] - moments[0] < 0.7  # a quarter, and what a busy machine takes; without fallbacks 0.9 at least


async def test_by_name_a_second_500_leads_to_the_fallbacks(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(a=fails(500))
    models = [small(upstream, "a", fallbacks=["b"]), small(upstream, "b")]
    async with serving(*models, clock=clock) as gateway:
        answer = await gateway.chat(model="a")
        assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("b", "3")
        assert await answered_by(gateway, model="a") == "b"
    assert asked(upstream) == ["a", "a", "b", "b"]  # the second time its breaker is open


async def test_breaker_hears_of_a_500_though_a_limit_forbids_the_retry(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(a=fails(500))
    models = [small(upstream, "a", requests_per_minute=1, fallbacks=["b"]), small(upstream, "b")]
    async with serving(*models, clock=clock) as gateway:
        assert await answered_by(gateway, model="a") == "b"
        assert (await gateway.image("m#a"))["f"] == 1
    assert asked(upstream) == ["a", "b"]


@pytest.mark.parametrize("retries", [0, 2])
async def test_by_name_without_fallbacks_a_500_for_ever_is_retried_so_often_and_no_more(
    upstream: FakeUpstream, clock: Clock, retries: int
) -> None:
    upstream.script = fails(500)
    retry = RetryPolicy(max_retries=retries, base_delay_s=0.06, jitter=0.0)
    async with serving(small(upstream, "a"), clock=clock, retry=retry) as gateway:
        with took(0.06 + 0.12 if retries else 0.0, 2.0):
            answer = await gateway.chat(model="a")
    assert (answer.status_code, what_failed(answer)) == (502, [("a", "transient", 500)])
    assert answer.headers["x-sluice-attempts"] == str(len(upstream.requests)) == str(1 + retries)


async def test_429_for_ever_is_not_hammered(upstream: FakeUpstream, clock: Clock) -> None:
    """One call until the provider's time is over, however many clients come."""
    upstream.script = fails(429, retry_after="20")
    async with serving(small(upstream, "a"), clock=clock) as gateway:
        first = await gateway.chat(model="a")
        answers = await asyncio.gather(*(gateway.chat(model="a") for _ in range(20)))
        assert len(upstream.requests) == 1
        clock.advance(19.5)
        assert (await gateway.chat(model="a")).headers["retry-after"] == "1"
        assert len(upstream.requests) == 1
        clock.advance(0.5)
        assert await answered_by(gateway, model="a") == "429"
        assert len(upstream.requests) == 2
    assert (first.status_code, first.headers["retry-after"]) == (429, "20")
    assert what_failed(first) == [("a", "busy", 429)]
    assert {(a.status_code, a.headers["retry-after"]) for a in answers} == {(429, "20")}


@pytest.mark.parametrize(
    ("headers", "status", "requests"),
    [
        ({"retry_after_ms": "200"}, 200, 2),
        ({"retry_after": "2.1"}, 429, 1),
        ({}, 429, 1),
    ],
)
async def test_by_name_a_busy_model_is_waited_for_if_it_says_two_seconds_at_most(
    upstream: FakeUpstream, clock: Clock, headers: dict[str, str], status: int, requests: int
) -> None:
    upstream.script = in_turn(fails(429, **headers), ANSWERS)
    async with serving(small(upstream, "a"), clock=clock) as gateway:
        with took(0.2 if requests == 2 else 0.0, 1.5):
            answer = await gateway.chat(model="a")
    assert (answer.status_code, len(upstream.requests)) == (status, requests)


@pytest.mark.parametrize("failure", [fails(500), fails(429, retry_after_ms="20"), resets])
async def test_in_a_category_the_same_is_asked_again_only_when_no_other_has_room(
    upstream: FakeUpstream, clock: Clock, failure: Script
) -> None:
    models = [
        small(upstream, "a", breaker={"failures": 2}),
        small(upstream, "b", priority=2, requests_per_minute=1),
    ]
    upstream.script = by_model(a=in_turn(failure, failure, ANSWERS))
    async with serving(*models, clock=clock) as gateway:
        first = await gateway.chat(model="SMALL")
        clock.advance(1)
        second = await gateway.chat(model="SMALL")
    assert gateway.telemetry.openings == []
    assert (first.headers["x-sluice-model"], first.headers["x-sluice-attempts"]) == ("b", "2")
    assert (second.headers["x-sluice-model"], second.headers["x-sluice-attempts"]) == ("a", "2")
    assert asked(upstream) == ["a", "b", "a", "a"]


async def test_unsupported_field_leads_to_the_next_candidate_and_trips_nothing(
    upstream: FakeUpstream, clock: Clock
) -> None:
    refusal = fails(400, "Unsupported parameter: 'logit_bias'.", code="unsupported_parameter")
    upstream.script = by_model(a=refusal, only=refusal)
    models = [small(upstream, "a"), small(upstream, "b", priority=2), small(upstream, "only", model_size="BIG")]
    async with serving(*models, clock=clock) as gateway:
        for _ in range(2):
            answer = await gateway.chat(model="SMALL")
            assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("b", "2")
        alone = await gateway.chat(model="only")
    error = alone.json()["error"]
    assert (alone.status_code, error["code"]) == (400, "unsupported")
    assert error["message"] == "Unsupported parameter: 'logit_bias'."
    assert asked(upstream) == ["a", "b", "a", "b", "only"]


async def test_what_is_too_long_for_one_goes_only_to_a_larger_one(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = by_model(
        a=fails(400, "This model's maximum context length is 9 tokens.", "context_length_exceeded")
    )
    models = [
        small(upstream, "a", context_tokens=9000, fallbacks=["same", "large"]),
        small(upstream, "same", context_tokens=9000, priority=2),
        small(upstream, "large", context_tokens=9001, priority=3),
    ]
    async with serving(*models, clock=clock) as gateway:
        for asked_for in ("SMALL", "a"):
            assert await answered_by(gateway, model=asked_for) == "large"
    assert asked(upstream) == ["a", "large"] * 2


async def test_too_long_for_all_is_said_in_the_providers_words(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = fails(413, "Request too large.")
    models = [small(upstream, "a", context_tokens=9000), small(upstream, "b", context_tokens=9000, priority=2)]
    async with serving(*models, clock=clock) as gateway:
        answer = await gateway.chat(model="SMALL")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "context_length_exceeded")
    assert answer.json()["error"]["message"] == "Request too large."
    assert what_failed(answer) == [("a", "too_long", 413), ("b", "context_length_exceeded", None)]


async def test_refused_content_ends_the_request_with_the_reason(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = fails(400, "The prompt was filtered: violence.", "content_filter")
    models = [small(upstream, "a", fallbacks=["b"]), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock) as gateway:
        for asked_for in ("SMALL", "a"):
            answer = await gateway.chat(model=asked_for)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "content_filter")
            assert error["message"] == "The prompt was filtered: violence."
            assert answer.headers["x-sluice-attempts"] == "1"
    assert asked(upstream) == ["a", "a"]


@pytest.mark.parametrize("asked_for", ["SMALL", "m0"])
async def test_no_more_calls_than_max_attempts(upstream: FakeUpstream, clock: Clock, asked_for: str) -> None:
    upstream.script = fails(500)
    names = [f"m{number}" for number in range(5)]
    models = [small(upstream, name, priority=at, fallbacks=names[at + 1 :]) for at, name in enumerate(names)]
    async with serving(*models, clock=clock, server={"max_attempts": 3}) as gateway:
        answer = await gateway.chat(model=asked_for)
        assert (answer.status_code, answer.headers["x-sluice-attempts"]) == (502, "3")
        assert len(upstream.requests) == 3
        for name in set(asked(upstream)):
            assert (await gateway.image(f"m#{name}"))["f"] == 1, "it heard of its failure, the last one too"


async def test_last_attempt_is_not_followed_by_a_pause(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = fails(500)
    slow = RetryPolicy(base_delay_s=30)
    async with serving(small(upstream, "a"), clock=clock, retry=slow, server={"max_attempts": 1}) as gateway:
        with took(0, 2):
            assert (await gateway.chat(model="a")).status_code == 502


async def test_no_retry_begins_past_the_deadline(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = fails(500)
    retry = RetryPolicy(max_retries=99, base_delay_s=0.2, jitter=0.0)
    only = small(upstream, "a", timeouts={"total": 0.5})
    async with serving(only, clock=clock, retry=retry, server={"max_attempts": 99}) as gateway:
        with took(0.2, 1.5):
            assert (await gateway.chat(model="a")).status_code == 502
    assert len(upstream.requests) == 2  # at once and after 0.2 s; the next would have been after 0.6 s


async def test_no_candidate_is_asked_past_the_deadline(upstream: FakeUpstream, clock: Clock) -> None:
    upstream.script = says_nothing
    models = [
        small(upstream, name, timeouts={"response": 0.3, "total": 0.5}, priority=at) for at, name in enumerate("abcd")
    ]
    async with serving(*models, clock=clock) as gateway:
        with took(0.5, 2):
            answer = await gateway.chat(model="SMALL")
        assert (answer.status_code, asked(upstream)) == (504, ["a", "b"])
        assert what_failed(answer) == [("a", "silent", None), ("b", "out_of_time", None)]
        assert (await gateway.image("m#a"))["f"] == 1
        assert "f" not in await gateway.image("m#b"), "it had a part of its time only"


async def test_embeddings_fall_back_as_chats_do(upstream: FakeUpstream, clock: Clock) -> None:
    good = answers_json({"object": "list", "data": [{"embedding": [0.5]}], "usage": {"total_tokens": 7}})
    upstream.script = by_model(a=fails(500), b=good)
    limits = {"kind": "embedding", "tokens_per_minute": 999}
    models = [small(upstream, "a", **limits), small(upstream, "b", priority=2, **limits)]
    async with serving(*models, clock=clock) as gateway:
        answer = await gateway.client.post("/v1/embeddings", json={"model": "SMALL", "input": "Hello"})
        assert (await gateway.used("m#a", "tm"), await gateway.used("m#b", "tm")) == (0, 7)
    assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("b", "2")


# --- nobody answered


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Two models and what keeps each from answering; `before`: what they do when they are asked once by name first."""

    one: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Script] = field(default_factory=dict)
    then: dict[str, Script] = field(default_factory=dict)
    status: int
    code: str
    attempts: list[tuple[str, str, int | None]]
    retry_after: str | None = None


MIXES = {
    "400 by length": Mix(
        one={"max_request_length": 5},
        other={"context_tokens": 2},
        status=400,
        code="context_length_exceeded",
        attempts=[("one", "max_request_length", None), ("other", "context_tokens", None)],
    ),
    "400 by capability": Mix(
        one={"capabilities": []},
        other={"max_request_length": 5},
        status=400,
        code="unsupported",
        attempts=[("one", "streaming", None), ("other", "max_request_length", None)],
    ),
    "429 by a limit and a provider": Mix(
        one={"requests_per_hour": 1},
        before={"one": STREAM},
        then={"other": fails(429, retry_after="40")},
        status=429,
        code="rate_limit_exceeded",
        attempts=[("one", "requests_per_hour", None), ("other", "busy", 429)],
        retry_after="40",
    ),
    "503 by an open breaker and a limit": Mix(
        one={"requests_per_hour": 1},
        other={"breaker": {"failures": 1, "cooldown_seconds": 25}},
        before={"one": STREAM, "other": fails(500)},
        status=503,
        code="no_model_available",
        attempts=[("one", "requests_per_hour", None), ("other", "breaker", None)],
        retry_after="25",
    ),
    "503 by providers that are overloaded": Mix(
        then={"one": fails(503, retry_after="9"), "other": fails(529)},
        status=503,
        code="no_model_available",
        attempts=[("one", "busy", 503), ("other", "busy", 529)],
        retry_after="9",
    ),
    "502 by the last failure": Mix(
        then={"one": says_nothing, "other": resets},
        status=502,
        code="upstream_error",
        attempts=[("one", "silent", None), ("other", "transient", None)],
    ),
    "502 for what the operator must mend": Mix(
        then={"one": fails(500), "other": fails(401)},
        status=502,
        code="upstream_refused",
        attempts=[("one", "transient", 500), ("other", "operator", 401)],
    ),
    "504 by the last failure": Mix(
        then={"one": fails(500), "other": says_nothing},
        status=504,
        code="upstream_timeout",
        attempts=[("one", "transient", 500), ("other", "silent", None)],
    ),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
async def test_when_nobody_answers_one_status_says_why(upstream: FakeUpstream, clock: Clock, mix: Mix) -> None:
    timeouts = {"first_token": 0.05}
    models = [
        small(upstream, "one", timeouts=timeouts, **mix.one),
        small(upstream, "other", priority=2, timeouts=timeouts, **mix.other),
    ]
    async with serving(*models, clock=clock) as gateway:
        upstream.script = by_model(**mix.before)
        for name in mix.before:
            await gateway.chat(model=name, stream=True)
        upstream.script = by_model(**mix.then)
        upstream.requests.clear()
        answer = await gateway.chat(model="SMALL", stream=True)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (mix.status, mix.code)
    assert what_failed(answer) == mix.attempts
    assert answer.headers.get("retry-after") == mix.retry_after
    assert answer.headers["x-sluice-attempts"] == str(len(upstream.requests))
    assert set(error) == {"message", "type", "param", "code", "attempts"}


# --- the client leaves


@pytest.mark.parametrize("tells_leave", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_before_an_answer_leaves_nothing_reserved(
    upstream: FakeUpstream, clock: Clock, stream: bool, tells_leave: bool
) -> None:
    upstream.script = says_nothing
    only = small(upstream, "a", max_in_flight=1, tokens_per_minute=9999)
    pool = {"openai": {"max_in_flight": 1, "requests_per_minute": 9}}
    own = keys(tokens_per_minute=9999)
    async with serving(only, clock=clock, providers=pool, auth=own, tells_leave=tells_leave) as gateway:
        waiting = asyncio.create_task(gateway.chat(model="a", stream=stream))
        await upstream.asked.wait()
        waiting.cancel()
        record = await gateway.next_record()
        await gateway.nothing_is_held()
        assert (record.error, record.attempts) == ("client_left", 1)
        assert gateway.telemetry.attempts == [("a", "client_left")]
        assert await gateway.used("p#openai", "rm") == 1
        assert await gateway.used("m#a", "tm") > 512  # the provider may have worked
        assert await gateway.used("k#app", "tm") > 512


async def test_client_that_leaves_in_mid_stream_leaves_nothing_reserved(upstream: FakeUpstream, clock: Clock) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("Hello"))
        await exchange.gone.wait()

    upstream.script = script
    models = [small(upstream, "a", max_in_flight=1, breaker={"failures": 1}), small(upstream, "b", priority=2)]
    async with serving(*models, clock=clock, auth=keys(tokens_per_minute=9999)) as gateway:
        async with gateway.stream(model="a") as response:
            pieces = response.aiter_raw()  # held, or the connection would be closed with it
            await anext(pieces)
            assert ("q" in await gateway.image("m#a"), gateway.telemetry.open_streams) == (True, 1)
        record = await gateway.next_record()
        await gateway.nothing_is_held()
        assert (record.error, gateway.telemetry.open_streams) == ("client_left", 0)
        assert gateway.telemetry.attempts == [("a", "client_left")]
        assert "f" not in await gateway.image("m#a")  # the provider is not at fault
        assert await gateway.used("k#app", "tm") > 512


@pytest.mark.parametrize(
    ("throttle", "taken"),
    [
        ({"max_in_flight": 1}, 1),  # it waits for the lease of the first
        ({"min_interval_ms": 1500}, 2),  # it has a slot that is still to come
    ],
)
async def test_client_that_leaves_while_it_waits_for_its_turn_has_cost_nothing(
    upstream: FakeUpstream, throttle: dict[str, int], taken: int
) -> None:
    go = asyncio.Event()

    async def holds(exchange: Exchange) -> None:
        await go.wait()
        await ANSWERS(exchange)

    upstream.script = holds
    only = small(upstream, "a", requests_per_day=9, **throttle)
    async with running(only, auth=keys(requests_per_day=9)) as gateway:
        first = asyncio.create_task(gateway.chat(model="a"))
        await upstream.asked.wait()
        waiting = asyncio.create_task(gateway.chat(model="a"))
        async with asyncio.timeout(2):
            while (await gateway.used("k#app", "rd"), await gateway.used("m#a", "rd")) != (2, taken):
                await asyncio.sleep(0.005)
        waiting.cancel()
        record = await gateway.next_record()
        go.set()
        assert (await first).status_code == 200
        assert await gateway.used("m#a", "rd") == 1
        assert await gateway.used("k#app", "rd") == 1
    assert (record.error, record.attempts, len(upstream.requests)) == ("client_left", 0, 1)


class LeavingClient(SqliteStore):
    """Whose client leaves just while the store's thread works on the scope `leaves_at`."""

    leaves_at = ""

    async def reserve(self, scope: Scope, cost: Cost, **options: Any) -> Reservation | Refusal:
        self._leave(scope)
        return await super().reserve(scope, cost, **options)

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        self._leave(reservation.scope)
        await super().finish(reservation, outcome, now_ms=now_ms)

    def _leave(self, scope: Scope) -> None:
        task = asyncio.current_task()
        if scope.key == self.leaves_at and task is not None:
            self.leaves_at = ""
            self._written = LOG_AT_MOST  # so that its thread has to be waited for
            task.cancel()


@pytest.mark.parametrize("leaves_at", ["m#a", "p#openai"])
async def test_whoever_leaves_while_the_store_writes_leaves_nothing_reserved(tmp_path: Path, leaves_at: str) -> None:
    """The store's own thread carries a write out all the same, so it must be given back."""
    catalog = catalog_of(
        model("http://upstream", "a", max_in_flight=2, requests_per_day=9),
        providers={"openai": {"max_in_flight": 2, "requests_per_day": 9}},
    )
    (only,) = catalog.models
    assert only.account is not None
    store = LeavingClient(str(tmp_path / "state.db"), timeout_ms=2000)
    ledger = Ledger(store, Clock())

    async def leave(work: Coroutine[Any, Any, Any]) -> None:
        store.leaves_at = leaves_at
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work)

    async def held(key: str) -> tuple[int, int]:
        image = (await store.snapshot([key])).get(key, {})
        return len(members(image, "q")), sum(number(image, name) for name in image if name.startswith("rd"))

    try:
        await leave(ledger.admit(only, Cost(1, 514), 0))
        assert [await held("m#a"), await held("p#openai")] == [(0, 0), (0, 0)]
        grant = await ledger.admit(only, Cost(1, 514), 0)
        assert isinstance(grant, Grant)
        assert [await held("m#a"), await held("p#openai")] == [(1, 1), (1, 1)]
        await leave(ledger.settle(grant, Outcome(verdict=True)))
        assert [await held("m#a"), await held("p#openai")] == [(0, 1), (0, 1)]
    finally:
        await store.aclose()
