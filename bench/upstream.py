"""The provider that everybody is measured before: it answers at once from memory, as its address says.

`/small/...` 600 bytes, `/large/...` 32 KB, `/wait200/...` 600 bytes after 200 ms; a body that asks for a stream gets
200 chunks, `/paced/...` one every 10 ms. Each chunk says when it was sent (ns of the machine's monotonic clock).
"""

import asyncio
import sys
import time

CHUNKS = 200
PACE_S = 0.01
_SENTENCE = b"lorem ipsum dolor sit amet, consectetur adipiscing elit "


def _answer(sentences: int) -> bytes:
    body = (
        b'{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,"model":"up","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"' + _SENTENCE * sentences + b'","refusal":null},"logprobs":null,'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":97,"completion_tokens":42,"total_tokens":139}}'
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


ANSWERS = {b"small": _answer(6), b"wait200": _answer(6), b"large": _answer(580)}
WAITS_S = {b"wait200": 0.2}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FRAME = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"up",'
    b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
)


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(number: int) -> bytes:
    if number == 0:
        return _HEAD + _piece(_FRAME % (b'{"role":"assistant","content":""}', b"null"))
    if number == CHUNKS - 1:
        return _piece(_FRAME % (b"{}", b'"stop"')) + _piece(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return _piece(_FRAME % (b'{"content":"t=%020d "}' % time.monotonic_ns(), b"null"))


class Upstream(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._seen = b""
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = self._seen[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._seen) < end + 4 + length:
                return
            body, self._seen = self._seen[end + 4 : end + 4 + length], self._seen[end + 4 + length :]
            self._take(head.split(b"/", 2)[1], b'"stream":true' in body.replace(b": ", b":"))

    def _take(self, scenario: bytes, is_stream: bool) -> None:
        if not is_stream:
            answer = ANSWERS.get(scenario, ANSWERS[b"small"])
            self._loop.call_later(WAITS_S.get(scenario, 0), self._transport.write, answer)
        elif scenario == b"paced":
            self._send(0, self._loop.time())
        else:
            self._transport.write(b"".join(map(_chunk, range(CHUNKS))))

    def _send(self, number: int, began: float) -> None:
        if not self._transport.is_closing():
            self._transport.write(_chunk(number))
            if number + 1 < CHUNKS:
                self._loop.call_at(began + (number + 1) * PACE_S, self._send, number + 1, began)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    sys.exit(uvloop.run(main()))
