"""Which models may answer a request, best first. Pure: no I/O, no clock."""

from .auth import Caller
from .catalog import Catalog, Model
from .config.schema import Kind
from .errors import InvalidRequest, ModelNotFound

USES: dict[Kind, str] = {"chat": "chat", "embedding": "embeddings", "image": "images"}


def candidates(catalog: Catalog, asked: str, caller: Caller, kind: Kind = "chat") -> list[Model]:
    """`asked` is a model's name or alias, a category in any case, or empty: the default category.

    Raises ModelNotFound, also for what the caller's key is not allowed to use: what others may use is not its business.
    """
    category = _category(catalog, asked)
    if category is None:
        named = [catalog.by_name[asked]]
        if named[0].kind != kind and may_use(caller, named[0]):
            raise InvalidRequest(f"{asked} is a model for {USES[named[0].kind]}, not for {USES[kind]}.", param="model")
    else:
        of_kind = [model for model in catalog.of_category(category) if model.kind == kind]
        named = sorted(of_kind, key=lambda model: model.priority)
    allowed = [model for model in named if may_use(caller, model)]
    if not allowed:
        if category and not named:
            raise ModelNotFound(f"No model of size {category} for {USES[kind]} is configured.", param="model")
        raise _unknown(asked or category or "")
    return allowed


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


def may_use(caller: Caller, model: Model) -> bool:
    """Whether the caller's key is confined to other models: `models` of a key names models, aliases or categories."""
    allowed = caller.entry.models
    names = {model.name, *model.aliases}
    return allowed is None or any(name in names or name.upper() == model.category for name in allowed)


def _unknown(asked: str) -> ModelNotFound:
    return ModelNotFound(f"The model {asked!r} does not exist here. GET /v1/models lists those that do.", param="model")
