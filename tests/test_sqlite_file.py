"""The state file as it may be found: locked, read-only, damaged, another program's. It is said, and nothing is lost."""

import asyncio
import contextlib
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from core.admission import Outcome, Refusal, Reservation, Scope
from core.limits import Cost, Limit
from core.plan import Plan
from core.store.port import StoreError
from core.store.sqlite import LOG_AT_MOST, SqliteStore
from core.store.sqlite_file import VERSION

NOW = 1_795_428_930_000
SCOPE = Scope("m#a", (Limit("requests", "day", 3),))
NOBODY = 65534


def open_file(path: Path, *, timeout_ms: int = 5_000, patience_s: float = 0.05) -> SqliteStore:
    return SqliteStore(str(path), timeout_ms=timeout_ms, patience_at_start_s=patience_s)


async def ask(store: SqliteStore) -> Reservation | Refusal:
    return await store.reserve(SCOPE, Cost(), now_ms=NOW, call_id="call")


async def make_file(path: Path, calls: int = 1) -> None:
    """As the gateway leaves it behind."""
    store = open_file(path)
    for _ in range(calls):
        await ask(store)
    await store.aclose()


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A state file with the count of one call."""
    path = tmp_path / "state.db"
    await make_file(path)
    return path


async def count_of(path: Path) -> object:
    store = open_file(path)
    try:
        return (await store.snapshot(["m#a"]))["m#a"]["rd739943"]
    finally:
        await store.aclose()


# --- a file that cannot be used


def a_folder(path: Path) -> None:
    path.mkdir()


def random_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def a_few_bytes(path: Path) -> None:
    path.write_bytes(b"{}\n")


def a_damaged_page(path: Path) -> None:
    asyncio.run(make_file(path))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + b"\x5a" * (len(raw) // 2))


def cut_off(path: Path) -> None:
    asyncio.run(make_file(path))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 5 // 8])


def of_version(version: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("CREATE TABLE items (key TEXT PRIMARY KEY, image BLOB, more TEXT)")
            other.execute("INSERT INTO items VALUES ('m#a', '{\"rd739943\":7}', 'of another time')")
            other.execute(f"PRAGMA user_version = {version}")

    return make


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE recipes (title TEXT)")
        other.execute("INSERT INTO recipes VALUES ('bread')")


@pytest.mark.parametrize(
    ("make", "what", "remedy"),
    [
        pytest.param(a_folder, "unable to open", "see that it is a file", id="a folder"),
        pytest.param(random_bytes, "not a database", "move it away", id="random bytes"),
        pytest.param(a_few_bytes, "not a database", "move it away", id="a few bytes"),
        pytest.param(a_damaged_page, "cannot be used", "it is damaged; move it away", id="a damaged page"),
        pytest.param(cut_off, "cannot be used", "it is damaged; move it away", id="cut off"),
        pytest.param(of_version(VERSION + 1), f"of version {VERSION + 1}, this is for", "move it away", id="newer"),
        pytest.param(of_version(VERSION - 1), f"of version {VERSION - 1}, this is for", "move it away", id="older"),
        pytest.param(of_another_program, "of version 0, this is for", "move it away", id="of another program"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_remedy_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], what: str, remedy: str
) -> None:
    path = tmp_path / "state.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as refused:
        open_file(path)
    message = str(refused.value)
    assert message.startswith(f"the state file {path} ")
    assert what in message
    assert remedy in message
    assert message.endswith("name another file in state.path")
    assert "\n" not in message
    assert (path.read_bytes() if path.is_file() else None) == before
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_a_parent_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "parent").write_text("kept")
    with pytest.raises(StoreError, match=r"parent/state\.db cannot be used: .* name another file in state\.path"):
        open_file(tmp_path / "parent" / "state.db")
    assert (tmp_path / "parent").read_text() == "kept"


async def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "state.db"
    await make_file(path)
    assert await count_of(path) == 1


async def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """`touch` and `mktemp` make such."""
    path = tmp_path / "state.db"
    path.touch()
    await make_file(path)
    assert await count_of(path) == 1


# --- read-only


@contextmanager
def without_privileges(folder: Path) -> Iterator[None]:
    """Root may write to everything: then the file is met as nobody, who is let through the folders above it."""
    if os.geteuid() != 0:
        yield
        return
    modes = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in folder.parents}
    closed = [parent for parent, mode in modes.items() if mode & 0o011 != 0o011]
    for parent in closed:
        parent.chmod(modes[parent] | 0o011)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for parent in closed:
            parent.chmod(modes[parent])


@contextmanager
def protected(path: Path, of_file: int, of_folder: int) -> Iterator[None]:
    path.chmod(of_file)
    path.parent.chmod(of_folder)
    try:
        with without_privileges(path.parent):
            yield
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)


@pytest.mark.parametrize(
    ("of_file", "of_folder", "remedy"),
    [
        pytest.param(0o444, 0o777, "allow this user to write", id="a file that may only be read"),
        pytest.param(0o444, 0o555, "allow this user to write", id="in a folder that may only be read"),
        pytest.param(0o000, 0o777, "a folder that this user may write to", id="a file that may not even be read"),
    ],
)
async def test_a_file_that_may_not_be_written_to_is_refused_at_start(
    path: Path, of_file: int, of_folder: int, remedy: str
) -> None:
    with protected(path, of_file, of_folder), pytest.raises(StoreError) as refused:
        open_file(path)
    assert str(path) in str(refused.value)
    assert remedy in str(refused.value)
    assert await count_of(path) == 1


# --- locked

HOLD = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """By another process, in the middle of a transaction, until the block ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        try:
            yield
        finally:
            other.stdin.close()


async def test_a_file_that_another_process_holds_is_refused_at_start(path: Path) -> None:
    with held(path), pytest.raises(StoreError, match=r"state\.db cannot be used: database is locked: .* end that one"):
        open_file(path)
    assert await count_of(path) == 1


async def test_at_start_a_short_lock_is_waited_for(path: Path) -> None:
    with held(path):
        opening = asyncio.create_task(asyncio.to_thread(open_file, path, patience_s=30))
        await asyncio.sleep(0.05)
        assert not opening.done()
    store = await opening
    await store.aclose()


@pytest.fixture
async def hasty(path: Path) -> AsyncIterator[SqliteStore]:
    store = open_file(path, timeout_ms=20)
    yield store
    await store.aclose()


async def test_a_lock_that_is_held_too_long_is_an_error_and_the_store_recovers_by_itself(
    path: Path, hasty: SqliteStore
) -> None:
    with held(path):
        for _ in range(3):
            with pytest.raises(StoreError, match=r"state\.db cannot be used: database is locked: .* end that one"):
                await ask(hasty)
        with pytest.raises(StoreError):
            await hasty.write("m#a", Plan(set={"c": 1}))
        assert (await hasty.snapshot(["m#a"]))["m#a"]["rd739943"] == 1, "to read, nobody has to wait"
    assert (await hasty.snapshot(["m#a"]))["m#a"]["rd739943"] == 1, "what failed has taken nothing"
    assert isinstance(await ask(hasty), Reservation)
    assert isinstance(await ask(hasty), Reservation)
    assert isinstance(await ask(hasty), Refusal)


async def test_all_who_wait_hear_of_it_and_the_event_loop_goes_on_meanwhile(path: Path, hasty: SqliteStore) -> None:
    with held(path):
        waiting = asyncio.gather(*(ask(hasty) for _ in range(100)), return_exceptions=True)
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0)
            turns += 1
        results = await waiting
    assert all(isinstance(result, StoreError) for result in results)
    assert turns > 10
    assert await count_of(path) == 1


async def test_a_lock_that_is_held_for_less_is_not_noticed(path: Path) -> None:
    store = open_file(path, timeout_ms=30_000)
    with held(path):
        asking = asyncio.create_task(ask(store))
        await asyncio.sleep(0.05)
        assert not asking.done()
    assert isinstance(await asking, Reservation)
    await store.aclose()


async def test_whoever_has_nothing_to_write_does_not_hear_of_a_lock(path: Path, hasty: SqliteStore) -> None:
    call = await ask(hasty)
    assert isinstance(call, Reservation)
    with held(path):
        await hasty.finish(call, Outcome(True), now_ms=NOW)


# --- its log


async def write_often(store: SqliteStore, times: int) -> None:
    for number in range(times):
        await store.write("m#b", Plan(set={"c": number}))


async def test_while_the_log_is_written_back_the_event_loop_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, is_done = open_file(path), threading.Event()
    write_back = store._write_back
    monkeypatch.setattr(store, "_write_back", lambda: (is_done.wait(30), write_back()))
    await write_often(store, LOG_AT_MOST + 1)
    asking = asyncio.create_task(ask(store))
    await asyncio.sleep(0.05)
    assert not asking.done()
    is_done.set()
    assert isinstance(await asking, Reservation)
    await store.aclose()


async def test_the_log_does_not_grow_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.store.sqlite.LOG_AT_MOST", 50)
    stores = [open_file(path), open_file(path)]
    for _ in range(40):
        for store in stores:
            await write_often(store, 50)
    assert path.with_name("state.db-wal").stat().st_size < 400 * (1024 + 24), "pages of 1 KB, each with its head"
    for store in stores:
        await store.aclose()


async def test_the_log_begins_anew_by_the_thread_since_that_waits_for_the_disk(path: Path) -> None:
    """Also where not all of it could be written back at first, because of what somebody else did meanwhile."""
    store, log = open_file(path), path.with_name("state.db-wal")

    def beginning() -> bytes:
        return log.read_bytes()[:32]

    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM items").fetchall()
        store._connection.set_trace_callback(lambda said: other.execute("ROLLBACK") if "RESTART" in said else None)
        await write_often(store, LOG_AT_MOST - 1)
        before = beginning()
        await write_often(store, 2)
        async with asyncio.timeout(5):
            while store._written >= LOG_AT_MOST:
                await asyncio.sleep(0.001)
        begun = beginning()
        await write_often(store, 1)
        assert before != begun == beginning()
        await store.aclose()


# --- several at once

START: list[Barrier] = []


def remember(start: Barrier) -> None:
    START.append(start)


def make_at_once(path: str, calls: int) -> int:
    """How many of its calls were admitted."""

    async def run() -> int:
        store = SqliteStore(path, timeout_ms=60_000)
        verdicts = [await ask(store) for _ in range(calls)]
        await store.aclose()
        return sum(isinstance(verdict, Reservation) for verdict in verdicts)

    START[0].wait(30)
    return asyncio.run(run())


def test_processes_that_make_the_file_at_the_same_time_make_one(tmp_path: Path) -> None:
    """Nobody is turned away, nobody counts in a file of his own. Many files: each is a new chance to go wrong."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, spawn, remember, (spawn.Barrier(4),)) as pool:
        for number in range(25):
            path = str(tmp_path / f"{number}" / "state.db")
            parts = [pool.submit(make_at_once, path, 2) for _ in range(4)]
            assert sum(part.result(60) for part in parts) == 3


async def test_a_process_that_was_killed_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    program = (
        "import asyncio, os\n"
        "from tests.test_sqlite_file import Path, ask, open_file\n"
        "async def main():\n"
        f"    store = open_file(Path({str(path)!r}), patience_s=5)\n"
        "    await ask(store), await ask(store)\n"
        "    os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program]
    ended = await asyncio.to_thread(subprocess.run, command, cwd=Path(__file__).parents[1], check=False)
    assert ended.returncode == 9
    assert await count_of(path) == 2


def test_a_name_for_memory_makes_no_file(tmp_path: Path) -> None:
    async def use() -> None:
        store = SqliteStore(":memory:", timeout_ms=5)
        assert isinstance(await ask(store), Reservation)
        await store.aclose()

    with contextlib.chdir(tmp_path):
        asyncio.run(use())
    assert not list(tmp_path.iterdir())
