"""pydantic's verdicts in words a person can act on. Never the value itself: it may be a key."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from .source import Path, Problem

WORDS = {
    "missing": "is required",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least one entry",
    "string_too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "must be 64 hexadecimal digits",
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}


def problems_of(error: ValidationError, schema: type[BaseModel]) -> list[Problem]:
    return [_problem(row, schema) for row in error.errors(include_url=False, include_input=False)]


def _problem(row: Any, schema: type[BaseModel]) -> Problem:
    path: Path = tuple(part for part in row["loc"] if part != "[key]")
    if row["type"] == "extra_forbidden":
        return Problem(path, "is not a known key" + did_you_mean(str(path[-1]), _known_keys(schema, path[:-1])))
    return Problem(path, WORDS.get(row["type"], row["msg"]).format(**row.get("ctx", {})))


def _known_keys(schema: type[BaseModel], path: Path) -> Iterable[str]:
    """The keys of the block at `path`, found by walking the types of the fields."""
    block: Any = schema
    for part in path:
        if isinstance(part, str) and part in getattr(block, "model_fields", {}):
            block = _block_in(block.model_fields[part].annotation)
    return getattr(block, "model_fields", {})


def _block_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _block_in(part))), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def in_words(path: Path) -> str:
    """`("models", 1, "priority")` as `models[1].priority`."""
    if not path:
        return "the file"
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
