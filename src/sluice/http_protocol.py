"""uvicorn's HTTP protocol with bounds on what a client may send and on the time that it may take, for its headers, for
what it still sends after its answer, and for reading that; and OpenAI's form for what is not HTTP.
"""

import asyncio
from itertools import chain

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from core.errors import InvalidRequest
from core.front_door import new_request_id

MAX_HEAD_BYTES = 64 * 1024
LINGER_S = 2.0
STALLED_S = (
    60.0  # in which a client takes some of its answer, or it holds a place and a provider's connection for nothing
)
HEAD_S = 20.0  # uvicorn waits for ever for a client that does not finish its first line


class HeadTooLargeError(Exception):
    """Raised inside the parser, which turns it into its own error."""


class HttpProtocol(HttpToolsProtocol):
    """httptools has no limit of its own, so a request's head, and the trailers after a body, could grow without end."""

    _head_bytes = 0  # received since the last head or piece of a body was whole
    _is_in_head = True
    _is_over = False
    _head_timer: asyncio.TimerHandle | None = None
    _stalled_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._gone = self.loop.create_future()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set_result(None)
        self._head_came()
        self._reads_on()
        self._rest_came()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reads_on()
        self._stalled_timer = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._reads_on()
        super().resume_writing()

    def _reads_on(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None

    def on_response_complete(self) -> None:
        """Who was answered before its request was whole may not send on for ever: it needs no key for that."""
        super().on_response_complete()
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self._rest_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.flow.resume_reading()  # else a large body leaves it paused, and nobody would hear that the client leaves
        if self._rest_timer is not None:
            self._rest_came()
            self._unset_keepalive_if_required()  # as after any answer, which uvicorn leaves out here
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _rest_came(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["sluice.gone"] = self._gone  # type: ignore[typeddict-unknown-key]
        self._is_in_head = True

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _head_came(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if (self._is_in_head or self._is_between()) and not self._is_over:
            self._expect_head()  # most come whole
        if self._head_bytes > MAX_HEAD_BYTES and not self._is_over:
            self.send_400_response("")

    def _is_between(self) -> bool:
        """An answered request is behind us, and something came since: blank lines, which begin no request."""
        return self.cycle is not None and self.cycle.response_complete and not self.cycle.more_body

    def on_headers_complete(self) -> None:
        self._head_came()
        self._head_bytes = len(self.url) + sum(map(len, chain.from_iterable(self.headers)))
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLargeError
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words are not OpenAI's form
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self._is_over = True
            self.transport.close()  # words about the next request would stand in the middle of this one's answer
            return
        error = InvalidRequest("This is not a valid HTTP request.", code="invalid_http")
        if self._head_bytes > MAX_HEAD_BYTES:
            error = InvalidRequest(
                f"The headers are larger than {MAX_HEAD_BYTES} bytes.", status=431, code="headers_too_large"
            )
        body = orjson.dumps(error.body())
        request_id = new_request_id().encode()
        head = b"content-type: application/json\r\nconnection: close\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[error.status] + head % (request_id, len(body)) + body)
        self._linger()

    def _linger(self) -> None:
        """What still comes is thrown away: closing on unread bytes is a reset, and the client would not hear us."""
        self._is_over = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
