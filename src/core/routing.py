"""Which models may answer a request, best first. Pure: no I/O, no clock."""

from collections.abc import Iterator, Mapping, Sequence

from .auth import Caller
from .catalog import Catalog, Model
from .config.schema import Kind
from .errors import InvalidRequest, ModelNotFound
from .need import BYTES_A_TOKEN
from .plan import Image, number

USES: dict[Kind, str] = {"chat": "chat", "embedding": "embeddings", "image": "images"}
IDLE_MS = 3_600_000


def candidates(catalog: Catalog, asked: str, caller: Caller, kind: Kind = "chat") -> tuple[Sequence[Model], bool]:
    """The models to try, by priority, and whether they were asked for by name: then that one and its fallbacks.

    `asked` is a model's name or alias, a category in any case, or empty: the default category, or any where images are
    asked for, since their models are few. Raises ModelNotFound, also for what the caller's key is not allowed to use:
    what others may use is not its business.
    """
    category = _category(catalog, asked)
    if category is None:
        return _by_name(catalog, catalog.by_name[asked], asked, caller, kind), True
    is_any = kind == "image" and not asked
    pool = catalog.pools.get((kind, None if is_any else category), ())
    allowed = pool if caller.entry.models is None else [model for model in pool if may_use(caller, model)]
    if pool and not allowed:
        raise _unknown(asked or category)
    if not allowed:
        size = "any size" if is_any else f"size {category}"
        raise ModelNotFound(f"No model of {size} for {USES[kind]} is configured.", param="model")
    return allowed, False


def in_order(models: Sequence[Model], images: Mapping[str, Image], now_ms: int) -> list[Model]:
    """Models of one priority: those idle for an hour first, smaller before larger; then the least recently used."""

    def rank(model: Model) -> tuple[bool, float, int]:
        last = number(images.get(model.scope.key, {}), "lr")
        is_idle = now_ms - last > IDLE_MS
        return not is_idle, _size(model) if is_idle else 0.0, last

    return sorted(models, key=rank)


def _size(model: Model) -> float:
    """Bytes that it takes, as far as that is configured."""
    return model.max_request_length or (model.context_tokens or float("inf")) * BYTES_A_TOKEN


def by_priority(models: Sequence[Model]) -> Iterator[list[Model]]:
    """Groups of equal priority of a list that is sorted by it."""
    group: list[Model] = []
    for model in models:
        if group and model.priority != group[0].priority:
            yield group
            group = []
        group.append(model)
    if group:
        yield group


def may_use(caller: Caller, model: Model) -> bool:
    """Whether the caller's key is confined to other models: `models` of a key names models, aliases or categories."""
    allowed = caller.entry.models
    if allowed is None:
        return True
    names = {model.name, *model.aliases}
    return any(name in names or name.upper() == model.category for name in allowed)


def _by_name(catalog: Catalog, model: Model, asked: str, caller: Caller, kind: Kind) -> list[Model]:
    if model.is_off or not may_use(caller, model):
        raise _unknown(asked)
    if model.kind != kind:
        raise InvalidRequest(f"{asked} is a model for {USES[model.kind]}, not for {USES[kind]}.", param="model")
    named = [catalog.by_name[name] for name in model.fallbacks if name in catalog.by_name]
    fallbacks = [m for m in named if m.kind == kind and not m.is_off and may_use(caller, m)]
    return list({each.name: each for each in [model, *fallbacks]}.values())


def _category(catalog: Catalog, asked: str) -> str | None:
    """None when `asked` names one model."""
    if not asked:
        return catalog.config.server.default_category
    if asked in catalog.by_name:
        return None
    if asked.upper() in catalog.categories:
        return asked.upper()
    if catalog.config.server.unknown_model == "404":
        raise _unknown(asked)
    return catalog.config.server.unknown_model


def _unknown(asked: str) -> ModelNotFound:
    return ModelNotFound(f"The model {asked!r} does not exist here. GET /v1/models lists those that do.", param="model")
