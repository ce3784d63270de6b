"""Many waits under one timer: each is bounded as if it had its own."""

import asyncio

import pytest

from core.patience import Patience

LONG_S = 60.0


async def test_what_comes_in_time_is_given_back() -> None:
    patience = Patience()
    assert await patience.wait(asyncio.sleep(0.01, "here"), LONG_S) == "here"
    patience.end()


@pytest.mark.parametrize("earlier_s", [[], [LONG_S], [0.01, LONG_S], [0.2, LONG_S]])
async def test_each_wait_has_its_own_bound_whatever_came_before(earlier_s: list[float]) -> None:
    patience, now = Patience(), asyncio.get_running_loop().time
    for seconds in earlier_s:
        await patience.wait(asyncio.sleep(0), seconds)
    began = now()
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.Event().wait(), 0.1)
    assert 0.09 < now() - began < 1
    patience.end()


async def test_timer_of_an_earlier_wait_does_not_end_a_later_one() -> None:
    patience = Patience()
    await patience.wait(asyncio.sleep(0), 0.02)
    assert await patience.wait(asyncio.sleep(0.1, "here"), LONG_S) == "here"
    patience.end()


async def test_one_may_wait_again_after_it_took_too_long() -> None:
    patience, come = Patience(), asyncio.Event()
    with pytest.raises(TimeoutError):
        await patience.wait(come.wait(), 0.01)
    come.set()
    assert await patience.wait(come.wait(), LONG_S)
    patience.end()


@pytest.mark.parametrize("also_late", [False, True])
async def test_whoever_is_cancelled_meanwhile_stays_cancelled(also_late: bool) -> None:
    patience, waits = Patience(), asyncio.Event()

    async def work() -> None:
        waits.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(patience.wait(work(), 0.0 if also_late else LONG_S))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    patience.end()


async def test_timer_is_gone_at_the_end() -> None:
    patience = Patience()
    await patience.wait(asyncio.sleep(0), LONG_S)
    patience.end()
    assert not [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
