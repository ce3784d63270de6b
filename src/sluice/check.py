"""`sluice check`: the configuration as the gateway understands it. No value of a key is ever printed."""

from collections.abc import Iterable, Mapping
from typing import Any

import click
from tabulate import tabulate

from core.catalog import Catalog, Model, build_catalog
from core.config import Loaded, ProviderEntry
from core.config.schema import Limits

_WINDOWS = {"minute": "min", "hour": "h", "day": "day"}


def route_table(loaded: Loaded) -> str:
    catalog = build_catalog(loaded)
    parts = [_section(f"{name}: the candidates, in order", _candidates(catalog, name)) for name in catalog.categories]
    unsized = [model for model in catalog.models if model.category is None]
    if unsized:
        parts.append(_section("By name only", unsized))
    pools = _pools(loaded.config.providers)
    if pools:
        parts.append(_titled("Shared by all models of a provider", _table(pools)))
    warnings = [*loaded.warnings, *_warnings(catalog)]
    if warnings:
        parts.append(_titled("Warnings", "\n".join(warnings)))
    counts = f"Models: {len(catalog.models)}. Keys: {len(loaded.config.auth.keys)}. The configuration is fine."
    return "\n\n".join([*parts, counts])


def _candidates(catalog: Catalog, category: str) -> list[Model]:
    return sorted(catalog.of_category(category), key=lambda model: model.priority)


def _section(title: str, models: list[Model]) -> str:
    rows = [
        {
            "priority": model.priority,
            "model": "\n".join([model.name, *(f"  also {alias}" for alias in model.aliases)]),
            "provider": model.provider,
            "limits": _limits(model.limits),
            "takes": _takes(model),
            "can": _can(model),
            "key": model.key_source,
            "then": "\n".join(model.fallbacks),
        }
        for model in models
    ]
    return _titled(title, _table(rows) if rows else "(none)")


def _titled(title: str, body: str) -> str:
    return f"{click.style(title, bold=True)}\n{body}"


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    return tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)


def _limits(limits: Limits) -> str:
    lines = []
    for what in ("requests", "tokens"):
        for window, short in _WINDOWS.items():
            limit = getattr(limits, f"{what}_per_{window}")
            if limit is not None:
                lines.append("off" if limit == 0 else f"{limit:,} {what}/{short}")
    return "\n".join(lines) or "none"


def _pools(providers: Mapping[str, ProviderEntry]) -> list[dict[str, str]]:
    rows = [{"provider": name, "limits": _limits(entry)} for name, entry in providers.items()]
    return [row for row in rows if row["limits"] != "none"]


def _takes(model: Model) -> str:
    sizes = [f"{model.max_request_length:,} bytes"] if model.max_request_length else []
    sizes += [f"{model.context_tokens:,} tokens"] if model.context_tokens else []
    return "\n".join(sizes) or "any length"


def _can(model: Model) -> str:
    """What a chat may ask of it; for a model that does not chat, what it is for."""
    return ", ".join(sorted(model.capabilities)) if model.kind == "chat" else f"{model.kind} only"


def _warnings(catalog: Catalog) -> list[str]:
    used = {model.category for model in catalog.models}
    server = catalog.config.server
    found = [f"no model has the size {name}" for name in catalog.categories if name not in used]
    if server.default_category not in used:
        found.append(f"requests without a model go to {server.default_category}, which is empty")
    providers = {model.provider for model in catalog.models}
    found += [f"providers.{name} is used by no model" for name in catalog.config.providers if name not in providers]
    return found
