"""Mangum, streaming: makes an ASGI request of an event and hands the answer on piece by piece.

The same object is a handler for Lambda's own runtime, and then it answers as a whole. Mangum's inner classes are used
(its version is pinned, `test_lambda_adapter.py` is the contract): its events to scopes, its lifespan, its HTTP cycle.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import orjson
from mangum import Mangum
from mangum.protocols import LifespanCycle
from mangum.types import ASGI, LambdaHandler, Response

from core.log_line import OURS, where

from .cycle import StreamingCycle
from .events import BadBodyError, BadEventError, body_of, scope_of
from .logs import request_id
from .writer import Buffer, Failure, Writer

_LOG = logging.getLogger(OURS)
ANSWER_S = 1.0  # before Lambda's deadline the application should be done: time for a last event and for its accounts
MOST_BYTES = 6 * 2**20  # of an answer as a whole, its envelope included; Lambda drops a larger one
TOO_LARGE = (
    "The answer is larger than the 6 MB that Lambda passes on as a whole. Ask for less, or for a smaller picture."
)
END_S = 0.3  # before it the application is ended if it is not

Hook = Callable[[], None]


class StartError(Exception):
    """The application's lifespan did not start."""


class StreamingMangum(Mangum):
    """`before_snapshot` and `after_restore` are run by the streaming loop under SnapStart."""

    def __init__(self, app: ASGI, *, before_snapshot: Sequence[Hook] = (), after_restore: Sequence[Hook] = ()) -> None:
        super().__init__(app, lifespan="on")
        self.before_snapshot = before_snapshot
        self.after_restore = after_restore
        self._lifespan: LifespanCycle | None = None
        self._task: asyncio.Task[None] | None = None  # of the lifespan
        self._loop: asyncio.AbstractEventLoop | None = None  # of our own, where nobody else runs one

    def _setup_event_loop(self) -> None:
        """Not at import: a loop has sockets, and under the streaming loop there is one already."""

    async def start(self) -> None:
        """The application's lifespan: once in a process. Raises StartError."""
        self._lifespan = LifespanCycle(self.app, "on")
        self._task = asyncio.create_task(self._lifespan.run())
        try:
            await self._lifespan.startup()
        except Exception as error:
            raise StartError("the application's start-up failed") from error
        if self._task.done():
            raise StartError("the application ended while it started up")

    async def stop(self) -> None:
        if self._lifespan is not None and self._task is not None and not self._task.done():
            await self._lifespan.shutdown()

    async def stream(self, event: Any, context: Any, writer: Writer) -> None:
        """Answer one invocation. What goes wrong is said to the writer. Raises OSError when that takes nothing."""
        request_id.set(context.aws_request_id)
        seconds = float(context.get_remaining_time_in_millis()) / 1000
        try:
            scope, body = scope_of(self._request(event, context)), body_of(event)
        except BadBodyError as error:
            return await _refuse(writer, 400, "invalid_body", str(error))
        except BadEventError as error:
            _LOG.warning("An event was refused: %s", error)
            return await writer.fail(Failure("Sluice.BadEvent", str(error)))
        scope["state"] = dict(self._lifespan.lifespan_state) if self._lifespan else {}
        scope["sluice.deadline"] = asyncio.get_running_loop().time() + seconds - ANSWER_S
        failure = await self._run(StreamingCycle(scope, body, writer), max(0.0, seconds - END_S))
        return None if failure is None else await writer.fail(failure)

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        """As a whole, for Lambda's own runtime."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.new_event_loop()
            loop.run_until_complete(self.start())
        buffer = Buffer()
        loop.run_until_complete(self.stream(event, context, buffer))
        whole = self._whole(event, context, buffer)
        if len(orjson.dumps(whole)) > MOST_BYTES:
            refusal = Buffer()
            loop.run_until_complete(_refuse(refusal, 413, "answer_too_large", TOO_LARGE))
            whole = self._whole(event, context, refusal)
        return whole

    def _whole(self, event: Any, context: Any, buffer: Buffer) -> dict[str, Any]:
        answer = {"status": buffer.status, "headers": buffer.headers, "body": bytes(buffer.body)}
        return self._request(event, context)(cast("Response", answer))

    def _request(self, event: Any, context: Any) -> LambdaHandler:
        if not isinstance(event, dict):
            raise BadEventError("The event is not a JSON object.")
        try:
            return self.infer(event, context)
        except (RuntimeError, LookupError, TypeError) as error:
            raise BadEventError("The event is not an HTTP request from a function URL, API Gateway or ALB.") from error

    async def _run(self, cycle: StreamingCycle, seconds: float) -> Failure | None:
        """Why the answer is not whole, None: it is."""
        failure = Failure("Sluice.Unfinished", "The answer broke off.")
        try:
            async with asyncio.timeout(seconds):
                await cycle.run(self.app)
        except TimeoutError:
            failure = Failure("Sluice.OutOfTime", "The function's time ran out before the answer was finished.")
        except Exception as error:  # noqa: BLE001 - the last border: its text may quote a prompt
            _LOG.error("The application failed: %s", where(error))
            failure = Failure("Sluice.Failed", "The application failed.")
        return None if cycle.is_whole else failure


async def _refuse(writer: Writer, status: int, code: str, message: str) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    await writer.start(status, [(b"content-type", b"application/json")])
    await writer.write(orjson.dumps({"error": error}))
    await writer.end()
