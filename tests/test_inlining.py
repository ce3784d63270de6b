"""Pictures at addresses before providers that take none: fetched and sent along, or a 400 that names the part."""

import base64
from typing import Any

import orjson
import pytest

from core.chat import Chat
from core.errors import ClientFault
from core.fetcher import Fetcher, IpAddress
from core.http_client import make_http_client
from core.inlining import with_pictures_inside
from core.providers import TRANSLATED
from tests.fake_upstream import Exchange, FakeUpstream, answers, answers_json, completion, events
from tests.pictures import JPEG, PNG
from tests.provider_samples import OF_TRANSLATED
from tests.running_gateway import running
from tests.test_translated_openai_sdk import entry
from tests.translation import said_by

NO_ADDRESSES = [row.name for row in TRANSLATED if not row.takes_picture_addresses]
FAR_AWAY = "nobody-has-this-name.invalid"


def anyone(address: IpAddress) -> bool:
    return True


def gateway_for(upstream: FakeUpstream, *names: str, **blocks: Any) -> Any:
    models = [{**entry(name, upstream.url), "capabilities": ["vision", "streaming"]} for name in names]
    return running(*models, door={"may_fetch": anyone}, **blocks)


def at(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def plays(upstream: FakeUpstream, name: str, *, stream: bool = False, picture: bytes = PNG) -> None:
    """The provider, and beside it the host of the pictures."""
    sample = OF_TRANSLATED[name].sent("stream" if stream else "answer")

    async def script(exchange: Exchange) -> None:
        is_picture = exchange.request.method == "GET"
        await (answers(picture) if is_picture else events(sample) if stream else answers(sample))(exchange)

    upstream.script = script


def fetched(upstream: FakeUpstream) -> list[str]:
    return [request.path for request in upstream.requests if request.method == "GET"]


@pytest.mark.parametrize("name", NO_ADDRESSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_picture_is_fetched_and_sent_along(upstream: FakeUpstream, name: str, stream: bool) -> None:
    plays(upstream, name, stream=stream)
    async with gateway_for(upstream, name) as gateway:
        messages = [said_by("See", at(f"{upstream.url}/cat.png"), at(f"{upstream.url}/dog"), role="user")]
        response = await gateway.chat(model=name, messages=messages, stream=stream)
    assert response.status_code == 200
    assert sorted(fetched(upstream)) == ["/cat.png", "/dog"]
    sent = upstream.requests[-1].body
    assert sent.count(base64.b64encode(PNG)) == 2
    assert upstream.url.encode() not in sent


async def test_it_is_called_what_its_bytes_are_whatever_its_name_is(upstream: FakeUpstream) -> None:
    plays(upstream, "google", picture=JPEG)
    async with gateway_for(upstream, "google") as gateway:
        await gateway.chat(model="google", messages=[said_by(at(f"{upstream.url}/cat.png"))])
    (part,) = upstream.requests[-1].json["contents"][0]["parts"]
    assert part == {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(JPEG).decode()}}


async def test_a_provider_of_openais_dialect_that_takes_none_gets_a_data_url(upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        await (answers(PNG) if exchange.request.method == "GET" else answers_json(completion()))(exchange)

    upstream.script = script
    async with gateway_for(upstream, "ollama") as gateway:
        await gateway.chat(model="ollama", messages=[said_by("See", at(f"{upstream.url}/cat.png"))])
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert upstream.requests[-1].json["messages"] == [
        said_by("See", {"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    ]


@pytest.mark.parametrize(
    ("picture", "url", "why"),
    [
        (b"<html>", "{upstream}/cat.png", "not a whole picture"),
        (PNG, f"http://{FAR_AWAY}/cat.png", "its host is not known"),
        (PNG, "http://user@{host}/cat.png", "a user's name in it"),
    ],
)
async def test_one_that_cannot_be_had_is_a_400_that_names_the_part(
    upstream: FakeUpstream, picture: bytes, url: str, why: str
) -> None:
    plays(upstream, "google", picture=picture)
    address = url.format(upstream=upstream.url, host=upstream.url.removeprefix("http://"))
    async with gateway_for(upstream, "google") as gateway:
        response = await gateway.chat(model="google", messages=[said_by("See", at(address))])
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (
        400,
        "invalid_image_url",
        "messages[0].content[1]",
    )
    assert why in error["message"]
    assert not [request for request in upstream.requests if request.method == "POST"]


async def test_nobody_reaches_through_us_where_they_could_not_go(upstream: FakeUpstream) -> None:
    """As it is when no door says otherwise."""
    plays(upstream, "google")
    models = [entry("google", upstream.url)]
    async with running(*models) as gateway:
        response = await gateway.chat(model="google", messages=[said_by(at(f"{upstream.url}/secret"))])
    assert response.status_code == 400
    assert "not on the public internet" in response.json()["error"]["message"]
    assert upstream.requests == []


async def test_pictures_share_the_room_that_there_is(upstream: FakeUpstream) -> None:
    upstream.script = answers(PNG)
    client = make_http_client("aiohttp", idle_s=5)
    fetcher = Fetcher(client, allows=anyone)

    async def inside(count: int) -> bytes:
        parts = [at(f"{upstream.url}/{number}") for number in range(count)]
        chat = Chat({"messages": [said_by(*parts)]}, 0)
        return orjson.dumps((await with_pictures_inside(chat, fetcher, max_bytes=2 * len(PNG))).body)

    assert (await inside(2)).count(base64.b64encode(PNG)) == 2
    for count, why in ((3, "is larger than"), (17, "more than 16")):
        with pytest.raises(ClientFault, match=why):
            await inside(count)
    await client.aclose()


async def test_the_same_picture_twice_is_fetched_once(upstream: FakeUpstream) -> None:
    plays(upstream, "google")
    async with gateway_for(upstream, "google") as gateway:
        part = at(f"{upstream.url}/cat.png")
        await gateway.chat(model="google", messages=[said_by("a", part), said_by("b", part)])
    assert fetched(upstream) == ["/cat.png"]


async def test_who_takes_addresses_gets_the_address(upstream: FakeUpstream) -> None:
    plays(upstream, "anthropic")
    async with gateway_for(upstream, "anthropic") as gateway:
        await gateway.chat(model="anthropic", messages=[said_by(at(f"{upstream.url}/cat.png"))])
    assert fetched(upstream) == []
    assert f"{upstream.url}/cat.png".encode() in upstream.requests[-1].body
