"""docs/configuration.md against the schema: every key of every block stands there with its type and its default."""

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Le, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from core.catalog import build_catalog
from core.config import load, schema
from core.http_client.demo import Script

DOCUMENT = (Path(__file__).parents[1] / "docs/configuration.md").read_text(encoding="utf-8")

# What the document calls a scope, and the block of the schema that it is.
BLOCKS: dict[str, type[BaseModel]] = {
    "top level": schema.Config,
    "server": schema.Server,
    "auth": schema.Auth,
    "auth.keys[]": schema.KeyEntry,
    "providers.NAME": schema.ProviderEntry,
    "models[]": schema.ModelEntry,
    "timeouts": schema.Timeouts,
    "http_client_config": schema.HttpClientConfig,
    "breaker": schema.Breaker,
    "demo": schema.Demo,
    "state": schema.State,
}

# Types that are said in words of their own.
_IN_WORDS = [(get_args(schema.HttpUrl)[-1], "address"), (get_args(schema.Category)[-1], "category")]

_NO_DEFAULT = "-"


def documented() -> dict[tuple[str, str], tuple[str, str, str]]:
    """`(scope, key)` to type, default and meaning, from every table that stands below a line `Scope: ...`."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    scopes: list[str] = []
    for line in DOCUMENT.splitlines():
        if line.startswith("#"):
            scopes = []
        elif line.startswith("Scope: "):
            scopes = [scope.strip(" `") for scope in line.removeprefix("Scope: ").split(",")]
        elif scopes and line.startswith("| `"):
            key, kind, default, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            for spot in ((scope, key.strip("`")) for scope in scopes):
                assert spot not in found, f"{spot} stands in two tables"
                found[spot] = (kind, default, meaning)
    return found


ROWS = documented()
FIELDS = {(scope, name): field for scope, block in BLOCKS.items() for name, field in block.model_fields.items()}


def all_blocks(block: type[BaseModel]) -> set[type[BaseModel]]:
    return {block}.union(
        *(all_blocks(inner) for field in block.model_fields.values() for inner in blocks_in(field.annotation))
    )


def blocks_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for part in get_args(annotation) for block in blocks_in(part)]


def type_words(annotation: Any, marks: tuple[Any, ...] = ()) -> str:
    """A type of the schema in the document's words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(parts[0], (*parts[1:], *marks))
    if origin in (Union, types.UnionType):
        (only,) = [part for part in parts if part is not type(None)]
        return type_words(only, marks)
    if origin is Literal:
        *first, last = (f"`{part}`" for part in parts)
        return f"{', '.join(first)} or {last}"
    if origin is list:
        return "list of " + type_words(parts[0]).replace("block", "blocks")
    if origin is dict:
        return "map of " + type_words(parts[1]).replace("block", "blocks")
    return scalar_words(annotation, [mark for outer in marks for mark in (outer, *getattr(outer, "metadata", ()))])


def scalar_words(kind: type, marks: list[Any]) -> str:
    low = next((mark.ge for mark in marks if isinstance(mark, Ge)), None)
    high = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    if issubclass(kind, BaseModel):
        return "block"
    if kind is bool:
        return "true/false"
    if kind is int:
        return f"number ≥ {low}" if high is None else f"number, {low} to {high}"
    if kind is float:
        return "seconds"
    assert kind is str
    return next((words for mark in marks if (words := string_words(mark))), "text")


def string_words(mark: Any) -> str | None:
    for known, words in _IN_WORDS:
        if mark == known:
            return words
    if isinstance(mark, MinLen) and mark.min_length > 1:
        return f"text, {mark.min_length} or more"
    return "64 hex digits" if getattr(mark, "pattern", None) == "^[0-9a-fA-F]{64}$" else None


def default_words(scope: str, name: str, field: FieldInfo) -> str:
    if (scope, name) == ("top level", "auth"):
        return _NO_DEFAULT  # the loader makes it of AUTH_TOKEN
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if scope == "demo":  # the schema passes on what is set; what plays without it is the demo's own affair
        value = getattr(Script(), name)
        value = None if (name, value) == ("status", 200) else value or None
    if value is None or value in ([], {}) or isinstance(value, BaseModel):
        return _NO_DEFAULT
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_block_of_the_schema_is_a_scope_of_the_document() -> None:
    assert set(BLOCKS.values()) == all_blocks(schema.Config)


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert ROWS.keys() == FIELDS.keys()


@pytest.mark.parametrize(("scope", "name"), FIELDS, ids=[".".join(key) for key in FIELDS])
def test_a_key_stands_with_its_type_its_default_and_a_meaning(scope: str, name: str) -> None:
    field = FIELDS[scope, name]
    kind, default, meaning = ROWS[scope, name]
    assert kind == type_words(field.annotation, tuple(field.metadata))
    assert default == default_words(scope, name, field)
    assert len(meaning) > 5


def test_what_is_not_in_use_yet_names_only_keys_that_exist() -> None:
    found = re.search(r"> \*\*Not in use yet\.\*\*.*?(?=\n\n)", DOCUMENT, re.DOTALL)
    if found is None:
        return  # everything is in use
    words = set(re.findall(r"`([a-z_A-Z]+)`", found[0]))
    keys = {name for _, name in FIELDS} | {"chat"} | set(re.findall(r"^\| `([A-Z_]+)`", DOCUMENT, re.MULTILINE))
    assert words - keys == set()


def test_each_example_of_the_document_is_a_configuration_that_loads() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert examples
    for example in examples:
        variables = dict.fromkeys(re.findall(r"\$\{(\w+)", example), "a value of sixteen")
        assert load(example, name="example.yaml", env={"AUTH_TOKEN": "0123456789abcdef", **variables}).warnings == []


EXAMPLE = (Path(__file__).parents[1] / "config.example.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({name for _, name in FIELDS}))
def test_the_example_shows_every_key(name: str) -> None:
    assert re.search(rf"\b{name}:", EXAMPLE)


def test_what_the_example_has_as_comments_is_a_configuration_that_loads() -> None:
    comments = EXAMPLE.split("\n# Every key there is", 1)[1].split("\n#\n", 1)[1]
    loaded = load(re.sub(r"^# ?", "", comments, flags=re.MULTILINE), name="example.yaml", env={})
    assert loaded.warnings == []
    assert build_catalog(loaded).by_name["mine/m"].endpoint.upstream_model == "Qwen/Qwen2.5-7B-Instruct"
