"""State in a sqlite file: survives restarts, shared by all processes of a machine. The default on a laptop.

An operation takes ten microseconds and asks no disk, less than it takes to have a thread do it: whoever asks carries it
out. What has to wait, for a file that another process holds or for the disk when the log is written back, is a thread's
affair, so that neither ever stalls a stream. Items are JSON of an image.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import orjson

from ..admission import Outcome, Refusal, Reservation, Scope, plan_finish
from ..limits import Cost
from ..plan import Image, Plan, Value
from .port import StoreError, reserve_in, write_in
from .sqlite_file import VERSION, is_busy, open_file, patiently, unusable

PATIENCE_AT_START_S = 5.0  # several workers make the file at once
LOG_AT_MOST = 4000  # what a process adds to it before it is written back: 4 MB
_AT_ONCE = 64
_MOMENT_S = 0.0001  # another process holds the file for a tenth of that, as a rule
_T = TypeVar("_T")


class SqliteStore:
    """Opened at once, so that a file that cannot be used is told at start. Raises StoreError."""

    def __init__(self, path: str, *, timeout_ms: int, patience_at_start_s: float = PATIENCE_AT_START_S) -> None:
        self.images: Mapping[str, Image] = {}
        self._path = path
        self._patience_s = timeout_ms / 1000
        self._seen: dict[str, tuple[str | bytes | None, Image]] = {}  # items as they lie in the file, and read
        self._version: object = None  # of the file when they were
        self._written = 0
        self._jobs: list[_Job[Any]] = []  # the thread's: as long as there are any, all the above is its as well
        self._is_closed = False
        self._lock = threading.Lock()  # of all this; nobody who holds it ever waits
        self._is_called = threading.Condition(self._lock)
        self._connection = open_file(path, patience_at_start_s)
        self._thread = threading.Thread(target=self._work, name="sluice-state", daemon=True)
        self._thread.start()

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        def read() -> dict[str, Image]:
            self._forget_if_changed()
            return {key: image for key in keys if (image := self._read(key)[1])}

        return await self._do(read)

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        def reserve(image: Image) -> tuple[Image, Reservation | Refusal]:
            return reserve_in(image, scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)

        def give_back(verdict: Reservation | Refusal | None) -> None:
            if isinstance(verdict, Reservation):
                self._write(scope.key, plan_finish(verdict, Outcome(is_refund=True), now_ms=now_ms))

        return await self._do(lambda: self._change(scope.key, reserve), give_back)

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        self._refuse_if_closed()
        if plans := plan_finish(reservation, outcome, now_ms=now_ms):
            await self.write(reservation.scope.key, *plans)

    async def write(self, key: str, *plans: Plan) -> None:
        await self._do(lambda: self._write(key, plans))

    async def aclose(self) -> None:
        """What was asked for before is still carried out."""
        with self._lock:
            self._is_closed = True
            self._is_called.notify()
        await asyncio.to_thread(self._thread.join)

    async def _do(self, work: Callable[[], _T], undo: Callable[[_T | None], None] = lambda _: None) -> _T:
        """At once, where there is nothing to wait for; else by the thread, then also if whoever asks is
        cancelled meanwhile, for whom there is `undo`.
        """
        with self._lock:
            self._refuse_if_closed()
            if not self._jobs and self._written < LOG_AT_MOST:
                try:
                    return patiently(work, _MOMENT_S, pause_s=0)
                except Exception as error:
                    if not is_busy(error):
                        raise unusable(self._path, error) from error
            job = self._hand_over(work)
        try:
            return await job.future
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError), self._lock:
                self._refuse_if_closed()
                self._hand_over(lambda: undo(job.result)).future.cancel()
            raise
        except Exception as error:
            raise unusable(self._path, error) from error

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise StoreError(f"the state file {self._path} is closed: this process is about to end")

    def _hand_over(self, work: Callable[[], _T]) -> "_Job[_T]":
        job = _Job(work, asyncio.get_running_loop())
        self._jobs.append(job)
        self._is_called.notify()
        return job

    # --- by the thread

    def _work(self) -> None:
        while jobs := self._next():
            failure = self._carry_out(jobs)
            with self._lock:
                del self._jobs[: len(jobs)]
                is_long = self._written >= LOG_AT_MOST
            for job in jobs:
                job.tell(failure)
            if is_long:
                self._write_back()
        self._connection.close()

    def _next(self) -> "list[_Job[Any]]":
        """Those who wait, in the order in which they came; none once it is closed and all is done."""
        with self._lock:
            self._is_called.wait_for(lambda: self._jobs or self._is_closed)
            return self._jobs[:_AT_ONCE]

    def _carry_out(self, jobs: "list[_Job[Any]]") -> Exception | None:
        """In one transaction, so that they wait for the file together. What it failed with, if it did."""
        try:
            with self._connection:
                patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"), self._patience_s)
                for job in jobs:
                    job.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._seen.clear()
            return error
        return None

    def _write_back(self) -> None:
        """First without holding up other processes, then with what they added meanwhile, so that the log begins anew.
        Its first page is waited for as well, so it is written here. Should that fail, it only takes more room.
        """
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        self._written = 0

    # --- by whoever asks, or by the thread within its transaction

    def _write(self, key: str, plans: Sequence[Plan]) -> None:
        self._change(key, lambda image: (write_in(image, *plans), None))

    def _change(self, key: str, change: Callable[[Image], tuple[Image, _T]]) -> _T:
        """Judged by the item as it was seen last, and once more if somebody else has changed it since. So the file is
        held for one statement alone, and nothing is read twice that nobody has changed.
        """
        while True:
            before, image = self._read(key)
            after, result = change(image)
            is_old = self._forget_if_changed() if after is image else not self._replace(key, before, after)
            if not is_old:
                return result

    def _forget_if_changed(self) -> bool:
        """Whether anybody else has written to the file since this was asked last."""
        version = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return False
        self._seen.clear()
        self._version = version
        return True

    def _read(self, key: str) -> tuple[str | bytes | None, Image]:
        if key not in self._seen:
            row = self._connection.execute("SELECT image FROM items WHERE key = ?", (key,)).fetchone()
            self._seen[key] = (row[0], _decode(row[0])) if row else (None, {})
        return self._seen[key]

    def _replace(self, key: str, before: str | bytes | None, image: Image) -> bool:
        """Whether it was still what it was before; else it is to be read again."""
        after = _encode(image)
        if before is None:
            done = self._connection.execute("INSERT OR IGNORE INTO items (key, image) VALUES (?, ?)", (key, after))
        else:
            statement = "UPDATE items SET image = ? WHERE key = ? AND image = ?"
            done = self._connection.execute(statement, (after, key, before))
        if not done.rowcount:
            del self._seen[key]
            return False
        self._seen[key] = after, image
        self._written += 1
        return True


class _Job(Generic[_T]):
    """Work for the thread; whoever waits hears of it once the transaction is committed, not before."""

    def __init__(self, work: Callable[[], _T], loop: asyncio.AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self._error: Exception | None = None
        self.result: _T | None = None  # None as well when it was rolled back
        self.future: asyncio.Future[_T] = loop.create_future()

    def run(self) -> None:
        """Raises what concerns the whole file; an item that cannot be read concerns this job alone."""
        try:
            self.result = self._work()  # nothing is half done: it writes once, at its end
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
            self._error = error

    def tell(self, failure: Exception | None) -> None:
        """`failure`: of the transaction."""
        if failure is not None:
            self.result, self._error = None, failure
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.future.done():  # cancelled
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(cast("_T", self.result))


def _encode(image: Image) -> str:
    """Sets as lists. As text: of bytes sqlite3 first asks each time who might adapt them."""
    return orjson.dumps(image, default=sorted).decode()


def _decode(raw: str | bytes) -> dict[str, Value]:
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in orjson.loads(raw).items()}
