"""Counts of one request with everything on, which repeat exactly however busy the machine is: function calls, machine
instructions, and what is imported at start. tests/test_counts.py holds them against `accepted.json`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from .targets import HERE, configuration

ACCEPTED = HERE / "accepted.json"
ASKED = 100
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a request for a category of five, with limits, log line and metrics, less the HTTP server.

    `instructions` is None where valgrind is not installed; `modules` and `source_bytes` are those of a door that is
    ready to serve. All of them are of one release of Python.
    """

    python: str
    calls: float
    instructions: float | None
    modules: int
    source_bytes: int


class Counted:
    """The application in a process of its own, before a provider in another."""

    def __init__(self, stack: ExitStack, count: int, *, under: list[str]) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = _started(stack, [sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE)
        assert upstream.stdout is not None
        config = configuration("memory", self.folder, int(upstream.stdout.readline()))
        (self.folder / "config.yaml").write_text(json.dumps(config))
        under = [part.replace("@FOLDER@", str(self.folder)) for part in under]
        command = [*under, sys.executable, "-m", "bench.counted", f"{self.folder}/config.yaml", str(count)]
        pipe = subprocess.PIPE
        self.process = _started(stack, command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe)
        while self._heard() != "warm":
            pass

    def ask(self) -> float:
        """Function calls a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        while not re.fullmatch(r"\d+\.\d+", words := self._heard()):
            pass
        return float(words)

    def _heard(self) -> str:
        assert self.process.stderr is not None
        if not (line := self.process.stderr.readline()):
            raise RuntimeError("the application ended")
        return line.decode().strip()


def count_calls() -> float:
    with ExitStack() as stack:
        return Counted(stack, ASKED, under=[]).ask()


def count_instructions() -> float | None:
    if shutil.which("valgrind") is None:
        return None
    options = ["--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=@FOLDER@/counted"]
    with ExitStack() as stack:
        counted = Counted(stack, -ASKED, under=["valgrind", *options])
        _tell(counted, "--instr=on")
        counted.ask()  # valgrind translates what it sees for the first time
        _tell(counted, "--zero")
        counted.ask()
        _tell(counted, "--dump")
        total = re.search(r"^summary: (\d+)", (counted.folder / "counted.1").read_text(), re.MULTILINE)
        assert total is not None
        return int(total[1]) / ASKED


def count_imports() -> tuple[int, int]:
    """Modules, and the bytes of their source."""
    code = (
        "import sys, pathlib, sluice.serve, core.http_client.aiohttp, core.store.sqlite;"
        "files = {m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)};"
        "print(len(sys.modules), sum(pathlib.Path(f).stat().st_size for f in files if f.endswith('.py')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, source_bytes = map(int, ran.stdout.split())
    return modules, source_bytes


def count() -> Counts:
    return Counts(PYTHON, count_calls(), count_instructions(), *count_imports())


def accepted() -> Counts:
    return Counts(**json.loads(ACCEPTED.read_text()))


def main(*, accept: bool) -> None:
    counts = count()
    for name, value in asdict(counts).items():
        shown = value if isinstance(value, str) else f"{value:,}" if value else "valgrind is not installed"
        print(f"{name:>14} {shown}")
    if accept:
        ACCEPTED.write_text(json.dumps(asdict(counts), indent=1) + "\n")


def _tell(counted: Counted, what: str) -> None:
    command = [shutil.which("callgrind_control") or "callgrind_control", what, str(counted.process.pid)]
    subprocess.run(command, capture_output=True, check=True)


def _started(
    stack: ExitStack, command: list[str], *, stdin: int | None = None, stdout: int, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    process = subprocess.Popen(command, cwd=HERE.parent, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    stack.enter_context(process)
    stack.callback(process.terminate)
    return process
