"""Where an answer goes while the application makes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

Headers = Iterable[tuple[bytes, bytes]]
_HOP_BY_HOP = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive"})  # the front end's affair


@dataclass(frozen=True, slots=True)
class Failure:
    """What is said of an answer that could not be given or finished. Callers may see it: a type, a short sentence."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Prelude:
    """Status and headers in the form that front ends read: one value a name, cookies apart."""

    status: int
    headers: dict[str, str]
    cookies: list[str]

    @classmethod
    def of(cls, status: int, headers: Headers) -> "Prelude":
        found: dict[str, str] = {}
        cookies: list[str] = []
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name == "set-cookie":
                cookies.append(value)
            elif name not in _HOP_BY_HOP:
                found[name] = f"{found[name]}, {value}" if name in found else value
        found.setdefault("content-type", "application/octet-stream")  # without one, front ends make up their own
        return cls(status, found, cookies)


class Writer(Protocol):
    """`start`, any number of `write`, then `end`; or `fail` at any point before `end`.

    `start` and `write` raise OSError when nobody takes the answer any more; `gone` is called as soon as that is known.
    """

    gone: Callable[[], None]

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, piece: bytes) -> None: ...

    async def end(self) -> None: ...

    async def fail(self, failure: Failure) -> None: ...


class FailedError(Exception):
    """The answer could not be given: for a runtime that reports what a handler raises."""


class Buffer:
    """The answer as a whole, for the stock runtime."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.gone: Callable[[], None] = lambda: None

    async def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, list(headers)

    async def write(self, piece: bytes) -> None:
        self.body += piece

    async def end(self) -> None: ...

    async def fail(self, failure: Failure) -> None:
        raise FailedError(f"{failure.type}: {failure.message}")
