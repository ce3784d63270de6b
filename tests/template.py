"""template.yaml as plain data: `!Ref Table` is {"Ref": "Table"}, `!GetAtt Table.Arn` is {"Fn::GetAtt": "Table.Arn"}."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


class _Loader(yaml.SafeLoader):
    pass


def _intrinsic(loader: _Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    key = name if name == "Ref" else f"Fn::{name}"
    if isinstance(node, yaml.ScalarNode):
        return {key: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {key: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _intrinsic)

TEMPLATE: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), _Loader)
PARAMETERS: dict[str, dict[str, Any]] = TEMPLATE["Parameters"]
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
FUNCTION: dict[str, Any] = RESOURCES["Gateway"]["Properties"]
VARIABLES: dict[str, Any] = FUNCTION["Environment"]["Variables"]


def texts(value: Any) -> Iterator[str]:
    """All strings in it, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    else:
        yield str(value)
