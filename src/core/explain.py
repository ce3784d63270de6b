"""The decision for a request, without taking it: candidates in the order in which they would be asked, and who is out.

Pure, and by the very rules that decide: what is said here is what would happen at that moment.
"""

from collections.abc import Mapping

from . import routing
from .admission import Reason, Refusal, Scope, plan_reserve
from .auth import Caller
from .catalog import Catalog, Model
from .frozen import frozen
from .limits import Window, windows
from .need import Need, shortfall
from .plan import Image


@frozen
class Choice:
    """`rule`: what the model lacks for the request, whatever the hour. `reasons`: why it has no room now."""

    model: Model
    rule: str | None
    reasons: tuple[Reason, ...]
    used: tuple[tuple[Window, int], ...]

    @property
    def is_open(self) -> bool:
        return self.rule is None and not self.reasons


def explain(
    catalog: Catalog, asked: str, need: Need, caller: Caller, images: Mapping[str, Image], *, now_ms: int
) -> list[Choice]:
    """`images` are those of `scopes_of`. Raises ModelNotFound and InvalidRequest as the request itself would."""
    candidates, by_name = routing.candidates(catalog, asked, caller)
    if not by_name:
        groups = routing.by_priority(candidates)
        candidates = [model for group in groups for model in routing.in_order(group, images, now_ms)]
    is_waited_for = by_name or sum(shortfall(model, need) is None for model in candidates) == 1
    return [_choice(model, need, images, now_ms, model.max_wait_ms if is_waited_for else 0) for model in candidates]


def no_room(
    scope: Scope, need: Need, images: Mapping[str, Image], *, now_ms: int, max_wait_ms: int = 0
) -> tuple[Reason, ...]:
    """Why a model, an account or a caller's key has no room for the request now; empty when it has."""
    image = images.get(scope.key, {})
    step = plan_reserve(scope, need.cost, image, now_ms=now_ms, call_id="explain", max_wait_ms=max_wait_ms)
    return step.reasons if isinstance(step, Refusal) else ()


def scopes_of(catalog: Catalog, caller: Caller) -> list[str]:
    """Keys of the items that a decision may rest on."""
    scopes = [scope for model in catalog.models for scope in (model.scope, model.account) if scope is not None]
    return list(dict.fromkeys(scope.key for scope in [caller.scope, *scopes]))


def _choice(model: Model, need: Need, images: Mapping[str, Image], now_ms: int, max_wait_ms: int) -> Choice:
    scopes = [scope for scope in (model.scope, model.account) if scope is not None]
    rooms = [no_room(scope, need, images, now_ms=now_ms, max_wait_ms=max_wait_ms) for scope in scopes]
    reasons = tuple(reason for room in rooms for reason in room)
    used = tuple(use for scope in scopes for use in _used(scope, images, now_ms))
    return Choice(model, shortfall(model, need), reasons, used)


def _used(scope: Scope, images: Mapping[str, Image], now_ms: int) -> list[tuple[Window, int]]:
    image = images.get(scope.key, {})
    found = windows(scope.limits, scope.day_starts, now_ms // 60_000)
    return [(window, window.used(image)) for window in found]
