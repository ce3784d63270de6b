"""Certificates are read by who checks them.

aiohttp makes two TLS contexts when it is imported and reads all that this machine trusts for either, though one of them
checks nothing: a twentieth of a start.
"""

import contextlib
import ssl
from collections.abc import Iterator

_READ = ssl.SSLContext.set_default_verify_paths


@contextlib.contextmanager
def read_where_checked() -> Iterator[None]:
    ssl.SSLContext.set_default_verify_paths = _read_where_checked  # type: ignore[assignment]
    try:
        yield
    finally:
        ssl.SSLContext.set_default_verify_paths = _READ  # type: ignore[method-assign]


def _read_where_checked(context: ssl.SSLContext) -> None:
    if context.verify_mode is not ssl.CERT_NONE:
        _READ(context)
