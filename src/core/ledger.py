"""What is reserved before a call and settled after it, over the scopes that the call falls under.

Order: the caller's key once for a request; then for each call to a provider the model, then its account if that has
limits of its own. When a later scope refuses, the earlier ones are given back.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import breaker as breakers
from . import routing
from .admission import Outcome, Refusal, Reservation, Scope, plan_reserve
from .auth import Caller
from .catalog import Model
from .frozen import frozen
from .limits import Cost
from .plan import Image
from .store.port import StateStore, StoreError

POLL_S = 0.02  # how often a call that waits for a lease looks again


@frozen
class Grant:
    """The right to ask a model once, from `slot_ms` on: the model's reservation, and its account's where that has
    limits of its own.
    """

    model: Model
    reservations: tuple[Reservation, ...]
    slot_ms: int

    @property
    def is_probe(self) -> bool:
        return any(reservation.probe_id for reservation in self.reservations)


class Ledger:
    """Raises StoreError when the store fails. A client that leaves cancels its request wherever it stands: the store
    writes to its end what it was told, and gives back what it was just asked to reserve.
    """

    def __init__(self, store: StateStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def counts_tokens(self, model: Model, caller: Caller) -> bool:
        """Whether it matters to any limit how many tokens a call takes."""
        scopes = [model.scope, caller.scope, *([model.account] if model.account else [])]
        return any(limit.what == "tokens" for scope in scopes for limit in scope.limits)

    async def in_order(self, models: Sequence[Model], cost: Cost) -> Sequence[Model]:
        """Models of one priority by what the store knows of their use. A single one is not looked up, nor one that has
        no room by what was seen of it last: such come at the end.
        """
        if len(models) == 1:
            return models
        full = [model for model in models if self._is_full(model, cost)] if self._store.images else []
        others = [model for model in models if model not in full] if full else models
        if len(others) > 1:
            others = routing.in_order(others, await self.images(others), self.now_ms())
        return [*others, *full] if full else others

    async def images(self, models: Sequence[Model]) -> Mapping[str, Image]:
        """What the store knows of these models, by the key of their scope."""
        return await self._store.snapshot([model.scope.key for model in models])

    async def charge(self, caller: Caller, cost: Cost) -> Reservation | Refusal | None:
        """The caller's own limit, once for a request; None: it has none."""
        if caller.scope.is_free:
            return None
        return await self._reserve_scope(caller.scope, cost, 0)

    async def settle_charge(self, charge: Reservation | None, *, tokens: int | None, is_refund: bool = False) -> None:
        if charge is not None:
            outcome = Outcome(tokens=tokens, is_refund=is_refund)
            await self._store.finish(charge, outcome, now_ms=self.now_ms())

    async def admit(self, model: Model, cost: Cost, patience_ms: int) -> Grant | Refusal:
        """Reserve one call. Waits up to `patience_ms` where only a throttle is in the way."""
        began, left_ms = time.monotonic(), patience_ms
        while True:
            verdict = await self._reserve(model, cost, left_ms)
            if isinstance(verdict, Grant) or not verdict.is_throttled or not left_ms:
                return verdict
            await asyncio.sleep(POLL_S)
            left_ms = max(0, patience_ms - int((time.monotonic() - began) * 1000))

    async def settle(self, grant: Grant, outcome: Outcome) -> None:
        """Once for each grant. Health is the model's affair; of its account only the amounts are settled."""
        of_model, *of_account = grant.reservations
        now_ms = self.now_ms()
        try:
            await self._store.finish(of_model, outcome, now_ms=now_ms)
        finally:
            for reservation in of_account:
                amounts = replace(outcome, verdict=None, cool_until_ms=None, at_least=())
                await self._store.finish(reservation, amounts, now_ms=now_ms)

    async def cool(self, models: Sequence[Model], until_ms: int) -> None:
        """Leave all these models alone until then (ms): what was said concerns their account."""
        await _to_the_end(self._cool(models, until_ms))

    async def count_failure(self, model: Model) -> None:
        """One whose reservation is settled already."""
        plans = breakers.failed(model.breaker, failures_seen=0, probe_id=None, now_ms=self.now_ms())
        await self._store.write(model.scope.key, *plans)

    def _is_full(self, model: Model, cost: Cost) -> bool:
        image = self._store.images.get(model.scope.key, {})
        step = plan_reserve(model.scope, cost, image, now_ms=self.now_ms(), call_id="", max_wait_ms=0)
        return isinstance(step, Refusal) and not step.is_throttled

    async def _cool(self, models: Sequence[Model], until_ms: int) -> None:
        for model in models:
            await self._store.write(model.scope.key, breakers.cool(until_ms))

    async def _reserve(self, model: Model, cost: Cost, max_wait_ms: int) -> Grant | Refusal:
        first = await self._reserve_scope(model.scope, cost, max_wait_ms)
        if isinstance(first, Refusal):
            return first
        if model.account is None:
            return Grant(model, (first,), first.slot_ms)
        second: Reservation | Refusal | None = None
        try:
            second = await self._reserve_scope(model.account, cost, max_wait_ms)
        finally:
            if not isinstance(second, Reservation):
                await self._store.finish(first, Outcome(is_refund=True), now_ms=self.now_ms())
        if not isinstance(second, Reservation):
            return second
        return Grant(model, (first, second), max(first.slot_ms, second.slot_ms))

    async def _reserve_scope(self, scope: Scope, cost: Cost, max_wait_ms: int) -> Reservation | Refusal:
        call_id = hex(random.getrandbits(48))
        return await self._store.reserve(scope, cost, now_ms=self.now_ms(), call_id=call_id, max_wait_ms=max_wait_ms)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Several writes, all of which are made even when we are cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(StoreError):
            await task
        raise
