"""The function as a process of its own, started as Lambda starts it: by the exec wrapper, or by its own runtime."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.running_gateway import configuration
from tests.runtime_api import RuntimeApi

SRC = Path(__file__).parent.parent / "src"
WRAPPER = SRC / "functions" / "stream"
STOCK = [sys.executable, "-m", "awslambdaric", "functions.handler.handler"]


@dataclass
class Function:
    process: asyncio.subprocess.Process
    printed: asyncio.Task[bytes]  # read as it comes, or a function that has much to say would wait for ever

    async def output(self) -> str:
        """All it has printed, once it is over."""
        printed = await asyncio.wait_for(self.printed, 15)
        await self.process.wait()
        return printed.decode()

    async def stop(self) -> str:
        if self.process.returncode is None:
            self.process.terminate()
        return await self.output()


def environment(api: RuntimeApi, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SRC),
        "LAMBDA_TASK_ROOT": str(SRC),
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "_HANDLER": "functions.handler.handler",
        "AWS_LAMBDA_FUNCTION_NAME": "sluice",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }


def config_file(folder: Path, *models: dict[str, Any], **blocks: Any) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration(*models, **blocks)))
    return str(path)


@contextlib.asynccontextmanager
async def function(
    api: RuntimeApi,
    config: str,
    *,
    command: list[str] | None = None,
    **env: str,
) -> AsyncIterator[Function]:
    """Streaming by the wrapper, unless `command` says otherwise. What it starts is over in the end."""
    process = await asyncio.create_subprocess_exec(
        *(command or [str(WRAPPER), sys.executable]),
        env=environment(api, SLUICE_CONFIG=config, **env),
        cwd=SRC,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    running = Function(process, asyncio.create_task(process.stdout.read()))
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.output()


def snapshot(config: str, **env: str) -> Any:
    """What `snapshot.py` says of the function with this configuration."""
    script = Path(__file__).with_name("snapshot.py")
    env = {"PYTHONPATH": str(SRC), "SLUICE_CONFIG": config, **env}
    ran = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=True)
    return orjson.loads(ran.stdout)


async def until_ready(api: RuntimeApi, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        await api.asked_next.wait()
