"""What happens when a shared store fails: each scope is counted by this process alone, or refuses, as it is configured.

Stands before a store that can be out of reach. After three failures in a row the store is left alone for five seconds,
then asked once; the first answer brings it back. A process that counts alone takes its share of each limit (one of
`expected_instances`) and goes on from the last item that it saw.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..admission import Outcome, Reason, Refusal, Reservation, Scope
from ..limits import Cost
from ..plan import Image, Plan
from .memory import MemoryStore
from .owing import OwingStore
from .port import StoreBusy, StoreError, StoreMisconfigured

FAILURES, PAUSE_S = 3, 5.0
BUSY_MS = 1000

_LOG = logging.getLogger("sluice")
_T = TypeVar("_T")


class FallbackStore:
    """`tell` hears `degraded`, `denied`, `busy`, `lost` and `back`, for metrics."""

    def __init__(
        self,
        store: OwingStore,
        *,
        expected_instances: int,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.images = store.images
        self._store = store
        self._share = expected_instances
        self._tell = tell
        self._clock = clock
        self._local: MemoryStore | None = None  # while the store is out of reach
        self._calls_counted_here: set[str] = set()
        self._failures = 0
        self._ask_again_at = 0.0

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        try:
            return await self._reach(lambda: self._store.snapshot(keys))
        except StoreError:
            seen = {key: self.images[key] for key in keys if key in self.images}
            return seen | (await self._local.snapshot(keys) if self._local else {})

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        try:
            return await self._reach(
                lambda: self._store.reserve(scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
            )
        except StoreBusy:
            self._tell("busy")
            return Refusal(scope, (Reason("store_busy", now_ms + BUSY_MS),))
        except StoreError:
            if scope.denies_without_store:
                self._tell("denied")
                raise
        self._tell("degraded")
        local = self._count_here()
        share = tuple(limit._replace(most=max(1, limit.most // self._share)) for limit in scope.limits)
        scope = replace(scope, limits=share)
        verdict = await local.reserve(scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
        if isinstance(verdict, Reservation):
            self._calls_counted_here.add(call_id)
        return verdict

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        if reservation.call_id in self._calls_counted_here:
            self._calls_counted_here.discard(reservation.call_id)
            if self._local is not None:
                await self._local.finish(reservation, outcome, now_ms=now_ms)
        elif self._is_left_alone:
            self._store.lose(reservation)
        else:
            await self._store.finish(reservation, outcome, now_ms=now_ms)

    async def write(self, key: str, *plans: Plan) -> None:
        if self._local is not None:
            await self._local.write(key, *plans)
        if self._is_left_alone:
            self._tell("lost")
        else:
            await self._store.write(key, *plans)

    async def aclose(self) -> None:
        await self._store.aclose()

    @property
    def _is_left_alone(self) -> bool:
        return self._failures >= FAILURES

    async def _reach(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Raises StoreError without asking while the store is left alone."""
        if self._is_left_alone:
            if self._clock() < self._ask_again_at:
                raise StoreError("the store is left alone for a moment")
            self._ask_again_at = self._clock() + PAUSE_S  # for this one call; the others wait for its answer
        try:
            result = await work()
        except StoreBusy:
            raise  # it answers
        except StoreError as error:
            self._failures += 1
            if self._failures in (1, FAILURES) or isinstance(error, StoreMisconfigured):
                _LOG.error("The store fails: %s", error)
            if self._failures == FAILURES:
                self._ask_again_at = self._clock() + PAUSE_S
            raise
        if self._failures:
            self._failures = 0
            if self._local is not None:
                self._local = None
                _LOG.warning("The store answers again; limits are shared again")
                self._tell("back")
        return result

    def _count_here(self) -> MemoryStore:
        if self._local is None:
            self._local = MemoryStore(self.images)
            _LOG.warning("Limits are counted by this process alone until the store answers again")
        return self._local
