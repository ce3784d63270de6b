"""What happened, told to several listeners."""

import asyncio

import pytest

from core.telemetry import Record
from sluice.told import Told
from tests.running_gateway import Recorder


def record(request_id: str) -> Record:
    return Record(request_id, "GET", "/", 0.0)


async def test_what_is_over_is_told_to_all_in_the_loops_next_turn_in_its_order() -> None:
    listeners = [Recorder(), Recorder()]
    told = Told(*listeners)
    for number in range(3):
        told.request_done(record(str(number)))
    assert not listeners[0].records
    await asyncio.sleep(0)
    told.request_done(record("3"))
    await asyncio.sleep(0)
    for listener in listeners:
        assert [each.request_id for each in listener.records] == ["0", "1", "2", "3"]


async def test_a_listener_that_cannot_hear_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(Recorder):
        def request_done(self, record: Record) -> None:
            super().request_done(record)
            raise BrokenPipeError

    listeners = [Deaf(), Recorder()]
    told = Told(*listeners)
    for number in range(2):
        told.request_done(record(str(number)))
    await asyncio.sleep(0)
    assert [len(listener.records) for listener in listeners] == [2, 2]
    assert [line.getMessage().partition(" in ")[0] for line in caplog.records] == [
        "0 cannot be told: BrokenPipeError",
        "1 cannot be told: BrokenPipeError",
    ]
