"""Pictures at addresses, fetched: for a provider that takes bytes alone, or for a caller who wants them."""

import asyncio
import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .chat import Chat
from .errors import ClientFault, Transient
from .fetcher import Fetcher, NotFetched
from .picture import Picture
from .providers.dialect import Drawings, Drawn

Json = dict[str, Any]
MAX_PICTURES = 16
MAX_DRAWN_BYTES = 64 * 2**20  # of all pictures of an answer
MAX_BYTES = 20 * 2**20  # of all pictures of a chat, shared evenly; Gemini takes no more in one request


async def with_pictures_inside(chat: Chat, fetcher: Fetcher, *, max_bytes: int = MAX_BYTES) -> Chat:
    """The same chat where it has no pictures at addresses. Raises ClientFault, naming the part, for one that fails."""
    spots = dict(_addresses(chat.body["messages"]))
    if not spots:
        return chat
    if len(spots) > MAX_PICTURES:
        raise _fault("messages", f"has more than {MAX_PICTURES} pictures at addresses; send them as data URLs")
    most = max_bytes // len(spots)
    found = await asyncio.gather(*(_fetched(fetcher, url, spot, most) for url, spot in spots.items()))
    pictures: dict[str, str] = {}
    for url, picture in zip(spots, found, strict=True):
        if isinstance(picture, ClientFault):
            raise picture
        pictures[url] = _data_url(picture)
    messages = [_filled(message, pictures) for message in chat.body["messages"]]
    return replace(chat, body={**chat.body, "messages": messages})


async def with_bytes(drawings: Drawings, fetcher: Fetcher) -> Drawings:
    """The same pictures, those at addresses too. Raises Transient for one that fails."""
    most = MAX_DRAWN_BYTES // len(drawings.drawn)
    return replace(drawings, drawn=tuple([await _within_reach(one, fetcher, most) for one in drawings.drawn]))


async def _within_reach(drawn: Drawn, fetcher: Fetcher, most: int) -> Drawn:
    if drawn.picture is not None:
        return drawn
    try:
        return Drawn(await fetcher.fetch(drawn.url, max_bytes=most), about=drawn.about)
    except NotFetched as error:
        raise Transient(f"The provider's picture could not be fetched: {error}.") from error


async def _fetched(fetcher: Fetcher, url: str, spot: str, most: int) -> Picture | ClientFault:
    try:
        return await fetcher.fetch(url, max_bytes=most)
    except NotFetched as error:
        return _fault(spot, f"has a picture that could not be fetched: {error}")


def _fault(spot: str, what: str) -> ClientFault:
    return ClientFault(f"`{spot}` {what}.", param=spot, code="invalid_image_url", reached=False)


def _data_url(picture: Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


def _addresses(messages: list[Json]) -> Iterator[tuple[str, str]]:
    """Each address and where it stands."""
    for place, message in enumerate(messages):
        content = message.get("content")
        for at, part in enumerate(content if isinstance(content, list) else ()):
            url = _address(part)
            if url.startswith(("http://", "https://")):
                yield url, f"messages[{place}].content[{at}]"


def _address(part: Any) -> str:
    """Of a picture; empty for any other part."""
    image = part.get("image_url") if isinstance(part, dict) and part.get("type") == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else ""


def _filled(message: Json, pictures: Mapping[str, str]) -> Json:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_inlined(part, pictures) for part in content]}


def _inlined(part: Any, pictures: Mapping[str, str]) -> Any:
    data_url = pictures.get(_address(part))
    if data_url is None:
        return part
    image = part["image_url"] if isinstance(part["image_url"], dict) else {}
    return {**part, "image_url": {**image, "url": data_url}}
