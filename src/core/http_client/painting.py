"""Pictures for the demo: drawn from the prompt alone, so that the same words always give the same picture."""

import hashlib
import struct
import zlib

CELLS = 8  # a side, the right half the mirror of the left


def paint(prompt: str, width: int, height: int) -> bytes:
    """A PNG."""
    digest = hashlib.sha256(prompt.encode()).digest()
    ground, ink = digest[:3], bytes(255 - value for value in digest[:3])
    pattern = [[digest[3 + row * 2] >> column & 1 for column in range(CELLS // 2)] for row in range(CELLS)]
    lines = [_line(cells, width) for cells in pattern]
    pixels = b"".join(lines[row * CELLS // height] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # a byte a pixel: its place in the palette
    chunks = ((b"IHDR", head), (b"PLTE", ground + ink), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _line(cells: list[int], width: int) -> bytes:
    """One row of pixels, unfiltered."""
    mirrored = cells + cells[::-1]
    return b"\0" + bytes(mirrored[column * CELLS // width] for column in range(width))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
