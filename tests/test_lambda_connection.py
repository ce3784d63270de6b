"""HTTP to the Runtime API, as it is written by hand: replies in any pieces, connections that end."""

import asyncio
from contextlib import closing

import h11
import pytest

from functions.lambda_stream.connection import Connection, Reply, read_reply
from tests.h11_server import H11Server, Visit

REPLIES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLambda-Runtime-Aws-Request-Id:  one \r\n\r\nHello",
    (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nlambda-runtime-aws-request-id: one\r\n\r\n"
        b"2;x=y\r\nHe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
    ),
    b"HTTP/1.1 202 Accepted\r\n\r\n",
]


async def read(*pieces: bytes) -> Reply:
    reader = asyncio.StreamReader()
    reading = asyncio.create_task(read_reply(reader))
    for piece in pieces:
        reader.feed_data(piece)
        await asyncio.sleep(0)
    reader.feed_eof()
    return await reading


@pytest.mark.parametrize("raw", REPLIES)
async def test_a_reply_is_the_same_wherever_it_is_cut(raw: bytes) -> None:
    whole = await read(raw)
    if whole.status == 200:
        assert (whole.body, whole.headers["lambda-runtime-aws-request-id"]) == (b"Hello", "one")
    for at in range(1, len(raw)):
        assert await read(raw[:at], raw[at:]) == whole
    assert await read(*(bytes([byte]) for byte in raw)) == whole


@pytest.mark.parametrize("raw", REPLIES)
async def test_a_reply_that_ends_early_is_an_error_wherever_it_ends(raw: bytes) -> None:
    for at in range(len(raw)):
        with pytest.raises(asyncio.IncompleteReadError):
            await read(raw[:at])


class Server(H11Server):
    """`hangs_up`: silently, after each answer."""

    hangs_up = False

    async def exchange(self, request: h11.Request, visit: Visit) -> None:
        body = await visit.read_body()
        if request.target == b"/gone":
            visit.writer.close()
            return
        await visit.answer(200, {"connection": "close"} if request.target == b"/last" else {}, body or b"nothing")
        if self.hangs_up:
            visit.writer.close()


async def test_a_connection_is_kept_until_the_other_side_says_otherwise() -> None:
    async with Server() as server:
        with closing(Connection(server.address)) as connection:
            for path, connections in (("/", 1), ("/", 1), ("/last", 1), ("/", 2)):
                assert (await connection.request("POST", path, {}, b"Hello")).body == b"Hello"
                assert server.connections == connections


async def test_a_connection_that_ended_while_it_was_idle_is_opened_anew() -> None:
    async with Server() as server:
        server.hangs_up = True
        with closing(Connection(server.address)) as connection:
            for number in range(1, 4):
                assert (await connection.request("GET", "/", {})).body == b"nothing"
                assert server.connections == number


async def test_an_api_that_does_not_answer_is_gone() -> None:
    async with Server() as server:
        with closing(Connection(server.address)) as connection:
            await connection.request("GET", "/", {})
            with pytest.raises(ConnectionResetError):
                await connection.request("GET", "/gone", {})
            assert server.connections == 2, "once by the connection that was kept, once by a new one"
