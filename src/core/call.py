"""One request on its way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .admission import Reservation
from .all_failed import Attempt
from .auth import Caller
from .catalog import Model
from .errors import UpstreamError
from .ledger import Grant
from .limits import Cost
from .need import Need
from .telemetry import Record

LEFT = "client_left"  # what an attempt came to whose client did not wait


@dataclass(slots=True)
class Call:
    """What it needs, what it takes from the limits, who may answer, what came of each."""

    caller: Caller
    record: Record
    need: Need
    cost: Cost
    candidates: Sequence[Model]
    by_name: bool
    deadline: float  # no call to a provider begins after it, no second answer either; of the event loop's clock, as is
    until: float  # when the door must have the whole answer
    charge: Reservation | None = None  # of the caller's own limit
    tried: dict[str, Attempt] = field(default_factory=dict)  # by model, the last word on each, the latest last
    too_long_for: Model | None = None  # then only larger ones are asked
    parked: tuple[Grant, UpstreamError] | None = None  # failed, but to be asked again if nobody else has room
    may_park: bool = True
    recovers: bool = False  # another model goes on where a stream broke off
    usages: list[dict[str, Any]] = field(default_factory=list)  # as reported, one for each model that answered

    def is_throttled(self, model: Model) -> bool:
        """Whether only calls in flight or an interval kept the model from being asked."""
        return model.name in self.tried and self.tried[model.name].is_throttled

    def note(self, attempt: Attempt) -> None:
        self.tried.pop(attempt.model, None)
        self.tried[attempt.model] = attempt
