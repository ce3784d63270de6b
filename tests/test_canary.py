"""The canary, without its network: it knows a package that streams from one that does not."""

import zipfile
from pathlib import Path

from scripts.canary import signs_of_streaming
from tests.template import ROOT


def wheel_of(folder: Path, *files: Path) -> Path:
    wheel = folder / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in files:
            archive.write(path, path.name)
    return wheel


def test_what_streams_is_told_by_the_file_that_does_it(tmp_path: Path) -> None:
    """Our own loop is the package that streams."""
    loop = ROOT / "src" / "functions" / "lambda_stream"
    assert signs_of_streaming(wheel_of(tmp_path, *loop.glob("*.py"))) == ["api.py"]


def test_what_does_not_stream_has_no_sign_of_it(tmp_path: Path) -> None:
    assert signs_of_streaming(wheel_of(tmp_path, *(ROOT / "src" / "core").glob("*.py"))) == []
