"""A sqlite file as it is found: made, opened, recognised, waited for; and what is said of one that cannot be used.

A file of a version that we do not know is never touched.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .port import StoreError

VERSION = 1
PAUSE_S = 0.001
_T = TypeVar("_T")

_OTHER_FILE = "name another file in state.path"
_REMEDY = f"see that it is a file with room to grow, in a folder that this user may write to, or {_OTHER_FILE}"
_REMEDIES = {
    sqlite3.SQLITE_BUSY: f"another process holds it; end that one, or {_OTHER_FILE}",
    sqlite3.SQLITE_READONLY: f"allow this user to write to it and to its folder, or {_OTHER_FILE}",
    sqlite3.SQLITE_NOTADB: f"it is damaged or no state file; move it away, or {_OTHER_FILE}",
    sqlite3.SQLITE_CORRUPT: f"it is damaged; move it away (counting begins anew), or {_OTHER_FILE}",
}


def open_file(path: str, patience_s: float) -> sqlite3.Connection:
    """Nothing that is done with it waits for another process; for the disk, only `PRAGMA wal_checkpoint` and what is
    written first after it. Raises StoreError.
    """
    try:
        return patiently(lambda: _try_to_open(path), patience_s)
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error


def patiently(attempt: Callable[[], _T], patience_s: float, pause_s: float = PAUSE_S) -> _T:
    """Again and again as long as another process holds the file. Raises what `attempt` raises."""
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            return attempt()
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > give_up_at:
                raise
        time.sleep(pause_s)


def is_busy(error: Exception) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def unusable(path: str, error: Exception) -> StoreError:
    return StoreError(f"the state file {path} cannot be used: {error}: {_REMEDIES.get(_code(error), _REMEDY)}")


def _try_to_open(path: str) -> sqlite3.Connection:
    if path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)
        connection.execute("PRAGMA page_size = 1024")  # of a new file: a write takes whole pages, and an item is small
        connection.execute("BEGIN IMMEDIATE")
        _claim(connection, path)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
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


def _code(error: Exception) -> int:
    """Sqlite's primary code; what it adds to that only says more precisely why."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
