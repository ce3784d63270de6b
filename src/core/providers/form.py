"""multipart/form-data, as a request's body. Pure.

https://www.rfc-editor.org/rfc/rfc7578
"""

import hashlib
from collections.abc import Iterable

from ..drawing import Part


def multipart(fields: Iterable[tuple[str, str]], parts: Iterable[Part] = ()) -> tuple[str, bytes]:
    """Content type and body. The boundary is of the content, which cannot hold it then."""
    pieces = [(f'name="{_quoted(name)}"', text.encode()) for name, text in fields]
    for at, part in enumerate(parts):
        kind = part.picture.media_type
        file = f'filename="{at}.{kind.removeprefix("image/")}"\r\ncontent-type: {kind}'
        pieces.append((f'name="{part.name}"; {file}', part.picture.data))
    digest = hashlib.sha256()
    for _, data in pieces:
        digest.update(data)
    boundary = f"sluice{digest.hexdigest()}"
    body = b"".join(
        b"--%b\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), data)
        for head, data in pieces
    )
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


def _quoted(name: str) -> str:
    """https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data"""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
