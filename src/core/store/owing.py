"""What a failing store could not take back is owed to it, and given back as soon as it answers again.

Stands before a store that can fail. An answer that a provider has given is not thrown away because the store did not
hear of it: counters then stay too high for a window, which is the safe side. Leases and probes would be held for
minutes, so those are given back, which may be done twice.
"""

from collections import deque
from collections.abc import Callable, Sequence

from ..admission import Outcome, Refusal, Reservation, Scope
from ..limits import Cost
from ..plan import Image, Plan
from .port import StateStore, StoreError

MOST_OWED = 10_000


class OwingStore:
    """`tell` hears `lost` for each write that came to nothing, for metrics."""

    def __init__(self, store: StateStore, *, tell: Callable[[str], None]) -> None:
        self._store = store
        self._tell = tell
        self._owed: deque[Reservation] = deque(maxlen=MOST_OWED)

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        return await self._store.snapshot(keys)

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        verdict = await self._store.reserve(scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
        while self._owed and await self._give_back(self._owed.popleft(), now_ms):
            pass
        return verdict

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        try:
            await self._store.finish(reservation, outcome, now_ms=now_ms)
        except StoreError:
            self._tell("lost")
            if reservation.lease or reservation.probe_id:
                self._owed.append(reservation)

    async def write(self, key: str, *plans: Plan) -> None:
        try:
            await self._store.write(key, *plans)
        except StoreError:
            self._tell("lost")

    async def aclose(self) -> None:
        await self._store.aclose()

    async def _give_back(self, reservation: Reservation, now_ms: int) -> bool:
        """Amounts and verdict are not repeated: the first try may have been carried out, and only its answer lost."""
        try:
            await self._store.finish(reservation, Outcome(), now_ms=now_ms)
        except StoreError:
            self._owed.append(reservation)
            return False
        return True
