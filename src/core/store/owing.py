"""What a failing store could not take back is owed to it, and given back as soon as it answers again.

Stands directly before a store that can fail. An answer that a provider has given is not thrown away because the store
did not hear of it: counters then stay too high for a window, which is the safe side. Leases and probes would be held
for minutes, so those are given back, which may be done twice. Of a reservation whose answer was lost, or nobody waited
for, nobody knows whether it was made: it is looked for, once it cannot come any more.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from .. import throttle
from ..admission import Outcome, Refusal, Reservation, Scope
from ..limits import Cost
from ..plan import Image, Plan
from .port import StateStore, StoreBusy, StoreError, StoreMisconfigured

MOST_OWED = 10_000
LATE_MS = 2_000  # after that a write that was given up is carried out, or never will be


class OwingStore:
    """`tell` hears `lost` for each write that came to nothing, for metrics."""

    def __init__(self, store: StateStore, *, tell: Callable[[str], None]) -> None:
        self.images = store.images
        self._store = store
        self._tell = tell
        self._owed: deque[Reservation] = deque(maxlen=MOST_OWED)
        self._unsure: deque[Reservation] = deque(maxlen=MOST_OWED)  # nobody knows whether they are held
        self._paying: asyncio.Task[None] | None = None

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        return await self._store.snapshot(keys)

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        try:
            verdict = await self._store.reserve(scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
        except (StoreBusy, StoreMisconfigured):
            raise  # it was refused
        except (StoreError, asyncio.CancelledError):
            self._owe(_maybe(scope, cost, call_id, now_ms), self._unsure)
            raise
        if (self._owed or self._unsure) and (self._paying is None or self._paying.done()):
            self._paying = asyncio.create_task(self._pay(now_ms))
        return verdict

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        try:
            await self._store.finish(reservation, outcome, now_ms=now_ms)
        except StoreError:
            self.lose(reservation)
        except asyncio.CancelledError:
            self._owe(reservation, self._owed)
            raise

    async def write(self, key: str, *plans: Plan) -> None:
        try:
            await self._store.write(key, *plans)
        except StoreError:
            self._tell("lost")

    async def aclose(self) -> None:
        if self._paying is not None:
            await self._paying
        await self._pay(None)
        await self._store.aclose()

    def lose(self, reservation: Reservation) -> None:
        """The store does not hear how it ended."""
        self._tell("lost")
        self._owe(reservation, self._owed)

    def _owe(self, reservation: Reservation, to: deque[Reservation]) -> None:
        if reservation.lease or reservation.probe_id:
            to.append(reservation)

    async def _pay(self, now_ms: int | None) -> None:
        """All that is owed, of what is unsure that from `LATE_MS` before now_ms; None: all, there is no later."""
        try:
            while self._owed:
                await self._give_back(self._owed)
            while self._unsure and (now_ms is None or self._unsure[0].slot_ms <= now_ms - LATE_MS):
                await self._give_back(self._unsure)
        except StoreError:
            return  # with the next answer

    async def _give_back(self, owed: deque[Reservation]) -> None:
        """Amounts and verdict are not repeated: the first try may have been carried out, and only its answer lost."""
        reservation = owed.popleft()
        key = reservation.scope.key
        try:
            if reservation.is_held_in((await self._store.snapshot([key])).get(key, {})):
                await self._store.finish(reservation, Outcome(), now_ms=reservation.slot_ms)
        except StoreError:
            owed.appendleft(reservation)
            raise


def _maybe(scope: Scope, cost: Cost, call_id: str, now_ms: int) -> Reservation:
    """What may have been reserved: its lease and its probe are known by the call, its amounts only if it was."""
    is_leased = scope.throttle.max_in_flight is not None
    return Reservation(
        scope=scope,
        call_id=call_id,
        cost=cost,
        windows=(),
        slot_ms=now_ms,
        lease=throttle.lease(scope.throttle, call_id, now_ms) if is_leased else None,
        probe_id=call_id if scope.breaker else None,
        failures_seen=0,
        used=(),
    )
