"""The loop and the adapter with small applications: what they rely on in Mangum's inner classes is proved here."""

import asyncio
import base64
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from functions.lambda_stream import api as runtime
from functions.lambda_stream.adapter import StartError, StreamingMangum
from functions.lambda_stream.context import Context, Function
from functions.lambda_stream.loop import Settings, _Process, _restored
from functions.lambda_stream.writer import FailedError
from tests.fake_upstream import took
from tests.function_url import EVENTS
from tests.runtime_api import Answer, RuntimeApi

CANARY = "canary-of-a-prompt"


def event(path: str = "/", *, method: str = "GET", **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((EVENTS / "ping.json").read_bytes())
    found |= {"rawPath": path, **changes}
    found["requestContext"]["http"] |= {"path": path, "method": method}
    return found


@dataclass
class Looping:
    api: RuntimeApi
    process: _Process
    env: dict[str, str]

    async def answer(self, said: Any = None, **more: Any) -> Answer:
        answer = self.api.invoke(said or event(), **more)
        await answer.until(lambda a: a.is_over.is_set(), 5)
        return answer


@asynccontextmanager
async def looping(app: ASGIApp, **variables: str) -> AsyncIterator[Looping]:
    """The loop serves `app` until the block ends, and then ends in good order."""
    async with RuntimeApi() as api:
        env = {"AWS_LAMBDA_RUNTIME_API": api.address, "_HANDLER": "", **variables}
        process, handler = _Process(Settings.read(env), env), StreamingMangum(app)  # type: ignore[arg-type]
        await handler.start()
        task = asyncio.create_task(process._serve(handler, runtime.RuntimeApi(api.address)))
        yield Looping(api, process, env)
        process._stopping.set()
        assert await asyncio.wait_for(task, 5) == 0


def one_route(endpoint: Any) -> Starlette:
    return Starlette(routes=[Route("/{rest:path}", endpoint, methods=["GET", "HEAD", "POST"])])


def as_a_whole(app: ASGIApp, said: Any) -> dict[str, Any]:
    """What Lambda's own runtime would be given."""
    context = Context(Function(), request_id="r", function_arn="", deadline_ms=2**53)
    handler = StreamingMangum(app)  # type: ignore[arg-type]
    try:
        return handler(said, context)
    finally:
        if handler._loop is not None:
            handler._loop.run_until_complete(handler.stop())
            handler._loop.close()


class Plain(Response):
    """Sends what it is told by `script`, as an application without a framework would."""

    def __init__(self, script: Callable[[Receive, Send], Awaitable[None]]) -> None:
        super().__init__()
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self._script(receive, send)


# --- requests and answers


async def echo(request: Request) -> Response:
    said = {
        "cookies": request.cookies,
        "query": request.url.query,
        "raw_path": request.scope["raw_path"].decode(),
        "body": base64.b64encode(await request.body()).decode(),
        "spec": request.scope["asgi"]["spec_version"],
    }
    response = JSONResponse(said, 201)
    response.set_cookie("one", "1")
    response.set_cookie("two", "2")
    response.headers.append("x-twice", "a")
    response.headers.append("x-twice", "b")
    return response


async def test_a_request_and_an_answer_lose_nothing() -> None:
    said = event(
        "/a%2Fb/%D1%8F",
        method="POST",
        rawQueryString="a=1&b=%20&a=2",
        cookies=["theme=dark", "lang=en"],
        body=base64.b64encode(bytes(range(256))).decode(),
        isBase64Encoded=True,
    )
    async with looping(one_route(echo)) as loop:
        answer = await loop.answer(said)
    assert answer.prelude
    assert answer.prelude["statusCode"] == 201
    assert [cookie.partition(";")[0] for cookie in answer.prelude["cookies"]] == ["one=1", "two=2"]
    assert answer.prelude["headers"] == {"content-type": "application/json", "x-twice": "a, b"}
    assert orjson.loads(answer.body) == {
        "cookies": {"theme": "dark", "lang": "en"},
        "query": "a=1&b=%20&a=2",
        "raw_path": "/a%2Fb/%D1%8F",
        "body": base64.b64encode(bytes(range(256))).decode(),
        "spec": "2.4",
    }


async def raw_bytes(request: Request) -> Response:
    return Response(bytes(range(256)), media_type="image/png")


async def test_bytes_stream_as_they_are() -> None:
    async with looping(one_route(raw_bytes)) as loop:
        answer = await loop.answer()
    assert answer.body == bytes(range(256))


async def test_an_empty_piece_in_the_middle_is_not_the_end() -> None:
    async def endpoint(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"The ", b"", b"answer"):
                yield piece

        return StreamingResponse(pieces())

    async with looping(one_route(endpoint)) as loop:
        answer = await loop.answer()
    assert answer.body == b"The answer"


def test_bytes_as_a_whole_are_base64() -> None:
    whole = as_a_whole(one_route(raw_bytes), event())
    assert (whole["statusCode"], whole["isBase64Encoded"]) == (200, True)
    assert base64.b64decode(whole["body"]) == bytes(range(256))


@pytest.mark.parametrize(("kind", "most"), [("image/png", 4_700_000), ("application/json", 6_280_000)])
def test_as_a_whole_an_answer_that_lambda_would_drop_is_a_413(kind: str, most: int) -> None:
    """Bytes grow by a third on their way, as base64."""

    async def large(request: Request) -> Response:
        return Response(b"x" * int(request.query_params["n"]), media_type=kind)

    fits = as_a_whole(one_route(large), event(rawQueryString=f"n={most}"))
    assert (fits["statusCode"], fits["headers"]["content-type"]) == (200, kind)
    whole = as_a_whole(one_route(large), event(rawQueryString=f"n={most + 20_000}"))
    assert (whole["statusCode"], whole["headers"]["content-type"]) == (413, "application/json")
    assert orjson.loads(whole["body"])["error"]["code"] == "answer_too_large"


def test_as_a_whole_a_failure_is_raised_for_the_runtime_to_report() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise ValueError(CANARY)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    with pytest.raises(FailedError, match=r"Sluice\.Failed") as caught:
        as_a_whole(fails, event())
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [("GET", 204, b"left out"), ("GET", 304, b"left out"), ("HEAD", 200, b"left out"), ("GET", 302, b"")],
)
async def test_an_answer_without_a_body_is_a_prelude_and_an_end(method: str, status: int, body: bytes) -> None:
    async def endpoint(request: Request) -> Response:
        return Response(body, status, {"location": "/x"})

    async with looping(one_route(endpoint)) as loop:
        answer = await loop.answer(event(method=method))
    assert answer.prelude
    assert answer.prelude["statusCode"] == status
    assert answer.prelude["headers"] == {"location": "/x", "content-type": "application/octet-stream"}
    assert (answer.pieces, answer.trailers) == ([], {})


# --- failures


async def fails_at_once(request: Request) -> Response:
    raise ValueError(CANARY)


async def fails_later(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"The answer"
        raise ValueError(CANARY)

    return StreamingResponse(pieces())


async def never_ends(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"The answer"
        await asyncio.Event().wait()

    return StreamingResponse(pieces())


async def ends_half_way(request: Request) -> Response:
    async def script(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"The answer", "more_body": True})

    return Plain(script)


async def without_framework(scope: Scope, receive: Receive, send: Send) -> None:
    """No framework that would answer 500."""
    if scope["type"] == "http":
        raise ValueError(CANARY)
    await one_route(echo)(scope, receive, send)


async def test_a_failure_before_the_first_byte_is_reported_and_the_loop_goes_on() -> None:
    async with looping(without_framework) as loop:
        for _ in range(2):
            answer = await loop.answer(id_again="again")
            assert answer.error == {
                "errorType": "Sluice.Failed",
                "errorMessage": "The application failed.",
                "stackTrace": [],
            }
            assert (answer.error_type, answer.prelude) == ("Sluice.Failed", None)
            assert answer.headers["lambda-runtime-invocation-id"] == "again"


@pytest.mark.parametrize(
    ("endpoint", "kind", "time_s"),
    [
        (fails_later, "Sluice.Failed", 30.0),
        (ends_half_way, "Sluice.Unfinished", 30.0),
        (never_ends, "Sluice.OutOfTime", 2.0),
    ],
)
async def test_a_failure_after_it_is_in_the_trailers_in_time_and_the_loop_goes_on(
    endpoint: Any, kind: str, time_s: float
) -> None:
    async with looping(one_route(endpoint)) as loop:
        with took(0, time_s):
            answer = await loop.answer(time_s=time_s)
        assert answer.body == b"The answer"
        assert answer.trailers["lambda-runtime-function-error-type"] == kind
        assert answer.late_error
        assert answer.late_error["errorType"] == kind
        assert CANARY not in answer.late_error["errorMessage"]
        await loop.answer(b"{")


@pytest.mark.parametrize("how", ["drops", "declines"])
async def test_who_makes_an_answer_that_nobody_takes_hears_of_it(how: str) -> None:
    """Whether it listens or only writes, and whether the connection is gone or still takes what is written."""
    heard: list[str] = []

    async def listens(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"The answer", "more_body": True})
        heard.append((await receive())["type"])

    async def writes(receive: Receive, send: Send) -> None:
        try:
            while True:
                await send({"type": "http.response.body", "body": b"The answer", "more_body": True})
                await asyncio.sleep(0)
        except OSError:
            heard.append("an error")

    scripts = [listens, writes]

    async def endpoint(request: Request) -> Response:
        await request.body()
        return Plain(scripts.pop(0)) if scripts else Response(b"The next")

    async with looping(one_route(endpoint)) as loop:
        for _ in range(2):
            answer = loop.api.invoke(event())
            getattr(loop.api, how).add(answer.request_id)
            await answer.until(lambda a: a.is_over.is_set(), 5)
        assert (await loop.answer()).body == b"The next"
    assert heard == ["http.disconnect", "an error"]


async def test_after_its_answer_an_application_hears_that_the_client_is_gone() -> None:
    heard: list[str] = []

    async def script(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"All of it"})
        heard.append((await receive())["type"])

    async def endpoint(request: Request) -> Response:
        await request.body()
        return Plain(script)

    async with looping(one_route(endpoint)) as loop:
        await loop.answer(time_s=2.0)
    assert heard == ["http.disconnect"]


# --- the life of the process


async def test_what_is_done_after_an_answer_is_done_before_the_next_question() -> None:
    done: list[int] = []
    may_end = asyncio.Event()

    async def in_background() -> None:
        await may_end.wait()
        done.append(1)

    async def endpoint(request: Request) -> Response:
        return JSONResponse(len(done), background=BackgroundTask(in_background))

    async with looping(one_route(endpoint)) as loop:
        first = await loop.answer()  # the caller has it all, though the work for it goes on
        second = loop.api.invoke(event())
        may_end.set()
        await second.until(lambda a: a.is_over.is_set())
    assert (first.body, second.body) == (b"0", b"1")


async def test_the_lifespan_is_run_once_and_its_state_reaches_requests() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        told.append("started")
        yield {"made": "once"}
        told.append("stopped")

    async def endpoint(request: Request) -> Response:
        return JSONResponse(request.state.made)

    async with looping(Starlette(routes=[Route("/", endpoint)], lifespan=lifespan)) as loop:
        assert [(await loop.answer()).body for _ in range(3)] == [b'"once"'] * 3
        assert told == ["started"]
    assert told == ["started", "stopped"]


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError(CANARY)


async def says_that_it_failed(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


async def knows_no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    return


@pytest.mark.parametrize("app", [raises, says_that_it_failed, knows_no_lifespan])
async def test_a_lifespan_that_does_not_start_is_an_error(app: ASGIApp) -> None:
    with pytest.raises(StartError):
        await StreamingMangum(app).start()  # type: ignore[arg-type]


async def test_a_handler_that_is_not_there_is_reported_and_ends_the_process() -> None:
    async with RuntimeApi() as api:
        env = {"AWS_LAMBDA_RUNTIME_API": api.address, "_HANDLER": "functions.nowhere.handler"}
        assert await _Process(Settings.read(env), env).run() == 1
        env["_HANDLER"] = "functions.lambda_stream.loop.main"
        assert await _Process(Settings.read(env), env).run() == 1
    assert api.init_error
    assert api.init_error["errorType"] == "Sluice.NoHandlerError"


async def about_the_collector(request: Request) -> Response:
    return JSONResponse({"is_on": gc.isenabled(), "passes_over_what_was_loaded": gc.get_freeze_count() > 0})


collected = StreamingMangum(one_route(about_the_collector))


async def test_garbage_of_requests_is_collected_and_what_was_loaded_is_passed_over() -> None:
    gc.disable()  # as while it loads
    try:
        async with RuntimeApi() as api:
            env = {"AWS_LAMBDA_RUNTIME_API": api.address, "_HANDLER": f"{__name__}.collected"}
            process = _Process(Settings.read(env), env)
            task = asyncio.create_task(process.run())
            answer = api.invoke(event())
            await answer.until(lambda a: a.is_over.is_set(), 5)
            process._stopping.set()
            assert await asyncio.wait_for(task, 5) == 0
    finally:
        gc.unfreeze()
        gc.enable()
    assert orjson.loads(answer.body) == {"is_on": True, "passes_over_what_was_loaded": True}


async def test_a_hook_that_fails_after_a_restore_is_reported() -> None:
    def fails() -> None:
        raise ValueError("no seed")

    handler = StreamingMangum(one_route(echo), after_restore=[fails])
    async with RuntimeApi() as api:
        api.may_restore.set()
        with closing(runtime.RuntimeApi(api.address)) as client:
            assert not await _restored(handler, client)
    assert api.restore_error
    assert api.restore_error["errorType"] == "Sluice.ValueError"


@pytest.mark.parametrize(("workers", "seen"), [("1", ["Root=1", None]), ("2", [None, None])])
async def test_the_trace_of_an_invocation_is_known_while_it_is_the_only_one(
    workers: str, seen: list[str | None]
) -> None:
    found: list[str | None] = []

    async def endpoint(request: Request) -> Response:
        found.append(loop.env.get("_X_AMZN_TRACE_ID"))
        return Response()

    async with looping(one_route(endpoint), AWS_LAMBDA_MAX_CONCURRENCY=workers) as loop:
        await loop.answer(trace_id="Root=1")
        await loop.answer()
    assert found == seen


async def test_when_the_runtime_api_is_gone_the_process_ends() -> None:
    async with RuntimeApi() as api:
        env = {"AWS_LAMBDA_RUNTIME_API": api.address, "_HANDLER": ""}
        handler = StreamingMangum(one_route(echo))
        await handler.start()
        task = asyncio.create_task(_Process(Settings.read(env), env)._serve(handler, runtime.RuntimeApi(api.address)))
        await api.asked_next.wait()
    assert await asyncio.wait_for(task, 5) == 1
