"""`make fuzz`: a search, led by which lines are reached, for bytes that any reader of ours stumbles over.

Options are libFuzzer's, such as `-max_total_time=600`. What it found is written to a file that this script takes as
its argument, to see it again. An input that takes longer than ten seconds or half a gigabyte is a find as well.
"""

import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["core"]):
    from tests.strange_bytes import seeds, take

# libFuzzer's own bound on memory goes by the most that the process that started it ever had: it is done here instead.
BOUNDS = ["-timeout=10", "-rss_limit_mb=0", "-max_len=4096", f"-artifact_prefix={tempfile.gettempdir()}/sluice-fuzz-"]
MAX_BYTES = 512 * 2**20


def bound_memory() -> None:
    """From now on: who wants more gets a MemoryError."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MAX_BYTES, has + MAX_BYTES))


def main() -> None:
    bound_memory()
    with tempfile.TemporaryDirectory(prefix="sluice-fuzz-") as corpus:
        for number, seed in enumerate(seeds()):
            Path(corpus, f"{number:03}").write_bytes(seed)
        again = any(not argument.startswith("-") for argument in sys.argv[1:])
        atheris.Setup([sys.argv[0], *BOUNDS, *sys.argv[1:], *([] if again else [corpus])], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
