"""uvicorn's HTTP protocol with two things mended: a bound on headers, and OpenAI's form for what is not HTTP."""

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from core.errors import InvalidRequest

MAX_HEAD_BYTES = 64 * 1024


class HeadTooLargeError(Exception):
    """Raised inside the parser, which turns it into its own error."""


class HttpProtocol(HttpToolsProtocol):
    """httptools has no limit of its own, so a request's head could grow without end."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        head = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if head > MAX_HEAD_BYTES:
            self._head_bytes = head
            raise HeadTooLargeError
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words are not OpenAI's form
        error = InvalidRequest("This is not a valid HTTP request.", code="invalid_http")
        if self._head_bytes > MAX_HEAD_BYTES:
            error = InvalidRequest(
                f"The headers are larger than {MAX_HEAD_BYTES} bytes.", status=431, code="headers_too_large"
            )
        body = orjson.dumps(error.body())
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()
