"""Bytes of strangers, samples of them and what a coverage-guided search makes of these. `make fuzz` searches longer."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from core import json_text
from tests.fake_upstream import FakeUpstream, answers, chunk, events
from tests.running_gateway import ask, model, running
from tests.strange_bytes import TARGETS, seeds, take

SEARCHED = 4000  # inputs, the same each time: what a longer search finds is not for somebody else's change to fail on


def test_every_sample_is_read_by_everybody() -> None:
    for seed in seeds():
        take(seed)
        for at in range(3):
            take(bytes([at]) + seed[1:])


def test_a_search_for_bytes_that_a_reader_stumbles_over_finds_none() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this Python or machine")
    command = [sys.executable, "-m", "tests.fuzz", f"-runs={SEARCHED}", "-seed=1", "-verbosity=0"]
    search = subprocess.run(
        command, check=False, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60
    )
    assert search.returncode == 0, search.stderr[-4000:]


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("levels", "is_read"), [(2, True), (200, True), (json_text.MOST_LEVELS + 1, False), (254, False), (1000, False)]
)
def test_what_could_not_be_written_is_not_read(levels: int, is_read: bool) -> None:
    """orjson reads four times as deep as it writes."""
    try:
        orjson.dumps(json_text.read(nested(levels)))
    except json_text.TooDeep:
        assert not is_read
    else:
        assert is_read


def test_many_brackets_side_by_side_are_not_deep() -> None:
    for times in (150, 1000):
        assert json_text.read(orjson.dumps([{"a": []}] * times)) == [{"a": []}] * times


@pytest.mark.parametrize("length", [0, json_text.SMALL_BYTES])
def test_what_is_deep_is_found_behind_a_text(length: int) -> None:
    with pytest.raises(json_text.TooDeep):
        json_text.read(b'["%b",%b]' % (b"x" * length, nested(json_text.MOST_LEVELS)))


@pytest.mark.parametrize("levels", [255, 1000, 100_000])
async def test_a_request_nested_too_deep_is_the_callers_own_fault(upstream: FakeUpstream, levels: int) -> None:
    body = orjson.dumps(ask())[:-1] + b',"x":' + nested(levels) + b"}"
    async with running(model(upstream.url)) as gateway:
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            assert (await gateway.client.post(path, content=body)).status_code == 400
    assert upstream.requests == []


@pytest.mark.parametrize("row", ["openai", "groq", "unheard-of"])
async def test_an_answer_nested_too_deep_is_a_failure_of_the_provider(upstream: FakeUpstream, row: str) -> None:
    async with running(model(upstream.url, provider=row)) as gateway:
        upstream.script = answers(b'{"choices":[' + nested(300) + b"]}", content_type="application/json")
        assert (await gateway.chat()).status_code == 502
        upstream.script = events(chunk("Hi"), b'data: {"choices":[' + nested(300) + b"]}\n\n")
        answer = await gateway.chat(stream=True)
        assert b'data: {"error"' in answer.content
        assert gateway.telemetry.errors == []


def test_a_target_is_chosen_by_every_first_byte() -> None:
    assert len(TARGETS) < 256
