"""docs/deploy.md against the template and the code; its arithmetic, done again."""

import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from tests.template import PARAMETERS, ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
TELEMETRY = (ROOT / "src" / "functions" / "telemetry.py").read_text(encoding="utf-8")
SECONDS, KB_OUT, KB_LOGGED = 5, 60, Decimal("1.5")  # of a request


def rows(heading: str) -> list[list[str]]:
    """The cells of each line of the first table below that line."""
    blocks = PAGE.split(f"\n{heading}\n\n", 1)[1].split("\n\n")
    table = next(block for block in blocks if block.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_parameter_is_explained_with_its_default() -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in rows("## Parameters")}
    there = {name: str(about["Default"]) or "none" for name, about in PARAMETERS.items() if name != "Empty"}
    assert told == there


def test_every_metric_is_explained_with_its_dimension() -> None:
    sent = set(re.findall(r'"(\w+)", "(?:Count|Milliseconds)"', TELEMETRY))
    by = dict(re.findall(r'"(\w+)", "Count", .*\], (\w+)=', TELEMETRY))
    told = {row[0].strip("`"): row[1].strip("`") for row in rows("## Logs and metrics")}
    assert told == {name: by.get(name, "") for name in sent}


def price(row: list[str]) -> Decimal:
    found = re.search(r"\$([\d.]+)", row[1])
    assert found
    return Decimal(found[1])


def dollars(amount: Decimal) -> str:
    return f"${amount.quantize(Decimal('0.01'), ROUND_HALF_UP)}"


@pytest.mark.parametrize(("column", "mb"), [(2, 128), (3, 256), (4, 512)])
def test_the_cost_of_a_million_requests_adds_up(column: int, mb: int) -> None:
    *parts, together = rows("## What it costs")
    duration, invocations, table, log, out = map(price, parts)
    costs = [duration * 1_000_000 * SECONDS * mb / 1024, invocations, table, log * KB_LOGGED, out * KB_OUT]
    rounded = [dollars(cost) for cost in costs]
    assert [row[column] for row in parts] == rounded
    assert together[column] == dollars(sum((Decimal(cost[1:]) for cost in rounded), Decimal(0)))


def test_each_script_and_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:scripts|src)/[\w./]+|[\w.]+\.(?:toml|json))`", PAGE)
    assert {"scripts/smoke.sh", "samconfig.toml", "local.env.json"} <= set(named)
    assert [name for name in named if not Path(ROOT / name).exists()] == []
