"""A bound on each of many waits, one after the other.

`asyncio.timeout` sets a timer for each wait and takes it away again, which costs as much as passing on a chunk. Here
the timer of an earlier wait runs on; when it rings too early it is set anew.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Patience:
    """For waits that do not overlap. Whoever makes one calls `end`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._waiting: asyncio.Task[Any] | None = None
        self._is_over = False  # it is this bound that ended the wait
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    async def wait(self, work: Awaitable[_T], timeout_s: float) -> _T:
        """Raises TimeoutError when `work`, which is cancelled then, takes longer."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._until = self._loop.time() + timeout_s
        if self._timer is None or self._rings_at > self._until:
            self._set_timer()
        self._waiting, self._is_over, cancelled = task, False, task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            if self._is_over and task.cancelling() == cancelled + 1:  # else somebody else wants it to end, too
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None
            if self._is_over:
                task.uncancel()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.end()
        self._timer, self._rings_at = self._loop.call_at(self._until, self._ring), self._until

    def _ring(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._until:
            self._set_timer()
        else:
            self._is_over = True
            self._waiting.cancel()
