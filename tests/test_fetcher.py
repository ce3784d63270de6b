"""Pictures fetched from addresses that strangers name: over real sockets, and never from within our own walls."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from core.fetcher import MAX_URL, Fetcher, IpAddress, NotFetched, is_public
from core.http_client import make_http_client
from core.http_client.port import HttpClient, HttpRequest, HttpResponse
from tests.certificate import CERTIFICATE
from tests.fake_upstream import Exchange, FakeUpstream, Script, answers, took
from tests.pictures import JPEG, PICTURES, PNG


def anyone(address: IpAddress) -> bool:
    return True


def only_loopback(address: IpAddress) -> bool:
    return str(address) == "127.0.0.1"


class Watched:
    """The client, and what it was asked for."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self.requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest, *, connect_s: float, headers_s: float) -> HttpResponse:
        self.requests.append(request)
        return await self._client.send(request, connect_s=connect_s, headers_s=headers_s)

    async def aclose(self) -> None:
        await self._client.aclose()


@pytest.fixture(params=["aiohttp", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    tls = ssl.create_default_context(cadata=CERTIFICATE)
    made = Watched(make_http_client(request.param, idle_s=5, tls=tls))
    yield made
    await made.aclose()


def picture(data: bytes = PNG, status: int = 200, **headers: str) -> Script:
    return answers(data, status, **{"content_type": "application/octet-stream", **headers})


@contextlib.contextmanager
def refused(why: str) -> Iterator[None]:
    with pytest.raises(NotFetched, match=why) as caught:
        yield
    assert not [word for word in ("127.0.0.1", "localhost", "canary") if word in str(caught.value)]


# Whose addresses are asked


PUBLIC = (
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.15"
    " 169.253.0.1 172.15.255.255 172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 198.17.255.255 198.20.0.0 223.255.255.255"
    " 2001:200::1 2001:4860:4860::8888 2606:4700::1111 2a00:1450:4001::1 3ffe::1"
)
NOT_PUBLIC = (
    "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16"
    " 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1"
    " 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"
    " :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1"
    " 100::1 2001::1 2001:0:7f00:1:: 2001:10::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 4000::1 5f00::1"
    " fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%1 fec0::1 ff02::1"
)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_what_belongs_to_somebody_on_the_open_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_private_local_metadata_and_wrapped_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_nobody_at_home_is_asked_however_the_address_is_written(
    client: Watched, upstream: FakeUpstream, host: str
) -> None:
    upstream.script = picture()
    port = upstream.url.rpartition(":")[2]
    with refused("its host is not on the public internet|its host is not known"):
        await Fetcher(client).fetch(f"http://{host}:{port}/")
    assert (client.requests, upstream.connections) == ([], 0)


async def test_a_redirect_is_judged_like_an_address(client: Watched, upstream: FakeUpstream) -> None:
    upstream.script = answers(b"", 302, location=upstream.url.replace("127.0.0.1", "127.0.0.2"))
    with refused("its host is not on the public internet"):
        await Fetcher(client, allows=only_loopback).fetch(upstream.url)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/x", "//["])
async def test_a_redirect_cannot_leave_http(client: Watched, upstream: FakeUpstream, location: str) -> None:
    upstream.script = answers(b"", 301, location=location)
    with refused("its address"):
        await Fetcher(client, allows=anyone).fetch(upstream.url)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:image/png;base64,aaaa",
        "http://",
        "http:///x",
        "http://[::1",
        "http://a..b/",
        "http://127.0.0.1:99999/",
        "http://@127.0.0.1/",
        "http://user:canary@127.0.0.1/",
        "http://127.0.0.1/" + "x" * MAX_URL,
    ],
)
async def test_what_is_no_plain_address_is_refused(client: Watched, url: str) -> None:
    with refused("its address"):
        await Fetcher(client, allows=anyone).fetch(url)
    assert client.requests == []


async def test_a_name_that_nobody_has_is_refused(client: Watched) -> None:
    with refused("its host is not known"):
        await Fetcher(client, allows=anyone).fetch("http://no-such-host.invalid/a.png")


async def test_names_that_are_not_answered_keep_nobody_else_from_looking_up(
    client: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, look_up = threading.Event(), socket.getaddrinfo

    def stuck(host: str, *more: Any, **named: Any) -> Any:
        if host.endswith(".stuck"):
            answered.wait(10)
        return look_up(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    fetcher = Fetcher(client)
    asking = [asyncio.create_task(fetcher.fetch(f"http://{number}.stuck/")) for number in range(50)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
    answered.set()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_what_a_name_was_judged_by_is_what_is_connected_to(client: Watched, upstream: FakeUpstream) -> None:
    """So that a name cannot stand for something else the second time."""
    upstream.script = picture()
    port = upstream.url.rpartition(":")[2]
    await Fetcher(client, allows=anyone).fetch(f"http://localhost:{port}/a%20b/ü c?x=1&y=[2]#part")
    sent, seen = client.requests[-1], upstream.requests[0]
    assert sent.url == f"http://127.0.0.1:{port}/a%20b/%C3%BC%20c?x=1&y=[2]"
    assert (seen.method, seen.path, seen.headers["host"]) == ("GET", "/a%20b/%C3%BC%20c?x=1&y=[2]", f"localhost:{port}")


async def test_nothing_of_ours_is_sent(client: Watched, upstream: FakeUpstream) -> None:
    upstream.script = picture()
    await Fetcher(client, allows=anyone).fetch(upstream.url)
    assert {*upstream.requests[0].headers} <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert upstream.requests[0].body == b""


async def test_the_certificate_must_be_the_names_and_not_the_numbers(client: Watched, https: FakeUpstream) -> None:
    https.script = picture()
    assert (await Fetcher(client, allows=anyone).fetch(https.url)).data == PNG
    with refused("its host could not be reached"):
        await Fetcher(client, allows=anyone).fetch(https.url.replace("127.0.0.1", "localhost"))
    assert len(https.requests) == 1


# What comes


@pytest.mark.parametrize("media_type", PICTURES)
async def test_a_picture_is_what_its_bytes_say(client: Watched, upstream: FakeUpstream, media_type: str) -> None:
    upstream.script = picture(PICTURES[media_type], content_type="text/html")
    found = await Fetcher(client, allows=anyone).fetch(upstream.url)
    assert (found.media_type, found.data) == (media_type, PICTURES[media_type])


async def test_a_redirect_is_followed(client: Watched, upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        hop = int(exchange.request.path.removeprefix("/"))
        step = answers(b"", (301, 302, 303, 307, 308)[hop], location=f"{hop + 1}") if hop < 3 else picture(JPEG)
        await step(exchange)

    upstream.script = script
    assert (await Fetcher(client, allows=anyone).fetch(f"{upstream.url}/0")).media_type == "image/jpeg"


async def test_redirects_without_end_are_given_up(client: Watched, upstream: FakeUpstream) -> None:
    upstream.script = answers(b"", 307, location="/")
    with refused("redirected too often"):
        await Fetcher(client, allows=anyone).fetch(upstream.url)
    assert len(upstream.requests) == 4


async def hangs_up(exchange: Exchange) -> None:
    exchange.reset()


async def breaks_off(exchange: Exchange) -> None:
    await exchange.start(200, content_length="1000")
    await exchange.send(PNG[:20])
    exchange.close()


async def has_no_end(exchange: Exchange) -> None:
    await exchange.start(200)
    while True:  # up to its being cut off
        await exchange.send(PNG * 100)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (picture(b""), "not a whole picture"),
        (picture(b"<svg/>", content_type="image/png"), "not a whole picture"),
        (picture(b"<html>", content_type="image/png"), "not a whole picture"),
        (picture(PNG[:-8]), "not a whole picture"),
        (picture(status=404), "its host answered 404"),
        (picture(status=206), "its host answered 206"),
        (picture(content_encoding="gzip"), "it is compressed"),
        (hangs_up, "could not be reached"),
        (breaks_off, "could not be reached"),
        (has_no_end, "larger than 5000 bytes"),
    ],
)
async def test_what_is_not_one_whole_picture_is_refused(
    client: Watched, upstream: FakeUpstream, script: Script, why: str
) -> None:
    upstream.script = script
    with refused(why):
        await Fetcher(client, allows=anyone, max_bytes=5000).fetch(upstream.url)


async def never(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def trickles(exchange: Exchange) -> None:
    await exchange.start(200)
    with contextlib.suppress(TimeoutError):
        while not exchange.gone.is_set():
            await exchange.send(b"\x89")
            await asyncio.wait_for(exchange.gone.wait(), 0.02)


@pytest.mark.parametrize("script", [never, trickles])
async def test_it_takes_no_longer_than_it_may(client: Watched, upstream: FakeUpstream, script: Script) -> None:
    upstream.script = script
    with took(0.15, 1), refused("did not come within 0.15 s"):
        await Fetcher(client, allows=anyone, total_s=0.15).fetch(upstream.url)
    await upstream.until_open(0)
