"""The ways in which a provider fails, by name: what it does, and what the gateway must make of it.

`test_conduct.py` plays each of them over real sockets, whole and streamed, by name, with a fallback and in a category;
docs/reliability.md lists them.
"""

import asyncio
from dataclasses import dataclass

from tests.fake_upstream import (
    DONE,
    Exchange,
    Script,
    answers,
    answers_json,
    chunk,
    completion,
    event,
    events,
)

SHORT_S = 0.25  # the time-outs where one is to come
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
BEGINNING = (chunk("", role="assistant"), chunk("The answer"), chunk(" is"))
WHOLE = (*BEGINNING, chunk(" 42."), chunk(finish="stop"), DONE)


@dataclass(frozen=True)
class Failure:
    """`does`: one script a request, the last for all that follow.

    Alone: `alone` is the status and the error's code (of the event, where the answer had begun), `asked` how often the
    model is asked, `lasts_s` how long that takes at least and at most, `retry_after` between what the header must be.
    Beside a fallback: `asked_by_name` is how often it is asked before the other is; `by_name_recovers` when it then
    answers itself. In a category the other is asked at once. `helps` is False where nobody else would fare better.
    `streamed`, `whole`: whether it can happen to such a request.
    """

    name: str
    does: tuple[Script, ...]
    alone: tuple[int, str | None]
    asked: int = 1
    asked_by_name: int = 1  # beside a fallback
    by_name_recovers: bool = False  # asked again, it answers itself
    helps: bool = True
    lasts_s: tuple[float, float] = (0, 2)
    retry_after: tuple[int, int] | None = None
    streamed: bool = True
    whole: bool = True

    def __str__(self) -> str:
        return self.name


def fails(status: int, message: str = "no", code: str | None = None, **headers: str) -> Script:
    return answers_json({"error": {"message": message, "code": code}}, status, **headers)


async def resets(exchange: Exchange) -> None:
    exchange.reset()


async def hangs_up(exchange: Exchange) -> None:
    exchange.close()


async def says_nothing(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def sends_headers_only(exchange: Exchange) -> None:
    await exchange.start(200, content_type="text/event-stream" if streams(exchange) else "application/json")
    await exchange.gone.wait()


async def thinks_too_long(exchange: Exchange) -> None:
    """Signs of life, and no token."""
    await exchange.start(200, content_type="text/event-stream")
    while not exchange.gone.is_set():
        await exchange.send(b": processing\n\n")
        await asyncio.wait({asyncio.ensure_future(exchange.gone.wait())}, timeout=SHORT_S / 5)


async def answers_well(exchange: Exchange) -> None:
    await (events(*WHOLE) if streams(exchange) else answers_json(completion("The answer is 42.")))(exchange)


def streams(exchange: Exchange) -> bool:
    return exchange.request.json.get("stream") is True


def begins_then(*pieces: bytes, end: str = "clean") -> Script:
    """A stream that has begun; then `pieces`, and an end: `clean`, `reset`, `silence`, or none but more and more."""

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        for piece in (*BEGINNING, *pieces):
            await exchange.send(piece)
        while end == "none" and not exchange.gone.is_set():
            await exchange.send(b": more\n\n")
            await asyncio.sleep(0.001)
        if end == "silence":
            await exchange.gone.wait()
        elif end == "reset":
            exchange.reset()
        else:
            await exchange.end()

    return script


def cut_in_the_body(end: str) -> Script:
    """A whole answer of which a part comes."""

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="application/json", content_length="500")
        await exchange.send(b'{"id": "c1", "choices": [')
        if end == "silence":
            await exchange.gone.wait()
        elif end == "reset":
            exchange.reset()
        else:
            exchange.close()

    return script


QUOTA = {"error": {"message": "You exceeded your current quota.", "type": "insufficient_quota"}}
INSIDE = {"error": {"message": "Provider returned error", "code": 502}}

# Before the answer has begun: a status, or somebody else.
BEFORE = [
    Failure("429 without retry-after", (fails(429),), (429, "rate_limit_exceeded"), retry_after=(14, 15)),
    Failure(
        "429 with retry-after", (fails(429, retry_after="40"),), (429, "rate_limit_exceeded"), retry_after=(39, 40)
    ),
    Failure(
        "429 once, for a moment",
        (fails(429, retry_after_ms="20"), answers_well),
        (200, None),
        asked=2,
        asked_by_name=2,
        by_name_recovers=True,
    ),
    Failure(
        "429 for ever, always for a moment",
        (fails(429, retry_after_ms="20"),),
        (429, "rate_limit_exceeded"),
        asked=4,
        asked_by_name=2,
        retry_after=(1, 1),
    ),
    Failure("quota used up", (answers_json(QUOTA, 429),), (429, "insufficient_quota"), retry_after=(599, 600)),
    Failure("500 once", (fails(500), answers_well), (200, None), asked=2, asked_by_name=2, by_name_recovers=True),
    Failure("500 for ever", (fails(500),), (502, "upstream_error"), asked=4, asked_by_name=2),
    Failure("503 for ever", (fails(503),), (503, "overloaded"), retry_after=(14, 15)),
    Failure("reset before headers", (resets,), (502, "upstream_error"), asked=4, asked_by_name=2),
    Failure("hung up before headers", (hangs_up,), (502, "upstream_error"), asked=4, asked_by_name=2),
    Failure("no answer", (says_nothing,), (504, "upstream_timeout"), lasts_s=(SHORT_S, 2)),
    Failure("headers and then silence", (sends_headers_only,), (504, "upstream_timeout"), lasts_s=(SHORT_S, 2)),
    Failure("slow first token", (thinks_too_long,), (504, "upstream_timeout"), lasts_s=(SHORT_S, 2), whole=False),
    Failure(
        "HTML with status 502",
        (answers(HTML, 502, content_type="text/html"),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
    ),
    Failure(
        "HTML instead of JSON",
        (answers(HTML, content_type="text/html"),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
    ),
    Failure("error inside a 200", (answers_json(INSIDE),), (502, "upstream_error"), asked=4, asked_by_name=2),
    Failure(
        "error as the first event",
        (events(event(INSIDE)),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
        whole=False,
    ),
    Failure(
        "error as the first event: error",
        (events(event({"message": "overloaded", "type": "overloaded_error"}, "error")),),
        (503, "overloaded"),
        retry_after=(14, 15),
        whole=False,
    ),
    Failure(
        "malformed JSON in the first event",
        (events(b"data: {not json\n\n"),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
        whole=False,
    ),
    Failure("an empty stream", (events(),), (502, "upstream_error"), asked=4, asked_by_name=2, whole=False),
    Failure(
        "[DONE] and nothing before it", (events(DONE),), (502, "upstream_error"), asked=4, asked_by_name=2, whole=False
    ),
    Failure(
        "a whole answer cut by reset",
        (cut_in_the_body("reset"),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
        streamed=False,
    ),
    Failure(
        "a whole answer cut by a close",
        (cut_in_the_body("close"),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
        streamed=False,
    ),
    Failure(
        "a whole answer that stalls",
        (cut_in_the_body("silence"),),
        (504, "upstream_timeout"),
        lasts_s=(SHORT_S, 2),
        streamed=False,
    ),
    Failure(
        "no choices",
        (answers_json({**completion(), "choices": []}),),
        (502, "upstream_error"),
        asked=4,
        asked_by_name=2,
        streamed=False,
    ),
    Failure("wrong key", (fails(401, "Incorrect API key provided"),), (502, "upstream_refused")),
    Failure("model gone", (fails(404, "The model does not exist", "model_not_found"),), (502, "upstream_refused")),
    Failure(
        "content refused",
        (fails(400, "Blocked by our policy.", "content_filter"),),
        (400, "content_filter"),
        helps=False,
    ),
    Failure("the client's own mistake", (fails(400, "temperature must be below 2"),), (400, None), helps=False),
    Failure(
        "assistant prefill rejected",
        (fails(400, "This model does not support assistant message prefill."),),
        (400, "unsupported"),
    ),
]

# After it: an error event and the end. Nobody else can help, unless streams are recovered.
AFTER = [
    Failure("cut by reset", (begins_then(end="reset"),), (200, "upstream_error")),
    Failure("cut by a clean close", (begins_then(),), (200, "upstream_error")),
    Failure("stall in mid-stream", (begins_then(end="silence"),), (200, "upstream_timeout"), lasts_s=(SHORT_S, 2)),
    Failure("malformed JSON in one event", (begins_then(b"data: {not json\n\n", *WHOLE[3:]),), (200, "upstream_error")),
    Failure("error inside a stream", (begins_then(event(INSIDE)),), (200, "upstream_error")),
    Failure(
        "error as event: error",
        (begins_then(event({"message": "overloaded", "type": "overloaded_error"}, "error")),),
        (200, "overloaded"),
    ),
    Failure("[DONE] in the middle", (begins_then(DONE),), (200, "upstream_error")),
]

# Odd, and whole all the same.
ODD = {
    "no [DONE] though finished": begins_then(*WHOLE[3:5]),
    "two finishes": begins_then(*WHOLE[3:5], WHOLE[4], DONE),
    "two [DONE]": begins_then(*WHOLE[3:], DONE),
    "reset after the finish": begins_then(*WHOLE[3:5], end="reset"),
    "silence after the finish": begins_then(*WHOLE[3:5], end="silence"),
    "no end after [DONE]": begins_then(*WHOLE[3:], end="none"),
}
