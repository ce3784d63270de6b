"""The status of a stream is held back until its answer begins, but not for ever: what stands before us may give up.

After `hold_s` the status 200 goes out without word of who will answer, comments keep the connection alive, and what
goes wrong from then on is said in band.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import orjson

from . import sse
from .answers import EventStream, in_wire_form
from .telemetry import Record, Telemetry


async def hold_status(
    opening: Coroutine[Any, Any, EventStream],
    *,
    hold_s: float,
    keep_alive_s: float,
    record: Record,
    telemetry: Telemetry,
) -> EventStream:
    """What `opening` brings, if that is soon. Raises what it raises, if that is soon."""
    task = asyncio.create_task(opening)
    try:
        await asyncio.wait({task}, timeout=hold_s)
    except asyncio.CancelledError:
        await _cancelled(task)
        raise
    if task.done():
        return task.result()

    async def events() -> AsyncGenerator[bytes]:
        while not task.done():
            yield sse.KEEP_ALIVE
            await asyncio.wait({task}, timeout=keep_alive_s)
        try:
            stream = task.result()
        except Exception as error:  # noqa: BLE001 - the status is out: even a bug of ours can only be said in band
            known = in_wire_form(error)
            record.error = known.code or known.type
            if known.status == 500:
                telemetry.unexpected(record, error)
            yield sse.encode(orjson.dumps(known.body()))
            return
        async for event in stream.events:
            yield event

    async def close() -> None:
        stream = await _cancelled(task)
        if stream is not None:
            await stream.events.aclose()
            await stream.close()

    return EventStream(events(), close, {})


async def _cancelled(task: asyncio.Task[EventStream]) -> EventStream | None:
    """Ends it wherever it stands; the stream, if it has come to one."""
    task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() or task.exception() else task.result()
