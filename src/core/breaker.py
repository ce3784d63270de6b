"""A breaker for each model and provider: derived from counters in the item, so that all processes share it. Pure.

State       holds when                request                     success        failure
closed      f < failures              admitted                    f, u, p gone   f + 1, u = now + cooldown
open        f >= failures, now < u    refused until u             nothing        nothing: it came from before
half-open   f >= failures, u <= now   one is admitted, the probe: (it cannot be told from the row below)
                                      p = its id, u = now + 30 s
probe out   f >= failures, now < u,   refused until u; then the   f, u, p gone   f + 1, u = now + cooldown,
            p is set                  next probe: a dead one heals               doubled for each failed probe,
                                                                                 at most max_cooldown
`f` failures, `u` open until (ms), `p` the probe's id, `l` the last failure (ms): a failure that is older than
max_cooldown no longer counts, and after twice that time the doublings begin anew. Apart from all that `c` is a cooldown
(ms): the provider said until when (429, quotas). A later deadline is never shortened. A client's own mistake counts
nothing.
"""

from .frozen import frozen
from .plan import Image, Plan, kept_until, number

PROBE_MS = 30_000


@frozen
class Breaker:
    failures: int = 1
    cooldown_ms: int = 15_000
    max_cooldown_ms: int = 600_000


def open_until(breaker: Breaker, image: Image, now_ms: int) -> int | None:
    """Until when (ms) requests are refused; None when one may go, be it as the probe."""
    until = number(image, "u")
    return until if number(image, "f") >= breaker.failures and until > now_ms else None


def cooling_until(image: Image, now_ms: int) -> int | None:
    until = number(image, "c")
    return until if until > now_ms else None


def pass_through(plan: Plan, breaker: Breaker, image: Image, now_ms: int, call_id: str) -> bool:
    """Adds to an admission what keeps the breaker right, and says whether this call is the probe."""
    plan.require("c", "at_most", now_ms)
    if number(image, "f") < breaker.failures:
        plan.require("f", "at_most", breaker.failures - 1)
        return False
    plan.require("f", "at_least", breaker.failures)
    plan.require("u", "at_most", now_ms)
    plan.set |= {"u": now_ms + PROBE_MS, "p": call_id}
    return True


def succeeded(*, failures_seen: int, probe_id: str | None) -> list[Plan]:
    """Nothing to write for a breaker that had seen no failure."""
    if not failures_seen:
        return []
    plan = Plan(remove=["f", "u", "p", "l"])
    if probe_id:
        plan.require("p", "equals", probe_id)
    else:
        plan.require("f", "equals", failures_seen)
    return [plan]


def unjudged(*, probe_id: str | None, now_ms: int) -> list[Plan]:
    """A probe that says nothing of the provider's health (the client left, or was at fault) makes room for the next."""
    if not probe_id:
        return []
    plan = Plan(set={"u": now_ms}, remove=["p"])
    plan.require("p", "equals", probe_id)
    return [plan]


def failed(breaker: Breaker, *, failures_seen: int, probe_id: str | None, now_ms: int) -> list[Plan]:
    """Plans of which at most one holds."""
    if probe_id:
        return _probe_failed(breaker, failures_seen, probe_id, now_ms)
    opened: dict[str, int | str] = {"u": now_ms + breaker.cooldown_ms, "l": now_ms}
    forgotten = now_ms - breaker.max_cooldown_ms
    first = Plan(set={**opened, "f": 1})
    first.require("l", "at_most", forgotten)
    further = Plan(set=opened, add={"f": 1})
    further.require("l", "at_least", forgotten + 1)
    for plan in (first, further):
        plan.require("f", "at_most", breaker.failures - 1)
    return [further, first]


def _probe_failed(breaker: Breaker, failures_seen: int, probe_id: str, now_ms: int) -> list[Plan]:
    """An outage that was long ago (twice max_cooldown, or a dead provider's next probe would seem so) is no other's."""
    doublings = min(failures_seen + 1 - breaker.failures, 32)
    wait = min(breaker.max_cooldown_ms, breaker.cooldown_ms * 2**doublings)
    forgotten = now_ms - 2 * breaker.max_cooldown_ms
    further = Plan(add={"f": 1}, set={"u": now_ms + wait, "l": now_ms}, remove=["p"])
    further.require("l", "at_least", forgotten + 1)
    anew = Plan(set={"f": breaker.failures, "u": now_ms + breaker.cooldown_ms, "l": now_ms}, remove=["p"])
    anew.require("l", "at_most", forgotten)
    for plan in (further, anew):
        plan.require("p", "equals", probe_id)
    return [further, anew]


def cool(until_ms: int) -> Plan:
    plan = Plan(set={"c": until_ms, "x": kept_until(until_ms)})
    plan.require("c", "at_most", until_ms - 1)
    return plan
