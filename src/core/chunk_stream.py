"""A provider's stream on its way in: held back until the answer begins, then chunk by chunk to an end that is told.

Asks for nothing and chooses nobody: it reads one answer that `upstream.py` has opened. Whoever has one closes it.
"""

import asyncio
import contextlib
import math

from .catalog import Model
from .chat import Chat
from .errors import OutOfTime, Silent, Transient, UpstreamError
from .http_client.port import ConnectionLost, HttpResponse
from .providers.dialect import Stamp
from .providers.limit_headers import ReportedLimit
from .stream import Chunk, Done, Item, Progress, is_real, is_usage

DRAIN_S = 0.05  # after `[DONE]` the end of the body is usually there: read it, and the connection can serve again
MAX_HELD_BYTES = 2**20


class ChunkStream:
    """One stream whose answer has begun. Ask for the `next`; `progress` says what has been seen so far."""

    def __init__(
        self,
        model: Model,
        chat: Chat,
        response: HttpResponse,
        *,
        stamp: Stamp,
        dropped: tuple[str, ...],
        reported: tuple[ReportedLimit, ...],
        started: float,
        keep_alive_s: float,
    ) -> None:
        self.progress = Progress(expected=chat.answers)
        self.dropped, self.reported = dropped, reported
        self._chat, self._stamp = chat, stamp
        self._hides_usage = chat.hides_usage
        self._timeouts = model.timeouts
        self._keep_alive_s = keep_alive_s
        self._response = response
        self._dialect = model.row.dialect
        self._decoder = self._dialect.decoder(chat, stamp)
        self._now = asyncio.get_running_loop().time
        self._started = self._heard = started
        self._held: list[Item] = []
        self._failure: UpstreamError | None = None  # behind what is held
        self._is_over = False  # the body has ended
        self._saw_done = False

    async def begin(self) -> None:
        """Hold back what comes until the first real chunk, so that every failure up to it can still be a status."""
        until, raw = self._started + self._timeouts.first_token, b""
        while True:
            try:
                piece = await self._read(until - self._now())
            except TimeoutError as error:
                raise Silent(f"The provider sent no token within {self._timeouts.first_token:g} s.") from error
            items = self._decode(piece)
            self._held += items
            for item in items:
                if isinstance(item, UpstreamError):
                    raise item
                if isinstance(item, Chunk) and is_real(item):
                    return
            raw += piece
            if self._is_over or len(raw) > MAX_HELD_BYTES or Done() in items:
                raise self._why_no_answer(raw)

    async def next(self, until: float = math.inf) -> list[Chunk] | None:
        """The next chunks as soon as they are whole; an empty list when the caller should hear that we are alive.

        None when the answer is finished. Raises UpstreamError when it broke off or at `until`, of the loop's clock.
        """
        spoke = self._now()
        while True:
            items, self._held = self._held, []
            if not items:
                if self._failure is not None:
                    raise self._failure
                if self._saw_done or self._is_over:
                    break
                items = await self._next_items(spoke + self._keep_alive_s, until)
            chunks = self._take(items)
            if chunks or self._now() - spoke >= self._keep_alive_s:
                return chunks
        if not self.progress.is_finished(done=self._saw_done):
            raise Transient("The provider's stream broke off before the answer was finished.")
        return None

    async def aclose(self) -> None:
        if self._saw_done:
            until = self._now() + DRAIN_S
            with contextlib.suppress(UpstreamError, TimeoutError):
                while not self._is_over and (left_s := until - self._now()) > 0:
                    await self._read(left_s)
        await self._response.aclose()

    def _why_no_answer(self, raw: bytes) -> UpstreamError:
        """Asked for a stream, some say in plain JSON, with status 200, why there is none."""
        failure = self._dialect.completion(raw, self._chat, self._stamp)
        if isinstance(failure, UpstreamError) and not isinstance(failure, Transient):
            return failure
        return Transient("The provider's stream ended before an answer began.")

    def _take(self, items: list[Item]) -> list[Chunk]:
        """The chunks up to the end of the answer or to what went wrong."""
        chunks: list[Chunk] = []
        for item in items:
            if isinstance(item, Chunk):
                self.progress.note(item)
                if not (item.is_unasked or (self._hides_usage and is_usage(item))):
                    chunks.append(item)
            elif isinstance(item, Done):
                self._saw_done = True
                break
            else:
                self._failure = item
                break
        return chunks

    async def _next_items(self, speak_at: float, until: float) -> list[Item]:
        """What comes next; nothing when it is time to speak. An answer that had finished survives a rough end."""
        idle_at, total_at = self._heard + self._timeouts.idle, self._started + self._timeouts.total
        try:
            return self._decode(await self._read(min(speak_at, idle_at, total_at, until) - self._now()))
        except TimeoutError as error:
            if min(idle_at, total_at, until) > self._now():
                return []
            failure: UpstreamError = Silent("The provider fell silent in the middle of its answer.")
            if until <= self._now():
                failure = OutOfTime("The gateway's time for one request ran out in the middle of the answer.")
            failure.__cause__ = error
        except UpstreamError as error:
            failure = error
        self._is_over = True
        return [] if self.progress.is_finished(done=False) else [failure]

    async def _read(self, timeout_s: float) -> bytes:
        try:
            piece = await self._response.read(max(0.0, timeout_s))
        except ConnectionLost as error:
            raise Transient(f"The provider failed: {error}.") from error
        self._heard = self._now()
        self._is_over = not piece
        return piece

    def _decode(self, piece: bytes) -> list[Item]:
        return self._decoder.feed(piece) if piece else self._decoder.close()
