"""The configuration made ready for requests: every model with all that holds for it, immutable once built."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from .admission import Scope
from .breaker import Breaker
from .config import Config, Loaded, ModelEntry, ProviderEntry
from .config.cross_checks import categories_of, kind_of, row_of
from .config.schema import Breaker as BreakerBlock
from .config.schema import Kind, Limits, Settings
from .config.schema import Throttle as ThrottleBlock
from .config.schema import Timeouts as TimeoutsBlock
from .frozen import frozen
from .limits import Limit
from .providers.dialect import Endpoint, Provider
from .providers.images import images_at
from .throttle import Throttle


@frozen
class Timeouts:
    """Seconds. `response`: the first byte of a whole answer; `buffered_total`: all of it; `total`: all of a stream."""

    connect: float
    first_token: float
    idle: float
    response: float
    total: float
    buffered_total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """`provider` is the entry of the configuration, `row` how it is spoken to. `category` is None: by name only.

    `counts_failures`: transient failures open the breaker, which they do not where nobody else could answer.
    `is_off`: one of its limits, or of its account's, is 0.
    """

    name: str
    provider: str
    row: Provider
    endpoint: Endpoint = field(repr=False)  # old configurations have a key in its address
    kind: Kind
    category: str | None
    priority: int
    capabilities: frozenset[str]
    max_request_length: int | None
    context_tokens: int | None
    limits: Limits
    scope: Scope
    account: Scope | None  # of its provider entry, where that has limits or a throttle of its own
    breaker: Breaker
    counts_failures: bool
    max_wait_ms: int
    is_off: bool
    timeouts: Timeouts
    aliases: tuple[str, ...]
    fallbacks: tuple[str, ...]
    key_source: str


@frozen
class Catalog:
    """`models` in configuration order; `by_name` knows aliases too; `pools` as `_pools` has them."""

    config: Config
    models: tuple[Model, ...]
    by_name: Mapping[str, Model]
    pools: Mapping[tuple[Kind, str | None], Sequence[Model]]
    categories: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)

    def of_category(self, category: str) -> list[Model]:
        return [model for model in self.models if model.category == category]


def build_catalog(loaded: Loaded) -> Catalog:
    config = loaded.config
    models = tuple(_model(loaded, index, entry) for index, entry in enumerate(config.models))
    models = tuple(
        replace(model, counts_failures=model.counts_failures or _has_other(model, models)) for model in models
    )
    by_name = {name: model for model in models for name in (model.name, *model.aliases)}
    secrets = [model.endpoint.token for model in models] + [key.token or "" for key in config.auth.keys]
    return Catalog(
        config, models, by_name, _pools(models), tuple(categories_of(config)), tuple({s for s in secrets if s})
    )


def _pools(models: Sequence[Model]) -> dict[tuple[Kind, str | None], list[Model]]:
    """Who may answer without being named, best first, by kind and category; None: of any category."""
    pools: dict[tuple[Kind, str | None], list[Model]] = {}
    for model in sorted(models, key=lambda model: model.priority):
        if model.category and not model.is_off:
            for category in (model.category, None):
                pools.setdefault((model.kind, category), []).append(model)
    return pools


def _model(loaded: Loaded, index: int, entry: ModelEntry) -> Model:
    config = loaded.config
    settled, row = _settle(entry, config.providers.get(entry.provider)), row_of(config, entry)
    capabilities = row.capabilities if settled.capabilities is None else frozenset(settled.capabilities)
    breaker, timeouts = _breaker(settled), _timeouts(settled)
    provider = config.providers.get(entry.provider)
    kind = kind_of(settled)
    if kind == "image" and row.images is None:
        row = replace(row, images=images_at(row, settled.url))
    account = _account(entry.provider, provider, breaker, timeouts, row.day_starts)
    return Model(
        name=entry.name,
        provider=entry.provider,
        row=row,
        endpoint=_endpoint(settled, row, kind),
        kind=kind,
        category=settled.model_size,
        priority=settled.priority,
        capabilities=capabilities,
        max_request_length=settled.max_request_length or None,
        context_tokens=settled.context_tokens,
        limits=entry,
        scope=Scope(
            f"m#{entry.name}",
            limits_of(entry),
            _day_starts(settled, row.day_starts),
            breaker,
            _throttle(entry, timeouts),
            settled.store_failure == "deny",
        ),
        account=account,
        breaker=breaker,
        counts_failures=settled.breaker is not None,
        max_wait_ms=entry.max_wait_ms,
        is_off=any(limit.most == 0 for limit in (*limits_of(entry), *(account.limits if account else ()))),
        timeouts=timeouts,
        aliases=tuple(entry.aliases),
        fallbacks=tuple(settled.fallbacks),
        key_source=_key_source(loaded, index, entry),
    )


def limits_of(block: Limits) -> tuple[Limit, ...]:
    """The limits that are set, the widest window last."""
    spans = itertools.product(("requests", "tokens"), ("minute", "hour", "day"))
    found = ((what, span, getattr(block, f"{what}_per_{span}")) for what, span in spans)
    return tuple(Limit(what, span, most) for what, span, most in found if most is not None)


def _has_other(model: Model, models: tuple[Model, ...]) -> bool:
    """Whether somebody else could answer in its place."""
    return bool(model.fallbacks) or any(
        other.name != model.name and not other.is_off and (other.category, other.kind) == (model.category, model.kind)
        for other in models
        if model.category
    )


def _breaker(settled: ModelEntry) -> Breaker:
    block = settled.breaker or BreakerBlock()
    return Breaker(block.failures, int(block.cooldown_seconds * 1000), int(block.max_cooldown_seconds * 1000))


def _throttle(block: ThrottleBlock, timeouts: Timeouts) -> Throttle:
    """A lease outlives the longest call by a minute."""
    longest_s = max(timeouts.total, timeouts.buffered_total)
    return Throttle(block.max_in_flight, block.min_interval_ms, int(longest_s * 1000) + 60_000)


def _day_starts(settings: Settings, usual: str) -> str:
    """As it is configured, else as the provider's days are known to begin."""
    return settings.day_starts if "day_starts" in settings.model_fields_set else usual


def _account(
    name: str, entry: ProviderEntry | None, breaker: Breaker, timeouts: Timeouts, day_starts: str
) -> Scope | None:
    if entry is None:
        return None
    denies = entry.store_failure == "deny"
    scope = Scope(
        f"p#{name}", limits_of(entry), _day_starts(entry, day_starts), None, _throttle(entry, timeouts), denies
    )
    return None if scope.is_free else replace(scope, breaker=breaker)


def _settle(entry: ModelEntry, provider: ProviderEntry | None) -> ModelEntry:
    """The model's own settings over its provider's, key by key; a provider's limits and throttle stay its own."""
    if provider is None:
        return entry
    inherited = set(Settings.model_fields) - set(Limits.model_fields) - set(ThrottleBlock.model_fields)
    defaults = provider.model_dump(include=inherited, exclude_unset=True)
    if entry.base_url:
        defaults.pop("url", None)  # the model's own address, whichever form it has, comes first
    return ModelEntry.model_validate(_over(entry.model_dump(exclude_unset=True), defaults))


def _over(own: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **own}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            merged[key] = _over(own[key], value)
    return merged


def _endpoint(settled: ModelEntry, row: Provider, kind: Kind) -> Endpoint:
    upstream_model = settled.upstream_model or _upstream_id(settled.name, settled.provider, row)
    parts = {"account_id": settled.account_id, "region": settled.region}
    url = settled.url or row.address_of(kind, upstream_model, settled.base_url or "", **parts)
    url, key = row.without_key(url)
    if settled.demo:
        url += "?" + urlencode(settled.demo.model_dump(exclude_none=True))
    return Endpoint(
        url=url,
        upstream_model=upstream_model,
        token=settled.token or key,
        headers={name.lower(): value for name, value in settled.headers.items()},  # one spelling, so that one is sent
        region=settled.region,
        api_version=settled.api_version,
        auth_url=settled.auth_url,
        scope=settled.scope,
        ca_bundle=settled.ca_bundle,
    )


def _upstream_id(name: str, entry: str, row: Provider) -> str:
    """`groq/llama` as Groq knows it; the entry's own name may stand in front as well as the provider's."""
    first, slash, rest = name.partition("/")
    upstream_id = rest if slash and first in (entry, row.name) else name
    return row.model_prefix + upstream_id.removeprefix(row.model_prefix)


def _timeouts(settled: ModelEntry) -> Timeouts:
    """`timeouts` before `http_client_config` before the defaults."""
    own, old = settled.timeouts, settled.http_client_config
    given = own.model_dump(exclude_unset=True) if own else {}
    whole = old.timeout_seconds if old else None
    if whole is not None:
        given = {"first_token": whole, "idle": whole, "response": whole, "buffered_total": whole, **given}
    if "first_token" in given:
        given.setdefault("response", given["first_token"])
    seconds: dict[str, float] = {**TimeoutsBlock().model_dump(), **given}
    seconds.setdefault("buffered_total", seconds["total"])
    return Timeouts(**seconds)


def _key_source(loaded: Loaded, index: int, entry: ModelEntry) -> str:
    provider = loaded.config.providers.get(entry.provider)
    if entry.token:
        return loaded.key_sources.get(("models", index, "token"), "the file")
    if provider and provider.token:
        return loaded.key_sources.get(("providers", entry.provider, "token"), "the file")
    return "none needed"
