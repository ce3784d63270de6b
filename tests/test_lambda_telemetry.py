"""What of a store's fortunes becomes a metric: failures, and neither a busy hour nor good news."""

import orjson
import pytest

from functions.telemetry import LambdaTelemetry


def test_a_store_that_fails_is_counted_and_one_that_is_busy_or_back_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry = LambdaTelemetry("test")
    for how in ("degraded", "busy", "denied", "lost", "back"):
        telemetry.store_fared(how)
    rows = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["how"], row["StoreFailures"]) for row in rows] == [
        ("degraded", [1.0]),
        ("denied", [1.0]),
        ("lost", [1.0]),
    ]
