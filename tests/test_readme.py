"""README.md keeps its word: what it tells people to paste works, what it points to is there."""

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.config import load
from tests.pictures import pixels
from tests.served import environment, free_port, served

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
PORT = "8080"  # the one that README names

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `mark` is what the comment `<!-- test: ... -->` above it says, which readers do not see."""

    mark: str
    language: str
    text: str


BLOCKS = [
    Block(*found)
    for found in re.findall(r"(?:<!-- test: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]
FILES = {block.mark.removeprefix("file "): block.text for block in BLOCKS if block.mark.startswith("file ")}
FILES["config.example.yaml"] = (ROOT / "config.example.yaml").read_text(encoding="utf-8")


def runs(language: str) -> list[Block]:
    """The blocks in that language that run against a configuration."""
    found = [block for block in BLOCKS if block.language == language and block.mark.startswith("run ")]
    return [block for block in found if block.mark != "run here"]


def port_of_the_readme() -> str:
    """8080 as it is written, unless somebody else has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(PORT)))
        except OSError:
            return str(free_port())
    return PORT


async def output_of(block: Block, command: list[str], folder: Path) -> str:
    """What a block says when it is pasted while its configuration is served."""
    name = block.mark.removeprefix("run ")
    (folder / name).write_text(FILES[name])
    port = port_of_the_readme()
    async with served("--config", name, "--addr", f"127.0.0.1:{port}", cwd=folder):
        process = await asyncio.create_subprocess_exec(
            *command,
            block.text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{port}"),
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, errors.decode()
    return out.decode()


@needs_bash
@needs_curl
@pytest.mark.parametrize("block", runs("bash"), ids=lambda block: block.mark)
async def test_each_curl_command_does_what_is_said_of_it(tmp_path: Path, block: Block) -> None:
    out = await output_of(block, ["bash", "-c"], tmp_path)
    if "/image" in block.text:
        assert pixels((tmp_path / "picture.png").read_bytes()) == pixels((ROOT / "docs/picture.png").read_bytes())
        return
    if "pool" in block.mark:
        assert re.findall("x-sluice-model: (.*)\r", out) == ["demo/best", "demo/best", "demo/next"]
        return
    assert out.startswith("data: ")
    is_whole = out.endswith("data: [DONE]\n\n")
    ends_in_error = out.rstrip().splitlines()[-1].startswith('data: {"error":')
    assert (is_whole, ends_in_error) == ((False, True) if "rehearsal" in block.mark else (True, False))


@pytest.mark.parametrize("block", runs("python"), ids=lambda block: block.mark)
async def test_each_python_snippet_runs_as_it_stands(tmp_path: Path, block: Block) -> None:
    out = await output_of(block, [sys.executable, "-c"], tmp_path)
    assert out == "This is the demo model, answering without a network. You wrote: Hello!"


@needs_bash
def test_the_steps_to_real_keys_end_in_a_good_configuration(tmp_path: Path) -> None:
    (steps,) = [block for block in BLOCKS if block.mark == "run here"]
    (tmp_path / "config.example.yaml").write_text(FILES["config.example.yaml"])
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["bash", "-ec", steps.text],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "openai/gpt-4o-mini" in done.stdout
    assert "$OPENAI_API_KEY" in done.stdout
    assert done.stdout.endswith("The configuration is fine.\n")


def test_nothing_to_paste_is_left_untested() -> None:
    """A block without a mark may only call `make`, whose targets are checked below."""
    commands = [
        line
        for block in BLOCKS
        if block.language in ("bash", "console") and not block.mark
        for line in block.text.splitlines()
    ]
    assert [line for line in commands if not line.startswith("make ")] == []
    assert [block for block in BLOCKS if block.language == "python" and not block.mark] == []
    assert {"bash", "python"} <= {block.language for block in BLOCKS if block.mark}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda block: block.mark)
def test_each_piece_of_configuration_loads(block: Block) -> None:
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)", block.text), "a value")
    assert load(block.text, name="README.md", env={"AUTH_TOKEN": "0123456789abcdef", **variables}).warnings == []


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_make_target_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named - makefile_targets() == set()


@needs_make
def test_make_help_lists_every_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == makefile_targets()
    assert {"serve", "test", "check", "bench", "lock", "help"} <= makefile_targets()


def test_what_ci_runs_is_the_test_command_of_the_readme() -> None:
    assert "\nmake test\n" in README
    assert (ROOT / ".ci/run").read_text().splitlines()[-2:] == ["make check", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_relative_link_points_to_something(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
