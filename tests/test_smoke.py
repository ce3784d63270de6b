"""`scripts/smoke.sh` tells a deployment that is as it should be from one that is not: tried on the function itself,
behind the function URL of the tests, with the configuration that ships.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.function_url import FunctionUrl
from tests.lambda_function import STOCK, function, until_ready
from tests.runtime_api import RuntimeApi
from tests.served import free_port
from tests.template import ROOT

TOKEN = "a-token-of-this-test"

pytestmark = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"there is no {tool} on this machine")
    for tool in ("bash", "curl", "python3")
]


async def smoke(url: str, token: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        str(ROOT / "scripts" / "smoke.sh"),
        url,
        token,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


async def smoke_of_the_function(token: str = TOKEN, command: Sequence[str] = ()) -> tuple[int | None, str]:
    env = {"AUTH_TOKEN": TOKEN, "SLUICE_STORE": "memory", "SLUICE_TABLE": "none"}
    async with RuntimeApi() as api, function(api, "", command=list(command), **env), FunctionUrl(api) as front:
        await until_ready(api)
        return await smoke(front.url, token)


async def test_a_good_deployment_passes() -> None:
    status, said = await smoke_of_the_function()
    assert (status, "FAIL" in said) == (0, False), said
    assert [line.split()[0] for line in said.splitlines()].count("ok") == 5, said
    assert "said by www-authenticate" in said


async def test_a_stream_that_is_held_back_does_not_pass() -> None:
    """The same function under Lambda's own runtime: each answer in one piece."""
    status, said = await smoke_of_the_function(command=STOCK)
    assert status == 1
    assert "events in 1 arrivals: they are held back on the way" in said


async def test_a_token_that_is_not_known_does_not_pass() -> None:
    status, said = await smoke_of_the_function(token="another-token-than-it-has")
    assert status == 1
    assert "FAIL  a stream without its end" in said


async def test_an_address_where_nobody_is_does_not_pass() -> None:
    status, said = await smoke(f"http://127.0.0.1:{free_port()}", TOKEN)
    assert status == 1
    assert "FAIL  nobody answers" in said


async def test_it_says_how_it_is_called() -> None:
    process = await asyncio.create_subprocess_exec(
        "bash", str(ROOT / "scripts" / "smoke.sh"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (2, b"usage: scripts/smoke.sh URL TOKEN\n")
