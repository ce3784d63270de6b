"""`sluice check`: the configuration as the gateway understands it. No value of a key is ever printed."""

import click
from tabulate import tabulate

from core.catalog import Catalog, Model, build_catalog
from core.config import Loaded

_WINDOWS = {"minute": "min", "hour": "h", "day": "day"}


def route_table(loaded: Loaded) -> str:
    catalog = build_catalog(loaded)
    parts = [_section(f"{name}: the candidates, in order", _candidates(catalog, name)) for name in catalog.categories]
    unsized = [model for model in catalog.models if model.category is None]
    if unsized:
        parts.append(_section("By name only", unsized))
    warnings = [*loaded.warnings, *_warnings(catalog)]
    if warnings:
        parts.append("\n".join([click.style("Warnings", bold=True), *warnings]))
    return "\n\n".join(
        [*parts, f"{len(catalog.models)} models, {len(loaded.config.auth.keys)} keys: the configuration is fine."]
    )


def _candidates(catalog: Catalog, category: str) -> list[Model]:
    return sorted(catalog.of_category(category), key=lambda model: model.priority)


def _section(title: str, models: list[Model]) -> str:
    rows = [
        {
            "priority": model.priority,
            "model": "\n".join([model.name, *(f"  also {alias}" for alias in model.aliases)]),
            "provider": model.provider,
            "limits": _limits(model),
            "takes": _takes(model),
            "can": ", ".join(sorted(model.capabilities)),
            "key": model.key_source,
            "then": "\n".join(model.fallbacks),
        }
        for model in models
    ]
    body = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True) if rows else "(none)"
    return f"{click.style(title, bold=True)}\n{body}"


def _limits(model: Model) -> str:
    lines = []
    for what in ("requests", "tokens"):
        for window, short in _WINDOWS.items():
            limit = getattr(model.limits, f"{what}_per_{window}")
            if limit is not None:
                lines.append("off" if limit == 0 else f"{limit:,} {what}/{short}")
    return "\n".join(lines) or "none"


def _takes(model: Model) -> str:
    sizes = [f"{model.max_request_length:,} bytes"] if model.max_request_length else []
    sizes += [f"{model.context_tokens:,} tokens"] if model.context_tokens else []
    return "\n".join(sizes) or "any length"


def _warnings(catalog: Catalog) -> list[str]:
    used = {model.category for model in catalog.models}
    server = catalog.config.server
    found = [f"no model has the size {name}" for name in catalog.categories if name not in used]
    if server.default_category not in used:
        found.append(f"requests without a model go to {server.default_category}, which is empty")
    providers = {model.provider for model in catalog.models}
    found += [f"providers.{name} is used by no model" for name in catalog.config.providers if name not in providers]
    return found
