"""SAM as `make` installs it, in an environment of its own, and what it makes of the template. Offline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.template import ROOT

ENVIRONMENT = Path(sys.prefix) / "sam"
PACKAGE = next(ENVIRONMENT.glob("lib/python*/site-packages/samcli"), ENVIRONMENT)
WHY_NOT = "" if (ENVIRONMENT / "bin" / "sam").exists() else "SAM is not installed: make .venv/.sam"
needs_sam = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def sam(home: Path, *args: str) -> None:
    """Fails with what it printed."""
    _run(home, str(ENVIRONMENT / "bin" / "sam"), *args)


def ask_sam(home: Path, code: str, *args: str) -> Any:
    """What a few lines of Python in SAM's environment print, as JSON."""
    return json.loads(_run(home, str(ENVIRONMENT / "bin" / "python"), "-c", code, *args))


def environment(home: Path) -> dict[str, str]:
    """Nothing of this machine's but its programs, and the packages that `make` fetched."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYENV_ROOT": os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")),
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
        "UV_CACHE_DIR": str(ENVIRONMENT / "cache"),
        "UV_OFFLINE": "1",
    }


def _run(home: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
