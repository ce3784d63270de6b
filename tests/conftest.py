"""Fixtures that more than one file uses."""

from collections.abc import AsyncIterator

import pytest

from tests.fake_upstream import FakeUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake
