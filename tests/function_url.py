"""A function URL on loopback: each request becomes an event of payload version 2.0, each answer streams back.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

import base64
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import h11
import orjson

from tests.h11_server import H11Server, Visit, headers_of
from tests.runtime_api import Answer, RuntimeApi

EVENTS = Path(__file__).parent.parent / "events"
MOST_BYTES = 6 * 2**20
_TEXT_TYPES = ("text/", "application/json", "application/x-www-form-urlencoded", "application/xml")
_JSON = {"content-type": "application/json"}


class FunctionUrl(H11Server):
    """`time_s` is the function's time-out."""

    def __init__(self, api: RuntimeApi, *, port: int = 0, time_s: float = 30.0) -> None:
        super().__init__(port)
        self._api = api
        self._time_s = time_s

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def exchange(self, request: h11.Request, visit: Visit) -> None:
        event = event_of(request, await visit.read_body())
        if len(orjson.dumps(event)) > MOST_BYTES:
            return await visit.answer(413, _JSON, b'{"Message":"Request must be smaller than 6291456 bytes"}')
        answer = self._api.invoke(event, time_s=self._time_s)
        with contextlib.suppress(TimeoutError):
            await answer.until(_has_begun, self._time_s)
        if answer.prelude is not None:
            return await _stream(answer, visit)
        if answer.error is None and answer.is_over.is_set():
            return await _whole(answer, visit)
        return await visit.answer(502, _JSON, b'{"Message":"Internal Server Error"}')


async def _stream(answer: Answer, visit: Visit) -> None:
    prelude: dict[str, Any] = answer.prelude or {}
    told = [*prelude.get("headers", {}).items(), *(("set-cookie", one) for one in prelude.get("cookies", ()))]
    await visit.write(
        h11.Response(status_code=prelude["statusCode"], headers=[*told, ("transfer-encoding", "chunked")])
    )
    async for piece in _pieces(answer):
        await visit.write(h11.Data(data=piece))
    if answer.trailers:  # the front end cuts what a function did not finish
        visit.writer.transport.abort()
    else:
        await visit.write(h11.EndOfMessage())


async def _whole(answer: Answer, visit: Visit) -> None:
    said = orjson.loads(answer.body)
    body = said.get("body") or ""
    raw = base64.b64decode(body) if said.get("isBase64Encoded") else body.encode()
    headers = {name: value for name, value in said.get("headers", {}).items() if name.lower() != "content-length"}
    await visit.answer(said["statusCode"], headers, raw)


async def _pieces(answer: Answer) -> AsyncIterator[bytes]:
    at = 0
    while True:
        async with answer.changed:
            await answer.changed.wait_for(partial(_has_more, answer, at))
            fresh = answer.pieces[at:]
        for _, piece in fresh:
            yield piece
        at += len(fresh)
        if not fresh and answer.is_over.is_set():
            return


def _has_begun(answer: Answer) -> bool:
    return answer.prelude is not None or answer.is_over.is_set()


def _has_more(answer: Answer, than: int) -> bool:
    return len(answer.pieces) > than or answer.is_over.is_set()


def event_of(request: h11.Request, body: bytes) -> dict[str, Any]:
    headers, method = headers_of(request), request.method.decode()
    path, _, query = request.target.decode().partition("?")
    is_text = headers.get("content-type", "").startswith(_TEXT_TYPES)
    event: dict[str, Any] = orjson.loads((EVENTS / "ping.json").read_bytes())
    event |= {"rawPath": path, "rawQueryString": query, "headers": headers}
    event["requestContext"] |= {"timeEpoch": int(time.time() * 1000)}
    event["requestContext"]["http"] |= {"method": method, "path": path, "sourceIp": "127.0.0.1"}
    if cookies := [one.strip() for one in headers.pop("cookie", "").split(";") if one.strip()]:
        event["cookies"] = cookies
    if body:
        event["isBase64Encoded"] = not is_text
        event["body"] = body.decode() if is_text else base64.b64encode(body).decode()
    return event
