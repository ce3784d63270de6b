"""Plans: what their conditions say of an image, and what is in it afterwards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.plan import Plan, Test, Value, holds, members, number

NUMBERS = st.integers(-(2**40), 2**40)
NAMES = st.sampled_from(["f", "u", "q", "rm1", "tm1"])
IMAGES = st.dictionaries(NAMES, NUMBERS | st.text(max_size=3) | st.frozensets(st.text(max_size=3), min_size=1))


@pytest.mark.parametrize(
    ("test", "value", "found", "is_so"),
    [
        pytest.param("at_most", 5, 4, True, id="below"),
        pytest.param("at_most", 5, 5, True, id="just at most"),
        pytest.param("at_most", 5, 6, False, id="above"),
        pytest.param("at_most", 5, None, True, id="what is missing is not above"),
        pytest.param("at_most", -1, None, True, id="not even above a negative number"),
        pytest.param("at_most", 5, "3", False, id="a text is no number"),
        pytest.param("at_least", 5, 6, True, id="more than that"),
        pytest.param("at_least", 5, 5, True, id="just at least"),
        pytest.param("at_least", 5, 4, False, id="less"),
        pytest.param("at_least", 0, None, False, id="what is missing is not at least anything"),
        pytest.param("at_least", 0, frozenset({"a"}), False, id="a set is no number"),
        pytest.param("equals", 5, 5, True, id="the same number"),
        pytest.param("equals", 5, 6, False, id="another number"),
        pytest.param("equals", "a", "a", True, id="the same text"),
        pytest.param("equals", "a", "b", False, id="another text"),
        pytest.param("equals", 0, None, False, id="what is missing equals nothing"),
        pytest.param("fewer", 2, frozenset({"a"}), True, id="a smaller set"),
        pytest.param("fewer", 2, frozenset({"a", "b"}), False, id="a set that is full"),
        pytest.param("fewer", 2, frozenset({"a", "b", "c"}), False, id="a set that is more than full"),
        pytest.param("fewer", 2, None, True, id="no set yet"),
    ],
)
def test_a_condition_holds_as_its_table_says(test: Test, value: int | str, found: Value | None, is_so: bool) -> None:
    assert holds(("a", test, value), {} if found is None else {"a": found}) is is_so


@settings(deadline=None)
@given(IMAGES, NAMES, NUMBERS)
def test_at_most_and_at_least_part_the_numbers(image: dict[str, Value], name: str, border: int) -> None:
    """For a number that is there exactly one of the two holds."""
    low = holds((name, "at_most", border), image)
    high = holds((name, "at_least", border + 1), image)
    if isinstance(image.get(name), int):
        assert low is not high
    else:
        assert not high


def test_a_plan_holds_when_all_its_conditions_do() -> None:
    plan = Plan()
    assert plan.holds({"a": 9})
    plan.require("a", "at_most", 5)
    plan.require("b", "at_least", 1)
    assert plan.holds({"a": 5, "b": 1})
    assert not plan.holds({"a": 6, "b": 1})
    assert not plan.holds({"a": 5})


BEFORE: dict[str, Value] = {"n": 7, "t": "text", "q": frozenset({"a", "b"})}


@pytest.mark.parametrize(
    ("plan", "changed"),
    [
        pytest.param(Plan(), {}, id="nothing"),
        pytest.param(Plan(set={"n": 1, "t": "new", "z": 3}), {"n": 1, "t": "new", "z": 3}, id="set"),
        pytest.param(Plan(add={"n": 3}), {"n": 10}, id="add"),
        pytest.param(Plan(add={"n": -9}), {"n": -2}, id="add a negative amount"),
        pytest.param(Plan(add={"z": 3}), {"z": 3}, id="add to what is missing"),
        pytest.param(Plan(add={"t": 3}), {"t": 3}, id="add to what is no number"),
        pytest.param(Plan(remove=["n", "z"]), {"n": None}, id="remove, be it there or not"),
        pytest.param(Plan(include={"q": "c"}), {"q": frozenset({"a", "b", "c"})}, id="one more member"),
        pytest.param(Plan(include={"q": "a"}), {}, id="a member it has"),
        pytest.param(Plan(include={"z": "c"}), {"z": frozenset({"c"})}, id="the first member makes the set"),
        pytest.param(Plan(exclude={"q": frozenset({"a", "z"})}), {"q": frozenset({"b"})}, id="one member less"),
        pytest.param(Plan(exclude={"q": frozenset({"a", "b"})}), {"q": None}, id="an empty set is no attribute"),
        pytest.param(Plan(exclude={"z": frozenset({"a"})}), {}, id="members of a set that is missing"),
        pytest.param(
            Plan(set={"t": "x"}, add={"z": 1}, remove=["n"], include={"q": "c"}),
            {"t": "x", "z": 1, "n": None, "q": frozenset({"a", "b", "c"})},
            id="all in one",
        ),
    ],
)
def test_a_plan_changes_what_it_names_and_nothing_else(plan: Plan, changed: dict[str, Value | None]) -> None:
    """`changed`: None for what is gone."""
    image = dict(BEFORE)
    expected = {name: value for name, value in {**BEFORE, **changed}.items() if value is not None}
    assert plan.apply(image) == expected
    assert image == BEFORE, "an image is never changed in place: others may be reading it"
    assert plan.is_empty is (plan == Plan())


def test_conditions_alone_write_nothing() -> None:
    plan = Plan()
    plan.require("n", "at_most", 1)
    assert plan.is_empty


@pytest.mark.parametrize(
    ("found", "as_number", "as_members"),
    [
        (None, 0, frozenset()),
        (7, 7, frozenset()),
        ("7", 0, frozenset()),
        (frozenset({"a"}), 0, frozenset({"a"})),
    ],
)
def test_what_is_missing_or_of_another_kind_counts_as_nothing(
    found: Value | None, as_number: int, as_members: frozenset[str]
) -> None:
    image = {} if found is None else {"a": found}
    assert number(image, "a") == as_number
    assert members(image, "a") == as_members
