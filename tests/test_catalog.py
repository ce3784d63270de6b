"""The configuration made ready for requests: what holds for a model once its provider's defaults have been applied."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from core.catalog import Catalog, Model, Timeouts, build_catalog
from core.config import load
from core.config.schema import Demo
from core.http_client.demo import Script
from core.providers import PROVIDERS

TOKEN = "0123456789abcdef"


def catalog(*models: dict[str, Any], env: dict[str, str] | None = None, **blocks: Any) -> Catalog:
    auth = {"keys": [{"name": "app", "token": TOKEN}]}
    return build_catalog(load(yaml.safe_dump({"auth": auth, "models": models, **blocks}), name="x.yaml", env=env or {}))


def model(own: dict[str, Any] | None = None, defaults: dict[str, Any] | None = None) -> Model:
    """One model of a provider `acme`, which stands in the configuration if `defaults` do."""
    entry = {"name": "m1", "provider": "acme", "base_url": "https://model.example/v1", **(own or {})}
    blocks: dict[str, Any] = {} if defaults is None else {"providers": {"acme": defaults}}
    return catalog({name: value for name, value in entry.items() if value is not None}, **blocks).models[0]


def test_a_model_without_settings_has_the_defaults_of_the_contract() -> None:
    plain = model()
    assert (plain.name, plain.provider, plain.kind, plain.category, plain.priority) == ("m1", "acme", "chat", None, 100)
    assert (plain.max_request_length, plain.context_tokens, plain.aliases, plain.fallbacks) == (None, None, (), ())
    assert plain.timeouts == Timeouts(connect=5, first_token=30, idle=30, response=120, total=600, buffered_total=600)
    assert plain.limits.requests_per_minute is None
    assert plain.capabilities == plain.row.capabilities


def test_a_lease_outlives_the_longest_call_of_the_model_and_of_its_account() -> None:
    """Streamed, or as a whole with the old key. A function's own time-out can only end a call sooner."""
    slow = model({"timeouts": {"total": 1800}, "max_in_flight": 2}, {"timeouts": {"total": 60}, "max_in_flight": 8})
    assert slow.account
    assert [scope.throttle.lease_ms for scope in (slow.scope, slow.account)] == [1_860_000, 1_860_000]
    old = model({"http_client_config": {"timeout_seconds": 900}, "max_in_flight": 2})
    assert (old.timeouts.total, old.timeouts.buffered_total, old.scope.throttle.lease_ms) == (600, 900, 960_000)


@pytest.mark.parametrize(
    ("setting", "default", "own", "field"),
    [
        ("priority", 7, 3, "priority"),
        ("priority", 7, 0, "priority"),
        ("model_size", "BIG", "SMALL", "category"),
        ("context_tokens", 8000, 4000, "context_tokens"),
        ("max_request_length", 8000, 4000, "max_request_length"),
        ("kind", "embedding", "chat", "kind"),
    ],
)
def test_a_models_own_setting_goes_before_its_providers_default(
    setting: str, default: Any, own: Any, field: str
) -> None:
    assert getattr(model({}, {setting: default}), field) == default
    assert getattr(model({setting: own}, {setting: default}), field) == own
    assert getattr(model({setting: own}, {}), field) == own


@pytest.mark.parametrize(
    ("own", "fallbacks", "capabilities"),
    [
        ({}, ("m2",), {"tools"}),
        ({"fallbacks": []}, (), {"tools"}),
        ({"fallbacks": ["m3"]}, ("m3",), {"tools"}),
        ({"capabilities": ["vision", "streaming"]}, ("m2",), {"vision", "streaming"}),
        ({"capabilities": []}, ("m2",), set()),
    ],
)
def test_lists_are_replaced_not_joined(own: dict[str, Any], fallbacks: tuple[str, ...], capabilities: set[str]) -> None:
    first = {"name": "m1", "provider": "acme", "base_url": "http://x", **own}
    others = [{"name": name, "provider": "demo"} for name in ("m2", "m3")]
    built = catalog(first, *others, providers={"acme": {"fallbacks": ["m2"], "capabilities": ["tools"]}}).models[0]
    assert built.fallbacks == fallbacks
    assert built.capabilities == frozenset(capabilities)


def test_blocks_inside_a_default_are_merged_key_by_key() -> None:
    both = model(
        {"timeouts": {"idle": 9}, "headers": {"x-b": "own"}},
        {"timeouts": {"total": 90, "idle": 1}, "headers": {"x-a": "1", "x-b": "2"}},
    )
    assert (both.timeouts.idle, both.timeouts.total, both.timeouts.connect) == (9, 90, 5)
    assert both.endpoint.headers == {"x-a": "1", "x-b": "own"}


def test_a_header_is_one_header_however_its_name_is_written() -> None:
    """Two spellings of one name would be sent as two headers."""
    headers = model(
        {"headers": {"X-Title": "own"}}, {"headers": {"x-title": "default", "User-Agent": "acme"}}
    ).endpoint.headers
    assert headers == {"x-title": "own", "user-agent": "acme"}


def test_a_providers_limits_are_its_own_and_not_its_models() -> None:
    """They are one pool for the account; handed down, each model would have all of it."""
    pool = {f"{what}_per_{window}": 5 for what in ("requests", "tokens") for window in ("minute", "hour", "day")}
    entry = {"name": "m1", "provider": "acme", "base_url": "http://x", "tokens_per_day": 9}
    built = catalog(entry, providers={"acme": {**pool, "max_in_flight": 2, "min_interval_ms": 50}})
    own = built.models[0].limits.model_dump(include={*pool})
    assert own == {**dict.fromkeys(pool), "tokens_per_day": 9}
    assert built.config.providers["acme"].model_dump(include={*pool}) == pool


@pytest.mark.parametrize(
    ("own", "defaults", "url"),
    [
        ({"base_url": "https://a/v1"}, None, "https://a/v1/chat/completions"),
        ({"base_url": "https://a/v1/"}, None, "https://a/v1/chat/completions"),
        ({"url": "https://a/full"}, None, "https://a/full"),
        ({"url": "https://a/full", "base_url": "https://a/v1"}, None, "https://a/full"),
        ({"base_url": None}, {"base_url": "https://p/v1"}, "https://p/v1/chat/completions"),
        ({"base_url": None}, {"url": "https://p/full"}, "https://p/full"),
        ({"base_url": "https://a/v1"}, {"base_url": "https://p/v1"}, "https://a/v1/chat/completions"),
        ({"base_url": "https://a/v1"}, {"url": "https://p/full"}, "https://a/v1/chat/completions"),
        ({"base_url": None, "url": "https://a/full"}, {"base_url": "https://p/v1"}, "https://a/full"),
        ({"base_url": "https://a/v1", "kind": "embedding"}, None, "https://a/v1/embeddings"),
        ({"base_url": None, "provider": "openai", "token": "t"}, None, "https://api.openai.com/v1/chat/completions"),
        (
            {"base_url": None, "provider": "openai", "token": "t", "kind": "embedding"},
            None,
            "https://api.openai.com/v1/embeddings",
        ),
        (
            {"base_url": None, "provider": "cloudflare", "token": "t", "account_id": "abc"},
            None,
            "https://api.cloudflare.com/client/v4/accounts/abc/ai/v1/chat/completions",
        ),
        ({"base_url": None}, {"dialect": "groq", "token": "t"}, "https://api.groq.com/openai/v1/chat/completions"),
        ({"base_url": None, "provider": "demo"}, None, "demo://local/v1/chat/completions"),
    ],
)
def test_an_address_is_the_nearest_one_written_and_else_the_providers(
    own: dict[str, Any], defaults: dict[str, Any] | None, url: str
) -> None:
    assert model(own, defaults).endpoint.url == url


@pytest.mark.parametrize(
    ("own", "defaults", "upstream"),
    [
        ({"name": "m1"}, None, "m1"),
        ({"name": "acme/m1"}, None, "m1"),
        ({"name": "acme/org/m1:free"}, None, "org/m1:free"),
        ({"name": "acme/acme/m1"}, None, "acme/m1"),
        ({"name": "org/m1"}, None, "org/m1"),
        ({"name": "acmes/m1"}, None, "acmes/m1"),
        ({"name": "acme/m1", "upstream_model": "acme/m1"}, None, "acme/m1"),
        ({"name": "acme/m1"}, {"dialect": "groq", "token": "t"}, "m1"),
        ({"name": "groq/m1"}, {"dialect": "groq", "token": "t"}, "m1"),
        ({"name": "deepseek/chat:free", "provider": "openrouter", "token": "t"}, None, "deepseek/chat:free"),
        ({"name": "openrouter/deepseek/chat", "provider": "openrouter", "token": "t"}, None, "deepseek/chat"),
        ({"name": "cloudflare/cf/meta/x", "provider": "cloudflare", "token": "t"}, None, "@cf/meta/x"),
        ({"name": "cloudflare/@cf/meta/x", "provider": "cloudflare", "token": "t"}, None, "@cf/meta/x"),
    ],
)
def test_the_provider_knows_a_model_by_its_name_less_the_providers(
    own: dict[str, Any], defaults: dict[str, Any] | None, upstream: str
) -> None:
    assert model(own, defaults).endpoint.upstream_model == upstream


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {}),
        (
            {"timeouts": {"connect": 1, "first_token": 2, "idle": 3, "response": 4, "total": 5}},
            {"connect": 1, "first_token": 2, "idle": 3, "response": 4, "total": 5, "buffered_total": 5},
        ),
        ({"timeouts": {"first_token": 7}}, {"first_token": 7, "response": 7}),
        ({"timeouts": {"first_token": 7, "response": 90}}, {"first_token": 7, "response": 90}),
        ({"timeouts": {"response": 90}}, {"response": 90}),
        ({"timeouts": {"total": 90}}, {"total": 90, "buffered_total": 90}),
        (
            {"http_client_config": {"timeout_seconds": 8}},
            {"first_token": 8, "idle": 8, "response": 8, "buffered_total": 8},
        ),
        ({"http_client_config": {"idle_conn_timeout_seconds": 8}}, {}),
        (
            {"http_client_config": {"timeout_seconds": 8}, "timeouts": {"idle": 3, "total": 50}},
            {"first_token": 8, "idle": 3, "response": 8, "buffered_total": 8, "total": 50},
        ),
        (
            {"http_client_config": {"timeout_seconds": 8}, "timeouts": {"response": 20}},
            {"first_token": 8, "idle": 8, "response": 20, "buffered_total": 8},
        ),
    ],
)
def test_timeouts_are_what_is_said_in_the_new_way_then_in_the_old_then_the_defaults(
    own: dict[str, Any], expected: dict[str, float]
) -> None:
    """`timeout_seconds` bounds a whole buffered answer, and of a stream its first token and its idle time, never its
    length; `response` follows a `first_token` that is set explicitly."""
    defaults = {"connect": 5, "first_token": 30, "idle": 30, "response": 120, "total": 600, "buffered_total": 600}
    assert model(own).timeouts == Timeouts(**{**defaults, **expected})
    assert model({}, own).timeouts == Timeouts(**{**defaults, **expected})


@pytest.mark.parametrize(
    ("own", "kind", "longest"),
    [
        ({}, "chat", None),
        ({"max_request_length": 5}, "chat", 5),
        ({"max_request_length": 0}, "image", None),
        ({"kind": "image"}, "image", None),
        ({"kind": "image", "max_request_length": 5}, "image", 5),
        ({"kind": "embedding"}, "embedding", None),
        ({"kind": "chat"}, "chat", None),
    ],
)
def test_a_length_of_zero_is_the_old_mark_of_an_image_model(
    own: dict[str, Any], kind: str, longest: int | None
) -> None:
    assert (model(own).kind, model(own).max_request_length) == (kind, longest)
    assert (model({}, own).kind, model({}, own).max_request_length) == (kind, longest)


@pytest.mark.parametrize(
    ("token", "provider_token", "token_is", "source"),
    [
        ("${M}", "${P}", "m-token", "$M"),
        ("written", "${P}", "written", "the file"),
        (None, "${P}", "p-token", "$P"),
        (None, "written", "written", "the file"),
        (None, None, "", "none needed"),
        ("${M}${P}", None, "m-tokenp-token", "$M, $P"),
        ("${NOT_SET:-default}", None, "default", "$NOT_SET"),
    ],
)
def test_where_a_models_key_comes_from_is_known_and_the_nearest_is_used(
    token: str | None, provider_token: str | None, token_is: str, source: str
) -> None:
    entry = {"name": "m1", "provider": "acme", "base_url": "http://x", **({"token": token} if token else {})}
    defaults = {"token": provider_token} if provider_token else {}
    env = {"M": "m-token", "P": "p-token"}
    built = catalog(entry, providers={"acme": defaults}, env=env).models[0]
    assert (built.endpoint.token, built.key_source) == (token_is, source)


def test_the_source_of_a_key_stays_with_its_model_when_another_is_left_out() -> None:
    gone = {"name": "gone", "provider": "openai", "token": "${NOT_SET}", "optional": True}
    written = {"name": "m1", "provider": "openai", "token": "written"}
    from_env = {"name": "m2", "provider": "openai", "token": "${KEY}"}
    models = catalog(gone, written, from_env, env={"KEY": "k"}).models
    assert [(m.name, m.key_source) for m in models] == [("m1", "the file"), ("m2", "$KEY")]


OPTIONS: dict[str, Any] = {
    "reply": "Two words & a sign?",
    "first_token_ms": 1,
    "token_ms": 0,
    "status": 503,
    "retry_after_seconds": 9,
    "cut_after": 4,
    "stall_after": 5,
    "every": 3,
}


def test_what_the_demo_plays_stands_in_its_address_and_is_read_back_from_there() -> None:
    assert OPTIONS.keys() == Demo.model_fields.keys()
    url = model({"provider": "demo", "base_url": None, "demo": OPTIONS}).endpoint.url
    assert url.startswith("demo://local/v1/chat/completions?")
    assert dict(parse_qsl(urlsplit(url).query)) == {name: str(value) for name, value in OPTIONS.items()}
    assert Script.read(url) == Script(**OPTIONS)


def test_what_the_demo_plays_may_be_a_default_of_its_provider() -> None:
    entry = {"name": "m1", "provider": "demo", "demo": {"token_ms": 5}}
    url = catalog(entry, providers={"demo": {"demo": {"token_ms": 1, "every": 2}}}).models[0].endpoint.url
    assert dict(parse_qsl(urlsplit(url).query)) == {"token_ms": "5", "every": "2"}


def test_models_are_found_by_name_by_alias_and_by_category_in_the_order_of_the_file() -> None:
    built = catalog(
        {"name": "b", "provider": "demo", "model_size": "small", "aliases": ["b1", "b2"]},
        {"name": "a", "provider": "demo", "model_size": "Vast"},
        {"name": "c", "provider": "demo", "model_size": "SMALL"},
        {"name": "d", "provider": "demo"},
    )
    assert [m.name for m in built.models] == ["b", "a", "c", "d"]
    assert {name: m.name for name, m in built.by_name.items()} == {
        "b": "b",
        "b1": "b",
        "b2": "b",
        "a": "a",
        "c": "c",
        "d": "d",
    }
    assert built.categories == ("SMALL", "BIG", "VAST")
    assert [m.name for m in built.of_category("SMALL")] == ["b", "c"]
    assert built.of_category("BIG") == []


def test_the_catalog_knows_every_token_once_to_keep_them_out_of_logs() -> None:
    built = catalog(
        {"name": "a", "provider": "openai", "token": "own"},
        {"name": "b", "provider": "openai"},
        {"name": "c", "provider": "openai"},
        {"name": "d", "provider": "demo"},
        providers={"openai": {"token": "shared"}},
    )
    assert sorted(built.secrets) == sorted(["own", "shared", TOKEN])


@pytest.mark.parametrize("name", sorted(PROVIDERS.keys() - {"airforce"}))  # whose address changes too often
def test_every_built_in_provider_needs_no_more_than_a_key_and_perhaps_an_account_and_a_region(name: str) -> None:
    entry = {"name": "m1", "provider": name, "token": "id:secret", "account_id": "abc", "region": "eu-west-1"}
    built = catalog(entry).models[0]
    assert built.row is PROVIDERS[name]
    assert urlsplit(built.endpoint.url).scheme in ("https", "http", "demo")
    assert "{" not in built.endpoint.url


def test_a_catalog_once_built_does_not_change() -> None:
    with pytest.raises(AttributeError):
        model().priority = 1  # type: ignore[misc]
