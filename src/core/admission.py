"""Limits, breaker and throttle put together: may a call go now, and what is left to write when it is over. Pure.

`plan_reserve` judges by an image. The plan that it returns holds every condition again, so a store that has only an old
image may carry it out: if it does not hold, the store judges anew by the image of then. The check is the increment.
"""

import itertools
from collections.abc import Iterable
from dataclasses import field, replace

from . import breaker as breakers
from . import limits, throttle
from .breaker import Breaker
from .frozen import frozen
from .limits import Cost, Limit, Window
from .plan import Image, Plan, kept_until, members, merged, number
from .throttle import Throttle


@frozen
class Scope:
    """What limits hold for: a model (`m#name`), a provider's account (`p#name`) or a caller's key (`k#name`)."""

    key: str
    limits: tuple[Limit, ...] = ()
    day_starts: str = "00:00 Etc/UTC"
    breaker: Breaker | None = None
    throttle: Throttle = field(default_factory=Throttle)
    denies_without_store: bool = False

    @property
    def is_free(self) -> bool:
        """Nothing could ever refuse a call and nothing is to be remembered of one."""
        return not (self.limits or self.breaker or self.throttle.max_in_flight or self.throttle.min_interval_ms)


@frozen
class Reason:
    """Why not: a limit's rule, `cooldown`, `breaker`, `in_flight` or `interval`; until when (ms), None: never."""

    rule: str
    until_ms: int | None


@frozen
class Refusal:
    scope: Scope
    reasons: tuple[Reason, ...]

    @property
    def retry_at_ms(self) -> int | None:
        """When all reasons are gone; None: waiting does not help."""
        moments = [reason.until_ms for reason in self.reasons]
        return None if None in moments else max(moment for moment in moments if moment is not None)

    @property
    def is_throttled(self) -> bool:
        """Room may come any moment: only calls in flight or the interval stand in the way."""
        return all(reason.rule in ("in_flight", "interval") for reason in self.reasons)


@frozen
class Reservation:
    """A call that may go, at `slot_ms`. What it took, so that it can be settled or given back."""

    scope: Scope
    call_id: str
    cost: Cost
    windows: tuple[Window, ...]
    slot_ms: int
    lease: str | None
    probe_id: str | None
    failures_seen: int
    used: tuple[int, ...]  # of each window, this call included

    def is_held_in(self, image: Image) -> bool:
        """Whether its lease or its probe is there: it was admitted, though the answer may have been lost."""
        holds_probe = self.probe_id is not None and image.get("p") == self.probe_id
        return holds_probe or (self.lease is not None and self.lease in members(image, "q"))


@frozen
class Outcome:
    """How a call ended.

    `tokens`: what it really took, None when nobody said. `is_refund`: it never reached the provider. `verdict` is for
    the breaker; None says nothing about the provider's health. `cool_until_ms`: not before then, the provider said.
    `at_least`: counters by attribute, and how much the provider says is used.
    """

    verdict: bool | None = None
    tokens: int | None = None
    is_refund: bool = False
    cool_until_ms: int | None = None
    at_least: tuple[tuple[str, int], ...] = ()


def plan_reserve(
    scope: Scope, cost: Cost, image: Image, *, now_ms: int, call_id: str, max_wait_ms: int
) -> tuple[Plan, Reservation | None] | Refusal:
    """A plan with the reservation it makes; or a plan to carry out first, with None; or a refusal."""
    minute = now_ms // 60_000
    windows = limits.windows(scope.limits, scope.day_starts, minute)
    if throttle.is_full(scope.throttle, image) and (clearing := throttle.clear_expired(image, now_ms)):
        return clearing, None
    used, full = [], []
    for window in windows:
        used.append(window.used(image) + cost.of(window.limit))
        if window.is_over(used[-1]):
            full.append(window)
    if reasons := _reasons(scope, cost, full, image, now_ms, max_wait_ms):
        return Refusal(scope, reasons)
    plan = Plan(set={"lr": now_ms, "x": kept_until(now_ms)})
    if number(image, "lr") // 60_000 != minute:  # else the last call has seen to it
        plan.remove = limits.stale(image, scope.day_starts, minute)
    limits.take(plan, windows, cost)
    is_probe = bool(scope.breaker and breakers.pass_through(plan, scope.breaker, image, now_ms, call_id))
    lease = throttle.take_lease(plan, scope.throttle, call_id, now_ms)
    throttle.take_slot(plan, scope.throttle, image, now_ms, max_wait_ms)
    slot_ms, failures_seen = throttle.next_slot(scope.throttle, image, now_ms), number(image, "f")
    probe_id = call_id if is_probe else None
    return plan, Reservation(scope, call_id, cost, windows, slot_ms, lease, probe_id, failures_seen, tuple(used))


def confirmed(reservation: Reservation, after: Image) -> Reservation:
    """The reservation by the item as it was written, for a store whose plan was made by an older one."""
    interval = reservation.scope.throttle.min_interval_ms
    return replace(
        reservation,
        used=tuple(window.used(after) for window in reservation.windows),
        failures_seen=number(after, "f"),
        slot_ms=number(after, "nx") - interval if interval else reservation.slot_ms,
    )


def plan_finish(reservation: Reservation, outcome: Outcome, *, now_ms: int) -> list[Plan]:
    """What is left to write: the first of these that holds, which says most. Empty where nothing is left.

    Settlement, breaker and cooldown have conditions of their own, and all go into one write.
    """
    scope, seen, probe = reservation.scope, reservation.failures_seen, reservation.probe_id
    judged: list[Plan] = []
    if scope.breaker and outcome.verdict is True:
        judged = breakers.succeeded(failures_seen=seen, probe_id=probe)
    elif scope.breaker and outcome.verdict is False:
        judged = breakers.failed(scope.breaker, probe_id=probe, failures_seen=seen, now_ms=now_ms)
    elif scope.breaker:
        judged = breakers.unjudged(probe_id=probe, now_ms=now_ms)
    cooled = [] if outcome.cool_until_ms is None else [breakers.cool(outcome.cool_until_ms)]
    corrections = _corrections(reservation, outcome, now_ms)
    if not (judged or cooled or outcome.at_least or corrections or reservation.lease):
        return []
    settled = Plan(add=corrections, exclude={"q": frozenset({reservation.lease})} if reservation.lease else {})
    choices = itertools.product(_raised(settled, outcome.at_least), [*judged, Plan()], [*cooled, Plan()])
    return [plan for plan in map(merged, choices) if not plan.is_empty]


def _corrections(reservation: Reservation, outcome: Outcome, now_ms: int) -> dict[str, int]:
    """By counter: what was taken less or more than was reserved. Counters that are gone already are left alone."""
    wrong: dict[str, int] = {}
    for window in reservation.windows:
        if outcome.is_refund:
            wrong[window.attribute] = -reservation.cost.of(window.limit)
        elif window.limit.what == "tokens" and outcome.tokens is not None:
            wrong[window.attribute] = outcome.tokens - reservation.cost.tokens
    if not wrong:
        return {}
    gone = limits.stale(wrong, reservation.scope.day_starts, now_ms // 60_000)
    return {name: amount for name, amount in wrong.items() if amount and name not in gone}


def _raised(settled: Plan, at_least: tuple[tuple[str, int], ...]) -> list[Plan]:
    """A settlement with each counter, or one, raised to what the provider says, where ours is below; or as it is."""
    raised = [_with_counters(settled, (counter,)) for counter in at_least]
    return [*([_with_counters(settled, at_least)] if len(at_least) > 1 else []), *raised, settled]


def _with_counters(settled: Plan, counters: tuple[tuple[str, int], ...]) -> Plan:
    names = dict(counters)
    plan = Plan(set=dict(names), exclude=settled.exclude)
    plan.add = {name: amount for name, amount in settled.add.items() if name not in names}
    for name, used in counters:
        plan.require(name, "at_most", used - 1)
    return plan


def _reasons(
    scope: Scope, cost: Cost, full: Iterable[Window], image: Image, now_ms: int, max_wait_ms: int
) -> tuple[Reason, ...]:
    reasons = []
    for window in full:
        is_for_ever = cost.of(window.limit) > window.limit.most
        reasons.append(Reason(window.limit.rule, None if is_for_ever else int(window.ends * 1000)))
    if scope.breaker:
        if (until := breakers.cooling_until(image, now_ms)) is not None:
            reasons.append(Reason("cooldown", until))
        if (until := breakers.open_until(scope.breaker, image, now_ms)) is not None:
            reasons.append(Reason("breaker", until))
    if throttle.is_full(scope.throttle, image):
        reasons.append(Reason("in_flight", now_ms + 1000))
    if (slot := throttle.next_slot(scope.throttle, image, now_ms)) > now_ms + max_wait_ms:
        reasons.append(Reason("interval", slot - max_wait_ms))
    return tuple(reasons)
