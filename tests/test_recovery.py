"""`recover_streams`: a stream that broke off is taken up by another model, and the caller sees one whole answer or the
truth."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any, cast

import openai
import orjson
import pytest

from core import sse
from core.chat import Chat
from core.chunk_stream import ChunkStream
from core.errors import StreamNotRecovered, Transient
from core.ledger import Grant
from core.recovery import Continuation, Sent, continued
from core.relay import Leg, Relay
from core.stream import Chunk
from tests.fake_upstream import DONE, Exchange, FakeUpstream, Script, chunk, event, events
from tests.running_gateway import TOKEN, Clock, RunningGateway, ask, catalog_of, model, running

ANSWER = "The answer is 42, as everybody knows."


def pieces(text: str, size: int = 6) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def says(
    text: str, *, name: str = "c1", size: int = 6, usage: tuple[int, int] | None = None, role: bool = True
) -> Script:
    """A whole stream."""
    body = [chunk("", role="assistant")] if role else []
    body += [chunk(piece) for piece in pieces(text, size)]
    body.append(chunk(finish="stop"))
    if usage:
        asked, said = usage
        counted = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        body.append(event({"id": "c1", "choices": [], "usage": counted}))
    return events(*(piece.replace(b'"c1"', f'"{name}"'.encode()) for piece in body), DONE)


def breaks_after(text: str, *more: bytes, size: int = 6) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for piece in [chunk("", role="assistant"), *map(chunk, pieces(text, size)), *more]:
            await exchange.send(piece)
        exchange.reset()

    return script


class Trio:
    """Models `a`, `b` and `c` of one category, each at a provider of its own."""

    def __init__(self, gateway: RunningGateway, upstreams: list[FakeUpstream]) -> None:
        self.gateway = gateway
        self.a, self.b, self.c = upstreams

    async def stream(self, **more: Any) -> list[dict[str, Any]]:
        """The bodies of all events; a `[DONE]` is an empty one."""
        headers = more.pop("headers", {})
        asked = ask(model="BIG", stream=True, **more)
        answer = await self.gateway.client.post("/v1/chat/completions", json=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        return [{} if one == "[DONE]" else orjson.loads(one) for one in data]


@contextlib.asynccontextmanager
async def trio(*scripts: Script, server: dict[str, Any] | None = None, **more: Any) -> AsyncIterator[Trio]:
    async with FakeUpstream() as a, FakeUpstream() as b, FakeUpstream() as c:
        upstreams = [a, b, c]
        for upstream, script in zip(upstreams, scripts, strict=False):
            upstream.script = script
        models = [
            model(upstream.url, name, model_size="BIG", priority=place, provider=f"p{place}", **more)
            for place, (name, upstream) in enumerate(zip("abc", upstreams, strict=True))
        ][: len(scripts)]
        providers = {f"p{place}": {"dialect": "openai"} for place in range(3)}
        settings = {"recover_streams": True} if server is None else server
        async with running(*models, server=settings, providers=providers, door={"clock": Clock()}) as gateway:
            yield Trio(gateway, upstreams)


def text_of(bodies: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for body in bodies for c in body.get("choices", ()))


def is_one_whole_answer(bodies: list[dict[str, Any]], text: str = ANSWER) -> bool:
    choices = [choice for body in bodies for choice in body.get("choices", ())]
    return (
        text_of(bodies) == text
        and bodies[-1] == {}
        and not any("error" in body for body in bodies)
        and [choice["finish_reason"] for choice in choices if choice.get("finish_reason")] == ["stop"]
        and sum("role" in choice["delta"] for choice in choices) == 1
        and len({body.get("id") for body in bodies[:-1]}) == 1
        and len({body.get("model") for body in bodies[:-1]}) == 1
    )


PREFILL = ["streaming", "prefill"]


@pytest.mark.parametrize("cut", [1, 10, 17, 18, len(ANSWER) - 1])
@pytest.mark.parametrize("size", [1, 5, 100])
async def test_asked_anew_what_was_sent_is_skipped_word_for_word(cut: int, size: int) -> None:
    async with trio(breaks_after(ANSWER[:cut]), says(ANSWER, name="other", size=size)) as three:
        bodies = await three.stream()
        assert is_one_whole_answer(bodies)
        assert bodies[-2]["x_sluice"] == {"models": ["a", "b"]}
        assert three.b.requests[0].json["messages"] == ask()["messages"]
        record = await three.gateway.next_record()
        assert (record.model, record.attempts, record.error, record.trail) == ("b", 2, None, ["a: transient"])


@pytest.mark.parametrize(
    ("sent", "goes_on"),
    [
        ("The answer is", " 42, as everybody knows."),
        ("The answer is ", " 42, as everybody knows."),
        ("The answer is ", "42, as everybody knows."),
        ("The answer is ", "\n42, as everybody knows."),
    ],
)
async def test_a_model_that_continues_a_prefill_is_asked_to(sent: str, goes_on: str) -> None:
    async with trio(breaks_after(sent), says(goes_on), capabilities=PREFILL) as three:
        bodies = await three.stream()
        assert is_one_whole_answer(bodies)
        asked = three.b.requests[0].json["messages"]
        assert asked == [*ask()["messages"], {"role": "assistant", "content": "The answer is"}]


async def test_it_may_break_off_more_than_once() -> None:
    async with trio(breaks_after(ANSWER[:8]), breaks_after(ANSWER[:20]), says(ANSWER)) as three:
        bodies = await three.stream()
        assert is_one_whole_answer(bodies)
        assert bodies[-2]["x_sluice"]["models"] == ["a", "b", "c"]
        assert [len(upstream.requests) for upstream in (three.a, three.b, three.c)] == [1, 1, 1]


@pytest.mark.parametrize("other", ["The reply is 42.", "The answer", "A", "The answer is 43"])
async def test_an_answer_that_differs_is_an_honest_end_and_never_twice_the_same_text(other: str) -> None:
    async with trio(breaks_after("The answer is 42"), says(other)) as three:
        bodies = await three.stream()
        assert text_of(bodies) == "The answer is 42"
        assert bodies[-1]["error"]["code"] == "stream_not_recovered"
        assert not any(choice.get("finish_reason") for body in bodies for choice in body.get("choices", ()))
        assert (await three.gateway.next_record()).error == "stream_not_recovered"


async def test_when_nobody_else_can_the_break_is_told_as_without_it() -> None:
    async with trio(breaks_after("The answer"), breaks_after("The answer")) as three:
        bodies = await three.stream()
        assert text_of(bodies) == "The answer"
        assert bodies[-1]["error"]["code"] == "upstream_error"
        assert (await three.gateway.next_record()).error == "upstream_error"
        for name in "ab":
            assert (await three.gateway.image(f"m#{name}"))["f"] == 1


async def test_a_tool_call_that_broke_off_is_not_taken_up() -> None:
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    async with trio(breaks_after("So: ", chunk(tool_calls=[call])), says("So: ")) as three:
        bodies = await three.stream()
        assert bodies[-1]["error"]["code"] == "upstream_error"
        assert three.b.requests == []


async def test_of_two_answers_at_once_none_is_taken_up() -> None:
    async with trio(breaks_after("The answer"), says(ANSWER)) as three:
        bodies = await three.stream(n=2)
        assert bodies[-1]["error"]["code"] == "upstream_error"
        assert three.b.requests == []


@pytest.mark.parametrize("then", [event({"error": {"message": "no"}}), b"data: {not json\n\n"])
async def test_what_goes_wrong_after_the_finish_does_not_finish_twice(then: bytes) -> None:
    async with trio(breaks_after(ANSWER, chunk(finish="stop"), then), says(ANSWER)) as three:
        bodies = await three.stream()
        assert text_of(bodies) == ANSWER
        finishes = [c["finish_reason"] for body in bodies for c in body.get("choices", ()) if c["finish_reason"]]
        assert finishes == ["stop"]
        assert three.b.requests == []


async def test_a_tool_call_after_what_was_sent_is_taken_up() -> None:
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    whole = events(chunk("So: "), chunk(tool_calls=[call]), chunk(finish="tool_calls"), DONE)
    async with trio(breaks_after("So: "), whole) as three:
        bodies = await three.stream()
        assert bodies[-1] == {}
        calls = [
            c["delta"]["tool_calls"] for body in bodies for c in body.get("choices", ()) if "tool_calls" in c["delta"]
        ]
        assert calls == [[call]]


async def test_thoughts_are_not_told_twice() -> None:
    thought = chunk(reasoning_content="Hm.")
    first = breaks_after("The answer", thought)
    async with trio(first, events(thought, chunk(ANSWER), chunk(finish="stop"), DONE)) as three:
        bodies = await three.stream()
        thoughts = [c["delta"].get("reasoning_content") for body in bodies for c in body.get("choices", ())]
        assert thoughts.count("Hm.") == 1
        assert text_of(bodies) == ANSWER


async def test_usage_is_one_chunk_if_asked_for_and_all_attempts_summed_in_our_own_field() -> None:
    early = event({"id": "c1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
    async with trio(breaks_after(ANSWER[:9], early), says(ANSWER, usage=(4, 9)), tokens_per_day=100_000) as three:
        bodies = await three.stream(stream_options={"include_usage": True})
        used = [body for body in bodies if body.get("usage")]
        assert used[-1]["usage"]["total_tokens"] == 13
        assert used[-1]["x_sluice"]["usage"] == {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}
        record = await three.gateway.next_record()
        assert (record.prompt_tokens, record.completion_tokens) == (7, 11)
        assert await three.gateway.used("m#a", "td") == 5
        assert await three.gateway.used("m#b", "td") == 13


@pytest.mark.parametrize(
    ("server", "header", "recovers"),
    [
        ({}, None, False),
        ({}, "true", True),
        ({}, "yes", False),
        ({"recover_streams": True}, None, True),
        ({"recover_streams": True}, "false", False),
    ],
)
async def test_it_is_asked_for_by_the_configuration_or_a_header(
    server: dict[str, Any], header: str | None, recovers: bool
) -> None:
    async with trio(breaks_after("The answer"), says(ANSWER), server=server) as three:
        bodies = await three.stream(headers={"x-sluice-recover": header} if header else {})
        assert is_one_whole_answer(bodies) is recovers
        assert len(three.b.requests) == recovers


async def test_by_name_the_fallbacks_go_on(upstream: FakeUpstream) -> None:
    async with FakeUpstream() as other:
        upstream.script, other.script = breaks_after("The answer"), says(ANSWER)
        models = [model(upstream.url, "a", fallbacks=["b"]), model(other.url, "b"), model(other.url, "c")]
        async with running(*models, server={"recover_streams": True}) as gateway:
            answer = await gateway.chat(model="a", stream=True)
            assert answer.text.endswith("data: [DONE]\n\n")
            assert len(other.requests) == 1


async def test_the_callers_limit_is_charged_once(upstream: FakeUpstream) -> None:
    async with FakeUpstream() as other:
        upstream.script, other.script = breaks_after("The answer"), says(ANSWER)
        keys = [{"name": "app", "token": TOKEN, "requests_per_day": 9}]
        models = [model(upstream.url, "a", fallbacks=["b"]), model(other.url, "b")]
        async with running(*models, server={"recover_streams": True}, auth={"keys": keys}) as gateway:
            await gateway.chat(model="a", stream=True)
            await gateway.next_record()
            assert await gateway.used("k#app", "rd") == 1


async def test_a_client_that_leaves_while_another_is_asked_leaves_nothing_behind(upstream: FakeUpstream) -> None:
    async with FakeUpstream() as other:

        async def thinks(exchange: Exchange) -> None:
            await exchange.gone.wait()

        upstream.script, other.script = breaks_after("The answer"), thinks
        models = [model(upstream.url, "a", fallbacks=["b"]), model(other.url, "b", max_in_flight=1)]
        async with running(*models, server={"recover_streams": True}, keep_alive_s=0.02) as gateway:
            async with gateway.stream(model="a") as response:
                async for line in response.aiter_lines():
                    if line.startswith(": keep-alive"):
                        break
            assert (await gateway.next_record()).error == "client_left"
            await other.until_open(0)


class BrokenStream:
    """A `ChunkStream` as far as a relay needs it."""

    is_closed = False

    has_spoken = False

    async def next(self, _: float) -> list[Chunk]:
        if self.has_spoken:
            raise Transient("cut")
        self.has_spoken = True
        return []

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_client_that_leaves_just_when_another_was_found_leaves_neither_behind() -> None:
    [one] = catalog_of(model("http://127.0.0.1:9")).models
    streams = [BrokenStream(), BrokenStream()]
    first, second = (Leg(Grant(one, (), 0), cast("ChunkStream", stream)) for stream in streams)
    looks, found, settled = asyncio.Event(), asyncio.Event(), list[Leg]()

    async def settle(leg: Leg) -> None:
        settled.append(leg)

    async def take_up(leg: Leg, sent: Sent) -> Leg:
        await looks.wait()
        found.set()
        return second

    relay = Relay(first, until=math.inf, keep_alive_s=0.01, settle=settle, take_up=take_up)
    events = relay.events()
    assert [await anext(events) for _ in range(2)] == [sse.KEEP_ALIVE] * 2  # the stream's, and while it is looked for
    looks.set()
    await found.wait()
    await events.aclose()
    await relay.close()
    assert settled == [first, second]
    assert [stream.is_closed for stream in streams] == [True, True]


async def test_the_official_package_sees_one_answer() -> None:
    async with trio(breaks_after("The answer is"), says(ANSWER, usage=(4, 9))) as three:
        client = openai.AsyncOpenAI(base_url=f"{three.gateway.url}/v1", api_key=TOKEN, max_retries=0)
        async with client, client.chat.completions.stream(model="BIG", messages=ask()["messages"]) as stream:
            async for _ in stream:
                pass
            done = await stream.get_final_completion()
        assert (done.choices[0].message.content, done.choices[0].finish_reason) == (ANSWER, "stop")


# --- the rules


def body(text: str | None = None, finish: str | None = None, **delta: Any) -> Chunk:
    said = {**({} if text is None else {"content": text}), **delta}
    return Chunk(
        {"id": "x", "created": 2, "model": "n", "choices": [{"index": 0, "delta": said, "finish_reason": finish}]}
    )


def test_a_chunk_of_which_nothing_is_new_is_not_sent() -> None:
    sent = Sent(text="Hello", head={"id": "c1", "created": 1, "model": "m"})
    chat = Chat({"messages": []}, 0)
    going_on = Continuation.of(sent, chat, continued(chat, sent, can_prefill=False))
    assert going_on.take(body("Hel", role="assistant")) is None
    taken = going_on.take(body("lo, world"))
    assert taken
    assert (taken.body["id"], taken.body["model"]) == ("c1", "m")
    assert taken.body["choices"][0]["delta"] == {"content": ", world"}
    assert going_on.take(body(finish="stop"))


@pytest.mark.parametrize("differs", [body("Hi"), body("Hel", "stop"), body(tool_calls=[{"index": 0}])])
def test_whatever_comes_instead_of_what_was_sent_differs(differs: Chunk) -> None:
    sent = Sent(text="Hello")
    chat = Chat({"messages": []}, 0)
    with pytest.raises(StreamNotRecovered):
        Continuation.of(sent, chat, chat).take(differs)


@pytest.mark.parametrize(
    ("delta", "is_plain"),
    [
        ({"content": "x"}, True),
        ({"role": "assistant", "content": "", "refusal": None}, True),
        ({"reasoning_content": "x"}, True),
        ({"tool_calls": [{"index": 0}]}, False),
        ({"refusal": "No."}, False),
        ({"audio": {"id": "x"}}, False),
    ],
)
def test_only_words_can_be_taken_up(delta: dict[str, Any], is_plain: bool) -> None:
    sent = Sent()
    sent.note(body(**delta))
    assert sent.is_plain is is_plain


def test_what_the_caller_began_and_what_was_sent_are_one_prefill() -> None:
    asked = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, "}]
    chat = Chat({"messages": asked}, 0)
    going_on = continued(chat, Sent(text="two, "), can_prefill=True)
    assert going_on.body["messages"] == [asked[0], {"role": "assistant", "content": "One, two,"}]
    assert chat.body["messages"] == asked


def test_a_second_choice_cannot_be_taken_up() -> None:
    sent = Sent()
    sent.note(Chunk({"choices": [{"index": 1, "delta": {"content": "x"}}]}))
    assert not sent.is_plain
