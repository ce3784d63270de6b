"""Fixtures that more than one file uses."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.dynamodb_endpoint import CREDENTIALS, dynamodb_endpoint
from tests.fake_upstream import FakeUpstream
from tests.running_gateway import RunningGateway


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _nothing_is_remembered(request: pytest.FixtureRequest) -> None:
    """Where a module's tests share a gateway, one must not see the cooldowns and breakers of another."""
    if "gateway" in request.fixturenames and isinstance(gateway := request.getfixturevalue("gateway"), RunningGateway):
        gateway.forget()


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[str]:
    """The address of a DynamoDB endpoint on this machine, with credentials for it in the environment."""
    with pytest.MonkeyPatch.context() as patch, dynamodb_endpoint() as endpoint:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield endpoint
