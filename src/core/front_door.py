"""What holds for every request, whatever its path: an id, a key, a bounded body, OpenAI's error form, one record.

Plain ASGI around the application. When the client leaves, the work for it is cancelled wherever it stands: a server may
give a future that is done then, as `sluice.gone` of the scope; another one is asked, by a task for each request.
"""

import asyncio
import logging
import random
import re
import time
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import in_wire_form
from .auth import Keyring
from .errors import BodyTooLarge, GatewayError, InvalidRequest, RequestTooSlow, Unavailable
from .store.port import StoreError
from .telemetry import Record, Telemetry

_LOG = logging.getLogger("sluice")
OPEN_PATHS = frozenset({"/ping", "/ready"})
BODY_S = 60.0  # a client has this long to send its request, or it holds a place for nothing
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class Places:
    """Requests under way, those of a former configuration included."""

    taken: int = 0


class FrontDoor:
    def __init__(
        self,
        app: ASGIApp,
        *,
        keyring: Keyring,
        max_body_bytes: int,
        max_in_flight: int,
        places: Places,
        telemetry: Telemetry,
        body_s: float = BODY_S,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._places = places
        self._telemetry = telemetry
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        record = Record(request_id, scope["method"], scope["path"], time.perf_counter())
        visit = _Visit(record, receive, send, scope.get("sluice.gone"), self._max_body_bytes, self._body_s)
        self._places.taken += 1
        try:
            if scope["path"] not in OPEN_PATHS:
                caller = self._keyring.identify(headers.get(b"authorization", b""))
                scope["sluice.caller"], record.caller = caller, caller.name
                self._find_place()
            visit.announce(headers.get(b"content-length", b""))
            scope["sluice.record"] = record
            await visit.run(self._app, scope)
        except GatewayError as error:
            await visit.refuse(error)
        except StoreError as error:
            _LOG.error("%s: %s", record.request_id, error)
            await visit.refuse(in_wire_form(error))
        except ClientGoneError:
            record.error = "client_left"
        except Exception as error:  # noqa: BLE001 - the last border: a bug of ours is a 500 in OpenAI's form
            self._telemetry.unexpected(record, error)
            await visit.refuse(in_wire_form(error))
        finally:
            self._places.taken -= 1
            record.total_s = record.elapsed()
            self._telemetry.request_done(record)

    def _find_place(self) -> None:
        if self._places.taken > self._max_in_flight:
            raise Unavailable(
                "The gateway has as many requests under way as it takes (server.max_in_flight).",
                code="gateway_overloaded",
                headers={"retry-after": "1"},
            )


class ClientGoneError(Exception):
    """What the door says by an OSError from `send`, as ASGI 2.4 has it."""


class _Visit:
    """One exchange with a client: counts what it sends, marks what it is sent, notices when it goes."""

    def __init__(
        self,
        record: Record,
        receive: Receive,
        send: Send,
        gone: asyncio.Future[None] | None,
        max_body_bytes: int,
        body_s: float,
    ) -> None:
        self._record = record
        self._receive = receive
        self._send = send
        self._gone = gone
        self._left_to_read = max_body_bytes
        self._max_body_bytes = max_body_bytes
        self._body_s = body_s
        self._body_timer: asyncio.TimerHandle | None = None
        self._is_whole = False  # the body has come
        self._watch: asyncio.Future[None] | None = None
        self._work: asyncio.Task[Any] | None = None
        self._has_left = self._is_late = False

    def announce(self, content_length: bytes) -> None:
        if content_length.isdigit() and int(content_length) > self._max_body_bytes:
            raise self._too_large()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        self._work = asyncio.current_task()
        try:
            await app(scope, self._receive_counted, self._send_marked)
        except asyncio.CancelledError:
            if not (self._has_left or self._is_late):
                self._record.error = "cut_by_shutdown"
                raise
            if self._work is not None:
                self._work.uncancel()
            if self._is_late:
                words = f"The request was not whole within {self._body_s:g} s."
                raise RequestTooSlow(words, headers={"connection": "close"}) from None
            self._record.error = "client_left"
        finally:
            self._stop_waiting()

    async def refuse(self, error: GatewayError) -> None:
        self._record.error = error.code or error.type
        if self._record.status is not None:
            return  # headers are out: the connection is closed without an end, which a client sees as a cut
        headers = [(b"content-type", b"application/json")]
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
        body = orjson.dumps(error.body())
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send_marked({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send_marked({"type": "http.response.body", "body": body})

    async def _receive_counted(self) -> Message:
        if self._body_timer is None and not self._is_whole:
            self._body_timer = asyncio.get_running_loop().call_later(self._body_s, self._give_up)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The client left before its request was whole.", status=499, code="client_left")
        if message["type"] == "http.request":
            self._left_to_read -= len(message.get("body", b""))
            if self._left_to_read < 0:
                raise self._too_large()
            if not message.get("more_body", False) and not self._is_whole:
                self._is_whole = True
                self._stop_waiting()
                self._watch = self._gone or asyncio.create_task(self._disconnect())
                self._watch.add_done_callback(self._leave)
        return message

    def _give_up(self) -> None:
        """All of the body has to come in time."""
        self._is_late = True
        if self._work is not None:
            self._work.cancel()

    def _stop_waiting(self) -> None:
        """For the body, or for the client's leave. Both hold us: forgotten, they leave nothing to the collector."""
        if self._body_timer is not None:
            self._body_timer.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._leave)
            if self._watch is not self._gone:
                self._watch.cancel()
        self._body_timer = self._watch = None

    async def _send_marked(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._record.request_id.encode())]
        elif not message.get("more_body", False):
            self._stop_waiting()  # the answer is whole: a client that leaves now has not left early
        try:
            await self._send(message)
        except OSError as error:
            raise ClientGoneError from error

    async def _disconnect(self) -> None:
        """The body has been read: what comes next can only be the client's leave."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _leave(self, _: asyncio.Future[None]) -> None:
        self._has_left = True
        if self._work is not None:
            self._work.cancel()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The request body is larger than {self._max_body_bytes} bytes (server.max_body_bytes).")


def new_request_id() -> str:
    return f"req_{random.getrandbits(96):024x}"


def _request_id(given: bytes) -> str:
    """The client's own id when it is harmless to print, else a new one."""
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else new_request_id()
