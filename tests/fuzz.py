"""`make fuzz`: a search, led by which lines are reached, for bytes that any reader of ours stumbles over.

Options are libFuzzer's, such as `-max_total_time=600`. What it found is written to a file that this script takes as
its argument, to see it again. An input that takes longer than ten seconds or 512 MB of memory is a find as well.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["core"]):
    from tests.strange_bytes import seeds, take

BOUNDS = ["-timeout=10", "-rss_limit_mb=512", "-max_len=4096", f"-artifact_prefix={tempfile.gettempdir()}/sluice-fuzz-"]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sluice-fuzz-") as corpus:
        for number, seed in enumerate(seeds()):
            Path(corpus, f"{number:03}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *BOUNDS, *sys.argv[1:], corpus], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
