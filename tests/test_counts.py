"""What a request costs, in counts that repeat exactly on a busy machine too: no more than was accepted last.

`make counts ARGS=--accept` accepts what is so now; the commit says what it is for.
"""

import shutil
import subprocess
import sys

import pytest

from bench.counts import ACCEPTED, PYTHON, accepted, count_calls, count_imports, count_instructions

MOST_CALLS = 900
MOST_INSTRUCTIONS = 1_200_000
GROWTH = 1.05
NOT_FOR_THE_START = {
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "fastapi",
    "httpx",
    "mangum",
    "moto",
    "openai",
    "tabulate",
    *("anyio", "opentelemetry", "python_multipart"),  # with fastapi and starlette, of which the start takes the types
}

last = accepted()
same_python = pytest.mark.skipif(last.python != PYTHON, reason=f"{ACCEPTED.name} was counted with Python {last.python}")


@same_python
def test_a_request_takes_no_more_function_calls_than_was_accepted() -> None:
    assert count_calls() <= min(MOST_CALLS, last.calls * GROWTH)


@same_python
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind, which counts instructions, is not installed")
def test_a_request_takes_no_more_instructions_than_was_accepted() -> None:
    instructions, before = count_instructions(), last.instructions
    assert instructions is not None
    assert before is not None
    assert instructions <= min(MOST_INSTRUCTIONS, before * GROWTH)


@same_python
def test_no_more_is_imported_at_start_than_was_accepted() -> None:
    modules, source_bytes = count_imports()
    assert modules <= last.modules * GROWTH
    assert source_bytes <= last.source_bytes * GROWTH


def test_what_the_start_does_not_need_is_not_imported() -> None:
    code = "import sys, sluice.serve, core.http_client.aiohttp, core.store.sqlite; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not NOT_FOR_THE_START & {name.partition(".")[0] for name in ran.stdout.split()}
