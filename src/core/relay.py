"""A stream on its way to the caller: each chunk as soon as it is whole, and an honest end.

What breaks off is said in band, and nothing after it. Where the caller wants that, another model is asked first to go
on (`recovery.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson

from . import sse
from .answers import in_safe_words
from .call import LEFT
from .chunk_stream import ChunkStream
from .errors import StreamNotRecovered, UpstreamError
from .ledger import Grant
from .recovery import Continuation, Sent, summed
from .stream import Chunk, choices_of, is_usage


@dataclass(slots=True)
class Leg:
    """One model's part of an answer. `came_to` is `ok`, `differs`, the kind of the failure, or the client left."""

    grant: Grant
    stream: ChunkStream
    continuation: Continuation | None = None
    came_to: str = LEFT
    failure: UpstreamError | None = None


class Relay:
    """`settle` is told each leg when it is over, `take_up` asked for another one; None: nobody can go on."""

    def __init__(
        self,
        leg: Leg,
        *,
        until: float,
        keep_alive_s: float,
        settle: Callable[[Leg], Awaitable[None]],
        take_up: Callable[[Leg, Sent], Awaitable[Leg | None]] | None,
    ) -> None:
        self.legs = [leg]
        self._until = until
        self._keep_alive_s = keep_alive_s
        self._settle = settle
        self._take_up = take_up
        self._sent = Sent()

    async def events(self) -> AsyncGenerator[bytes]:
        while True:
            leg = self.legs[-1]
            try:
                while (chunks := await leg.stream.next(self._until)) is not None:
                    encoded = self._encode(chunks[0]) if len(chunks) == 1 else b"".join(map(self._encode, chunks))
                    yield encoded or sse.KEEP_ALIVE
            except StreamNotRecovered as error:
                leg.came_to = "differs"
                yield sse.encode(orjson.dumps(error.body()))
                return
            except UpstreamError as error:
                leg.failure, leg.came_to = in_safe_words(error, leg.grant.model), error.kind
            else:
                leg.came_to = "ok"
                yield sse.DONE
                return
            async with aclosing(self._go_on(leg)) as signs_of_life:
                async for sign in signs_of_life:
                    yield sign
            if self.legs[-1] is leg:
                yield sse.encode(orjson.dumps(leg.failure.body()))
                return

    async def close(self) -> None:
        leg = self.legs[-1]
        try:
            await self._settle(leg)
        finally:
            await leg.stream.aclose()

    async def _go_on(self, leg: Leg) -> AsyncGenerator[bytes]:
        """Adds another leg if there is one. The caller hears that we are alive meanwhile."""
        if self._take_up is None:
            return
        looking = asyncio.ensure_future(self._take_up(leg, self._sent))
        try:
            while not looking.done():
                await asyncio.wait({looking}, timeout=self._keep_alive_s)
                if not looking.done():
                    yield sse.KEEP_ALIVE
        finally:
            looking.cancel()  # of a client that leaves; what is done is done
            await asyncio.wait({looking})
            found = None if looking.cancelled() else looking.result()
            if found is not None:
                self.legs.append(found)
                await self._settle(leg)
                await leg.stream.aclose()

    def _encode(self, chunk: Chunk) -> bytes:
        if self._take_up is None:
            return sse.encode(chunk.encode())
        leg = self.legs[-1]
        taken = leg.continuation.take(chunk) if leg.continuation else chunk
        if taken is None:
            return b""
        self._sent.note(taken)
        return sse.encode((self._signed(taken) if leg.continuation else taken).encode())

    def _signed(self, chunk: Chunk) -> Chunk:
        """At its end an answer of several models says so, and what all of them used."""
        ours: dict[str, Any] = {}
        if any(choice.get("finish_reason") for choice in choices_of(chunk)):
            ours = {"models": [leg.grant.model.name for leg in self.legs]}
        elif is_usage(chunk):
            earlier = (leg.stream.progress.usage for leg in self.legs[:-1])
            ours = {"usage": summed([usage for usage in earlier if usage] + [chunk.body["usage"]])}
        return Chunk({**chunk.body, "x_sluice": ours}) if ours else chunk
