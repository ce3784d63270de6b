"""The story of one request, top to bottom: what is asked for, who may answer, reserve, ask, fall back, pass on, settle.

The caller is known already (`front_door.py`). How a provider is spoken to is `upstream.py`'s and the providers' affair,
what is reserved `ledger.py`'s, what is settled `settlement.py`'s; what a failure means stands in `retries.py`.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from . import routing
from .admission import Outcome, Refusal, Reservation
from .all_failed import Attempt, all_failed, key_refused, with_attempts
from .answers import Answer, EventStream, headers_of
from .auth import Caller
from .call import LEFT, Call
from .catalog import Catalog, Model
from .chat import Chat, parse_chat
from .chunk_stream import ChunkStream
from .config.schema import Kind
from .drawing import Drawing
from .embedding import parse_embedding
from .errors import GatewayError, OutOfTime, UpstreamError
from .holding import hold_status
from .ledger import Grant, Ledger
from .need import Need, is_larger, need_of_chat, need_without_words, shortfall
from .providers.dialect import Completion
from .recovery import Continuation, Sent, continued
from .relay import Leg, Relay
from .retries import RetryPolicy, pause_before_again, pause_when_alone
from .settlement import Settlement
from .store.port import StoreError
from .telemetry import Record, Telemetry, tokens_in
from .upstream import Upstream

SLICE_MS = 20  # of the time that several throttled models are waited for in turn
_Given = TypeVar("_Given")
_Ask = Callable[[Model], Awaitable[_Given]]
_Answered = tuple[Grant, _Given]


class Gateway:
    def __init__(
        self, catalog: Catalog, upstream: Upstream, ledger: Ledger, telemetry: Telemetry, *, retry: RetryPolicy
    ) -> None:
        self.catalog = catalog
        self._upstream = upstream
        self._ledger = ledger
        self._telemetry = telemetry
        self._retry = retry
        self._settlement = Settlement(catalog, ledger, telemetry)

    async def chat(
        self,
        raw: bytes,
        caller: Caller,
        record: Record,
        *,
        until: float = math.inf,
        recovers: bool | None = None,
    ) -> Answer | EventStream:
        """Answer a chat request. Raises GatewayError as long as nothing has been sent.

        `until`, of the event loop's clock: when the door must have the whole answer, however long a model may take.
        `recovers`: whether another model goes on where a stream breaks off; None: as it is configured.
        """
        chat = parse_chat(raw)
        need = need_of_chat(chat.body, chat.length, answers=chat.answers)
        call = self._call("chat", chat.model, need, caller, record, until)
        if chat.stream:
            call.recovers = self.catalog.config.server.recover_streams if recovers is None else recovers
            return await self._stream(call, chat)
        grant, whole = await self._answer(call, lambda model: self._upstream.complete(model, chat))
        return await self._hand_over(call, grant, whole)

    async def _stream(self, call: Call, chat: Chat) -> EventStream:
        opening = self._open(call, chat)
        hold_s = self.catalog.config.server.hold_status_seconds
        if hold_s is None:
            return await opening
        return await hold_status(
            opening,
            hold_s=hold_s,
            keep_alive_s=self._upstream.keep_alive_s,
            record=call.record,
            telemetry=self._telemetry,
        )

    async def _open(self, call: Call, chat: Chat) -> EventStream:
        counts = any(self._ledger.counts_tokens(model, call.caller) for model in call.candidates)
        counted = chat.with_usage() if counts else chat
        grant, stream = await self._answer(call, lambda model: self._upstream.open_stream(model, counted))
        call.record.first_token_s, call.record.is_stream = call.record.elapsed(), True
        self._telemetry.stream_began(call.record)
        return self._pass_on(call, counted, grant, stream)

    async def embed(self, raw: bytes, caller: Caller, record: Record, *, until: float = math.inf) -> Answer:
        """Answer a request for embeddings. Raises GatewayError. `until` as for a chat."""
        embedding = parse_embedding(raw)
        call = self._call("embedding", embedding.model, need_without_words(embedding.length), caller, record, until)
        grant, whole = await self._answer(call, lambda model: self._upstream.embed(model, embedding))
        return await self._hand_over(call, grant, whole)

    async def draw(self, drawing: Drawing, caller: Caller, record: Record, *, until: float = math.inf) -> Answer:
        """Answer a request for pictures, which come in several forms. Raises GatewayError."""
        call = self._call("image", drawing.model, need_without_words(drawing.length), caller, record, until)
        grant, whole = await self._answer(call, lambda model: self._upstream.draw(model, drawing))
        return await self._hand_over(call, grant, whole)

    def _call(self, kind: Kind, asked: str, need: Need, caller: Caller, record: Record, until: float) -> Call:
        candidates, by_name = routing.candidates(self.catalog, asked, caller, kind)
        deadline = asyncio.get_running_loop().time() + candidates[0].timeouts.total
        return Call(caller, record, need, need.cost, candidates, by_name, min(deadline, until), until)

    async def _answer(self, call: Call, ask: _Ask[_Given]) -> _Answered[_Given]:
        """The first candidate's answer, charged to the caller. Raises GatewayError."""
        call.charge = await self._charge(call)
        given: _Answered[_Given] | None = None
        tokens: int | None = None  # of a client that leaves nobody knows what it used
        try:
            given = await self._find(call, ask)
            return given
        except GatewayError as error:
            tokens = 0
            error.headers["x-sluice-attempts"] = str(call.record.attempts)
            raise
        finally:
            if given is None:
                await self._ledger.settle_charge(call.charge, tokens=tokens, is_refund=call.record.attempts == 0)

    async def _find(self, call: Call, ask: _Ask[_Given]) -> _Answered[_Given]:
        """Candidates until one answers: each once, then those that wait for room, then one that failed before.

        Raises GatewayError with what came of each when none did.
        """
        try:
            able = self._able(call)
            given = (
                await self._ask_in_turn(able, call, ask)
                or await self._ask_throttled(able, call, ask)
                or await self._ask_parked(call, ask)
            )
            if given is not None:
                return given
            if not call.tried:
                raise OutOfTime("The gateway's time for one request ran out before a model could be asked.")
            raise all_failed(list(call.tried.values()), now_ms=self._ledger.now_ms())
        except OutOfTime as error:
            raise with_attempts(error, list(call.tried.values())) from error.__cause__
        finally:
            await self._settlement.give_up_parked(call)

    async def _charge(self, call: Call) -> Reservation | None:
        charge = await self._ledger.charge(call.caller, call.cost)
        if isinstance(charge, Refusal):
            self._telemetry.refused(call.record, charge)
            raise key_refused(charge, call.caller.name, now_ms=self._ledger.now_ms())
        return charge

    def _able(self, call: Call) -> list[Model]:
        able = []
        for model in call.candidates:
            rule = shortfall(model, call.need)
            if rule is None:
                able.append(model)
            else:
                call.note(Attempt(model.name, "need", rule))
        return able

    async def _ask_in_turn(self, able: list[Model], call: Call, ask: _Ask[_Given]) -> _Answered[_Given] | None:
        """Each once, best first. In a category nobody is waited for as long as there are others to try."""
        is_waited_for = call.by_name or len(able) == 1
        for group in [[model] for model in able] if call.by_name else routing.by_priority(able):
            for model in await self._ledger.in_order(group, call.cost):
                given = await self._try(model, model.max_wait_ms if is_waited_for else 0, call, ask)
                if given is not None:
                    return given
        return None

    async def _ask_throttled(self, able: list[Model], call: Call, ask: _Ask[_Given]) -> _Answered[_Given] | None:
        """Of a category those that only their throttle keeps: waited for together, each as long as it is worth."""
        now = asyncio.get_running_loop().time
        began = now()
        while len(able) > 1 and not call.by_name and self._may_ask(call):
            left = [model for model in able if now() - began < model.max_wait_ms / 1000 and call.is_throttled(model)]
            if not left:
                break
            for model in left:
                given = await self._try(model, SLICE_MS, call, ask)
                if given is not None:
                    return given
        return None

    async def _ask_parked(self, call: Call, ask: _Ask[_Given]) -> _Answered[_Given] | None:
        """One that failed, and is worth asking again since nobody else has room."""
        if call.parked is None:
            return None
        grant, error = call.parked
        pause = pause_when_alone(error, random=random.random)
        if pause is None or not self._may_ask(call, after_s=pause):
            return None
        call.parked, call.may_park = None, False
        await self._ledger.settle(grant, Outcome(tokens=0, is_refund=not error.reached))
        await asyncio.sleep(pause)
        return await self._try(grant.model, 0, call, ask)

    def _may_ask(self, call: Call, *, after_s: float = 0.0) -> bool:
        """Whether time and attempts are left for one more call to a provider."""
        is_in_time = asyncio.get_running_loop().time() + after_s < call.deadline
        return is_in_time and call.record.attempts < self.catalog.config.server.max_attempts

    async def _try(self, model: Model, patience_ms: int, call: Call, ask: _Ask[_Given]) -> _Answered[_Given] | None:
        """Ask one model, again where that makes sense. None: it has no room, or it failed and another may be asked."""
        if call.too_long_for is not None and not is_larger(model, call.too_long_for):
            call.note(Attempt(model.name, "need", "context_length_exceeded"))
            return None
        asked, open_failure = 0, None
        while self._may_ask(call):
            grant = await self._ledger.admit(model, call.cost, patience_ms)
            if isinstance(grant, Refusal):
                self._settlement.refused(model, grant, call)
                break
            try:
                return grant, await self._ask(grant, call, ask)
            except UpstreamError as error:
                asked += 1
                pause = None if grant.is_probe else self._pause(error, asked, call)
                await self._settlement.failed(error, grant, call, is_final=pause is None)
                if error.ends:
                    raise
                if pause is None:
                    return None
                open_failure = error
                await asyncio.sleep(pause)
        if open_failure is not None:
            await self._settlement.not_asked_again(open_failure, model)
        return None

    async def _ask(self, grant: Grant, call: Call, ask: _Ask[_Given]) -> _Given:
        """One call to a provider, at its slot. Whoever is cancelled here leaves nothing reserved."""
        record, is_asked, is_settled = call.record, False, False
        try:
            await self._settlement.give_up_parked(call)
            if (wait_ms := grant.slot_ms - self._ledger.now_ms()) > 0:
                await asyncio.sleep(wait_ms / 1000)
            record.model, record.provider = grant.model.name, grant.model.provider
            record.attempts += 1
            is_asked, began = True, time.perf_counter()
            try:
                given = await self._in_time(ask(grant.model), call)
            except TimeoutError as error:
                raise OutOfTime("The gateway's time for one request ran out before the model answered.") from error
            finally:
                record.waited_s += time.perf_counter() - began
            is_settled = True  # by whoever passes the answer on
            return given
        except UpstreamError:
            is_settled = True  # by whoever judges the failure
            raise
        finally:
            if not is_settled:
                if is_asked:
                    self._telemetry.attempted(record, LEFT)
                await self._ledger.settle(grant, Outcome(is_refund=not is_asked))

    async def _in_time(self, asked: Awaitable[_Given], call: Call) -> _Given:
        """The first attempt has time-outs of its own; a later one has what is left of the request's time."""
        until = call.until if call.record.attempts == 1 else min(call.until, call.deadline)
        if until == math.inf:
            return await asked
        async with asyncio.timeout_at(until):
            return await asked

    def _pause(self, error: UpstreamError, asked: int, call: Call) -> float | None:
        pause = pause_before_again(
            error,
            asked=asked,
            by_name=call.by_name,
            is_last=len(call.candidates) == 1,
            policy=self._retry,
            random=random.random,
        )
        return pause if pause is not None and self._may_ask(call, after_s=pause) else None

    async def _hand_over(self, call: Call, grant: Grant, whole: Completion) -> Answer:
        """A whole answer."""
        self._telemetry.attempted(call.record, "ok")
        try:
            usage = whole.body.get("usage")
            outcome = Outcome(verdict=True, tokens=tokens_in(usage))
            await self._settlement.answered(call, grant, usage, outcome, whole.reported)
        finally:
            await self._settlement.settle_charge(call)
        return Answer(whole.raw, self._headers(call, grant, whole.dropped), whole.media_type)

    def _pass_on(self, call: Call, chat: Chat, grant: Grant, stream: ChunkStream) -> EventStream:
        """A stream that has begun."""
        relay = Relay(
            Leg(grant, stream),
            until=call.until,
            keep_alive_s=self._upstream.keep_alive_s,
            settle=partial(self._settlement.leg_over, call),
            take_up=partial(self._take_up, call, chat) if call.recovers else None,
        )

        async def close() -> None:
            try:
                await relay.close()
            finally:
                await self._settlement.settle_charge(call)

        return EventStream(relay.events(), close, self._headers(call, grant, stream.dropped))

    async def _take_up(self, call: Call, chat: Chat, failed: Leg, sent: Sent) -> Leg | None:
        """Somebody else who goes on where a stream broke off; None: it is for the caller to ask anew."""
        assert failed.failure is not None
        call.candidates = [model for model in call.candidates if model is not failed.grant.model]
        if failed.failure.ends or chat.answers > 1 or not sent.is_plain or not call.candidates:
            return None
        call.record.trail.append(f"{failed.grant.model.name}: {failed.came_to}")
        call.tried.clear()

        async def ask(model: Model) -> tuple[ChunkStream, Continuation]:
            asked = continued(chat, sent, can_prefill="prefill" in model.capabilities)
            return await self._upstream.open_stream(model, asked), Continuation.of(sent, chat, asked)

        try:
            grant, (stream, continuation) = await self._find(call, ask)
        except (GatewayError, StoreError):
            return None
        return Leg(grant, stream, continuation)

    def _headers(self, call: Call, grant: Grant, dropped: tuple[str, ...]) -> dict[str, str]:
        now = self._ledger.now_ms() / 1000
        attempts = call.record.attempts
        return headers_of(grant.model, grant.reservations[0], attempts=attempts, dropped=dropped, now=now)
