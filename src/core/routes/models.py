"""`GET /v1/models`: OpenAI's list. Models first, in configuration order, then the categories."""

from typing import Any

from fastapi import APIRouter, Request

from ..auth import Caller
from ..catalog import Catalog
from ..errors import ModelNotFound
from ..routing import may_use


def model_routes(catalog: Catalog, started: int) -> APIRouter:
    """`started` (Unix seconds) stands as `created`: how old the models are nobody knows."""
    router = APIRouter()

    def rows(caller: Caller) -> dict[str, dict[str, Any]]:
        allowed = [model for model in catalog.models if may_use(caller, model)]
        owners = {model.name: model.provider for model in allowed}
        owners |= {name: "sluice" for name in catalog.categories if any(model.category == name for model in allowed)}
        return {
            name: {"id": name, "object": "model", "created": started, "owned_by": owner}
            for name, owner in owners.items()
        }

    @router.get("/v1/models", summary="List models and categories")
    @router.get("/models", include_in_schema=False)
    async def list_models(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": list(rows(request.scope["sluice.caller"]).values())}

    @router.get("/v1/models/{name:path}", summary="Show one model or category")
    @router.get("/models/{name:path}", include_in_schema=False)
    async def show_model(request: Request, name: str) -> dict[str, Any]:
        found = rows(request.scope["sluice.caller"])
        alias = catalog.by_name.get(name)
        row = found.get(alias.name if alias else name) or found.get(name.upper())
        if row is None:
            raise ModelNotFound(f"The model {name!r} does not exist here.", param="model")
        return {**row, "id": name} if alias else row

    return router
