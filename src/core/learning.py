"""What a provider says of its limits along with a good answer, as the store should know it: it knows best. Pure.

Others may use the same account, so its count may be above ours: then ours is raised to it, never lowered. A limit that
is used up is a cooldown until it has room again.
"""

from collections.abc import Sequence
from dataclasses import replace

from .admission import Outcome, Reservation
from .providers.limit_headers import ReportedLimit, wait_for_room

LONGEST_S = 86_400.0  # a reset that is further away is not believed


def learnt(outcome: Outcome, reported: Sequence[ReportedLimit], reservation: Reservation, now_ms: int) -> Outcome:
    """The outcome of a call with what the provider reported of its limits just then."""
    if not reported:
        return outcome
    credible = [limit for limit in reported if limit.remaining >= 0 and limit.limit != 0]  # Azure says -1 or 0 of 0
    wait_s = wait_for_room(credible)
    until = outcome.cool_until_ms
    if wait_s is not None and 0 < wait_s <= LONGEST_S:
        until = max(until or 0, now_ms + int(wait_s * 1000))
    return replace(outcome, cool_until_ms=until, at_least=_counters(credible, reservation, now_ms))


def _counters(reported: Sequence[ReportedLimit], reservation: Reservation, now_ms: int) -> tuple[tuple[str, int], ...]:
    remaining: dict[tuple[str, str | None], int] = {(it.what, it.window): it.remaining for it in reported}
    found = []
    for window, used in zip(reservation.windows, reservation.used, strict=True):
        left = remaining.get((window.limit.what, window.limit.span))
        if left is not None and window.limit.most - left > used and now_ms < window.ends * 1000:
            found.append((window.attribute, window.limit.most - left))
    return tuple(found)
