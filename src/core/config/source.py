"""YAML text to plain values, with what the plain values lose: the line of every path, variables that are not set,
keys that stand twice. `${NAME}` and `${NAME:-default}` are filled in here; `$${` is a plain `${`. A value that is a
reference, `ssm:/name` or `secretsmanager:name`, is what the door looks up for it, where it can.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..frozen import frozen
from .schema import NO_SUCH_VALUE, EnvText

Path = tuple[str | int, ...]
LookUp = Callable[[frozenset[str]], Mapping[str, str]]
"""References to what they stand for; one that cannot be read is left out."""

_REFERENCE = re.compile(r"(ssm|secretsmanager):\S+")
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}")


@frozen
class Problem:
    path: Path
    message: str


@dataclass(slots=True)
class Source:
    """`origins`: path of a value -> what it is made of, `$NAME` or a reference; `unset`: -> what has no value."""

    data: Any = None
    is_yaml: bool = True
    problems: list[Problem] = field(default_factory=list)
    origins: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    unset: dict[Path, str] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """Of the value itself, or of the nearest thing around it that is written down."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_source(text: str, env: Mapping[str, str], look_up: LookUp | None = None) -> Source:
    source = Source()
    try:
        node = yaml.compose(text, Loader=_LOADER)
        if node is not None:
            scalars = list(_walk(node, (), source))
            for path, scalar in scalars:  # before any is filled in: an anchor's value stands at several paths
                _note_variables(scalar.value, path, env, source)
            for scalar in {id(scalar): scalar for _, scalar in scalars}.values():  # each once: `$${` stays `${`
                _fill_in(scalar, env)
            if look_up is not None:
                _follow(scalars, look_up, source)
            source.data = _construct(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source.lines = {(): mark.line + 1 if mark else 1}
        source.is_yaml = False
        source.problems = [Problem((), f"is not valid YAML: {_without_quotes(error.problem or '')}")]
    except (yaml.YAMLError, RecursionError):
        source.is_yaml = False
        source.problems = [Problem((), "is not valid YAML: an odd character, or an anchor that holds itself")]
    return source


_NO_VALUE = "the value of a variable that is not set"  # reported as that, so nothing else needs to be wrong with it
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ENV_TAG = "!variable"
_TEXT_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _without_quotes(problem: str) -> str:
    """A token that begins with `!` or `*` would be quoted as a tag or an alias; signs like ',' may stay."""
    return _QUOTED.sub(lambda quoted: quoted[0] if len(quoted[0]) < 5 else "(...)", problem)


class _Constructor(yaml.SafeLoader):
    """Builds values from nodes that are composed already."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except NO_SUCH_VALUE:
            problem = "a value is not what its form or its tag says"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


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
        for key, value in _own(node):
            name, line = _name_of(key), key.start_mark.line + 1
            if name in seen:
                source.problems.append(Problem((*path, name), f"is set twice (first in line {seen[name]})"))
            seen.setdefault(name, line)
            source.lines[(*path, name)] = line
            yield from _walk(value, (*path, name), source)
        for key, value in _merged(node):
            name = _name_of(key)
            if name not in seen:
                seen[name] = node.start_mark.line + 1
                yield from _walk(value, (*path, name), source)


def _name_of(key: yaml.Node) -> str:
    """Every key is text: `on`, `5` and `~` are names like any other."""
    if isinstance(key, yaml.ScalarNode):
        key.tag = _TEXT_TAG
    return str(key.value)


def _own(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    return [(key, value) for key, value in node.value if key.tag != _MERGE_TAG]


def _merged(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """What `<<: *other` and `<<: [*one, *other]` bring in, the stronger first. https://yaml.org/type/merge.html"""
    for key, value in node.value:
        if key.tag == _MERGE_TAG:
            for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(other, yaml.MappingNode):
                    yield from _own(other)
                    yield from _merged(other)


def _note_variables(text: str, path: Path, env: Mapping[str, str], source: Source) -> None:
    used = [match for match in _VARIABLE.finditer(text) if match["name"]]
    if used:
        source.origins[path] = tuple(f"${match['name']}" for match in used)
    for match in used:
        if match["default"] is None and not env.get(match["name"]):
            source.unset[path] = match["name"]


def _follow(scalars: list[tuple[Path, yaml.ScalarNode]], look_up: LookUp, source: Source) -> None:
    """All references at once: each is a request to somewhere."""
    found = [(path, scalar) for path, scalar in scalars if _REFERENCE.fullmatch(scalar.value)]
    values = look_up(frozenset(scalar.value for _, scalar in found)) if found else {}
    for path, scalar in found:
        if scalar.value in values:
            source.origins[path] = (scalar.value,)
        else:
            source.problems.append(Problem(path, f"{scalar.value} cannot be read"))
    for scalar in {id(scalar): scalar for _, scalar in found}.values():
        scalar.value = values.get(scalar.value, scalar.value)
        scalar.tag = _TEXT_TAG


def _fill_in(node: yaml.ScalarNode, env: Mapping[str, str]) -> None:
    if "${" not in node.value:
        return

    def value_of(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "${"
        default = match["default"]
        return env.get(match["name"]) or (_NO_VALUE if default is None else default[2:])

    node.value = _VARIABLE.sub(value_of, node.value)
    if not node.style:  # plain: None, or an empty string from the loader written in C
        node.tag = _ENV_TAG
