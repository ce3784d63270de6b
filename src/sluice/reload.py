"""Change while running: the configuration is read anew on SIGHUP and when its file or `.env` changes, if it is right.

A wrong one is refused with its problems on the log, and the old one stays.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from starlette.types import Receive, Scope, Send

from core.app import App
from core.config import Loaded

_LOG = logging.getLogger("sluice")
POLL_S = 0.5

Signature = tuple[tuple[int, int, int] | None, ...]


class ReloadingApp:
    """Stands before the application; `read` gives the configuration of now or raises ClickException."""

    def __init__(self, app: App, files: Sequence[Path], read: Callable[[], Loaded]) -> None:
        self._app = app
        self._files = files
        self._read = read
        self._used = self._signature()  # now, not when serving begins: what changes meanwhile is seen then
        self._hung_up = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):  # Windows; a thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hung_up.set)
        watch = asyncio.create_task(self._watch())
        try:
            await self._app(scope, receive, send)
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """A changed file is read once it has stood still for a moment: half of one may be valid, too."""
        seen = self._used
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hung_up.wait(), POLL_S)
            now = self._signature()
            if self._hung_up.is_set() or (now != self._used and now == seen):
                self._hung_up.clear()
                self._used = now
                self._reload()
            seen = now

    def _reload(self) -> None:
        try:
            loaded = self._read()
            self._app.use(loaded)
        except click.ClickException as error:
            _LOG.error("The old configuration stays: %s", error.message)
            return
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the watch; its text may quote a key
            _LOG.error("The old configuration stays: reading the new one failed with %s", type(error).__name__)
            return
        for warning in loaded.warnings:
            _LOG.warning("%s", warning)
        _LOG.warning("A new configuration is in use: %d models", len(loaded.config.models))

    def _signature(self) -> Signature:
        return tuple(_signature(file) for file in self._files)


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
