"""What all dialects share of an exchange with a provider: headers out, JSON, events and failures in. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from .. import json_text
from ..errors import Transient, UpstreamError
from ..retry_after import retry_after
from ..sse import Event, EventTooLarge, Reader
from ..stream import Done, Item
from .dialect import Completion, Endpoint
from .failures import Report, classify, error_inside, report_of

Json = dict[str, Any]
NOT_JSON = "The provider's answer is not a JSON object."


def headers_of(endpoint: Endpoint, key: Mapping[str, str] = {}, *, is_stream: bool) -> dict[str, str]:
    """`key` is how our key is said, which is left out where there is none."""
    return {
        "content-type": "application/json",
        "accept": "text/event-stream" if is_stream else "application/json",
        "accept-encoding": "identity",  # a compressed stream comes in lumps
        "user-agent": "sluice",
        **endpoint.headers,
        **(key if endpoint.token else {}),
    }


def bearer(endpoint: Endpoint) -> dict[str, str]:
    return {"authorization": f"Bearer {endpoint.token}"}


def read_json(raw: bytes) -> Any:
    """None: it is not JSON, or nothing that could be passed on."""
    try:
        return json_text.read(raw)
    except ValueError:
        return None


def read_report(status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> Report:
    """A failed response in plain values; a proxy on the way may answer in HTML."""
    return report_of(read_json(raw), status=status, retry_after_s=retry_after(headers, now))


def last_events(reader: Reader) -> list[Event]:
    """What the end of a stream cuts off, where it is whole.

    Half an event says nothing: whether the answer is finished is known from what came before it.
    """
    return [event for event in reader.close() if event.data.strip() == b"[DONE]" or read_json(event.data) is not None]


class Translation(Protocol):
    """Reads one stream, event by event. Failures are items: nothing is raised."""

    def take(self, body: Json, event: str) -> Iterable[Item]:
        """`event` is its name, empty where it has none."""
        ...

    def end(self) -> Iterable[Item]:
        """The body has ended, or the provider said that it is done."""
        ...


class EventDecoder:
    """Server-sent events whose data is JSON, each handed to a translation."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._reader = Reader()

    def feed(self, piece: bytes) -> list[Item]:
        try:
            return self._items(self._reader.feed(piece))
        except EventTooLarge:
            return [Transient("The provider sent an event without end.")]

    def close(self) -> list[Item]:
        return [*self._items(last_events(self._reader)), *self._guarded(self._translation.end)]

    def _items(self, events: list[Event]) -> list[Item]:
        items: list[Item] = []
        for event in events:
            data = event.data.strip()
            if data == b"[DONE]":
                items += [*self._done(), Done()]
            elif data:
                items += self._read(event, data)
        return items

    def _done(self) -> list[Item]:
        """What `[DONE]` says besides."""
        return self._guarded(self._translation.end)

    def _read(self, event: Event, data: bytes) -> Iterable[Item]:
        body = read_json(data)
        if not isinstance(body, dict):
            return [Transient("The provider sent an event that is not JSON.")]
        return self._guarded(lambda: self._translation.take(body, event.name))

    def _guarded(self, read: Callable[[], Iterable[Item]]) -> list[Item]:
        """What was read before something odd came is not lost."""
        items: list[Item] = []
        try:
            for item in read():
                items.append(item)  # noqa: PERF402 - up to what raises
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            items.append(odd_answer())
        return items


def judge_body(body: Json) -> UpstreamError:
    return classify(report_of(body))


def read_answer(
    raw: bytes,
    read: Callable[[Json], Completion | UpstreamError],
    judge: Callable[[Json], UpstreamError] = judge_body,
) -> Completion | UpstreamError:
    """The body of a buffered 200: as `read` has it, or what is wrong with it. `judge` is for errors in it."""
    body = read_json(raw)
    body = body[0] if isinstance(body, list) and body else body  # Google's method that streams wraps errors so
    if not isinstance(body, dict):
        return Transient(NOT_JSON)
    if error_inside(body) is not None:
        return judge(body)
    try:
        return read(body)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return odd_answer()


def broken(reason: Any) -> UpstreamError:
    """For an answer whose finish reason is none that the provider documents, or says that it failed."""
    return Transient(f"The provider broke its answer off: {reason or 'it gives no reason'}.")


def odd_answer() -> UpstreamError:
    """For what is JSON, but not in the form that the provider documents."""
    return Transient("The provider's answer does not have the form that it documents.")
