"""Small pictures, each whole and legible, made here byte by byte."""

import struct
import zlib


def png(width: int = 1, height: int = 1) -> bytes:
    """A red one."""
    rows = (b"\0" + b"\xff\0\0" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data) for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def pixels(picture: bytes) -> tuple[bytes, bytes]:
    """Head and pixels of a PNG: one zlib packs them otherwise than another."""
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        chunks[picture[at + 4 : at + 8]] = picture[at + 8 : at + 8 + length]
        at += length + 12
    return chunks[b"IHDR"] + chunks.get(b"PLTE", b""), zlib.decompress(chunks[b"IDAT"])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


PNG = png()

# Eight by eight, grey: one table of ones, one Huffman code each, one block that says nothing.
JPEG = b"".join(
    (
        b"\xff\xd8",
        _segment(0xDB, b"\0" + b"\1" * 64),
        _segment(0xC0, bytes((8, 0, 8, 0, 8, 1, 1, 0x11, 0))),
        _segment(0xC4, bytes((0x00, 1, *[0] * 15, 0))),
        _segment(0xC4, bytes((0x10, 1, *[0] * 15, 0))),
        _segment(0xDA, bytes((1, 1, 0, 0, 63, 0))),
        b"\x3f\xff\xd9",
    )
)

GIF = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"

WEBP = b"RIFF\x16\0\0\0WEBPVP8L\t\0\0\0/\0\0\0\0\x88\xfeG\4\0"

PICTURES = {"image/png": PNG, "image/jpeg": JPEG, "image/gif": GIF, "image/webp": WEBP}
