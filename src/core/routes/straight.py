"""Paths that go past FastAPI, which only documents them: chats, and what is asked of a gateway all day long.

FastAPI takes two hundred function calls to find an endpoint, and a fifth of a start to be loaded.
"""

import asyncio
import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ..frozen import frozen


@frozen
class StraightRoute:
    """`documented`: what FastAPI shows of it, in the words of `add_api_route`."""

    method: str
    path: str
    answer: ASGIApp
    documented: Mapping[str, Any]


class Shortcut:
    """What an answer raises is the front door's to say. FastAPI is made for the first request that needs it."""

    def __init__(self, routes: Iterable[StraightRoute], make_others: Callable[[], ASGIApp]) -> None:
        self._straight = {(route.method, route.path): route.answer for route in routes}
        self._make_others = make_others
        self._others: ASGIApp | None = None
        self._loading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._straight.get((scope["method"], scope["path"])) or self._others or await self._load()
        await answer(scope, receive, send)

    async def _load(self) -> ASGIApp:
        """In a thread: it takes a tenth of a second, and streams go on meanwhile."""
        async with self._loading:
            if self._others is None:
                self._others = await asyncio.to_thread(self._make_others)
                if gc.get_freeze_count():  # a door has put what it loaded out of the collector's sight: this as well
                    gc.freeze()
        return self._others


async def send_whole(send: Send, body: bytes, headers: Iterable[tuple[bytes, bytes]], *, status: int = 200) -> None:
    """`headers` besides the length."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
