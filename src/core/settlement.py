"""What came of each attempt: written into the request's record, told to telemetry, settled in the state.

What a failure means stands in `retries.py`, what an answer's headers teach in `learning.py`.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .admission import Outcome, Refusal
from .all_failed import Attempt
from .answers import in_safe_words
from .call import LEFT, Call
from .catalog import Catalog, Model
from .errors import StreamNotRecovered, TooLong, UpstreamError
from .learning import learnt
from .ledger import Grant, Ledger
from .providers.limit_headers import ReportedLimit
from .recovery import summed
from .relay import Leg
from .retries import cooldown_of, outcome_of, pause_when_alone
from .telemetry import Telemetry, tokens_in


class Settlement:
    def __init__(self, catalog: Catalog, ledger: Ledger, telemetry: Telemetry) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._telemetry = telemetry

    def refused(self, model: Model, refusal: Refusal, call: Call) -> None:
        if not call.is_throttled(model):  # or it was told when it was met first
            self._telemetry.refused(call.record, refusal)
        known = call.tried.get(model.name)
        if known is None or known.kind != "upstream":
            call.note(Attempt.of_refusal(model.name, refusal))

    async def failed(self, error: UpstreamError, grant: Grant, call: Call, *, is_final: bool) -> None:
        model, now_ms = grant.model, self._ledger.now_ms()
        in_safe_words(error, model)
        call.note(Attempt.of_failure(model, error, now_ms=now_ms))
        call.record.trail.append(f"{model.name}: {error.kind} {error.upstream_status or ''}".rstrip())
        self._telemetry.attempted(call.record, error.kind)
        if isinstance(error, TooLong):
            call.too_long_for = model
        if not is_final:
            await self._ledger.settle(grant, Outcome(tokens=0, is_refund=not error.reached))
        elif self._may_park(error, grant, call):
            call.parked = (grant, error)
        else:
            await self._settle_failure(error, grant, call)

    async def not_asked_again(self, error: UpstreamError, model: Model) -> None:
        """It was to be asked again, and there was no room or no time: its failure is final after all."""
        if outcome_of(error, model, now_ms=self._ledger.now_ms()).verdict is False:
            await self._ledger.count_failure(model)

    async def give_up_parked(self, call: Call) -> None:
        """Somebody else answers, or nobody: the failure is final now."""
        if call.parked is not None:
            (grant, error), call.parked = call.parked, None
            await self._settle_failure(error, grant, call)

    async def answered(
        self, call: Call, grant: Grant, usage: Any, outcome: Outcome, reported: Sequence[ReportedLimit]
    ) -> None:
        if isinstance(usage, dict):
            call.usages.append(usage)
        if reported:
            outcome = learnt(outcome, reported, grant.reservations[0], self._ledger.now_ms())
        await self._ledger.settle(grant, outcome)

    async def leg_over(self, call: Call, leg: Leg) -> None:
        self._telemetry.attempted(call.record, leg.came_to)
        usage, model = leg.stream.progress.usage, leg.grant.model
        outcome = Outcome(verdict=True if leg.came_to in ("ok", "differs") else None, tokens=tokens_in(usage))
        if leg.failure is not None:
            call.record.error = leg.failure.code or leg.failure.kind
            judged = outcome_of(leg.failure, model, now_ms=self._ledger.now_ms())
            outcome = replace(judged, tokens=outcome.tokens)
            self._note_breaker(outcome, leg.grant, call)
        elif leg.came_to != LEFT:
            call.record.error = None if leg.came_to == "ok" else StreamNotRecovered.code
        await self.answered(call, leg.grant, usage, outcome, leg.stream.reported)
        if leg.failure is not None:
            await self._cool_account(leg.failure, model)

    async def settle_charge(self, call: Call) -> None:
        used = call.usages[0] if len(call.usages) == 1 else summed(call.usages)
        call.record.note_usage(used)
        await self._ledger.settle_charge(call.charge, tokens=tokens_in(used))

    def _may_park(self, error: UpstreamError, grant: Grant, call: Call) -> bool:
        """In a category: whether it would be worth asking again, should nobody else have room."""
        again = pause_when_alone(error, random=random.random)
        return call.may_park and not call.by_name and not grant.is_probe and again is not None

    async def _settle_failure(self, error: UpstreamError, grant: Grant, call: Call) -> None:
        outcome = outcome_of(error, grant.model, now_ms=self._ledger.now_ms())
        self._note_breaker(outcome, grant, call)
        await self._ledger.settle(grant, outcome)
        await self._cool_account(error, grant.model)

    def _note_breaker(self, outcome: Outcome, grant: Grant, call: Call) -> None:
        """By what was known when the call was admitted: of two failures at once both may tell of it."""
        seen = grant.reservations[0].failures_seen + 1
        if outcome.verdict is False and (grant.is_probe or seen >= grant.model.breaker.failures):
            self._telemetry.breaker_opened(call.record, grant.model.name)

    async def _cool_account(self, error: UpstreamError, model: Model) -> None:
        """What was said of the account holds for all its models."""
        now_ms = self._ledger.now_ms()
        if error.is_account and (until_ms := cooldown_of(error, model, now_ms=now_ms)) is not None:
            account = [other for other in self._catalog.models if other.provider == model.provider]
            await self._ledger.cool(account, until_ms)
