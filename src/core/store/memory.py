"""State in this process alone: the quickest, for one process and for tests. It is gone when the process ends."""

import threading
from collections.abc import Mapping, Sequence

from ..admission import Outcome, Refusal, Reservation, Scope, plan_finish
from ..limits import Cost
from ..plan import Image, Plan
from .port import reserve_in, write_in


class MemoryStore:
    def __init__(self, items: Mapping[str, Image] | None = None) -> None:
        self._items: dict[str, Image] = dict(items or {})
        self.images: Mapping[str, Image] = {}
        self._lock = threading.Lock()  # held for microseconds, never across an await

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        return {key: image for key in keys if (image := self._items.get(key))}

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        with self._lock:
            before = self._items.get(scope.key, {})
            self._items[scope.key], verdict = reserve_in(
                before, scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms
            )
            return verdict

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        self._write(reservation.scope.key, plan_finish(reservation, outcome, now_ms=now_ms))

    async def write(self, key: str, *plans: Plan) -> None:
        self._write(key, plans)

    async def aclose(self) -> None:
        self._items.clear()

    def _write(self, key: str, plans: Sequence[Plan]) -> None:
        if plans:
            with self._lock:
                self._items[key] = write_in(self._items.get(key, {}), *plans)
