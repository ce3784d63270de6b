"""Server-sent events as pure code: bytes in, events out, and back. No I/O, no JSON.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
Unlike a browser we give out an event that the end of the stream cuts off before its empty line: several providers leave
that line out after `[DONE]`, and whether an answer is whole is judged by its content, not by its framing.
"""

from .frozen import frozen

BOM = b"\xef\xbb\xbf"
LF, CR = b"\n\r"  # as numbers: bytes are asked for a number first, and raise inside when it is none
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 32 * 2**20  # a picture as a data URL is a few megabytes; an endless line is an attack


class EventTooLarge(Exception):
    """An event grew past MAX_EVENT_BYTES."""


@frozen
class Event:
    data: bytes
    name: str = ""


class Reader:
    """Reads one stream. `feed` takes bytes cut anywhere and returns the events they complete, in order."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the pieces of the line that has not ended
        self._data: list[bytes] = []
        self._name = ""
        self._size = 0
        self._skip_lf = False  # the last byte was CR: an LF that follows belongs to it
        self._fresh = True
        self._is_between = True  # nothing of an event has come yet

    def feed(self, piece: bytes) -> list[Event]:
        if not piece:
            return []
        if self._is_between and _is_one_event(piece):
            self._fresh = False
            return [Event(piece[6:-2])]
        if self._skip_lf:
            piece = piece.removeprefix(b"\n")
        if CR in piece:
            self._skip_lf = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            self._skip_lf = False
        first, *rest = piece.split(b"\n")
        self._line.append(first)
        self._count(len(piece))
        if not rest:
            self._is_between = False
            return []
        lines = [b"".join(self._line), *rest]
        self._line = [lines.pop()]
        events = [event for line in lines if (event := self._take(line))]
        self._is_between = not (self._line[0] or self._data or self._name or self._skip_lf)
        return events

    def close(self) -> list[Event]:
        """The stream has ended: what was not yet given out, if anything."""
        rest, self._line = b"".join(self._line), []
        event = (self._take(rest) if rest else None) or self._dispatch()
        return [event] if event else []

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge

    def _take(self, line: bytes) -> Event | None:
        if self._fresh:
            self._fresh = False
            line = line.removeprefix(BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ").decode("utf-8", "replace")
        return None  # comments, `id`, `retry` and unknown fields mean nothing here

    def _dispatch(self) -> Event | None:
        event = Event(b"\n".join(self._data), self._name) if self._data else None
        self._data, self._name, self._size = [], "", 0
        return event


def _is_one_event(piece: bytes) -> bool:
    """Whether it is one event of one line: how most of them come, and quicker to see than to take apart."""
    ends = len(piece) - 2
    return (
        piece.find(b"\n") == ends < MAX_EVENT_BYTES
        and piece[-1] == LF
        and piece.startswith(b"data: ")
        and CR not in piece
    )


def encode(data: bytes) -> bytes:
    """One event for the wire. A line break in `data` becomes a further `data:` line, as the format has it."""
    if LF in data or CR in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"data: " + data + b"\n\n"
