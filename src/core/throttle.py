"""How many calls at once and how close together: leases in a set, and slots in time. Pure.

A lease is `expiry.id`: taking and giving back are idempotent, and the lease of a process that died can be seen to have
expired. `nx` is the next free slot (ms): an idle one is taken as it is, for a busy one calls queue.
"""

from .frozen import frozen
from .plan import Image, Plan, members, number


@frozen
class Throttle:
    """`max_in_flight` None: any number. `lease_ms`: after that a lease counts as dead."""

    max_in_flight: int | None = None
    min_interval_ms: int = 0
    lease_ms: int = 660_000


def lease(throttle: Throttle, call_id: str, now_ms: int) -> str:
    return f"{now_ms + throttle.lease_ms}.{call_id}"


def expired(image: Image, now_ms: int) -> frozenset[str]:
    return frozenset(one for one in members(image, "q") if int(one.partition(".")[0]) <= now_ms)


def clear_expired(image: Image, now_ms: int) -> Plan | None:
    """A set cannot lose and gain members in one write, so the dead are removed by a write of their own."""
    dead = expired(image, now_ms)
    return Plan(exclude={"q": dead}) if dead else None


def is_full(throttle: Throttle, image: Image) -> bool:
    return throttle.max_in_flight is not None and len(members(image, "q")) >= throttle.max_in_flight


def next_slot(throttle: Throttle, image: Image, now_ms: int) -> int:
    """When (ms) a call that is admitted now may go."""
    return max(now_ms, number(image, "nx")) if throttle.min_interval_ms else now_ms


def take_lease(plan: Plan, throttle: Throttle, call_id: str, now_ms: int) -> str | None:
    if throttle.max_in_flight is None:
        return None
    mine = lease(throttle, call_id, now_ms)
    plan.require("q", "fewer", throttle.max_in_flight)
    plan.include["q"] = mine
    return mine


def take_slot(plan: Plan, throttle: Throttle, image: Image, now_ms: int, max_wait_ms: int) -> None:
    if not throttle.min_interval_ms:
        return
    if next_slot(throttle, image, now_ms) == now_ms:
        plan.require("nx", "at_most", now_ms)
        plan.set["nx"] = now_ms + throttle.min_interval_ms
    else:
        plan.require("nx", "at_least", now_ms + 1)
        plan.require("nx", "at_most", now_ms + max_wait_ms)
        plan.add["nx"] = throttle.min_interval_ms
