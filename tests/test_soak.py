"""The soak, for seconds instead of hours; and that it would notice."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fake_upstream import DONE, chunk, event
from tests.soak import LEFT, Dishonest, Report, judge_stream, soak


async def test_some_seconds_of_it_leave_no_cause_for_complaint(tmp_path: Path) -> None:
    report = await soak(tmp_path, store="sqlite", seconds=4)
    assert report.complaints() == []
    assert report.outages >= 1
    assert min(report.failures, report.statuses["200"], report.statuses["whole stream"]) > 5


WELL = Report(
    requests=20, log_lines=20, seen=Counter(a=9), counted=Counter(a=9), files=(9, 9), memory=(70, 71), exit_code=0
)


def test_where_all_is_well_it_has_nothing_to_say() -> None:
    assert WELL.complaints() == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"counted": Counter(a=8)}, "a: 8 calls counted, 9 seen"),
        ({"counted": Counter(a=10)}, "a: 10 calls counted, 9 seen"),
        ({"log_lines": 19}, "20 requests, 19 lines"),
        ({"log_lines": 21, "statuses": Counter({LEFT: 5})}, "20 requests, 21 lines"),
        ({"files": (9, 10)}, "10 in the end"),
        ({"memory": (70, 90)}, "90 MB in the end"),
        ({"held": ["m#a"]}, "held in the store: m#a"),
        ({"errors": ["a bug"]}, "logged: a bug"),
        ({"exit_code": 1}, "exit code 1"),
    ],
)
def test_what_does_not_agree_is_said(wrong: dict[str, Any], said: str) -> None:
    [complaint] = replace(WELL, **wrong).complaints()
    assert said in complaint


HI, REST, STOP, ERROR = chunk("The answer"), chunk(" is 42."), chunk(finish="stop"), event({"error": {"message": "no"}})


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([HI], id="cut"),
        pytest.param([HI, DONE], id="cut, and called done"),
        pytest.param([HI, STOP, DONE], id="a part, and finished"),
        pytest.param([HI, REST, STOP], id="without an end"),
        pytest.param([HI, ERROR, DONE], id="an error, and called done"),
        pytest.param([HI, HI, REST, STOP, DONE], id="twice the same"),
    ],
)
def test_a_stream_that_is_neither_whole_nor_said_to_be_broken_ends_the_run(pieces: list[bytes]) -> None:
    with pytest.raises(Dishonest):
        judge_stream(b"".join(pieces).decode())


def test_a_whole_one_and_one_that_says_that_it_broke_do_not() -> None:
    assert judge_stream(b"".join([HI, REST, STOP, DONE]).decode()) == "whole stream"
    assert judge_stream(b"".join([HI, ERROR]).decode()) == "broken stream, and said so"
