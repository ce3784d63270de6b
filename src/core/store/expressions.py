"""A plan as DynamoDB's `UpdateItem` wants it, and items as images. Pure: no client, no network.

https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_UpdateItem.html
Every attribute has a placeholder: several of our names are among DynamoDB's hundreds of reserved words.
"""

from collections.abc import Mapping
from typing import Any

from ..plan import Condition, Plan, Value

PRIMARY_KEY = "pk"
_TESTS = {
    "at_most": "(attribute_not_exists({name}) OR {name} <= {value})",
    "at_least": "{name} >= {value}",
    "equals": "{name} = {value}",
    "fewer": "(attribute_not_exists({name}) OR size({name}) < {value})",
}


def compile_plan(key: str, plan: Plan) -> dict[str, Any]:
    """Arguments of `UpdateItem`, but for the table: key, expressions, names and values."""
    terms = _Terms()
    added = [f"{terms.name(name)} {terms.value(amount)}" for name, amount in plan.add.items()]
    added += [f"{terms.name(name)} {terms.value(frozenset({member}))}" for name, member in plan.include.items()]
    clauses = {
        "SET": [f"{terms.name(name)} = {terms.value(value)}" for name, value in plan.set.items()],
        "ADD": added,
        "DELETE": [f"{terms.name(name)} {terms.value(dead)}" for name, dead in plan.exclude.items()],
        "REMOVE": [terms.name(name) for name in plan.remove],
    }
    arguments: dict[str, Any] = {
        "Key": {PRIMARY_KEY: {"S": key}},
        "UpdateExpression": " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts),
    }
    if plan.conditions:
        arguments["ConditionExpression"] = " AND ".join(terms.test(condition) for condition in plan.conditions)
    arguments["ExpressionAttributeNames"] = terms.names
    if terms.values:
        arguments["ExpressionAttributeValues"] = terms.values
    return arguments


def read_item(item: Mapping[str, Any]) -> dict[str, Value]:
    """An item as an image; DynamoDB's numbers come as text."""
    return {name: _read_value(typed) for name, typed in item.items() if name != PRIMARY_KEY}


def write_value(value: Value) -> dict[str, Any]:
    if isinstance(value, frozenset):
        return {"SS": sorted(value)}
    return {"S": value} if isinstance(value, str) else {"N": str(value)}


def _read_value(typed: Mapping[str, Any]) -> Value:
    if "N" in typed:
        return int(typed["N"])
    return frozenset(typed["SS"]) if "SS" in typed else str(typed["S"])


class _Terms:
    """Placeholders, one for each name and each value, in the order in which they are first used."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, dict[str, Any]] = {}
        self._of_name: dict[str, str] = {}
        self._of_value: dict[str, str] = {}

    def name(self, name: str) -> str:
        if name not in self._of_name:
            self._of_name[name] = f"#n{len(self.names)}"
            self.names[self._of_name[name]] = name
        return self._of_name[name]

    def value(self, value: Value) -> str:
        typed = write_value(value)
        if repr(typed) not in self._of_value:
            self._of_value[repr(typed)] = f":v{len(self.values)}"
            self.values[self._of_value[repr(typed)]] = typed
        return self._of_value[repr(typed)]

    def test(self, condition: Condition) -> str:
        attribute, test, value = condition
        return _TESTS[test].format(name=self.name(attribute), value=self.value(value))
