"""What becomes of an item when a call is over."""

from core.admission import Outcome, Reservation, plan_finish
from core.plan import Image
from core.store.port import write_in


def finish_in(image: Image, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> Image:
    return write_in(image, *plan_finish(reservation, outcome, now_ms=now_ms))
