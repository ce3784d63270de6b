"""What a provider is: a value that says where it is and how it speaks. Pure: no provider sends anything itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import parse_qsl, quote, urlencode

from ..chat import Chat
from ..drawing import Drawing
from ..embedding import Embedding
from ..errors import UpstreamError
from ..frozen import frozen
from ..http_client.port import HttpRequest
from ..picture import Picture
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


@frozen
class Token:
    """What a key was exchanged for. `expires_at`: Unix seconds."""

    value: str = field(repr=False)
    expires_at: float


@frozen
class Completion:
    """A buffered answer.

    `raw` is what the caller gets, in JSON unless `media_type` says otherwise, `body` the same, read; `dropped` as in
    `Outgoing`; `reported` is what came with it of the provider's limits.
    """

    body: dict[str, Any]
    raw: bytes
    dropped: tuple[str, ...] = ()
    reported: tuple[ReportedLimit, ...] = ()
    media_type: str = "application/json"


@frozen
class Drawn:
    """One picture, or the address where it lies.

    `form`: how it came, where that was in OpenAI's way; `about`: what that form says of it besides.
    """

    picture: Picture | None = None
    url: str = ""
    form: Literal["", "b64_json", "url"] = ""
    about: dict[str, Any] = field(default_factory=dict)


@frozen
class Drawings:
    """All pictures of an answer.

    `body`: what OpenAI's form says beside them; `raw`: the answer as it came, where it has that form.
    """

    drawn: tuple[Drawn, ...]
    body: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""


@frozen
class Later:
    """The pictures are not there yet, or lie elsewhere at the same provider: this has them, after so long."""

    request: HttpRequest
    after_s: float = 0.0


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


class Images(Protocol):
    """A language in which pictures are asked for."""

    def path(self, upstream_model: str) -> str:
        """What is appended to the base URL."""
        ...

    def drawing_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        """Raises UpstreamError, `reached=False`, for what cannot be said to this provider."""
        ...

    def drawings(self, raw: bytes, endpoint: Endpoint) -> Drawings | Later | UpstreamError:
        """The body of a 200 that answers `drawing_request`, or the request of a `Later`."""
        ...


@runtime_checkable
class Edits(Protocol):
    """A language in which pictures can be sent along to be changed. It is answered as a `drawing_request` is."""

    def edit_request(self, endpoint: Endpoint, drawing: Drawing) -> Outgoing:
        """Raises UpstreamError, `reached=False`, for what cannot be said to this provider."""
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
    none. `vectors` is how it is asked for embeddings where its dialect does not know them. `images` is how it is asked
    for pictures, at `images_base_url` where that is not `base_url`; None: not known. `key_in_url` is the part of
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
    images: Images | None = None
    images_base_url: str = ""
    key_in_url: str = ""
    day_starts: str = "00:00 Etc/UTC"
    takes_picture_addresses: bool = True
    login: Login | None = None
    aws_service: str = ""

    @property
    def embeddings(self) -> Embeddings | None:
        """None: it has none."""
        return self.vectors or (self.dialect if isinstance(self.dialect, Embeddings) else None)

    def address_of(self, kind: str, upstream_model: str, base_url: str, **parts: str | None) -> str:
        """Where a model is asked: below a `base_url` that is configured, else below the provider's, which has `parts`.

        Pictures may lie elsewhere than chats: a `base_url` that ends as a chat's does is taken without that end.
        """
        own, path = self.base_url, self.embeddings_path if kind == "embedding" else self.chat_path
        path = path.format(model=quote(upstream_model, safe=""))
        if kind == "image":
            own = self.images_base_url or self.base_url
            assert self.images is not None, "the catalog sees to that"
            path = self.images.path(upstream_model)
        base_url = base_url.rstrip("/").removesuffix(self.base_url.removeprefix(own))
        return (base_url or own.format(**parts).rstrip("/")) + path

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
