"""YAML text to plain values, with what the plain values lose: the line of every path, variables that are not set,
keys that stand twice. `${NAME}` and `${NAME:-default}` are filled in here; `$${` is a plain `${`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from .schema import EnvText

Path = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}")


@dataclass(frozen=True, slots=True)
class Problem:
    path: Path
    message: str


@dataclass(slots=True)
class Source:
    """`variables` maps the path of a value to the variables it is made of, `unset` to the one that has no value."""

    data: Any = None
    is_yaml: bool = True
    problems: list[Problem] = field(default_factory=list)
    variables: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    unset: dict[Path, str] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """Of the value itself, or of the nearest thing around it that is written down."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_source(text: str, env: Mapping[str, str]) -> Source:
    source = Source()
    try:
        node = yaml.compose(text, Loader=_LOADER)
        if node is not None:
            scalars = list(_walk(node, (), source))
            for path, scalar in scalars:  # before any is filled in: an anchor's value stands at several paths
                _note_variables(scalar.value, path, env, source)
            for _, scalar in scalars:
                _fill_in(scalar, env)
            source.data = _construct(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source.lines = {(): mark.line + 1 if mark else 1}
        source.is_yaml = False
        source.problems = [Problem((), f"is not valid YAML: {error.problem}")]
    except (yaml.YAMLError, RecursionError):
        source.is_yaml = False
        source.problems = [Problem((), "is not valid YAML: an odd character, or an anchor that holds itself")]
    return source


_NO_VALUE = "the value of a variable that is not set"  # reported as that, so nothing else needs to be wrong with it
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ENV_TAG = "!variable"


class _Constructor(yaml.SafeLoader):
    """Builds values from nodes that are composed already."""


_Constructor.add_constructor(_ENV_TAG, lambda _, node: EnvText(node.value))


def _construct(node: yaml.Node) -> Any:
    constructor = _Constructor("")
    try:
        return constructor.construct_document(node)
    finally:
        constructor.dispose()


def _walk(node: yaml.Node, path: Path, source: Source) -> Iterator[tuple[Path, yaml.ScalarNode]]:
    source.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        yield path, node
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), source)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                source.problems.append(Problem((*path, name), f"is set twice (first in line {seen[name]})"))
            seen.setdefault(name, line)
            source.lines[(*path, name)] = line
            yield from _walk(value, (*path, name), source)


def _note_variables(text: str, path: Path, env: Mapping[str, str], source: Source) -> None:
    used = [match for match in _VARIABLE.finditer(text) if match["name"]]
    if used:
        source.variables[path] = tuple(match["name"] for match in used)
    for match in used:
        if match["default"] is None and not env.get(match["name"]):
            source.unset[path] = match["name"]


def _fill_in(node: yaml.ScalarNode, env: Mapping[str, str]) -> None:
    if "${" not in node.value:
        return

    def value_of(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "${"
        default = match["default"]
        return env.get(match["name"]) or (_NO_VALUE if default is None else default[2:])

    node.value = _VARIABLE.sub(value_of, node.value)
    if node.style is None:
        node.tag = _ENV_TAG
