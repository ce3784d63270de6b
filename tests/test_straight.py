"""The way past FastAPI, and FastAPI's loading beside it."""

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.routes.straight import Shortcut, StraightRoute, send_whole


def saying(words: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, words, [])

    return app


class Slow:
    """Makes the others in a thread once it is let go."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.times = 0
        self.failing = False

    def __call__(self) -> ASGIApp:
        self.times += 1
        self.began.set()
        assert self.may_end.wait(10)
        if self.failing:
            raise OSError("too many open files")
        return saying(b"others")


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_end.set()


@pytest.fixture
def shortcut(slow: Slow) -> Shortcut:
    return Shortcut([StraightRoute("GET", "/ping", saying(b"ping"), {})], slow)


async def asked(shortcut: Shortcut, path: str, method: str = "GET") -> bytes:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await shortcut({"type": "http", "method": method, "path": path}, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


async def begun(slow: Slow) -> None:
    assert await asyncio.to_thread(slow.began.wait, 10)


async def test_straight_routes_are_answered_while_the_others_are_made_once_for_all(
    shortcut: Shortcut, slow: Slow
) -> None:
    waiting = [asyncio.create_task(asked(shortcut, path)) for path in ("/models", "/metrics")]
    waiting.append(asyncio.create_task(asked(shortcut, "/ping", "DELETE")))
    await begun(slow)
    assert await asked(shortcut, "/ping") == b"ping"
    assert not any(task.done() for task in waiting)
    slow.may_end.set()
    assert await asyncio.gather(*waiting) == [b"others"] * 3
    assert await asked(shortcut, "/models") == b"others"
    assert slow.times == 1


async def test_client_that_leaves_meanwhile_takes_nothing_along(shortcut: Shortcut, slow: Slow) -> None:
    leaving = asyncio.create_task(asked(shortcut, "/models"))
    await begun(slow)
    staying = asyncio.create_task(asked(shortcut, "/models"))
    leaving.cancel()
    slow.may_end.set()
    assert await staying == b"others"


async def test_others_that_could_not_be_made_are_made_for_the_next(shortcut: Shortcut, slow: Slow) -> None:
    slow.may_end.set()
    slow.failing = True
    with pytest.raises(OSError, match="too many"):
        await asked(shortcut, "/models")
    slow.failing = False
    assert await asked(shortcut, "/models") == b"others"


@pytest.mark.parametrize("is_frozen", [True, False])
async def test_what_was_loaded_is_out_of_the_collectors_sight_where_the_start_is(
    shortcut: Shortcut, slow: Slow, is_frozen: bool
) -> None:
    slow.may_end.set()
    gc.unfreeze()
    try:
        if is_frozen:
            gc.freeze()
        await asked(shortcut, "/models")
        assert any(one is shortcut._others for one in gc.get_objects()) != is_frozen
    finally:
        gc.unfreeze()
