"""One contract, `core/http_client/port.py`, and those who keep it: aiohttp, httpx and, where it applies, the demo."""

import asyncio
import contextlib
import functools
import gc
import gzip
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Literal

import orjson
import pytest

from core.http_client import make_http_client
from core.http_client.demo import DemoClient
from core.http_client.port import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    HttpClient,
    HttpClientError,
    HttpRequest,
    HttpResponse,
    TlsFailed,
)
from tests.certificate import CERTIFICATE, KEY
from tests.fake_upstream import Exchange, FakeUpstream, answers, took

Kind = Literal["aiohttp", "httpx"]
IDLE_S = 30.0


@pytest.fixture(params=["aiohttp", "httpx"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@functools.cache
def tls(trusted: str | None) -> ssl.SSLContext | None:
    return ssl.create_default_context(cadata=trusted) if trusted else None


@contextlib.asynccontextmanager
async def making(kind: Kind, *, idle_s: float = IDLE_S, trusted: str | None = None) -> AsyncIterator[HttpClient]:
    """`trusted`: a certificate to trust instead of the usual ones."""
    made = make_http_client(kind, idle_s=idle_s, tls=tls(trusted))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def client(kind: Kind) -> AsyncIterator[HttpClient]:
    async with making(kind) as made:
        yield made


def post(url: str, **headers: str) -> HttpRequest:
    return HttpRequest(url, {name.replace("_", "-"): value for name, value in headers.items()}, b'{"q":1}')


async def send(client: HttpClient, url: str, *, connect_s: float = 2, headers_s: float = 2) -> HttpResponse:
    return await client.send(post(url), connect_s=connect_s, headers_s=headers_s)


async def rest_of(response: HttpResponse, timeout_s: float = 2) -> bytes:
    body = b""
    while piece := await response.read(timeout_s):
        body += piece
    return body


async def fetch(client: HttpClient, url: str) -> bytes:
    response = await send(client, url)
    try:
        return await rest_of(response)
    finally:
        await response.aclose()


def says(raw: bytes, then: Callable[[Exchange], object] = Exchange.close) -> Callable[[Exchange], Awaitable[None]]:
    """A script that writes these bytes as they stand and then hangs up."""

    async def script(exchange: Exchange) -> None:
        await exchange.raw(raw)
        then(exchange)

    return script


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """What the loop says of errors that nobody took."""
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["message"]))
    yield heard
    gc.collect()


async def never_answers(exchange: Exchange) -> None:
    await exchange.gone.wait()


# What is sent


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/models/gemini-2:generateContent?alt=sse", "/a%2Fb/@cf/c%20d%41?x=%2B+&y=%E2%82%AC&z="],
)
async def test_a_request_arrives_as_it_was_made(client: HttpClient, upstream: FakeUpstream, path: str) -> None:
    await fetch(client, upstream.url + path)
    seen = upstream.requests[0]
    assert (seen.method, seen.path, seen.body) == ("POST", path, b'{"q":1}')


async def test_a_body_of_some_megabytes_arrives_whole(client: HttpClient, upstream: FakeUpstream) -> None:
    body = b'{"picture": "' + b"0123456789abcdef" * 300_000 + b'"}'
    request = HttpRequest(upstream.url, {"content-type": "application/json"}, body)
    response = await client.send(request, connect_s=2, headers_s=5)
    await rest_of(response)
    await response.aclose()
    seen = upstream.requests[0]
    assert seen.body == body
    assert set(seen.headers) == {"host", "content-type", "content-length"}


async def test_no_header_is_added_but_those_that_http_needs(client: HttpClient, upstream: FakeUpstream) -> None:
    upstream.script = answers(b"ok", set_cookie="seen=1")
    host = upstream.url.removeprefix("http://").replace("127.0.0.1", "localhost")  # no jar takes cookies of a number
    for _ in range(2):  # the second time there would be a cookie to send
        request = post(f"http://{host}", user_agent="sluice", x_own="1")
        response = await client.send(request, connect_s=2, headers_s=2)
        await rest_of(response)
        await response.aclose()
    for seen in upstream.requests:
        assert seen.headers == {"host": host, "content-length": "7", "user-agent": "sluice", "x-own": "1"}


async def test_a_name_and_a_password_in_the_address_are_sent_as_a_header(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    await fetch(client, upstream.url.replace("://", "://me:p%40ss@") + "/v1")
    seen = upstream.requests[0]
    assert (seen.path, seen.headers["authorization"]) == ("/v1", "Basic bWU6cEBzcw==")


@pytest.mark.parametrize("value", ["one\r\nx-two: 2", "one\ntwo", "one\rtwo"])
async def test_a_header_never_becomes_two(client: HttpClient, upstream: FakeUpstream, value: str) -> None:
    with pytest.raises((ValueError, HttpClientError)):
        await client.send(post(upstream.url, x_one=value), connect_s=2, headers_s=2)
    assert upstream.requests == []


@pytest.mark.parametrize("kind", ["aiohttp"])
async def test_an_answer_that_does_not_wait_for_the_end_of_a_large_body_is_heard(client: HttpClient) -> None:
    """It comes while the rest is being sent, and the other side reads no more of it. httpx sends all of it first."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await client_closed.wait()
        writer.close()

    client_closed = asyncio.Event()
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        request = HttpRequest(address, {}, b"x" * 20_000_000)
        response = await client.send(request, connect_s=2, headers_s=2)
        assert (response.status, await rest_of(response)) == (413, b"no")
        await response.aclose()
        client_closed.set()


async def test_a_request_without_a_body_is_a_get_with_none(client: HttpClient, upstream: FakeUpstream) -> None:
    response = await client.send(HttpRequest(upstream.url, {}, b"", "GET"), connect_s=2, headers_s=2)
    await rest_of(response)
    await response.aclose()
    assert (upstream.requests[0].method, list(upstream.requests[0].headers)) == ("GET", ["host"])


async def test_proxies_of_the_environment_are_ignored(
    kind: Kind, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeUpstream() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with making(kind) as client:
            await fetch(client, upstream.url)
    assert (len(upstream.requests), len(proxy.requests)) == (1, 0)


# Status and headers


async def test_status_and_headers_come_with_names_in_lower_case(client: HttpClient, upstream: FakeUpstream) -> None:
    upstream.script = says(
        b"HTTP/1.1 418 Teapot\r\nX-Mixed-Case: One\r\nx-twice: first\r\nX-Twice: second\r\ncontent-length: 0\r\n\r\n"
    )
    response = await send(client, upstream.url)
    assert response.status == 418
    assert dict(response.headers) == {"x-mixed-case": "One", "x-twice": "first", "content-length": "0"}
    assert response.headers.get("x-absent", "none") == "none"
    await response.aclose()


async def test_a_redirect_is_an_answer_like_any_other(client: HttpClient, upstream: FakeUpstream) -> None:
    upstream.script = answers(b"elsewhere", 307, location=f"{upstream.url}/elsewhere")
    response = await send(client, upstream.url)
    assert (response.status, await rest_of(response)) == (307, b"elsewhere")
    await response.aclose()
    assert len(upstream.requests) == 1


async def test_headers_of_20_kilobytes_are_accepted(client: HttpClient, upstream: FakeUpstream) -> None:
    upstream.script = answers(b"ok", x_policy="a" * 10_000, x_more="b" * 10_000)
    response = await send(client, upstream.url)
    assert (len(response.headers["x-policy"]), len(response.headers["x-more"])) == (10_000, 10_000)
    assert await rest_of(response) == b"ok"
    await response.aclose()


async def test_an_interim_answer_is_passed_over(client: HttpClient, upstream: FakeUpstream) -> None:
    upstream.script = says(
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    )
    assert await fetch(client, upstream.url) == b"ok"


# The body


def as_chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def as_it_is(piece: bytes) -> bytes:
    return piece


FRAMINGS = {
    "chunked": (b"transfer-encoding: chunked\r\n", as_chunk, b"0\r\n\r\n"),
    "content-length": (b"content-length: 11\r\n", as_it_is, b""),
    "until the connection ends": (b"connection: close\r\n", as_it_is, b""),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_pieces_come_one_by_one_and_an_empty_one_at_the_end(
    client: HttpClient, upstream: FakeUpstream, framing: str
) -> None:
    """Each piece is sent only when the one before has been read."""
    header, frame, end = FRAMINGS[framing]
    was_read = asyncio.Semaphore(0)

    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n%b\r\n" % header)
        for piece in (b"one", b"two", b"three"):
            await exchange.raw(frame(piece))
            await was_read.acquire()
        await exchange.raw(end)
        if b"close" in header:
            exchange.close()

    upstream.script = script
    response = await send(client, upstream.url)
    for piece in (b"one", b"two", b"three"):
        assert await response.read(2) == piece
        was_read.release()
    assert [await response.read(2), await response.read(2)] == [b"", b""]
    await response.aclose()


@pytest.mark.parametrize("level", [0, 9])
async def test_a_compressed_answer_is_read_though_none_was_asked_for(
    client: HttpClient, upstream: FakeUpstream, level: int
) -> None:
    text = b'{"answer": "' + b"so " * 5000 + b'"}'
    upstream.script = answers(gzip.compress(text, level), content_encoding="gzip")
    assert await fetch(client, upstream.url) == text


async def test_a_compressed_piece_that_yields_nothing_yet_is_not_the_end(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    compressed = gzip.compress(b"Hello there.")

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_encoding="gzip")
        await exchange.send(compressed[:10])  # gzip's own header
        await asyncio.sleep(0.05)
        await exchange.send(compressed[10:])
        await exchange.end()

    upstream.script = script
    assert await fetch(client, upstream.url) == b"Hello there."


async def test_many_small_chunks_that_are_read_slowly_arrive_whole(client: HttpClient, upstream: FakeUpstream) -> None:
    """aiohttp stops a connection for their number as well, and its parser may then keep back what comes later."""
    number, is_read = 16_385, asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200)
        await exchange.raw(as_chunk(b"a") * number)
        await is_read.wait()
        await exchange.raw(as_chunk(b"x") + as_chunk(b"y") + b"0\r\n\r\n")

    upstream.script = script
    response = await send(client, upstream.url)
    await asyncio.sleep(0.2)  # all of them lie there
    body = b""
    while len(body) < number:
        body += await response.read(2)
    is_read.set()
    assert body + await rest_of(response) == b"a" * number + b"xy"
    await response.aclose()


@pytest.mark.parametrize("is_compressed", [False, True])
async def test_a_large_answer_that_is_read_slowly_arrives_whole(
    client: HttpClient, upstream: FakeUpstream, is_compressed: bool
) -> None:
    """More than is read ahead of whoever reads: the connection is stopped, and goes on."""
    body = bytes(8 * 2**20)
    if is_compressed:
        upstream.script = answers(gzip.compress(body), content_encoding="gzip")
    else:
        upstream.script = answers(body)
    response = await send(client, upstream.url)
    await asyncio.sleep(0.1)  # what is read ahead is full
    assert await rest_of(response) == body
    await response.aclose()
    await fetch(client, upstream.url)
    assert upstream.connections == 1


async def test_what_is_not_compressed_as_it_says_is_a_lost_connection(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    upstream.script = answers(b"plain words, not gzip", content_encoding="gzip")
    with pytest.raises(ConnectionLost):
        await fetch(client, upstream.url)


async def test_a_read_that_timed_out_can_be_asked_again_and_nothing_is_lost(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200)
        await exchange.send(b"one")
        await go_on.wait()
        await exchange.send(b"two")
        await exchange.end()

    upstream.script = script
    response = await send(client, upstream.url)
    assert await response.read(2) == b"one"
    for timeout_s in (0.1, 0.1, 0):
        with took(timeout_s, timeout_s + 0.3), pytest.raises(TimeoutError):
            await response.read(timeout_s)
    go_on.set()
    assert await rest_of(response) == b"two"
    await response.aclose()


async def test_a_client_that_was_closed_can_be_used_again_with_new_connections(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    for connections in (1, 2):
        response = await send(client, upstream.url)
        await rest_of(response)
        await response.aclose()
        assert (upstream.connections, upstream.open_connections) == (connections, 1)
        await client.aclose()
        await upstream.until_open(0)


@pytest.mark.parametrize("how", [Exchange.close, Exchange.reset])
@pytest.mark.parametrize("framing", ["chunked", "content-length"])
async def test_a_body_that_is_cut_is_a_lost_connection(
    client: HttpClient, upstream: FakeUpstream, framing: str, how: Callable[[Exchange], None]
) -> None:
    header, frame, _ = FRAMINGS[framing]
    was_read = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (header, frame(b"Hello")))
        await was_read.wait()
        how(exchange)

    upstream.script = script
    response = await send(client, upstream.url)
    assert await response.read(2) == b"Hello"
    was_read.set()
    with pytest.raises(ConnectionLost):
        await response.read(2)
    await response.aclose()
    await upstream.until_open(0)


@pytest.mark.parametrize("how", [Exchange.close, Exchange.reset])
@pytest.mark.parametrize("framing", ["chunked", "content-length"])
async def test_what_came_before_the_cut_is_read_first_however_late(
    client: HttpClient, upstream: FakeUpstream, framing: str, how: Callable[[Exchange], None]
) -> None:
    header, frame, _ = FRAMINGS[framing]
    was_read, is_cut = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (header, frame(b"one")))
        await was_read.wait()
        await exchange.raw(frame(b"two"))
        how(exchange)
        is_cut.set()

    upstream.script = script
    response = await send(client, upstream.url)
    assert await response.read(2) == b"one"
    was_read.set()
    await is_cut.wait()
    await asyncio.sleep(0.05)  # nobody reads meanwhile: the cut arrives before the reader does
    assert await response.read(2) == b"two"
    with pytest.raises(ConnectionLost):
        await response.read(2)
    await response.aclose()


# No answer


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_has_failed(client: HttpClient) -> None:
    with pytest.raises(ConnectFailed):
        await send(client, f"http://127.0.0.1:{unused_port()}")


async def test_an_unknown_host_is_a_connection_that_failed(client: HttpClient) -> None:
    with pytest.raises(ConnectFailed):
        await send(client, "http://nowhere.invalid/v1", connect_s=10, headers_s=10)


async def test_a_connection_that_is_not_made_in_time_has_failed(client: HttpClient) -> None:
    """The listener accepts nobody, and the one place in its queue is taken."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        with took(0.2, 1), pytest.raises(ConnectTimedOut):
            await send(client, f"http://127.0.0.1:{listener.getsockname()[1]}", connect_s=0.2)


async def test_a_handshake_that_is_not_made_in_time_is_a_connection_that_failed(client: HttpClient) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        with took(0.2, 1), pytest.raises(ConnectTimedOut):
            await send(client, f"https://127.0.0.1:{listener.getsockname()[1]}", connect_s=0.2)


async def test_no_answer_in_time_is_a_timeout(client: HttpClient, upstream: FakeUpstream) -> None:
    upstream.script = never_answers
    with took(0.2, 1), pytest.raises(TimeoutError):
        await send(client, upstream.url, headers_s=0.2)
    await upstream.until_open(0)


@pytest.mark.parametrize(
    ("said", "how"),
    [
        (b"", Exchange.close),
        (b"", Exchange.reset),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Exchange.close),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Exchange.reset),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Exchange.close),
        (b"HTTP/1.1 OK\r\n\r\n", Exchange.close),
        (b"\x00\x01\x02\x03\r\n\r\n", Exchange.close),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", Exchange.close),
    ],
)
async def test_a_connection_that_ends_before_the_headers_or_speaks_no_http_is_lost(
    client: HttpClient, upstream: FakeUpstream, said: bytes, how: Callable[[Exchange], None]
) -> None:
    upstream.script = says(said, how)
    with pytest.raises(ConnectionLost):
        await send(client, upstream.url)


async def test_no_error_names_the_address_or_what_was_sent(client: HttpClient) -> None:
    port = unused_port()
    with pytest.raises(HttpClientError) as caught:
        await send(client, f"http://127.0.0.1:{port}/?key=canary")
    assert not [word for word in ("127.0.0.1", str(port), "canary") if word in str(caught.value)]


# TLS


async def test_a_certificate_that_is_trusted_is_accepted(kind: Kind, https: FakeUpstream) -> None:
    https.script = answers(b"ok")
    async with making(kind, trusted=CERTIFICATE) as client:
        assert await fetch(client, https.url) == b"ok"


async def test_a_certificate_that_nobody_signed_is_refused(client: HttpClient, https: FakeUpstream) -> None:
    with pytest.raises(TlsFailed):
        await send(client, https.url)
    assert https.requests == []


async def test_a_certificate_of_another_host_is_refused(kind: Kind, https: FakeUpstream) -> None:
    async with making(kind, trusted=CERTIFICATE) as client:
        with pytest.raises(TlsFailed):
            await send(client, https.url.replace("127.0.0.1", "localhost"))
    assert https.requests == []


async def test_a_number_must_show_the_certificate_of_the_name_that_it_stands_for(
    kind: Kind, https: FakeUpstream
) -> None:
    """Also where a connection to the same number is at hand that was made for another name."""
    https.script = answers(b"ok")
    async with making(kind, trusted=CERTIFICATE) as client:
        for name, is_trusted in (("", True), ("127.0.0.1", True), ("localhost", False)):
            request = replace(post(https.url), tls_name=name)
            with contextlib.nullcontext() if is_trusted else pytest.raises(TlsFailed):
                response = await client.send(request, connect_s=2, headers_s=2)
                assert await rest_of(response) == b"ok"
                await response.aclose()
    assert len(https.requests) == 2


# Connections: kept when an answer was read to its end, closed at once when not


async def test_a_connection_whose_answer_was_read_serves_the_next_request(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    for _ in range(3):
        await fetch(client, upstream.url)
    assert (upstream.connections, upstream.open_connections) == (1, 1)


async def test_a_connection_that_the_other_side_closed_meanwhile_is_not_used_again(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    upstream.script = says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    for number in range(3):
        assert await fetch(client, upstream.url) == b"ok"
        await upstream.until_open(0)
        assert upstream.connections == number + 1


async def test_a_connection_that_was_idle_for_too_long_is_not_used_again(kind: Kind, upstream: FakeUpstream) -> None:
    async with making(kind, idle_s=0.1) as client:
        await fetch(client, upstream.url)
        await asyncio.sleep(0.2)  # what is tested is that this much time passes
        await fetch(client, upstream.url)
    assert upstream.connections == 2


async def test_a_connection_that_nobody_wants_any_more_is_closed(upstream: FakeUpstream) -> None:
    """httpx closes it when it is next asked for something."""
    async with making("aiohttp", idle_s=0.1) as client:
        await fetch(client, upstream.url)
        await upstream.until_open(0)


@pytest.mark.parametrize(("kind", "later_s"), [("aiohttp", 0), ("aiohttp", 0.02), ("httpx", 0.02)])
async def test_what_nobody_asked_for_answers_no_request(kind: Kind, upstream: FakeUpstream, later_s: float) -> None:
    """Servers take leave of an idle connection with a 408 before they close it.

    When it comes in one piece with an answer's end, httpx takes it for the next answer (httpcore 1.0.9).
    """
    said = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await asyncio.sleep(later_s)  # until the connection is idle
        await exchange.raw(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        said.set()

    upstream.script = script
    async with making(kind) as client:
        assert await fetch(client, upstream.url) == b"ok"
        await said.wait()
        await asyncio.sleep(0.02)  # it arrives
        upstream.script = answers(b"ok again")
        assert await fetch(client, upstream.url) == b"ok again"
    assert upstream.connections == 2


@pytest.mark.parametrize("has_begun", [False, True])
async def test_closing_an_answer_that_is_not_over_closes_its_connection(
    client: HttpClient, upstream: FakeUpstream, has_begun: bool
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200)
        await exchange.send(b"Hello")
        await exchange.gone.wait()

    upstream.script = script
    response = await send(client, upstream.url)
    if has_begun:
        assert await response.read(2) == b"Hello"
        with pytest.raises(TimeoutError):
            await response.read(0.01)
    await response.aclose()
    await upstream.until_open(0, within_s=1)


async def test_a_break_that_nobody_read_is_no_complaint_of_the_loop(client: HttpClient, upstream: FakeUpstream) -> None:
    timed_out = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200)
        await timed_out.wait()
        exchange.reset()

    upstream.script = script
    with complaints() as heard:
        response = await send(client, upstream.url)
        with pytest.raises(TimeoutError):
            await response.read(0.01)
        timed_out.set()
        await upstream.until_open(0)
        await asyncio.sleep(0.02)  # the break arrives, and the read that nobody waits for any more fails
        await response.aclose()
        del response
    assert heard == []


async def test_closing_the_client_closes_its_idle_connections(kind: Kind, upstream: FakeUpstream) -> None:
    async with making(kind) as client:
        await fetch(client, upstream.url)
        assert upstream.open_connections == 1
    await upstream.until_open(0)


async def test_closing_the_client_does_not_wait_for_the_other_sides_end_of_tls() -> None:
    """It may be dead, and a frozen environment that is thawed has many of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as pem:
        pem.write(CERTIFICATE + KEY)
        pem.flush()
        context.load_cert_chain(pem.name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(_answers_and_is_dead, listener, context))
        async with making("aiohttp", trusted=CERTIFICATE) as client:
            assert await fetch(client, f"https://127.0.0.1:{listener.getsockname()[1]}/") == b"ok"
        assert await serving


def _answers_and_is_dead(listener: socket.socket, context: ssl.SSLContext) -> bool:
    """Whether the connection was closed soon after, all the same."""
    accepted, _ = listener.accept()
    served = context.wrap_socket(accepted, server_side=True)
    served.recv(65536)
    served.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    with socket.socket(fileno=served.detach()) as raw:
        raw.settimeout(2)
        try:
            while raw.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return True


@pytest.mark.parametrize(("kind", "asked", "kept"), [("aiohttp", 120, 50), ("httpx", 230, 200)])
async def test_after_a_burst_only_so_many_idle_connections_are_kept(
    kind: Kind, upstream: FakeUpstream, asked: int, kept: int
) -> None:
    """aiohttp's bound is for one host; httpx has one for all hosts together."""
    all_here = asyncio.Barrier(asked)
    answer = answers(b"ok")

    async def script(exchange: Exchange) -> None:
        await all_here.wait()
        await answer(exchange)

    upstream.script = script
    async with making(kind) as client, asyncio.TaskGroup() as tasks:
        for _ in range(asked):
            tasks.create_task(fetch_slowly(client, upstream.url))
        await upstream.until_open(asked, within_s=8)
        await upstream.until_open(kept, within_s=8)
    assert upstream.connections == asked


async def fetch_slowly(client: HttpClient, url: str) -> None:
    response = await send(client, url, connect_s=10, headers_s=10)
    await rest_of(response)
    await response.aclose()


# Cancellation


async def test_cancelling_the_wait_for_headers_closes_the_connection(
    client: HttpClient, upstream: FakeUpstream
) -> None:
    upstream.script = never_answers
    task = asyncio.create_task(send(client, upstream.url))
    await upstream.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until_open(0, within_s=1)


async def test_cancelling_a_read_and_closing_closes_the_connection(client: HttpClient, upstream: FakeUpstream) -> None:
    is_reading = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200)
        await exchange.send(b"Hello")
        await exchange.gone.wait()

    async def consume() -> None:
        response = await send(client, upstream.url)
        try:
            await response.read(2)
            is_reading.set()
            await response.read(2)
        finally:
            await response.aclose()

    upstream.script = script
    task = asyncio.create_task(consume())
    await is_reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until_open(0, within_s=1)


# The demo client keeps what of the contract applies to it


def rehearsal(options: str = "", **body: object) -> HttpRequest:
    asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], **body}
    return HttpRequest(f"demo://local/v1/chat/completions?{options}", {}, orjson.dumps(asked))


@pytest.fixture
async def demo() -> AsyncIterator[DemoClient]:
    client = DemoClient()
    yield client
    await client.aclose()


async def test_demo_answers_with_status_headers_and_a_body_that_ends(demo: DemoClient) -> None:
    response = await demo.send(rehearsal("first_token_ms=0"), connect_s=1, headers_s=1)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert orjson.loads(await rest_of(response))["object"] == "chat.completion"
    assert await response.read(1) == b""
    await response.aclose()


async def test_demo_that_does_not_answer_in_time_is_a_timeout(demo: DemoClient) -> None:
    with took(0.1, 0.5), pytest.raises(TimeoutError):
        await demo.send(rehearsal("first_token_ms=5000"), connect_s=1, headers_s=0.1)


async def test_demo_read_that_timed_out_can_be_asked_again_and_nothing_is_lost(demo: DemoClient) -> None:
    pace = rehearsal("first_token_ms=0&token_ms=100&reply=one two three", stream=True)
    response = await demo.send(pace, connect_s=1, headers_s=1)
    body, timeouts = b"", 0
    while not body.endswith(b"[DONE]\n\n"):
        try:
            body += await response.read(0.03)
        except TimeoutError:
            timeouts += 1
    assert await response.read(1) == b""
    deltas = [orjson.loads(line[6:])["choices"][0]["delta"] for line in body.split(b"\n\n")[:-2]]
    assert [delta.get("content") for delta in deltas] == ["", "one", " two", " three", None]
    assert timeouts > 0
    await response.aclose()


async def test_demo_stream_that_is_cut_is_a_lost_connection(demo: DemoClient) -> None:
    cut = rehearsal("first_token_ms=0&token_ms=0&cut_after=2", stream=True)
    response = await demo.send(cut, connect_s=1, headers_s=1)
    with pytest.raises(ConnectionLost):
        await rest_of(response)
    await response.aclose()


async def test_demo_answer_that_is_closed_leaves_nothing_running(demo: DemoClient) -> None:
    before = asyncio.all_tasks()
    response = await demo.send(rehearsal("first_token_ms=0&stall_after=1", stream=True), connect_s=1, headers_s=1)
    with pytest.raises(TimeoutError):
        await rest_of(response, timeout_s=0.05)
    assert len(asyncio.all_tasks() - before) == 1
    await response.aclose()
    assert asyncio.all_tasks() == before
