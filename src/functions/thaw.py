"""What an environment needs that is frozen between invocations: nothing runs meanwhile, and it wakes later."""

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from core.app import App
from core.config import ConfigError
from core.log_line import OURS

from .configuration import Configuration
from .telemetry import LambdaTelemetry

_LOG = logging.getLogger(OURS)
WAIT_S = 3.0  # for a configuration, before an answer and behind it; then the old one holds
IDLE_S = 10.0  # after that a connection to a provider may be dead: what came from it while we were frozen is lost


class ThawingApp:
    """Stands before the application. A configuration that has grown old is read again beside a request, and a new one
    is in use from the next on; one that is much too old is read first. Connections that lay idle are not used again.
    """

    def __init__(
        self,
        app: App,
        configuration: Configuration,
        telemetry: LambdaTelemetry,
        *,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._configuration = configuration
        self._telemetry = telemetry
        self._wait_s = wait_s
        self._clock = clock  # the wall's: that of the process may stand still while it is frozen
        self._served_at = clock()
        self._reading: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._clock() - self._served_at > IDLE_S:
            await self._app.drop_idle_connections()
        if self._reading is None and self._configuration.is_due():
            self._reading = asyncio.create_task(self._read())
        reading, until = self._reading, asyncio.get_running_loop().time() + self._wait_s
        if reading is not None and self._configuration.is_overdue():
            await _wait(reading, until)
        try:
            await self._app(scope, receive, send)
        finally:
            self._served_at = self._clock()
            if reading is not None:  # or it would be frozen half done
                await _wait(reading, until)

    async def _read(self) -> None:
        try:
            loaded = await asyncio.to_thread(self._configuration.refreshed)
            if loaded is not None:
                self._app.use(loaded)
                _LOG.warning("A new configuration is in use: %d models", len(loaded.config.models))
        except ConfigError as error:
            self._telemetry.configuration_refused()
            _LOG.error("The old configuration stays: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old one serves; its text may quote a key
            self._telemetry.configuration_refused()
            _LOG.error("The old configuration stays: reading the new one failed with %s", type(error).__name__)
        finally:
            self._reading = None


async def _wait(reading: asyncio.Task[None], until: float) -> None:
    """`until`: of the event loop's clock."""
    await asyncio.wait({reading}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
