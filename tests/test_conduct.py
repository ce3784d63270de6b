"""Each way of failing, over real sockets: what the client sees, what each provider is asked, how long it takes.

Every model has a provider of its own. Statuses, counts and times of each failure stand in `misbehaviour.py`.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.fake_upstream import Exchange, FakeUpstream, Script, took
from tests.misbehaviour import AFTER, BEFORE, ODD, SHORT_S, Failure, answers_well, fails
from tests.running_gateway import Clock, RunningGateway, ask, model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = {"connect": SHORT_S, "first_token": SHORT_S, "response": SHORT_S, "idle": SHORT_S, "total": 5}
ANSWER = "The answer is 42."


def in_turn(*scripts: Script) -> Script:
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


@dataclass
class Pair:
    """A model `bad`, and `good`, at providers of their own."""

    gateway: RunningGateway
    bad: FakeUpstream
    good: FakeUpstream

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.bad.requests), len(self.good.requests)

    def play(self, *does: Script) -> "Pair":
        """From now on, and as if nothing had been before."""
        self.gateway.forget()
        self.gateway.records.clear()
        for upstream in (self.bad, self.good):
            upstream.requests.clear()
        self.bad.script, self.good.script = in_turn(*does), answers_well
        return self

    async def answer(self, name: str, *, stream: bool) -> "Seen":
        if not stream:
            response = await self.gateway.chat(model=name)
            return Seen(response.status_code, dict(response.headers), response.content, is_stream=False)
        async with self.gateway.stream(model=name) as response:
            body = await response.aread()
            return Seen(response.status_code, dict(response.headers), body, is_stream=response.status_code == 200)


@dataclass
class Seen:
    """What the client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_stream: bool

    @property
    def events(self) -> list[str]:
        return [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        if not self.is_stream:
            return [orjson.loads(self.body)]
        return [orjson.loads(event) for event in self.events if event != "[DONE]"]

    @property
    def text(self) -> str:
        choices = [choice for body in self.bodies for choice in body.get("choices", ())]
        parts = [choice["delta"] if self.is_stream else choice["message"] for choice in choices]
        return "".join(part.get("content") or "" for part in parts)

    @property
    def finishes(self) -> list[str]:
        choices = [choice for body in self.bodies for choice in body.get("choices", ())]
        return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [body["error"] for body in self.bodies if "error" in body]

    def is_whole(self) -> bool:
        ends = not self.is_stream or self.events[-1:] == ["[DONE]"]
        return self.status == 200 and ends and not self.errors and bool(self.finishes) and self.text == ANSWER


@contextlib.asynccontextmanager
async def pair(how: str, timeouts: dict[str, float]) -> AsyncIterator[Pair]:
    async with FakeUpstream() as bad, FakeUpstream() as good:
        size, fallbacks = {"model_size": "BIG"} if how == "category" else {}, ["good"] if how == "fallback" else []
        models = [
            model(bad.url, "bad", timeouts=timeouts, priority=1, fallbacks=fallbacks, **size),
            model(good.url, "good", priority=2, provider="another", **size),
        ]
        providers = {"another": {"dialect": "openai"}}  # an account of its own
        async with running(*models, providers=providers, door={"clock": Clock()}) as gateway:
            yield Pair(gateway, bad, good)


HOWS = ["alone", "fallback", "category"]


class Pairs:
    """One of each for the whole file. Time-outs are short only where one is to come: a busy machine stalls, too."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, bool], Pair] = {}

    def play(self, how: str, failure: Failure) -> Pair:
        return self.all[how, failure.lasts_s[0] > 0].play(*failure.does)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pairs() -> AsyncIterator[Pairs]:
    found = Pairs()
    async with contextlib.AsyncExitStack() as stack:
        for how in HOWS:
            found.all[how, True] = await stack.enter_async_context(pair(how, SHORT))
            found.all[how, False] = await stack.enter_async_context(pair(how, {}))
        yield found


def cases(failures: list[Failure]) -> pytest.MarkDecorator:
    rows = [
        (failure, stream)
        for failure in failures
        for stream in (False, True)
        if (failure.streamed if stream else failure.whole)
    ]
    return pytest.mark.parametrize(
        ("failure", "stream"), [pytest.param(f, s, id=f"{f}-{'stream' if s else 'whole'}") for f, s in rows]
    )


@cases(BEFORE)
async def test_by_name_and_alone_the_client_hears_the_truth_in_time(
    pairs: Pairs, failure: Failure, stream: bool
) -> None:
    both = pairs.play("alone", failure)
    with took(*failure.lasts_s):
        seen = await both.answer("bad", stream=stream)
    status, code = failure.alone
    assert both.asked == (failure.asked, 0)
    assert seen.headers["x-sluice-attempts"] == str(failure.asked)
    if status == 200:
        assert seen.is_whole()
        return
    [error] = seen.errors
    assert (seen.status, error["code"]) == (status, code)
    assert error["message"]
    assert not seen.finishes
    if failure.retry_after:
        least, most = failure.retry_after
        assert least <= int(seen.headers["retry-after"]) <= most
    else:
        assert "retry-after" not in seen.headers


@cases(BEFORE)
async def test_by_name_with_a_fallback_the_fallback_answers(pairs: Pairs, failure: Failure, stream: bool) -> None:
    both = pairs.play("fallback", failure)
    with took(*failure.lasts_s):
        seen = await both.answer("bad", stream=stream)
    if not failure.helps:
        assert (both.asked, seen.status) == ((1, 0), failure.alone[0])
        return
    assert seen.is_whole()
    assert both.asked == (failure.asked_by_name, 0 if failure.by_name_recovers else 1)
    assert seen.headers["x-sluice-model"] == ("bad" if failure.by_name_recovers else "good")


@cases(BEFORE)
async def test_in_a_category_the_next_one_answers_at_once(pairs: Pairs, failure: Failure, stream: bool) -> None:
    both = pairs.play("category", failure)
    with took(*failure.lasts_s):
        seen = await both.answer("BIG", stream=stream)
    if not failure.helps:
        assert (both.asked, seen.status) == ((1, 0), failure.alone[0])
        return
    assert seen.is_whole()
    assert (both.asked, seen.headers["x-sluice-model"]) == ((1, 1), "good")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("failure", AFTER, ids=str)
async def test_a_stream_that_had_begun_ends_in_an_error_event_and_never_looks_finished(
    pairs: Pairs, failure: Failure, how: str
) -> None:
    both = pairs.play(how, failure)
    with took(*failure.lasts_s):
        seen = await both.answer("BIG" if how == "category" else "bad", stream=True)
    assert seen.status == 200
    assert seen.text == "The answer is"
    assert not seen.finishes
    assert [error["code"] for error in seen.errors] == [failure.alone[1]]
    assert "error" in seen.bodies[-1]
    assert "[DONE]" not in seen.events
    assert both.asked == (1, 0)
    record = await both.gateway.next_record()
    assert (record.status, record.error) == (200, failure.alone[1])


@pytest.mark.parametrize("how", ODD)
async def test_an_answer_that_is_odd_but_finished_is_whole(pairs: Pairs, how: str) -> None:
    both = pairs.all["alone", True].play(ODD[how])
    seen = await both.answer("bad", stream=True)
    assert seen.status == 200
    assert seen.text == ANSWER
    assert not seen.errors
    assert set(seen.finishes) == {"stop"}
    assert seen.events.count("[DONE]") == 1
    assert (await both.gateway.next_record()).error is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_is_refused_is_told_or_the_other_answers(stream: bool) -> None:
    async with FakeUpstream() as gone:
        pass
    for how, expected in (("alone", 502), ("fallback", 200), ("category", 200)):
        fallbacks = ["good"] if how == "fallback" else []
        models = [model(gone.url, "bad", timeouts=SHORT, model_size="BIG", priority=1, fallbacks=fallbacks)]
        async with FakeUpstream() as other:
            other.script = answers_well
            if how != "alone":
                models.append(model(other.url, "good", model_size="BIG", priority=2))
            async with running(*models) as gateway:
                response = await gateway.chat(model="BIG" if how == "category" else "bad", stream=stream)
                assert response.status_code == expected
                assert len(other.requests) == (how != "alone")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_too_long_goes_to_a_larger_model_and_to_no_other(stream: bool) -> None:
    too_long = fails(400, "maximum context length is 8 tokens", "context_length_exceeded")
    async with FakeUpstream() as one, FakeUpstream() as same, FakeUpstream() as larger:
        one.script, same.script, larger.script = too_long, answers_well, answers_well
        models = [
            model(one.url, "a", model_size="BIG", priority=1, context_tokens=8000),
            model(same.url, "b", model_size="BIG", priority=2, context_tokens=8000),
            model(larger.url, "c", model_size="BIG", priority=3, context_tokens=32000),
        ]
        async with running(*models) as gateway:
            response = await gateway.chat(model="BIG", stream=stream)
            assert response.headers["x-sluice-model"] == "c"
            assert [len(upstream.requests) for upstream in (one, same, larger)] == [1, 0, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_that_rejects_an_assistant_prefill_is_passed_over(stream: bool) -> None:
    prefill = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two,"}]
    rejects = fails(400, "This model does not support assistant message prefill.")
    async with FakeUpstream() as one, FakeUpstream() as two, FakeUpstream() as three:
        one.script, two.script, three.script = fails(503), rejects, answers_well
        models = [
            model(one.url, "a", fallbacks=["b", "c"]),
            model(two.url, "b"),
            model(three.url, "c"),
        ]
        async with running(*models) as gateway:
            response = await gateway.chat(model="a", stream=stream, messages=prefill)
            assert response.status_code == 200
            assert response.headers["x-sluice-model"] == "c"
            assert (await gateway.chat(model="b", messages=ask()["messages"])).json()["error"]["code"] == "unsupported"
            assert len(two.requests) == 2, "its breaker stayed closed"


async def test_a_provider_that_flaps_is_left_alone_meanwhile_and_is_back_within_a_probe() -> None:
    async with FakeUpstream() as flapping, FakeUpstream() as steady:
        flapping.script, steady.script = fails(500), answers_well
        clock = Clock()
        models = [
            model(flapping.url, "bad", model_size="BIG", priority=1, breaker={"failures": 1, "cooldown_seconds": 15}),
            model(steady.url, "good", model_size="BIG", priority=2),
        ]

        async def answered_by(gateway: RunningGateway) -> str:
            return (await gateway.chat(model="BIG")).headers["x-sluice-model"]

        async with running(*models, door={"clock": clock}) as gateway:
            for down in (True, True, False, True, False):
                flapping.script = fails(500) if down else answers_well
                before = len(flapping.requests)
                assert await answered_by(gateway) == ("good" if down else "bad")
                assert len(flapping.requests) == before + 1, "one probe, or the first request that fails"
                if down:
                    assert [await answered_by(gateway) for _ in range(5)] == ["good"] * 5
                    assert len(flapping.requests) == before + 1, "nobody else asks it meanwhile"
                clock.advance(61)
