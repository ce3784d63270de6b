"""Lambda's side of a function: a Runtime API that hands invocations out and takes answers in, piece by piece, each with
the moment it came. On h11, so that what the loop says by hand is read by another implementation.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import asyncio
import base64
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import orjson

from tests.h11_server import H11Server, Visit, headers_of

_END_OF_PRELUDE = bytes(8)


@dataclass
class Answer:
    """What a function said to one invocation. `pieces`: of the body behind the prelude, each with when it came."""

    request_id: str
    event: bytes
    time_s: float = 30.0
    trace_id: str | None = None
    id_again: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    prelude: dict[str, Any] | None = None
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None  # reported before the first byte
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _buffer: bytes = b""

    @property
    def mode(self) -> str:
        """`streaming`, or empty: as a whole."""
        return self.headers.get("lambda-runtime-function-response-mode", "")

    @property
    def error_type(self) -> str | None:
        return self.headers.get("lambda-runtime-function-error-type")

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)

    @property
    def late_error(self) -> dict[str, Any] | None:
        raw = self.trailers.get("lambda-runtime-function-error-body")
        found: dict[str, Any] | None = orjson.loads(base64.b64decode(raw)) if raw else None
        return found

    async def take(self, piece: bytes) -> None:
        if self.prelude is None and self.mode == "streaming":
            self._buffer += piece
            head, mark, piece = self._buffer.partition(_END_OF_PRELUDE)
            if not mark:
                return
            self.prelude = orjson.loads(head)
        async with self.changed:
            if piece:
                self.pieces.append((time.monotonic(), piece))
            self.changed.notify_all()

    async def finish(self) -> None:
        async with self.changed:
            self.is_over.set()
            self.changed.notify_all()

    async def until(self, is_so: Callable[["Answer"], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s), self.changed:
            await self.changed.wait_for(lambda: is_so(self) or self.is_over.is_set())
        assert is_so(self)


class RuntimeApi(H11Server):
    """`async with RuntimeApi() as api`; `api.address` goes into AWS_LAMBDA_RUNTIME_API.

    `stale`: invocations whose answer is refused with 410; `drops`: those whose connection is dropped after a piece;
    `declines`: those that are answered with 413 after a piece, while the rest of them is read on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: asyncio.Queue[Answer] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self.answers: dict[str, Answer] = {}
        self.init_error: dict[str, Any] | None = None
        self.restore_error: dict[str, Any] | None = None
        self.asked_next = asyncio.Event()
        self.restore_asked = asyncio.Event()
        self.may_restore = asyncio.Event()
        self.stale: set[str] = set()
        self.drops: set[str] = set()
        self.declines: set[str] = set()

    def invoke(self, event: Any, **more: Any) -> Answer:
        """Queue an invocation; `event` is JSON's value or bytes as they are, `more` as in `Answer`."""
        raw = event if isinstance(event, bytes) else orjson.dumps(event)
        answer = Answer(f"request-{next(self._numbers)}", raw, **more)
        self.answers[answer.request_id] = answer
        self._waiting.put_nowait(answer)
        return answer

    async def exchange(self, request: h11.Request, visit: Visit) -> None:
        headers = headers_of(request)
        match request.target.decode().removeprefix("/2018-06-01/runtime/").split("/"):
            case ["invocation", "next"]:
                await visit.read_body()
                self.asked_next.set()
                given = await self._waiting.get()
                await visit.answer(200, _told(given), given.event)
            case ["invocation", request_id, "response"] if answer := self.answers.get(request_id):
                answer.headers = headers
                if await self._take(answer, visit):
                    await self._confirm(answer, visit)
            case ["invocation", request_id, "error"] if answer := self.answers.get(request_id):
                answer.headers, answer.error = headers, orjson.loads(await visit.read_body())
                await self._confirm(answer, visit)
            case ["restore", "next"]:
                await visit.read_body()
                self.restore_asked.set()
                await self.may_restore.wait()
                await visit.answer(200, {}, b"")
            case ["init", "error"]:
                self.init_error = orjson.loads(await visit.read_body())
                await visit.answer(202, {}, b"{}")
            case ["restore", "error"]:
                self.restore_error = orjson.loads(await visit.read_body())
                await visit.answer(202, {}, b"{}")
            case _:
                await visit.answer(404, {}, b"{}")

    async def _take(self, answer: Answer, visit: Visit) -> bool:
        """Whether it came to its end."""
        while isinstance(event := await visit.read(), h11.Data):
            await answer.take(bytes(event.data))
            if answer.request_id in self.drops:
                visit.writer.transport.abort()
                await answer.finish()
                return False
            if answer.request_id in self.declines:
                await visit.answer(413, {}, b"{}")
                with contextlib.suppress(h11.RemoteProtocolError):  # it breaks off
                    await visit.read_body()
                await answer.finish()
                return False
        answer.trailers = {name.decode(): value.decode() for name, value in event.headers}
        return True

    async def _confirm(self, answer: Answer, visit: Visit) -> None:
        await answer.finish()
        is_same = not answer.id_again or answer.headers.get("lambda-runtime-invocation-id") == answer.id_again
        status = 400 if not is_same else 410 if answer.request_id in self.stale else 202
        await visit.answer(status, {}, b"{}")


def _told(answer: Answer) -> dict[str, str]:
    told = {
        "lambda-runtime-aws-request-id": answer.request_id,
        "lambda-runtime-deadline-ms": str(int((time.time() + answer.time_s) * 1000)),
        "lambda-runtime-invoked-function-arn": "arn:aws:lambda:eu-west-1:000000000000:function:sluice",
        "content-type": "application/json",
    }
    if answer.trace_id:
        told["lambda-runtime-trace-id"] = answer.trace_id
    if answer.id_again:
        told["lambda-runtime-invocation-id"] = answer.id_again
    return told
