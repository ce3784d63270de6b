"""What no single key can tell: names that clash, references to nothing, keys that a provider needs."""

from collections.abc import Iterator

from ..providers import PROVIDERS, find_provider
from ..providers.dialect import Provider
from .schema import Config, KeyEntry, ModelEntry
from .source import Path, Problem

CATEGORIES = ("SMALL", "BIG")


def problems_between(config: Config, names: set[str]) -> list[Problem]:
    """`names`: every model's name and alias that the file holds, those of broken entries too."""
    return [
        *_keys(config, names),
        *_names(config),
        *_references(config, names),
        *_providers(config),
        *_state(config),
    ]


def categories_of(config: Config) -> list[str]:
    """SMALL and BIG first, then others in the order in which models name them."""
    sizes = (settings.model_size for settings in (*config.providers.values(), *config.models))
    return list(dict.fromkeys([*CATEGORIES, *(size for size in sizes if size)]))


def row_of(config: Config, model: ModelEntry) -> Provider:
    """The row of the table of providers by which a model is asked."""
    entry = config.providers.get(model.provider)
    return find_provider((entry and entry.dialect) or model.provider)


def _keys(config: Config, names: set[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    categories = categories_of(config)
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


def _names(config: Config) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    categories = categories_of(config)
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
    categories = categories_of(config)
    settings = [(("providers", name), entry.fallbacks, "") for name, entry in config.providers.items()]
    settings += [(("models", str(at)), model.fallbacks, model.name) for at, model in enumerate(config.models)]
    for (block, key), fallbacks, own in settings:
        for at, fallback in enumerate(fallbacks):
            path: Path = (block, int(key) if block == "models" else key, "fallbacks", at)
            if fallback == own:
                yield Problem(path, "is the model itself")
            elif fallback not in names:
                yield Problem(path, "is not a model of this configuration")
    if config.server.default_category not in categories:
        yield Problem(("server", "default_category"), f"must be one of {', '.join(categories)}")
    if config.server.unknown_model not in ("404", *categories):
        yield Problem(("server", "unknown_model"), f"must be 404 or one of {', '.join(categories)}")


def _providers(config: Config) -> Iterator[Problem]:
    for name, entry in config.providers.items():
        if entry.dialect and entry.dialect not in PROVIDERS:
            yield Problem(("providers", name, "dialect"), f"must be one of {', '.join(sorted(PROVIDERS))}")
    for index, model in enumerate(config.models):
        yield from _reachable(config, model, ("models", index))


def _reachable(config: Config, model: ModelEntry, path: Path) -> Iterator[Problem]:
    entry, row = config.providers.get(model.provider), row_of(config, model)
    has_address = any(s and (s.url or s.base_url) for s in (model, entry))
    if not has_address and not row.base_url:
        yield Problem((*path, "provider"), "is not a provider that is built in: give it a url or a base_url")
    if row.needs_token and not (model.token or (entry and entry.token)):
        yield Problem(path, f"needs a token: provider {model.provider} asks for one")


def _state(config: Config) -> Iterator[Problem]:
    if config.state and config.state.store == "dynamodb" and not config.state.table:
        yield Problem(("state",), "needs a table for the store dynamodb")
    for block, entries in (("models", enumerate(config.models)), ("providers", config.providers.items())):
        for key, entry in entries:
            breaker = entry.breaker
            if breaker and breaker.max_cooldown_seconds < breaker.cooldown_seconds:
                yield Problem((block, key, "breaker"), "has a max_cooldown_seconds below its cooldown_seconds")
