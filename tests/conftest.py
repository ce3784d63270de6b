"""Fixtures that more than one file uses."""

import ssl
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from tests.canaries import seen, told
from tests.certificate import CERTIFICATE, KEY
from tests.dynamodb_endpoint import CREDENTIALS, dynalite_endpoint, dynamodb_endpoint, why_no_dynalite
from tests.fake_upstream import FakeUpstream
from tests.running_gateway import RunningGateway


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test whose gateway shows a key fails, whatever else it is about: in its log and its output, too."""
    report = yield
    for name, text in report.sections:
        told(name, text)
    if (found := seen()) and report.passed:
        report.outcome, report.longrepr = "failed", "\n".join(["Somebody could read a key.", *found])
    return report


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _nothing_is_remembered(request: pytest.FixtureRequest) -> None:
    """Where a module's tests share a gateway, one must not see the cooldowns and breakers of another."""
    if "gateway" in request.fixturenames and isinstance(gateway := request.getfixturevalue("gateway"), RunningGateway):
        gateway.forget()


@pytest.fixture
async def https(tmp_path: Path) -> AsyncIterator[FakeUpstream]:
    """A provider with the certificate of `tests/certificate.py`, which lies in `tmp_path / "ca.pem"`."""
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    (tmp_path / "both.pem").write_text(CERTIFICATE + KEY)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "both.pem")
    async with FakeUpstream(server) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def aws_credentials() -> Iterator[None]:
    """For endpoints on this machine, which take any."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def dynamodb(aws_credentials: None) -> Iterator[str]:
    """The address of a DynamoDB endpoint on this machine: moto's."""
    with dynamodb_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def dynalite(aws_credentials: None) -> Iterator[str]:
    """The address of another one."""
    if why := why_no_dynalite():
        pytest.skip(why)
    with dynalite_endpoint() as endpoint:
        yield endpoint
