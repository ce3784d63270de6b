"""What each provider says when it fails, in its own words: the class it belongs to, and when there is room again."""

import math
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from core.chat import Chat
from core.errors import UpstreamError
from core.providers.dialect import Completion, Provider
from core.providers.openai import OpenAIDialect
from tests.fake_upstream import answers_json
from tests.provider_rig import Rig, every_row, named
from tests.provider_samples import NOW, SAMPLES, STAMP


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with every_row() as rig:
        yield rig


ERRORS = [
    pytest.param(name, error, id=f"{name}-{at}-{error['status']}-{error['expect']['class']}")
    for name, samples in SAMPLES.items()
    for at, error in enumerate(samples.json("errors"))
]


def raw_body(error: dict[str, Any]) -> bytes:
    body = error["body"]
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


@pytest.mark.parametrize(("name", "error"), ERRORS)
def test_each_documented_error_has_its_class_and_its_wait(name: str, error: dict[str, Any]) -> None:
    failure = judged(SAMPLES[name].row, error)
    assert (failure.kind, failure.retry_after_s) == (error["expect"]["class"], error["expect"].get("retry_after_s"))


# Codes that a provider documents and that say more than the status beside them.
CODES = {
    "cloudflare": {"3036", "4006", "3040", "3007", "3008", "3006", "5007", "3042", "5018", "5016", "3023", "3041"},
    "github": {"RateLimitReached"},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_each_code_of_a_providers_own_says_the_same_without_a_status(name: str) -> None:
    """A stream, or a whole answer, may have begun with a 200."""
    row = SAMPLES[name].row
    assert isinstance(row.dialect, OpenAIDialect)
    assert row.dialect.codes.keys() == CODES.get(name, set())
    errors = {code_in(error["body"]): error for error in SAMPLES[name].json("errors")}
    for code in CODES.get(name, ()):
        assert judged(row, {**errors[code], "status": 200}).kind == errors[code]["expect"]["class"], code


def code_in(body: Any) -> str:
    """Cloudflare's or OpenAI's place for it."""
    if not isinstance(body, dict):
        return ""
    error = (body.get("errors") or [body.get("error")])[0]
    return str(error.get("code")) if isinstance(error, dict) else ""


def judged(row: Provider, error: dict[str, Any], *, now: float = NOW) -> UpstreamError:
    if error["status"] == 200:
        failure: Completion | UpstreamError = row.dialect.completion(raw_body(error), Chat({}, 0), STAMP)
    else:
        failure = row.failure(error["status"], error["headers"], raw_body(error), now=now)
    assert isinstance(failure, UpstreamError)
    return failure


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", SAMPLES)
async def test_client_hears_of_a_rate_limit_with_the_providers_own_wait(rig: Rig, name: str) -> None:
    """The first sample of each is a 429."""
    error = SAMPLES[name].json("errors")[0]
    rig.upstream.script = answers_json(error["body"], error["status"], **error["headers"])
    response = await rig.gateway.chat(model=named(name))
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    if wait := judged(SAMPLES[name].row, error, now=time.time()).retry_after_s:
        assert response.headers["retry-after"] == str(math.ceil(wait))
