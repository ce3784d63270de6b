"""`sluice` as a process of its own, as people start it: arguments in; greeting, log and exit code out.

The environment holds what the test gives it and nothing of the machine's.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from tests.canaries import told

LOCAL_TOKEN = "sluice-local-development"
SLUICE = [sys.executable, "-m", "sluice"]
START_S = 20  # a machine that is busy with other things
GREETING = re.compile(r"on (?P<url>http://\S+)  \(token: (?P<token>.+)\)")


@dataclass
class Served:
    """`greeting` is what it wrote to stderr up to the blank line behind the `curl` line."""

    process: asyncio.subprocess.Process
    greeting: str
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        found = GREETING.search(self.greeting)
        assert found, self.greeting
        return found["url"]

    @property
    def curl(self) -> str:
        return self.greeting[self.greeting.index("curl ") :].strip()

    async def log_line(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 5)
        told("log of sluice serve", line.decode())
        found: dict[str, object] = orjson.loads(line)
        return found

    async def refuses_connections(self) -> None:
        """Waits until nobody accepts any more."""
        address = httpx.URL(self.url)
        async with asyncio.timeout(5):
            while True:
                try:
                    _, writer = await asyncio.open_connection(address.host, address.port)
                except ConnectionRefusedError:
                    return
                writer.close()
                await asyncio.sleep(0.02)

    async def ended(self) -> tuple[int | None, str]:
        """Exit code, and what it said on stderr since the greeting."""
        _, errors = await asyncio.wait_for(self.process.communicate(), 15)
        told("stderr of sluice serve", errors.decode())
        return self.process.returncode, errors.decode()


@contextlib.asynccontextmanager
async def served(
    *args: str, cwd: Path, env: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE, token: str = LOCAL_TOKEN
) -> AsyncIterator[Served]:
    """`sluice serve ARGS` in the folder `cwd`, greeted and taking connections. `token` is what `client` sends."""
    process = await asyncio.create_subprocess_exec(
        *SLUICE,
        "serve",
        *args,
        cwd=cwd,
        env=environment(cwd, env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that workers that a failed test leaves behind can be ended with it
    )
    try:
        greeting = await asyncio.wait_for(_greeting(process), START_S)
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=headers, timeout=START_S, trust_env=False) as client:
            running = Served(process, greeting, client)
            client.base_url = httpx.URL(running.url)
            yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def sluice(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [*SLUICE, *args],
        cwd=cwd,
        env=environment(cwd, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", **(more or {})}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _greeting(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    text = ""
    while "curl " not in text or not text.endswith("\n\n"):
        line = await process.stderr.readline()
        assert line, f"it ended instead of serving: {text}"
        text += line.decode()
    return text
