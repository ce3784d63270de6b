"""A picture at an address that somebody sent us, fetched so that nobody reaches through us where they could not go.

What a name stands for is looked up once for each hop, judged, and connected to by its number, so that a second look-up
cannot change it. Nothing of ours is sent along, and what comes must be a picture.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, urljoin, urlsplit

from .frozen import frozen
from .http_client.port import ConnectFailed, HttpClient, HttpClientError, HttpRequest, HttpResponse
from .picture import Picture, read_picture

IpAddress = IPv4Address | IPv6Address

MAX_BYTES = 32 * 2**20
MAX_URL = 8192  # characters; HTTP clients remember addresses
TOTAL_S = 15.0
CONNECT_S = 5.0
MAX_REDIRECTS = 3
MAX_ADDRESSES = 4  # of one name are tried
LOOK_UPS = 4  # at once; a name server that does not answer holds a thread for half a minute
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
_AS_IT_IS = "/%:@!$&'()*+,;=~?-._[]"

_OPEN = (ip_network("0.0.0.0/0"), ip_network("2000::/3"))  # IPv4 inside IPv6 (::ffff:0:0/96, 64:ff9b::/96) is not open
# https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry
_CLOSED = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, seen from its machines
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo among others
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)


class NotFetched(Exception):
    """Why there is no picture, as the end of a sentence. Names no address."""


def is_public(address: IpAddress) -> bool:
    """Whether it belongs to somebody on the open internet."""
    return any(address in network for network in _OPEN) and not any(address in network for network in _CLOSED)


class Fetcher:
    """`allows` judges every address that would be connected to."""

    def __init__(
        self,
        client: HttpClient,
        *,
        allows: Callable[[IpAddress], bool] = is_public,
        max_bytes: int = MAX_BYTES,
        total_s: float = TOTAL_S,
    ) -> None:
        self._client = client
        self._allows = allows
        self._max_bytes = max_bytes
        self._total_s = total_s
        # Threads of their own, or strangers' names would keep providers' from being looked up.
        self._look_ups = ThreadPoolExecutor(LOOK_UPS, thread_name_prefix="sluice-names")

    async def fetch(self, url: str, *, max_bytes: int = MAX_BYTES) -> Picture:
        """Raises NotFetched."""
        try:
            async with asyncio.timeout(self._total_s):
                data = await self._follow(url, min(max_bytes, self._max_bytes))
        except TimeoutError as error:
            raise NotFetched(f"it did not come within {self._total_s:g} s") from error
        except HttpClientError as error:
            raise NotFetched("its host could not be reached, or broke off") from error
        picture = read_picture(data)
        if picture is None:
            raise NotFetched("what is there is not a whole picture")
        return picture

    async def _follow(self, url: str, max_bytes: int) -> bytes:
        place = _read(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._ask(place)
            try:
                if response.status not in _REDIRECTS:
                    return await self._body(response, max_bytes)
                place = _read(response.headers.get("location", ""), place.url)
            finally:
                await response.aclose()
        raise NotFetched("it was redirected too often")

    async def _ask(self, place: "_Place") -> HttpResponse:
        addresses = await self._look_up(place)
        if not all(map(self._allows, addresses)):
            raise NotFetched("its host is not on the public internet")
        headers = {"host": place.authority, "accept": "image/*", "accept-encoding": "identity", "user-agent": "sluice"}
        failure = ConnectFailed("the host has no address")
        for address in addresses[:MAX_ADDRESSES]:
            request = HttpRequest(place.at(address), headers, b"", "GET", tls_name=place.host)
            try:
                return await self._client.send(request, connect_s=CONNECT_S, headers_s=self._total_s)
            except ConnectFailed as error:
                failure = error
        raise failure

    async def _look_up(self, place: "_Place") -> list[IpAddress]:
        ask = partial(socket.getaddrinfo, place.host, place.port, type=socket.SOCK_STREAM)
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._look_ups, ask)
            return [ip_address(str(row[4][0])) for row in rows]
        except (OSError, ValueError) as error:
            raise NotFetched("its host is not known") from error

    async def _body(self, response: HttpResponse, max_bytes: int) -> bytes:
        if response.status != 200:
            raise NotFetched(f"its host answered {response.status}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise NotFetched("it is compressed, which was not asked for")
        pieces: list[bytes] = []
        left = max_bytes
        while piece := await response.read(self._total_s):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise NotFetched(f"it is larger than {max_bytes} bytes")
        return b"".join(pieces)


@frozen
class _Place:
    url: str
    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: IpAddress) -> str:
        """The same with a number for the name."""
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def _read(url: str, base: str = "") -> _Place:
    if len(url) > MAX_URL:
        raise NotFetched(f"its address is longer than {MAX_URL} characters")
    try:
        url = urljoin(base, url)
        parts = urlsplit(url)
        scheme, host = parts.scheme, (parts.hostname or "").encode("idna").decode()
        port = parts.port or _PORTS[scheme]
    except (KeyError, ValueError) as error:
        raise NotFetched("its address is not one of http or https") from error
    if not host or parts.username is not None:
        raise NotFetched("its address has no host, or a user's name in it")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Place(url, scheme, host, port, quote(target, safe=_AS_IT_IS))
