"""A picture by its bytes alone: what a name or a header calls it proves nothing. Pure."""

from dataclasses import field

from .frozen import frozen


@frozen
class Picture:
    """`media_type` is what the bytes are: `image/png`, `image/jpeg`, `image/gif` or `image/webp`."""

    media_type: str
    data: bytes = field(repr=False)


def read_picture(data: bytes) -> Picture | None:
    """None: these bytes are no picture of a kind that we know, or only the beginning of one. More may lie behind it."""
    for media_type, is_whole in (
        ("image/png", data.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND\xaeB`\x82" in data),
        ("image/jpeg", data.startswith(b"\xff\xd8\xff") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) > 0),
        ("image/gif", data.startswith((b"GIF87a", b"GIF89a")) and data.rstrip(b"\0\r\n").endswith(b";")),
        ("image/webp", data[:4] + data[8:12] == b"RIFFWEBP" and len(data) >= 8 + int.from_bytes(data[4:8], "little")),
    ):
        if is_whole:
            return Picture(media_type, data)
    return None
