"""Makes the HTTP client that the configuration names. Each is imported only when it is used."""

import ssl
from typing import Literal

from .port import HttpClient

IDLE_CONNECTIONS = 200
IDLE_CONNECTIONS_PER_HOST = 50


def make_http_client(
    kind: Literal["aiohttp", "httpx"], *, idle_s: float, tls: ssl.SSLContext | None = None
) -> HttpClient:
    """`idle_s` is how long an unused connection is kept; `tls` what certificates are trusted, None: the usual ones."""
    if kind == "httpx":
        from .httpx import HttpxClient

        return HttpxClient(idle_s=idle_s, tls=tls, idle_connections=IDLE_CONNECTIONS)
    from .aiohttp import AiohttpClient

    return AiohttpClient(
        idle_s=idle_s, tls=tls, idle_connections=IDLE_CONNECTIONS, idle_per_host=IDLE_CONNECTIONS_PER_HOST
    )
