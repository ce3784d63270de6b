"""A change to one item of shared state, as data: what must hold, and what is then written, all or nothing.

The rules (`limits.py`, `breaker.py`, `throttle.py`) write plans; a store carries them out: under a lock, or compiled to
one conditional write. An item is a flat image of numbers, texts and sets of texts; what is missing counts as nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

ITEM_LIFE_S = 3 * 86_400  # after that nobody needs an item that was not touched
Value = int | str | frozenset[str]
Image = Mapping[str, Value]
Test = Literal["at_most", "at_least", "equals", "fewer"]
Condition = tuple[str, Test, int | str]  # of an attribute: a test, and against what


@dataclass(slots=True)
class Plan:
    """`include` and `exclude` change members of sets. No attribute may be changed in two ways by one plan."""

    conditions: list[Condition] = field(default_factory=list)
    set: dict[str, int | str] = field(default_factory=dict)
    add: dict[str, int] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    include: dict[str, str] = field(default_factory=dict)
    exclude: dict[str, frozenset[str]] = field(default_factory=dict)

    def require(self, attribute: str, test: Test, value: int | str) -> None:
        self.conditions.append((attribute, test, value))

    @property
    def is_empty(self) -> bool:
        return not (self.set or self.add or self.remove or self.include or self.exclude)

    def holds(self, image: Image) -> bool:
        return all(holds(condition, image) for condition in self.conditions)

    def apply(self, image: Image) -> dict[str, Value]:
        """The image afterwards. Whether the conditions hold is the caller's affair."""
        after = {**image, **self.set}
        for name in self.remove:
            after.pop(name, None)
        for name, amount in self.add.items():
            before = image.get(name, 0)
            after[name] = (before if isinstance(before, int) else 0) + amount
        for name, member in self.include.items():
            after[name] = members(image, name) | {member}
        for name, dead in self.exclude.items():
            after[name] = members(image, name) - dead
            if not after[name]:
                del after[name]  # DynamoDB knows no empty sets
        return after


def holds(condition: Condition, image: Image) -> bool:
    """`at_most`: missing or not above; `at_least`, `equals`: there and so; `fewer`: missing or a smaller set."""
    attribute, test, value = condition
    found = image.get(attribute)
    if test == "equals":
        return found == value
    if isinstance(value, str) or isinstance(found, str):
        return False
    if test == "fewer":
        return len(found) < value if isinstance(found, frozenset) else True
    number = found if isinstance(found, int) else None
    if test == "at_least":
        return number is not None and number >= value
    return number is None or number <= value


def merged(plans: Iterable[Plan]) -> Plan:
    """All of them in one. They must not change the same attribute."""
    whole = Plan()
    for plan in plans:
        whole.conditions += plan.conditions
        whole.set |= plan.set
        whole.add |= plan.add
        whole.remove += plan.remove
        whole.include |= plan.include
        whole.exclude |= plan.exclude
    return whole


def first_to_hold(plans: Iterable[Plan], image: Image) -> Plan | None:
    for plan in plans:
        if plan.holds(image):
            return plan
    return None


def kept_until(needed_until_ms: int) -> int:
    """Unix seconds, as an item's `x` has it: a store that cleans up may drop it then."""
    return needed_until_ms // 1000 + ITEM_LIFE_S


def number(image: Image, attribute: str) -> int:
    """Zero when it is missing."""
    found = image.get(attribute, 0)
    return found if type(found) is int else 0


def members(image: Image, attribute: str) -> frozenset[str]:
    found = image.get(attribute)
    return found if isinstance(found, frozenset) else frozenset()
