"""The Dockerfile, as far as it goes without a container engine: its files laid out, and its command run here."""

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path

import httpx
import yaml

from tests.running_gateway import TOKEN, configuration
from tests.served import environment, free_port
from tests.template import ROOT

STEPS = [line.split(" ", 1) for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:1].isupper()]
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


def said(step: str) -> list[str]:
    return [rest for name, rest in STEPS if name == step]


def words(step: str) -> list[str]:
    """What the last of them lists."""
    found: list[str] = yaml.safe_load(said(step)[-1])
    return found


def laid_out(root: Path) -> None:
    for rest in said("COPY"):
        source, target = rest.split()
        assert f"!{source}" in IGNORED, "the engine would not find it"
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, root / target.lstrip("/"))


async def test_its_command_serves_to_whoever_reaches_the_machine(tmp_path: Path) -> None:
    laid_out(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.yaml").write_text(
        yaml.safe_dump(configuration({"name": "d", "provider": "demo", "model_size": "SMALL"}))
    )
    variables = dict(one.split("=", 1) for one in shlex.split(said("ENV")[0]))
    variables["PYTHONPATH"] = str(tmp_path / variables["PYTHONPATH"].lstrip("/"))
    port = free_port()
    command = [word.replace("8080", str(port)) for word in (*words("ENTRYPOINT"), *words("CMD"))]
    assert command.pop(0) == "python"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=home,
        env=environment(home, variables),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        transport = httpx.AsyncHTTPTransport(retries=10)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=20) as client:
            body = {"model": "SMALL", "messages": [{"role": "user", "content": "Hello"}]}
            answer = await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {TOKEN}"})
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 15)
    assert answer.status_code == 200
    assert process.returncode == 0


def test_it_installs_the_hashed_list_and_runs_as_nobody_in_particular() -> None:
    install = said("RUN")[0]
    assert "--require-hashes" in install
    assert "requirements/serve.txt" in said("COPY")[0]
    assert words("ENTRYPOINT")[:3] == ["python", "-m", "sluice"]
    assert said("USER") == ["sluice"]
    assert re.fullmatch(r"python:3\.\d+-slim", said("FROM")[0])


def test_nothing_else_of_this_folder_reaches_the_engine() -> None:
    """A `.env` or a configuration with keys would be in an image for ever."""
    assert IGNORED[0] == "*"
    assert {line for line in IGNORED[1:] if line.startswith("!")} == {f"!{rest.split()[0]}" for rest in said("COPY")}
