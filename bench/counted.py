"""`python -m bench.counted CONFIG COUNT`: the application of the local door, asked in this process.

So neither the HTTP server nor a client is counted. It says on stderr when it is warm; for each line on stdin it asks
COUNT times and says how many function calls each request was, Python's and C's. Below zero the profiler stays off.
"""

import asyncio
import cProfile
import json
import pstats
import sys
from pathlib import Path
from typing import Any

import uvloop
from starlette.types import ASGIApp, Message

from sluice.serve import MakeApp

from .targets import MESSAGES, TOKEN

WARM = 60
BODY = json.dumps({"model": "SMALL", "messages": MESSAGES, "max_tokens": 256}).encode()
SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/chat/completions",
    "query_string": b"",
    "headers": [
        (b"host", b"127.0.0.1"),
        (b"authorization", f"Bearer {TOKEN}".encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ],
}


async def ask(app: ASGIApp) -> None:
    sent: list[Message] = []
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the client stays
    pieces = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> Message:
        return pieces.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await app({**SCOPE, "sluice.gone": gone}, receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(sent[1]["body"].decode())


async def ask_often(app: ASGIApp, count: int) -> None:
    for _ in range(count):
        await ask(app)


async def main(config: Path, count: int) -> None:
    app = MakeApp(config, None, "127.0.0.1")()
    await ask_often(app, WARM)
    say("warm")
    while sys.stdin.readline():
        profile = cProfile.Profile()
        if count > 0:
            profile.enable()
        await ask_often(app, abs(count))
        profile.disable()
        calls: int = pstats.Stats(profile).total_calls if count > 0 else 0  # type: ignore[attr-defined]
        say(str(calls / abs(count)))


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
