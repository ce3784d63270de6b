"""The port to the counters, cooldowns and breakers that all requests, and all processes, share.

Implementations: `memory.py` (one process, gone with it), `sqlite.py` (all processes of a machine, survives them) and
`dynamodb.py` (all machines); `owing.py` stands before one that can fail, `fallback.py` before one out of reach.
Each carries out the plans of `admission.py`, so they differ in where an item lies and in nothing else; one contract
suite and one differential test run over them.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..admission import Outcome, Refusal, Reservation, Scope, plan_reserve
from ..limits import Cost
from ..plan import Image, Plan, first_to_hold


class StoreError(Exception):
    """The store cannot be used. The message names it and the remedy."""


class StoreBusy(StoreError):
    """The store answers, but takes no more for the moment (a hot key)."""


class StoreMisconfigured(StoreError):
    """It will not work until somebody changes something: permissions, a table that is missing, a library."""


class StateStore(Protocol):
    """Times are Unix milliseconds of the caller's clock. Raises StoreError when the store fails.

    Whoever is cancelled while it waits: what it told the store is written all the same, and a reservation that it was
    to be given is given back.
    """

    @property
    def images(self) -> Mapping[str, Image]:
        """Items as they were seen last, for who would rather not ask; none where asking costs nothing."""
        ...

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        """The items as they are; a key without an item is left out."""
        ...

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        """Admit one call, or say why not: one atomic step. The reservation's `slot_ms` may lie `max_wait_ms` ahead."""
        ...

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        """Settle a reservation; once for each."""
        ...

    async def write(self, key: str, *plans: Plan) -> None:
        """Carry out the first of these plans that holds; none, if none does."""
        ...

    async def aclose(self) -> None: ...


def reserve_in(
    image: Image, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int
) -> tuple[Image, Reservation | Refusal]:
    """`reserve` for a store that holds the true image while it judges."""
    while True:
        step = plan_reserve(scope, cost, image, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
        if isinstance(step, Refusal):
            return image, step
        plan, reservation = step
        image = plan.apply(image)
        if reservation is not None:
            return image, reservation


def write_in(image: Image, *plans: Plan) -> Image:
    """`write` for a store that holds the true image."""
    plan = first_to_hold(plans, image)
    return image if plan is None else plan.apply(image)
