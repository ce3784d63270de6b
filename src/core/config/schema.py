"""Every key of the configuration, with type and default. `docs/configuration.md` lists them; a test holds it to this.

Our own configuration refuses what it does not know: a misspelt limit that is silently ignored costs money.
"""

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# What PyYAML lets through from `int`, `date` and its own tables: 2026-13-45, !!int x, !!bool x, 5,000 digits.
NO_SUCH_VALUE = (ArithmeticError, AttributeError, LookupError, ValueError)


class EnvText(str):
    """Text that came out of a variable. `${RPM}` may stand where a number or true/false is asked for."""

    __slots__ = ()


def _from_variable(value: Any) -> Any:
    if not isinstance(value, EnvText):
        return value
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, *NO_SUCH_VALUE):
        return str(value)


def _as_http_url(value: str) -> str:
    if not re.match(r"https?://[^/\s]+", value):
        raise ValueError("must be an http:// or https:// address")
    return value


def _as_day_start(value: str) -> str:
    time, _, zone = value.partition(" ")
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", time):
        raise ValueError('must be "HH:MM Area/City", for example "00:00 America/Los_Angeles"')
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"names a time zone that does not exist: {zone or '(none)'}") from None
    return value


def _none_if_empty(value: Any) -> Any:
    return value or None


def _as_category(value: str) -> str:
    return value.upper()


def _as_unknown_model(value: Any) -> Any:
    return "404" if value == 404 else value


Count = Annotated[int, BeforeValidator(_from_variable), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(_from_variable), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(_from_variable), Field(gt=0, allow_inf_nan=False)]
NoneOrSeconds = Annotated[  # 0: none, as in the old configurations
    Annotated[float, BeforeValidator(_from_variable), Field(ge=0, allow_inf_nan=False)] | None,
    AfterValidator(_none_if_empty),
]
Flag = Annotated[bool, BeforeValidator(_from_variable)]
Text = Annotated[str, Field(min_length=1)]
HttpUrl = Annotated[str, AfterValidator(_as_http_url)]
Category = Annotated[str, Field(min_length=1), AfterValidator(_as_category)]
Capability = Literal["tools", "vision", "json_schema", "streaming", "prefill"]
Kind = Literal["chat", "embedding", "image"]
StoreFailure = Literal["local", "deny"]


class Block(BaseModel):
    """`defer_build`: half of them are never validated by themselves, and of the others not all in every process."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Limits(Block):
    """None: no limit. 0: switched off."""

    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    requests_per_day: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_hour: Count | None = None
    tokens_per_day: Count | None = None


class Throttle(Block):
    max_in_flight: Positive | None = None
    min_interval_ms: Count = 0
    max_wait_ms: Count = 2000


class Breaker(Block):
    failures: Positive = 1
    cooldown_seconds: Seconds = 15.0
    max_cooldown_seconds: Seconds = 600.0


class Timeouts(Block):
    """Seconds. `response` bounds the first byte of a buffered answer."""

    connect: Seconds = 5.0
    first_token: Seconds = 30.0
    idle: Seconds = 30.0
    response: Seconds = 120.0
    total: Seconds = 600.0


class HttpClientConfig(Block):
    timeout_seconds: NoneOrSeconds = None
    idle_conn_timeout_seconds: NoneOrSeconds = None


class Demo(Block):
    """What the `demo` provider plays."""

    reply: Text | None = None
    first_token_ms: Count | None = None
    token_ms: Count | None = None
    status: Annotated[int, BeforeValidator(_from_variable), Field(ge=400, le=599)] | None = None
    retry_after_seconds: Positive | None = None
    cut_after: Positive | None = None
    stall_after: Positive | None = None
    every: Positive | None = None


class Settings(Block):
    """What may stand on a model and, as the default for its models, under `providers`."""

    url: HttpUrl | None = Field(default=None, repr=False)  # old configurations have a key in it
    base_url: HttpUrl | None = Field(default=None, repr=False)
    token: Annotated[str | None, AfterValidator(_none_if_empty)] = Field(default=None, repr=False)
    headers: dict[str, Text] = Field(default_factory=dict, repr=False)
    priority: Count = 100
    model_size: Category | None = None
    kind: Kind | None = None
    max_request_length: Count | None = None
    context_tokens: Positive | None = None
    capabilities: list[Capability] | None = None
    fallbacks: list[Text] = Field(default_factory=list)
    day_starts: Annotated[str, AfterValidator(_as_day_start)] = "00:00 Etc/UTC"
    breaker: Breaker | None = None
    timeouts: Timeouts | None = None
    http_client_config: HttpClientConfig | None = None
    store_failure: StoreFailure = "local"
    optional: Flag = False
    auth_url: HttpUrl | None = None
    scope: Text | None = None
    ca_bundle: Text | None = None
    account_id: Text | None = None
    api_version: Text | None = None
    region: Text | None = None
    demo: Demo | None = None


class ProviderEntry(Settings, Limits, Throttle):
    dialect: Text | None = None


class ModelEntry(Settings, Limits, Throttle):
    name: Text
    provider: Text
    upstream_model: Text | None = None
    aliases: list[Text] = Field(default_factory=list)


class KeyEntry(Limits):
    name: Text
    token: Annotated[str, Field(min_length=16)] | None = Field(default=None, repr=False)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    models: list[Text] | None = None
    store_failure: StoreFailure = "local"


class Auth(Block):
    keys: Annotated[list[KeyEntry], Field(min_length=1)]


class State(Block):
    store: Literal["memory", "sqlite", "dynamodb"] = "sqlite"
    path: Text = ".sluice/state.db"
    table: Text | None = None
    region: Text | None = None
    endpoint_url: HttpUrl | None = None
    timeout_ms: Positive = 150
    expected_instances: Positive = 1


class Server(Block):
    max_body_bytes: Positive = 10 * 2**20
    default_category: Category = "SMALL"
    max_attempts: Positive = 5
    recover_streams: Flag = False
    unknown_model: Annotated[Category, BeforeValidator(_as_unknown_model)] = "404"
    cors_origins: list[Text] = Field(default_factory=list)
    http_client: Literal["aiohttp", "httpx"] = "aiohttp"
    hold_status_seconds: Seconds | None = None
    max_in_flight: Positive = 1000


class Config(Block):
    server: Server = Server()
    auth: Auth
    state: State | None = None
    providers: dict[str, ProviderEntry] = Field(default_factory=dict)
    models: Annotated[list[ModelEntry], Field(min_length=1)]
