"""AWS's binary event stream: bytes cut anywhere in, messages out. Pure.

https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html
"""

import zlib
from collections.abc import Iterator
from struct import Struct
from struct import error as struct_error

from ..frozen import frozen

_PRELUDE = Struct("!III")  # length of all, length of the headers, checksum of these two
_CRC = Struct("!I")
_SHORT = Struct("!H")
# Types of header values that have a fixed size; 6 and 7, bytes and text, say theirs in two bytes.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_TEXT = 7
MAX_MESSAGE_BYTES = 16 * 2**20  # as the protocol has it


class BadMessage(Exception):
    """The bytes are no event stream."""


@frozen
class Message:
    """`headers`: those whose value is text."""

    headers: dict[str, str]
    payload: bytes


class MessageReader:
    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_cut(self) -> bool:
        """Whether a message has begun that has not ended."""
        return bool(self._buffer)

    def feed(self, piece: bytes) -> Iterator[Message]:
        """Raises BadMessage."""
        self._buffer += piece
        while len(self._buffer) >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(self._buffer)
            is_sound = zlib.crc32(self._buffer[:8]) == checksum
            if not is_sound or not _PRELUDE.size + headers + _CRC.size <= total <= MAX_MESSAGE_BYTES:
                raise BadMessage
            if len(self._buffer) < total:
                return
            raw = bytes(self._buffer[:total])
            del self._buffer[:total]
            yield _message(raw, headers)


def _message(raw: bytes, headers_size: int) -> Message:
    (checksum,) = _CRC.unpack_from(raw, len(raw) - _CRC.size)
    if zlib.crc32(raw[: -_CRC.size]) != checksum:
        raise BadMessage
    start = _PRELUDE.size
    headers = dict(_headers(raw[start : start + headers_size]))
    return Message(headers, raw[start + headers_size : -_CRC.size])


def _headers(raw: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    try:
        while at < len(raw):
            name_end = at + 1 + raw[at]
            name, kind, at = raw[at + 1 : name_end].decode(), raw[name_end], name_end + 1
            size = _SIZES.get(kind)
            if size is None:
                (size,) = _SHORT.unpack_from(raw, at)
                at += _SHORT.size
            if kind == _TEXT:
                yield name, raw[at : at + size].decode()
            at += size
    except (IndexError, ValueError, struct_error) as error:
        raise BadMessage from error
