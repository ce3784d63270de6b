"""`make canary`: has Lambda's runtime for Python, or Mangum, learnt to stream? Then functions/lambda_stream may go.

It looks at the newest releases, so it needs a network and is no part of the suite. Whoever streams has to say one of
two things: the header by which a runtime announces a stream, or the content type of an HTTP answer in pieces.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html
"""

import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("awslambdaric", "mangum")
SIGNS = (b"function-response-mode", b"http-integration-response")


def signs_of_streaming(wheel: Path) -> list[str]:
    """The files in it that speak of streams."""
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if any(sign in archive.read(name).lower() for sign in SIGNS)]


def newest(package: str, folder: Path) -> Path:
    download = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), package]
    subprocess.run([sys.executable, "-m", "pip", *download], check=True)  # noqa: S603
    (wheel,) = folder.glob(f"{package}-*.whl")
    return wheel


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            wheel = newest(package, Path(folder))
            found = signs_of_streaming(wheel)
            verdict = f"STREAMS, by {', '.join(found)}" if found else "does not stream"
            print(f"{package} {wheel.name.split('-')[1]} (here: {version(package)}) {verdict}")


if __name__ == "__main__":
    main()
