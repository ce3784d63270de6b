"""Tables out of results: medians with their spread, and each beside the gateway's own of the same run."""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .chart import bars

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
CHART = PAGE.parent / "performance.svg"
OURS = "sluice"
# The column that others are compared by, and what else is shown.
COLUMNS = {
    "small x8": ("cpu_ms", "a_second", "p50_ms", "p99_ms"),
    "one at a time": ("added_p50_ms", "added_p99_ms"),
    "large x8": ("cpu_ms", "a_second", "p50_ms"),
    "wait200 x256": ("cpu_ms", "a_second", "failed"),
    "wait200 x1000": ("cpu_ms", "a_second", "failed"),
    "body of 1 MB": ("cpu_ms", "p50_ms"),
    "100 streams": ("cpu_ms", "first_added_p50_ms", "chunk_p99_ms", "whole"),
    "200 streams": ("cpu_ms", "first_added_p50_ms", "chunk_p99_ms", "whole"),
    "start": ("start_s", "cpu_s", "rss_mb"),
    "memory": ("rss_mb", "idle_mb", "again_mb"),
}
WORDS = {
    "cpu_ms": "CPU ms",
    "a_second": "a second",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "added_p50_ms": "added p50 ms",
    "added_p99_ms": "added p99 ms",
    "first_added_p50_ms": "first token added ms",
    "chunk_p99_ms": "chunk p99 ms",
    "start_s": "to the first 200, s",
    "cpu_s": "CPU s",
    "rss_mb": "RSS MB",
    "idle_mb": "at start MB",
    "again_mb": "as many later MB",
}
_TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = Sequence[Mapping[str, Any]]


def table(rows: Rows, scenario: str, form: str) -> str:
    """One scenario, the lightest first."""
    first, *rest = columns = COLUMNS[scenario]
    by_target: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["scenario"] == scenario:
            by_target[row["target"]].append(row)
    medians = {name: statistics.median(_values(found, first)) for name, found in by_target.items()}
    lines = []
    for name in sorted(medians, key=medians.__getitem__):
        found = by_target[name]
        lines.append((name, _spread(_values(found, first)), _ratio(medians, name), *(_median(found, c) for c in rest)))
    headers = ("", WORDS[columns[0]], f"of {OURS}'s", *(WORDS.get(column, column) for column in rest))
    return tabulate(lines, headers, tablefmt=form, disable_numparse=True)


def others(rows: Rows) -> str:
    cores = [row["others"] for row in rows]
    return f"other processes: {statistics.median(cores):.2f} cores at the median, {max(cores):.2f} at most"


def summary(taken: Mapping[str, Any]) -> str:
    scenarios = [name for name in COLUMNS if any(row["scenario"] == name for row in taken["rows"])]
    parts = [f"{name}\n{table(taken['rows'], name, 'simple')}" for name in scenarios]
    return "\n\n".join([*parts, others(taken["rows"])])


def write_page(results: Path) -> None:
    """Fills the tables of docs/performance.md from the last results of each scenario, and draws its chart."""
    files = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    last = {row["scenario"]: taken for taken in files if taken["kind"] != "quick" for row in taken["rows"]}
    rows = [row for scenario, taken in last.items() for row in taken["rows"] if row["scenario"] == scenario]
    taken = files[-1]
    at = taken["machine"]
    machine = f"{taken['date']} UTC, {at['cores']} cores, Python {at['python']}; {others(rows)}."
    made = {"machine": machine, **{name: table(rows, name, "github") for name in COLUMNS}}
    text = _TABLE.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", PAGE.read_text())
    PAGE.write_text(text)
    small = {name: _of(rows, "small x8", name, "cpu_ms") for name in _targets(rows, "small x8")}
    streams = {name: _of(rows, "100 streams", name, "cpu_ms") for name in _targets(rows, "100 streams")}
    CHART.write_text(bars({"CPU ms a request, small JSON": small, "CPU ms a stream of 200 chunks": streams}, OURS))


def _targets(rows: Rows, scenario: str) -> Iterable[str]:
    return dict.fromkeys(row["target"] for row in rows if row["scenario"] == scenario)


def _of(rows: Rows, scenario: str, target: str, column: str) -> float:
    return statistics.median(_values([r for r in rows if (r["scenario"], r["target"]) == (scenario, target)], column))


def _values(rows: Rows, column: str) -> list[float]:
    return [row[column] for row in rows if column in row] or [float("nan")]


def _median(rows: Rows, column: str) -> str:
    return _shown(statistics.median(_values(rows, column)))


def _spread(values: Sequence[float]) -> str:
    middle = _shown(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_shown(min(values))} to {_shown(max(values))})"


def _ratio(medians: Mapping[str, float], name: str) -> str:
    return "" if OURS not in medians or name == OURS else f"{medians[name] / medians[OURS]:.2g}"


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
