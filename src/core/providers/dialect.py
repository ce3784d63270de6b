"""What a provider is: a value that says where it is and how it speaks. Pure: no provider sends anything itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl, urlencode

from ..chat import Chat
from ..embedding import Embedding
from ..errors import UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from ..stream import Decoder
from .limit_headers import LimitHeaders, ReportedLimit, read_limits, wait_for_room


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What a dialect must know of a model to ask it: full address, the id the provider knows it by, our key."""

    url: str = field(repr=False)  # old configurations have a key in it
    upstream_model: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    region: str | None = None
    api_version: str | None = None
    auth_url: str | None = None
    scope: str | None = None
    ca_bundle: str | None = None


@frozen
class Outgoing:
    """What is sent. `dropped` names the fields of the caller's that the provider cannot take and that only advise."""

    request: HttpRequest
    dropped: tuple[str, ...] = ()


@frozen
class Stamp:
    """What an answer is called where its provider gives it no name. `created`: Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class Token:
    """What a key was exchanged for. `expires_at`: Unix seconds."""

    value: str = field(repr=False)
    expires_at: float


@frozen
class Completion:
    """A buffered answer.

    `raw` is the JSON for the caller, `body` the same, read; `dropped` as in `Outgoing`; `reported` is what came with it
    of the provider's limits.
    """

    body: dict[str, Any]
    raw: bytes
    dropped: tuple[str, ...] = ()
    reported: tuple[ReportedLimit, ...] = ()


class Dialect(Protocol):
    """One language that providers speak. Every method is a pure function of its arguments."""

    def request(self, endpoint: Endpoint, chat: Chat) -> Outgoing:
        """Raises UpstreamError, `reached=False`, for what cannot be said to this provider."""
        ...

    def decoder(self, chat: Chat, stamp: Stamp) -> Decoder:
        """A reader for the stream that answers the request for `chat`."""
        ...

    def completion(self, raw: bytes, chat: Chat, stamp: Stamp) -> Completion | UpstreamError:
        """The body of a buffered 200, which may hold an error all the same."""
        ...

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        """An answer with any status but 200. Header names are in lower case; `now` is Unix time in seconds."""
        ...


@runtime_checkable
class Embeddings(Protocol):
    """A language in which texts are turned into vectors."""

    def embedding_request(self, endpoint: Endpoint, embedding: Embedding) -> HttpRequest: ...

    def embedding(self, raw: bytes) -> Completion | UpstreamError:
        """The body of a 200 that answers `embedding_request`."""
        ...


class Login(Protocol):
    """How a key is exchanged for a token, which is then sent as a bearer's."""

    def request(self, endpoint: Endpoint, request_id: str) -> HttpRequest: ...

    def token(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> Token | UpstreamError:
        """The answer to `request`, whatever its status."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A row of the table of providers.

    `base_url` may hold `{account_id}` and `{region}`, which a configuration must then have, `chat_path` `{model}`; an
    empty `base_url`: the configuration must have a `url` or a `base_url`. `model_prefix` stands before the id that the
    provider knows a model by. `models_url` is its list of models when that is not `base_url/models`; empty: it has
    none. `vectors` is how it is asked for embeddings where its dialect does not know them. `key_in_url` is the part of
    a query in which old configurations have the key: it is taken out and sent as a token. `day_starts` is when its
    daily limits begin anew. `login` is there where the key is not what is sent. `takes_picture_addresses` False:
    pictures at an address are fetched and sent along. `aws_service`: without a token, requests are signed for it.
    """

    name: str
    dialect: Dialect
    base_url: str = ""
    chat_path: str = "/chat/completions"
    embeddings_path: str = "/embeddings"
    models_url: str | None = None
    model_prefix: str = ""
    needs_token: bool = True
    capabilities: frozenset[str] = frozenset({"tools", "vision", "json_schema", "streaming"})
    limit_headers: tuple[LimitHeaders, ...] = ()
    vectors: Embeddings | None = None
    key_in_url: str = ""
    day_starts: str = "00:00 Etc/UTC"
    takes_picture_addresses: bool = True
    login: Login | None = None
    aws_service: str = ""

    @property
    def embeddings(self) -> Embeddings | None:
        """None: it has none."""
        return self.vectors or (self.dialect if isinstance(self.dialect, Embeddings) else None)

    def without_key(self, url: str) -> tuple[str, str]:
        """An address and the key that it held, which is empty where it held none."""
        address, _, query = url.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True) if self.key_in_url else []
        key = next((value for name, value in pairs if name == self.key_in_url), "")
        if not key:
            return url, ""
        rest = urlencode([(name, value) for name, value in pairs if name != self.key_in_url])
        return address + ("?" + rest if rest else ""), key

    def failure(self, status: int, headers: Mapping[str, str], raw: bytes, *, now: float) -> UpstreamError:
        """As the dialect judges it; when nothing else says until when, the limit headers may."""
        error = self.dialect.failure(status, headers, raw, now=now)
        if error.retry_after_s is None and status in (429, 503):
            error.retry_after_s = wait_for_room(self.reported(headers, now=now))
        return error

    def reported(self, headers: Mapping[str, str], *, now: float) -> tuple[ReportedLimit, ...]:
        """What an answer's headers say of the limits."""
        return tuple(read_limits(self.limit_headers, headers, now))
