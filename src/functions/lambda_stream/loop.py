"""The process: start the handler, ask for invocations, answer them, until Lambda ends it.

Of this package only this file reads the environment (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html).
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import signal
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass

import orjson

from . import logs
from .adapter import StreamingMangum
from .api import Invocation, RuntimeApi
from .context import Context, Function
from .writer import Failure

_LOG = logging.getLogger("sluice")
STOP_S = 1.0  # what Lambda leaves a function after SIGTERM is not more than two

Environment = MutableMapping[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """`workers`: how many invocations at once; more than one only where Lambda says so."""

    api: str
    handler: str
    function: Function
    is_snap_start: bool
    workers: int

    @classmethod
    def read(cls, env: Environment) -> "Settings":
        return cls(
            api=env["AWS_LAMBDA_RUNTIME_API"],
            handler=env["_HANDLER"],
            function=Function(
                name=env.get("AWS_LAMBDA_FUNCTION_NAME", ""),
                version=env.get("AWS_LAMBDA_FUNCTION_VERSION", ""),
                memory_mb=env.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", ""),
                log_group=env.get("AWS_LAMBDA_LOG_GROUP_NAME", ""),
                log_stream=env.get("AWS_LAMBDA_LOG_STREAM_NAME", ""),
            ),
            is_snap_start=env.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start",
            workers=int(env.get("AWS_LAMBDA_MAX_CONCURRENCY") or 1),
        )


class NoHandlerError(Exception):
    """`_HANDLER` names nothing that can stream."""


def main(env: Environment) -> int:
    logs.log_to(sys.stdout)
    return asyncio.run(_Process(Settings.read(env), env).run())


class _Process:
    def __init__(self, settings: Settings, env: Environment) -> None:
        self._settings = settings
        self._env = env
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """The exit code."""
        with contextlib.closing(RuntimeApi(self._settings.api)) as api:
            return await self._run(api)

    async def _run(self, api: RuntimeApi) -> int:
        try:
            handler = find_handler(self._settings.handler)
            if not self._settings.is_snap_start:
                await handler.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, Lambda is told
            _LOG.exception("The function cannot start: %s", error)
            await api.report_start(_why(error))
            return 1
        if self._settings.is_snap_start and not await _restored(handler, api):
            return 1
        gc.freeze()  # what was loaded stays: no request waits while it is looked through for garbage
        gc.enable()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        return await self._serve(handler, api)

    async def _serve(self, handler: StreamingMangum, api: RuntimeApi) -> int:
        apis = [api, *(RuntimeApi(self._settings.api) for _ in range(self._settings.workers - 1))]
        workers = [asyncio.create_task(self._work(handler, one)) for one in apis]
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stop, *workers}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, *workers):
            task.cancel()
        ended = await asyncio.gather(*workers, return_exceptions=True)
        failures = [error for error in ended if isinstance(error, Exception)]
        for error in failures:
            _LOG.error("The Runtime API cannot be used: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(handler.stop(), STOP_S)
        return 1 if failures else 0

    async def _work(self, handler: StreamingMangum, api: RuntimeApi) -> None:
        with contextlib.closing(api):
            while True:
                invocation = await api.next()
                if self._settings.workers == 1:  # one variable cannot hold the traces of several
                    self._trace(invocation.trace_id)
                await self._answer(handler, api, invocation)

    async def _answer(self, handler: StreamingMangum, api: RuntimeApi, invocation: Invocation) -> None:
        answer = api.answer(invocation)
        context = Context(
            self._settings.function,
            request_id=invocation.request_id,
            function_arn=invocation.function_arn,
            deadline_ms=invocation.deadline_ms,
        )
        try:
            event = orjson.loads(invocation.event)
        except orjson.JSONDecodeError:
            return await answer.fail(Failure("Runtime.UnmarshalError", "The event is not valid JSON."))
        try:
            await handler.stream(event, context, answer)
        except OSError:  # if the API is gone altogether, the next question says so
            _LOG.warning("The Runtime API took no answer to %s", invocation.request_id)
        return None

    def _trace(self, trace_id: str | None) -> None:
        if trace_id:
            self._env["_X_AMZN_TRACE_ID"] = trace_id
        else:
            self._env.pop("_X_AMZN_TRACE_ID", None)


def find_handler(name: str) -> StreamingMangum:
    """`package.module.name`, as for Lambda's own runtime."""
    module, _, attribute = name.replace("/", ".").rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None)
    if not isinstance(found, StreamingMangum):
        raise NoHandlerError(f"{name} is not a StreamingMangum")
    return found


async def _restored(handler: StreamingMangum, api: RuntimeApi) -> bool:
    """Under SnapStart: everything up to here is in the snapshot, and the same in every environment made from it."""
    try:
        for hook in handler.before_snapshot:
            hook()
    except Exception as error:  # noqa: BLE001 - as above
        _LOG.exception("A hook before the snapshot failed")
        await api.report_start(_why(error))
        return False
    await api.wait_for_restore()
    try:
        for hook in handler.after_restore:
            hook()
        await handler.start()
    except Exception as error:  # noqa: BLE001 - as above
        _LOG.exception("The function cannot start from its snapshot")
        await api.report_restore(_why(error))
        return False
    return True


def _why(error: Exception) -> Failure:
    return Failure(f"Sluice.{type(error).__name__}", str(error)[:1000])
