"""The Runtime API: asks for invocations, answers them piece by piece, reports what failed.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and, for streams, .../runtimes-custom.html
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from .connection import Connection, Reply, read_reply
from .writer import Failure, Headers, Prelude

_LOG = logging.getLogger("sluice")
_BASE = "/2018-06-01/runtime"
_ERROR_TYPE, _ERROR_BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"
_STREAM = {
    "Lambda-Runtime-Function-Response-Mode": "streaming",
    "Content-Type": "application/vnd.awslambda.http-integration-response",
    "Transfer-Encoding": "chunked",
    "Trailer": f"{_ERROR_TYPE}, {_ERROR_BODY}",
    "Connection": "close",
}
_END_OF_PRELUDE = bytes(8)
STALE = 410  # the invocation is over without us: its time ran out, or its environment was frozen meanwhile


class RefusedError(ConnectionError):
    """The Runtime API did not do what it was asked."""

    def __init__(self, path: str, reply: Reply) -> None:
        super().__init__(f"{path} was answered with status {reply.status}")


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of the function. `deadline_ms`: Unix time; `id_again` is echoed where the API gave one."""

    request_id: str
    deadline_ms: int
    function_arn: str
    trace_id: str | None
    id_again: str | None
    event: bytes

    @classmethod
    def of(cls, reply: Reply) -> "Invocation":
        given = reply.headers
        return cls(
            request_id=given["lambda-runtime-aws-request-id"],
            deadline_ms=int(given["lambda-runtime-deadline-ms"]),
            function_arn=given.get("lambda-runtime-invoked-function-arn", ""),
            trace_id=given.get("lambda-runtime-trace-id"),
            id_again=given.get("lambda-runtime-invocation-id"),
            event=reply.body,
        )

    @property
    def path(self) -> str:
        return f"{_BASE}/invocation/{self.request_id}"

    @property
    def echo(self) -> dict[str, str]:
        return {"Lambda-Runtime-Invocation-Id": self.id_again} if self.id_again else {}


class RuntimeApi:
    """One worker's side of it. Raises ConnectionError when the API is gone, which ends the process."""

    def __init__(self, address: str) -> None:
        self._connection = Connection(address)

    async def next(self) -> Invocation:
        return Invocation.of(await self._get(f"{_BASE}/invocation/next"))

    def answer(self, invocation: Invocation) -> "StreamedAnswer":
        return StreamedAnswer(self._connection, invocation)

    async def report_start(self, failure: Failure) -> None:
        """The function cannot serve. The process has to end after it."""
        await _report(self._connection, f"{_BASE}/init/error", failure, {})

    async def wait_for_restore(self) -> None:
        """A snapshot is taken while this waits; it returns in an environment that was made from it."""
        await self._get(f"{_BASE}/restore/next")
        self.close()  # what was connected before need not be now

    async def report_restore(self, failure: Failure) -> None:
        await _report(self._connection, f"{_BASE}/restore/error", failure, {})

    def close(self) -> None:
        self._connection.close()

    async def _get(self, path: str) -> Reply:
        reply = await self._connection.request("GET", path, {})
        if reply.status != 200:
            raise RefusedError(path, reply)
        return reply


class StreamedAnswer:
    """A `Writer`. What fails before the first byte is reported as the function's error, later on in the trailers."""

    def __init__(self, connection: Connection, invocation: Invocation) -> None:
        self.gone: Callable[[], None] = lambda: None
        self._connection = connection
        self._invocation = invocation
        self._writer: asyncio.StreamWriter | None = None
        self._reply: asyncio.Task[Reply]

    async def start(self, status: int, headers: Headers) -> None:
        reader, self._writer = await self._connection.open()
        prelude = Prelude.of(status, headers)
        told = {"statusCode": prelude.status, "headers": prelude.headers, "cookies": prelude.cookies}
        self._writer.write(
            self._connection.head("POST", f"{self._invocation.path}/response", {**_STREAM, **self._invocation.echo})
            + _chunk(orjson.dumps(told) + _END_OF_PRELUDE)
        )
        self._reply = asyncio.create_task(read_reply(reader))
        self._reply.add_done_callback(lambda _: self.gone())  # it comes at the end, or when the stream is not wanted
        await self._writer.drain()

    async def write(self, piece: bytes) -> None:
        assert self._writer is not None
        if self._reply.done():
            raise ConnectionResetError("the Runtime API takes no more of this answer")
        if piece:  # an empty chunk would be the end
            self._writer.write(_chunk(piece))
            await self._writer.drain()

    async def end(self) -> None:
        await self._finish(b"0\r\n\r\n")

    async def fail(self, failure: Failure) -> None:
        if self._writer is None:
            return await _report(self._connection, f"{self._invocation.path}/error", failure, self._invocation.echo)
        body = base64.b64encode(_error_body(failure)).decode()
        await self._finish(f"0\r\n{_ERROR_TYPE}: {failure.type}\r\n{_ERROR_BODY}: {body}\r\n\r\n".encode("latin-1"))
        return None

    async def _finish(self, last: bytes) -> None:
        """Whatever comes of it, the next invocation is waited for: this one is out of our hands."""
        assert self._writer is not None
        self.gone = lambda: None
        try:
            if not self._reply.done():
                self._writer.write(last)
            _note("response", await self._reply)
        except (OSError, asyncio.IncompleteReadError):
            _LOG.warning("The Runtime API dropped the answer to %s", self._invocation.request_id)
        finally:
            self._writer.close()


async def _report(connection: Connection, path: str, failure: Failure, echo: Mapping[str, str]) -> None:
    headers = {_ERROR_TYPE: failure.type, "Content-Type": "application/json", **echo}
    _note("error", await connection.request("POST", path, headers, _error_body(failure)))


def _error_body(failure: Failure) -> bytes:
    return orjson.dumps({"errorMessage": failure.message, "errorType": failure.type, "stackTrace": []})


def _note(what: str, reply: Reply) -> None:
    if reply.status == STALE:
        _LOG.warning("The %s came too late: the invocation was over", what)
    elif reply.status != 202:
        _LOG.error("The Runtime API answered the %s with status %d", what, reply.status)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
