"""What no single key can tell: names that clash, references to nothing, keys that a provider needs."""

import base64
import ssl
from collections.abc import Iterator

from ..frozen import frozen
from ..providers import PROVIDERS, find_provider
from ..providers.dialect import Provider
from .schema import Config, KeyEntry, Kind, ModelEntry, Settings
from .source import Path, Problem

CATEGORIES = ("SMALL", "BIG")


@frozen
class Written:
    """What the file speaks of, in entries too that are broken or left out: who refers to those is not at fault."""

    names: set[str]  # of models, and their aliases
    sizes: dict[str, None]  # in order
    providers: set[str]


def problems_between(config: Config, written: Written) -> list[Problem]:
    categories = list(dict.fromkeys([*categories_of(config), *written.sizes]))
    return [
        *_keys(config, written.names, categories),
        *_names(config, categories),
        *_references(config, written.names),
        *_categories(config, categories),
        *_providers(config, written.providers - config.providers.keys()),
        *_state(config),
    ]


def categories_of(config: Config) -> list[str]:
    """SMALL and BIG first, then others in the order in which models name them."""
    sizes = (settings.model_size for settings in (*config.providers.values(), *config.models))
    return list(dict.fromkeys([*CATEGORIES, *(size for size in sizes if size)]))


def dialect_of(config: Config, model: ModelEntry) -> str:
    entry = config.providers.get(model.provider)
    return (entry and entry.dialect) or model.provider


def row_of(config: Config, model: ModelEntry) -> Provider:
    """The row of the table of providers by which a model is asked."""
    entry = config.providers.get(model.provider)
    addresses = [address for one in (model, entry) if one for address in (one.url, one.base_url) if address]
    return find_provider(dialect_of(config, model), next(iter(addresses), ""))


def kind_of(settings: Settings) -> Kind:
    """What a model is for; a length of 0 is the old mark of one for images."""
    return "image" if settings.max_request_length == 0 else settings.kind or "chat"


def _keys(config: Config, names: set[str], categories: list[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, key in enumerate(config.auth.keys):
        path: Path = ("auth", "keys", index)
        if key.name in seen:
            yield Problem((*path, "name"), "is the name of another key")
        seen.add(key.name)
        yield from _secret(key, path)
        for at, name in enumerate(key.models or ()):
            if name not in names and name.upper() not in categories:
                yield Problem((*path, "models", at), "is neither a model nor a category")


def _secret(key: KeyEntry, path: Path) -> Iterator[Problem]:
    if (key.token is None) == (key.sha256 is None):
        yield Problem(path, "needs either a token or a sha256")


def _names(config: Config, categories: list[str]) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for index, model in enumerate(config.models):
        names = [(("name",), model.name), *((("aliases", at), alias) for at, alias in enumerate(model.aliases))]
        for spot, name in names:
            path: Path = ("models", index, *spot)
            if name in taken:
                yield Problem(path, f"is taken already, by {taken[name]}")
            elif name.upper() in categories:
                yield Problem(path, "is the name of a category")
            taken.setdefault(name, model.name)


def _references(config: Config, names: set[str]) -> Iterator[Problem]:
    settings: list[tuple[Path, list[str], set[str]]] = [
        (("providers", name), entry.fallbacks, set()) for name, entry in config.providers.items()
    ]
    settings += [
        (("models", at), model.fallbacks, {model.name, *model.aliases}) for at, model in enumerate(config.models)
    ]
    for path, fallbacks, own in settings:
        for at, fallback in enumerate(fallbacks):
            if fallback in own:
                yield Problem((*path, "fallbacks", at), "is the model itself")
            elif fallback not in names:
                yield Problem((*path, "fallbacks", at), "is not a model of this configuration")


def _categories(config: Config, categories: list[str]) -> Iterator[Problem]:
    if config.server.default_category not in categories:
        yield Problem(("server", "default_category"), f"must be one of {', '.join(categories)}")
    if config.server.unknown_model not in ("404", *categories):
        yield Problem(("server", "unknown_model"), f"must be 404 or one of {', '.join(categories)}")


def _providers(config: Config, broken: set[str]) -> Iterator[Problem]:
    for name, entry in config.providers.items():
        if entry.dialect and entry.dialect not in PROVIDERS:
            yield Problem(("providers", name, "dialect"), f"must be one of {', '.join(sorted(PROVIDERS))}")
    for index, model in enumerate(config.models):
        if model.provider not in broken:  # its entry may hold what seems to be missing
            yield from _reachable(config, model, ("models", index))
        yield from _gigachat(config, model, ("models", index))
    for path, settings in _settings(config):
        if settings.ca_bundle and (why := _why_unusable(settings.ca_bundle)):
            yield Problem((*path, "ca_bundle"), why)


def _settings(config: Config) -> Iterator[tuple[Path, Settings]]:
    for index, model in enumerate(config.models):
        yield ("models", index), model
    for name, entry in config.providers.items():
        yield ("providers", name), entry


def _why_unusable(ca_bundle: str) -> str:
    """Empty when it can be used."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_bundle)
    except FileNotFoundError:
        return "is not a file"
    except ssl.SSLError:
        return "holds no certificates in PEM form"
    except OSError:
        return "cannot be read"
    return ""


def _gigachat(config: Config, model: ModelEntry, path: Path) -> Iterator[Problem]:
    """Its token is `id:secret`, or base64 of that."""
    entry = config.providers.get(model.provider)
    token = model.token or (entry.token if entry else None)
    if dialect_of(config, model) == "gigachat" and token and not _is_id_and_secret(token):
        yield Problem((*path, "token"), "must be client_id:client_secret, or base64 of it")


def _is_id_and_secret(token: str) -> bool:
    try:
        plain = token if ":" in token else base64.b64decode(token, validate=True).decode()
    except ValueError:
        return False
    client_id, _, secret = plain.partition(":")
    return bool(client_id and secret)


def _reachable(config: Config, model: ModelEntry, path: Path) -> Iterator[Problem]:
    entry, row = config.providers.get(model.provider), row_of(config, model)
    settings = [s for s in (model, entry) if s]
    if not any(s.url or s.base_url for s in settings):
        if not row.base_url:
            yield Problem((*path, "provider"), "is not a provider that is built in: give it a url or a base_url")
        if row.base_url and row.images is None and any(kind_of(s) == "image" for s in settings):
            yield Problem(path, f"needs a url or a base_url: nothing is known of pictures by {row.name}")
        for key in ("account_id", "region"):
            if f"{{{key}}}" in row.base_url and not any(getattr(s, key) for s in settings):
                yield Problem(path, f"needs {'an' if key[0] == 'a' else 'a'} {key}: the address of {row.name} holds it")
    elif row.aws_service and not any(s.token or s.region for s in settings):
        yield Problem(path, f"needs a region: requests to {row.name} are signed for it")
    if row.embeddings is None and any(s.kind == "embedding" for s in settings):
        yield Problem(path, f"cannot be of kind embedding: {row.name} has none")
    if row.needs_token and not any(s.token or row.without_key(s.url or "")[1] for s in settings):
        yield Problem(path, f"needs a token: provider {model.provider} asks for one")


def _state(config: Config) -> Iterator[Problem]:
    if config.state and config.state.store == "dynamodb" and not config.state.table:
        yield Problem(("state",), "needs a table for the store dynamodb")
    for block, entries in (("models", enumerate(config.models)), ("providers", config.providers.items())):
        for key, entry in entries:
            breaker = entry.breaker
            if breaker and breaker.max_cooldown_seconds < breaker.cooldown_seconds:
                yield Problem((block, key, "breaker"), "has a max_cooldown_seconds below its cooldown_seconds")
