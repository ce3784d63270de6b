"""docs/reliability.md says what the conduct tests hold the gateway to: its table is made of the same rows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import test_conduct
from tests.misbehaviour import AFTER, BEFORE, ODD, Failure

PAGE = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()


def rows() -> Iterator[str]:
    """`make test ARGS="tests/test_reliability_docs.py -s"` prints them, to be put into the page."""
    for failure in BEFORE:
        yield f"| {failure.name} | {_alone(failure)} | {_beside_a_fallback(failure)} | {_in_a_category(failure)} |"
    for failure in AFTER:
        yield f"| {failure.name} | what came, then an error event (`{failure.alone[1]}`) | the same | the same |"
    for name in ODD:
        yield f"| {name} | the whole answer | the same | the same |"


def _alone(failure: Failure) -> str:
    status, code = failure.alone
    if status == 200:
        return f"the answer, at call {failure.asked}"
    said = f"{status}" + (f" `{code}`" if code else ", the provider's words")
    said += ", `retry-after`" if failure.retry_after else ""
    return said + (f", after {failure.asked} calls" if failure.asked > 1 else "")


def _beside_a_fallback(failure: Failure) -> str:
    if not failure.helps:
        return "the same"
    if failure.by_name_recovers:
        return f"the answer, at call {failure.asked_by_name}"
    return f"the fallback's answer, after {failure.asked_by_name} call{'s'[: failure.asked_by_name > 1]}"


def _in_a_category(failure: Failure) -> str:
    return "the next one's answer, at once" if failure.helps else "the same"


def test_the_table_is_what_the_tests_expect() -> None:
    print("\n".join(rows()))
    shown = [line for line in PAGE.splitlines() if line.count("|") == 5][2:]
    assert shown == list(rows())


@pytest.mark.parametrize("name", re.findall(r"`(test_\w+)`", PAGE))
def test_every_test_that_it_names_is_there(name: str) -> None:
    assert hasattr(test_conduct, name)


def test_it_shows_a_soak_over_each_store() -> None:
    for store in ("sqlite", "dynamodb"):
        assert re.search(rf"^\| Store \| {store}, out of reach [1-9]", PAGE, re.MULTILINE)
    assert PAGE.count("| Leases and probes left | 0 |") == 2
