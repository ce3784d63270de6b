"""Values are what `dataclass(frozen=True, slots=True)` makes, but for the freezing, which is mypy's."""

from dataclasses import dataclass, field, replace
from unittest.mock import ANY

import pytest

from core.frozen import frozen


@frozen
class Key:
    """Of all kinds of fields."""

    name: str
    token: str = field(repr=False)
    models: tuple[str, ...] = ()
    note: str = field(default="", compare=False)


@frozen
class Grown(Key):
    more: int = 1


@frozen
class Nothing:
    pass


@dataclass(frozen=True, slots=True)
class Usual:
    name: str
    models: tuple[str, ...] = ()


@frozen
class Ours:
    name: str
    models: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        (Key("a", "secret"), Key("a", "secret"), True),
        (Key("a", "secret"), Key("a", "secret", note="what does not count"), True),
        (Key("a", "secret"), Key("a", "another"), False),
        (Key("a", "secret"), Key("a", "secret", ("m",)), False),
        (Grown("a", "secret"), Grown("a", "secret"), True),
        (Grown("a", "secret"), Grown("a", "secret", more=2), False),
        (Key("a", "secret"), Grown("a", "secret"), False),
        (Nothing(), Nothing(), True),
        (Key("a", "secret"), "a", False),
    ],
)
def test_values_are_equal_by_class_and_fields(one: object, other: object, are_equal: bool) -> None:
    assert (one == other) is are_equal
    assert (other == one) is are_equal
    assert (hash(one) == hash(other)) is are_equal


def test_equality_leaves_the_word_to_what_it_does_not_know() -> None:
    assert Key("a", "secret") == ANY


def test_what_is_shown_is_what_a_dataclass_shows_and_no_secret() -> None:
    assert repr(Ours("a", ("m",))) == repr(Usual("a", ("m",))).replace("Usual", "Ours")
    assert repr(Grown("a", "secret", note="n")) == "Grown(name='a', models=(), note='n', more=1)"
    assert repr(Nothing()) == "Nothing()"


def test_a_value_is_slotted_and_can_be_replaced() -> None:
    assert not hasattr(Key("a", "secret"), "__dict__")
    assert replace(Key("a", "secret"), name="b") == Key("b", "secret")
