"""What a provider is: a value that says where it is and how it speaks. Pure: no provider sends anything itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..chat import Chat
from ..errors import UpstreamError
from ..http_client.port import HttpRequest
from ..stream import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What a dialect must know of a model to ask it: full address, the id the provider knows it by, our key."""

    url: str
    upstream_model: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """A buffered answer. `raw` is the JSON for the caller, `body` the same, read."""

    body: dict[str, Any]
    raw: bytes


class Dialect(Protocol):
    """One language that providers speak. Every method is a pure function of its arguments."""

    def request(self, endpoint: Endpoint, chat: Chat) -> HttpRequest: ...

    def decoder(self) -> Decoder:
        """A reader for the stream that answers `request`."""
        ...

    def completion(self, raw: bytes) -> Completion | UpstreamError:
        """The body of a buffered 200, which may hold an error all the same."""
        ...

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        """An answer with any status but 200. Header names are in lower case; `now` is Unix time in seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A row of the table of providers."""

    name: str
    dialect: Dialect
    base_url: str = ""  # empty: the configuration must have a `url` or a `base_url`
    chat_path: str = "/chat/completions"
    needs_token: bool = True
    capabilities: frozenset[str] = frozenset({"tools", "vision", "json_schema", "streaming"})
