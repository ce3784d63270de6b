"""The function in the emulator of Lambda that comes with SAM: AWS's own Runtime API, written in Go, at the other end.

The emulator hands the answer on as a whole, without its prelude. So a tap on the way to it sees what leaves the
function, and when.
"""

import asyncio
import contextlib
import os
import platform
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.fake_upstream import DONE, Exchange, FakeUpstream, chunk, events
from tests.function_url import EVENTS
from tests.lambda_function import SRC, STOCK, WRAPPER, config_file
from tests.running_gateway import TOKEN, ask, model
from tests.sam import PACKAGE, WHY_NOT
from tests.served import free_port

MACHINE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")
EMULATOR = PACKAGE / "local" / "rapid" / f"aws-lambda-rie-{MACHINE}"

pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
    pytest.mark.skipif(sys.platform != "linux" or not MACHINE, reason="the emulator runs on Linux, x86_64 or arm64"),
]


@dataclass
class Tap:
    """Passes bytes on in both directions, at once, and keeps what came from the function."""

    there: int
    seen: bytearray = field(default_factory=bytearray)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            back, on = await asyncio.open_connection("127.0.0.1", self.there)
            with contextlib.closing(on):
                await asyncio.gather(self._pass(reader, on, self.note), self._pass(back, writer, _ignore))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], Any]
    ) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
            await note(piece)
        writer.write_eof()

    async def note(self, piece: bytes) -> None:
        async with self.changed:
            self.seen += piece
            self.changed.notify_all()

    async def until(self, words: bytes) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: words in self.seen)


async def _ignore(_: bytes) -> None: ...


@dataclass
class Emulated:
    tap: Tap
    client: httpx.AsyncClient

    async def invoke(self, event: Any) -> httpx.Response:
        return await self.client.post("/2015-03-31/functions/function/invocations", content=orjson.dumps(event))


@contextlib.asynccontextmanager
async def emulated(config: str, command: list[str]) -> AsyncIterator[Emulated]:
    """`command` as Lambda would start it; it finds the tap where its environment names the Runtime API."""
    front, runtime_api = free_port(), free_port()
    tap = Tap(runtime_api)
    server = await asyncio.start_server(tap.accept, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        str(EMULATOR),
        *("--runtime-interface-emulator-address", f"127.0.0.1:{front}"),
        *("--runtime-api-address", f"127.0.0.1:{runtime_api}"),
        *("/usr/bin/env", f"AWS_LAMBDA_RUNTIME_API={address}", *command),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SRC),
            "LAMBDA_TASK_ROOT": str(SRC),
            "_HANDLER": "functions.handler.handler",
            "SLUICE_CONFIG": config,
        },
        cwd=SRC,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        transport = httpx.AsyncHTTPTransport(retries=10)  # until it listens
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front}", timeout=30, transport=transport) as client:
            yield Emulated(tap, client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()
        server.close()
        for task in tap.tasks:
            task.cancel()
        await asyncio.gather(*tap.tasks, return_exceptions=True)


def event(**more: Any) -> Any:
    found = orjson.loads((EVENTS / "chat.json").read_bytes())
    found["headers"]["authorization"] = f"Bearer {TOKEN}"
    found["body"] = orjson.dumps(ask(**more)).decode()
    return found


WORDS = ["one", "two", "three", "four"]


async def test_chunks_leave_the_function_one_by_one(tmp_path: Path) -> None:
    """The provider sends a word when the one before it has passed the tap."""
    async with (
        FakeUpstream() as upstream,
        emulated(config_file(tmp_path, model(upstream.url)), [str(WRAPPER), sys.executable]) as lambda_,
    ):

        async def one_by_one(exchange: Exchange) -> None:
            await exchange.start(200, content_type="text/event-stream")
            for word in WORDS:
                await exchange.send(chunk(word))
                await lambda_.tap.until(b'"content":"%b"' % word.encode())
            await exchange.send(chunk(finish="stop"))
            await exchange.send(DONE)
            await exchange.end()

        upstream.script = one_by_one
        answer = await lambda_.invoke(event(stream=True))
        again = await lambda_.invoke(event(stream=True))
    assert answer.status_code == 200
    assert [word for word in WORDS if f'"content":"{word}"' in answer.text] == WORDS
    assert again.status_code == 200, "the emulator took the first answer for a good one"
    said = bytes(lambda_.tap.seen)
    assert b"lambda-runtime-function-response-mode: streaming" in said.lower()
    assert len(re.findall(rb"POST /2018-06-01/runtime/invocation/[\w-]+/response ", said)) == 2


async def test_the_stock_runtime_gives_the_same_answer_as_a_whole(tmp_path: Path) -> None:
    async with (
        FakeUpstream() as upstream,
        emulated(config_file(tmp_path, model(upstream.url)), STOCK) as lambda_,
    ):
        upstream.script = events(chunk("one"), chunk(finish="stop"), DONE)
        answer = (await lambda_.invoke(event(stream=True))).json()
    assert answer["statusCode"] == 200
    assert answer["body"].endswith("data: [DONE]\n\n")
    assert b"response-mode" not in bytes(lambda_.tap.seen).lower()


async def test_what_the_function_cannot_read_is_an_error_to_the_emulator_too(tmp_path: Path) -> None:
    async with (
        FakeUpstream() as upstream,
        emulated(config_file(tmp_path, model(upstream.url)), [str(WRAPPER), sys.executable]) as lambda_,
    ):
        refused = (await lambda_.invoke({"Records": []})).json()
        upstream.script = events(chunk("one"), chunk(finish="stop"), DONE)
        answer = await lambda_.invoke(event(stream=True))
    assert refused["errorType"]
    assert "[DONE]" in answer.text
