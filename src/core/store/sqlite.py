"""State in a sqlite file: survives restarts, shared by all processes of a machine. The default on a laptop.

One thread of its own holds the connection, so that a busy file never stalls a stream. It takes all that is waiting into
one transaction: under load the cost of a commit is shared. Items are JSON of an image; a file of a version that we do
not know is never touched.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import orjson

from ..admission import Outcome, Refusal, Reservation, Scope
from ..limits import Cost
from ..plan import Image, Plan, Value
from .port import StoreError, finish_in, reserve_in, write_in

VERSION = 1
PATIENCE_AT_START_S = 5.0  # several workers make the file at once
_AT_ONCE = 64
_PAUSE_S = 0.01
_T = TypeVar("_T")

_OTHER_FILE = "name another file in state.path"
_REMEDY = f"see that it is a file with room to grow, in a folder that this user may write to, or {_OTHER_FILE}"
_REMEDIES = {
    sqlite3.SQLITE_BUSY: f"another process holds it; end that one, or {_OTHER_FILE}",
    sqlite3.SQLITE_READONLY: f"allow this user to write to it and to its folder, or {_OTHER_FILE}",
    sqlite3.SQLITE_NOTADB: f"it is damaged or no state file; move it away, or {_OTHER_FILE}",
    sqlite3.SQLITE_CORRUPT: f"it is damaged; move it away (counting begins anew), or {_OTHER_FILE}",
}


class SqliteStore:
    """Opened at once, so that a file that cannot be used is told at start. Raises StoreError."""

    def __init__(self, path: str, *, timeout_ms: int, patience_at_start_s: float = PATIENCE_AT_START_S) -> None:
        self.images: Mapping[str, Image] = {}
        self._path = path
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._closing = threading.Lock()
        self._connection = _open(path, timeout_ms, patience_at_start_s)
        self._thread = threading.Thread(target=self._work, name="sluice-state", daemon=True)
        self._thread.start()

    async def snapshot(self, keys: Sequence[str]) -> dict[str, Image]:
        return await self._do(lambda: {key: image for key in keys if (image := self._read(key))})

    async def reserve(
        self, scope: Scope, cost: Cost, *, now_ms: int, call_id: str, max_wait_ms: int = 0
    ) -> Reservation | Refusal:
        def reserve() -> Reservation | Refusal:
            before = self._read(scope.key)
            after, verdict = reserve_in(before, scope, cost, now_ms=now_ms, call_id=call_id, max_wait_ms=max_wait_ms)
            self._write(scope.key, before, after)
            return verdict

        def give_back() -> None:
            if isinstance(job.result, Reservation):
                self._finish(job.result, Outcome(is_refund=True), now_ms)

        job = self._put(reserve)
        try:
            return await self._wait_for(job)
        except asyncio.CancelledError:  # it is carried out all the same, and nobody is left to settle it
            with contextlib.suppress(StoreError):  # closed meanwhile
                self._put(give_back).future.cancel()
            raise

    async def finish(self, reservation: Reservation, outcome: Outcome, *, now_ms: int) -> None:
        await self._do(lambda: self._finish(reservation, outcome, now_ms))

    async def write(self, key: str, *plans: Plan) -> None:
        def write() -> None:
            before = self._read(key)
            self._write(key, before, write_in(before, *plans))

        await self._do(write)

    async def aclose(self) -> None:
        """What was asked for before is still carried out."""
        with self._closing:
            self._is_closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _do(self, work: Callable[[], _T]) -> _T:
        return await self._wait_for(self._put(work))

    def _put(self, work: Callable[[], _T]) -> "_Job[_T]":
        job = _Job(work, asyncio.get_running_loop())
        with self._closing:  # nothing may come to lie behind the end of the queue, it would be waited for for ever
            if self._is_closed:
                raise StoreError(f"the state file {self._path} is closed: this process is about to end")
            self._jobs.put(job)
        return job

    async def _wait_for(self, job: "_Job[_T]") -> _T:
        try:
            return await job.future
        except Exception as error:
            raise _unusable(self._path, error) from error

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, is_last = [first], False
            while len(jobs) < _AT_ONCE and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    is_last = True
                    break
                jobs.append(job)
            self._carry_out(jobs)
            if is_last:
                break
        self._connection.close()

    def _carry_out(self, jobs: "list[_Job[Any]]") -> None:
        failure: Exception | None = None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.run()
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            failure = error
            with contextlib.suppress(sqlite3.Error):  # sqlite may have done so by itself
                self._connection.execute("ROLLBACK")
        for job in jobs:
            job.tell(failure)

    def _finish(self, reservation: Reservation, outcome: Outcome, now_ms: int) -> None:
        before = self._read(reservation.scope.key)
        self._write(reservation.scope.key, before, finish_in(before, reservation, outcome, now_ms=now_ms))

    def _read(self, key: str) -> Image:
        row = self._connection.execute("SELECT image FROM items WHERE key = ?", (key,)).fetchone()
        return _decode(row[0]) if row else {}

    def _write(self, key: str, before: Image, after: Image) -> None:
        if after is not before:
            self._connection.execute("INSERT OR REPLACE INTO items (key, image) VALUES (?, ?)", (key, _encode(after)))


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


def _open(path: str, timeout_ms: int, patience_s: float) -> sqlite3.Connection:
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            return _try_to_open(path, timeout_ms, patience_s)
        except (sqlite3.Error, OSError) as error:
            # Two that turn a new file to WAL at the same time do not wait for each other: one is refused at once.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise _unusable(path, error) from error
        time.sleep(_PAUSE_S)


def _try_to_open(path: str, timeout_ms: int, patience_s: float) -> sqlite3.Connection:
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)
        connection.execute("BEGIN IMMEDIATE")
        _claim(connection, path)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")
        on_failure.pop_all()
    return connection


def _claim(connection: sqlite3.Connection, path: str) -> None:
    """Makes a new file ours. One that is not, or of a version that we do not know, is left as it is."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        connection.execute("CREATE TABLE items (key TEXT PRIMARY KEY, image BLOB NOT NULL) WITHOUT ROWID")
    elif version != VERSION:
        raise StoreError(
            f"the state file {path} is of version {version}, this is for version {VERSION}: "
            f"move it away, or {_OTHER_FILE}"
        )
    elif (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        words = " ".join(found.split())
        raise StoreError(f"the state file {path} cannot be used: {words}: {_REMEDIES[sqlite3.SQLITE_CORRUPT]}")
    connection.execute(f"PRAGMA user_version = {VERSION}")  # written in any case: BEGIN lets a read-only file pass


def _unusable(path: str, error: Exception) -> StoreError:
    return StoreError(f"the state file {path} cannot be used: {error}: {_REMEDIES.get(_code(error), _REMEDY)}")


def _code(error: Exception) -> int:
    """Sqlite's primary code; what it adds to that only says more precisely why."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _encode(image: Image) -> bytes:
    return orjson.dumps(
        {name: sorted(value) if isinstance(value, frozenset) else value for name, value in image.items()}
    )


def _decode(raw: bytes) -> dict[str, Value]:
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in orjson.loads(raw).items()}
