"""`python -m bench quick|peers`: rounds beside nginx and a bare relay, or beside LiteLLM and Portkey, too.

`fresh` is the part of that which starts processes anew. `counts` shows what repeats exactly, `counts --accept` makes it
the measure for later; `report` writes the tables and the chart of docs/performance.md from the last results.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from . import measure
from .counts import main as show_counts
from .report import summary, write_page
from .targets import LITELLM, PORTKEY, SQLITE, Target, installed

RESULTS = Path(__file__).parent / "results"


def quick(bench: measure.Bench, targets: Sequence[Target]) -> None:
    with bench.all_running(targets) as running:
        measure.requests(bench, running, "small", connections=8, seconds=2, rounds=4)
        measure.requests(bench, running, "large", connections=8, seconds=2, rounds=2)
        measure.requests(bench, running, "wait200", connections=256, seconds=4, rounds=1)
        measure.streams(bench, running, a_second=50, seconds=2, rounds=1)
    measure.starts(bench, targets, rounds=2)


def peers(bench: measure.Bench, targets: Sequence[Target]) -> None:
    with bench.all_running(targets) as running:
        measure.requests(bench, running, "small", connections=8, seconds=2.5, rounds=5)
        measure.latency(bench, running, count=200, rounds=5)
        others = [one for one in running if one.target is not SQLITE]
        quick_ones = [one for one in others if not one.target.is_slow]
        measure.requests(bench, others, "large", connections=8, seconds=2, rounds=3)
        measure.requests(bench, others, "wait200", connections=256, seconds=5, rounds=2)
        measure.requests(bench, quick_ones, "wait200", connections=1000, seconds=5, rounds=1)
        measure.bodies(bench, others, size=2**20, rounds=2)
        measure.streams(bench, others, a_second=50, seconds=2, rounds=3)
        measure.streams(bench, quick_ones, a_second=100, seconds=2, rounds=2)
    fresh(bench, targets)


def fresh(bench: measure.Bench, targets: Sequence[Target]) -> None:
    measure.memory(bench, targets, count=20_000)
    measure.starts(bench, [target for target in targets if target is not SQLITE], rounds=3)


KINDS = {"quick": quick, "peers": peers, "fresh": fresh}


def run(kind: str) -> None:
    targets, missing = installed()
    if kind == "quick":
        targets = [target for target in targets if target not in (LITELLM, PORTKEY)]
        missing = [words for words in missing if "nginx" in words]
    for words in missing:
        print(words, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, measure.Bench(Path(folder), tell) as bench:
        KINDS[kind](bench, targets)
    now = datetime.now(UTC)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    taken = {"kind": kind, "date": now.strftime("%Y-%m-%d %H:%M"), "machine": machine, "rows": bench.rows}
    file = RESULTS / f"{now:%Y-%m-%dT%H%M}-{kind}.json"
    RESULTS.mkdir(exist_ok=True)
    file.write_bytes(orjson.dumps(taken, option=orjson.OPT_INDENT_2))
    print(f"\n{summary(taken)}\n\nwritten to {file}")


def tell(words: str) -> None:
    print(words, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, "counts", "report"], nargs="?", default="quick")
    parser.add_argument("--accept", action="store_true", help="counts: these are the measure from now on")
    chosen = parser.parse_args()
    if chosen.kind == "counts":
        show_counts(accept=chosen.accept)
    elif chosen.kind == "report":
        write_page(RESULTS)
    else:
        run(chosen.kind)


if __name__ == "__main__":
    main()
