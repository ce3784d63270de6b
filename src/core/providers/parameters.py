"""The fields of a chat beside its conversation and tools: which must be taken, which only advise, how some are read.

Pure. A translation names the fields that it has put into other words. Of the others those that only advise are dropped,
and the caller is told (`x-sluice-dropped`); one that decides what the answer is must not be lost: Unsupported, and
another model may take it. A field that says what holds anyway is no loss.
"""

from collections.abc import Collection
from typing import Any

from ..frozen import frozen
from .conversation import Json, cannot_take, fault

# What every translation reads: the conversation, and what the gateway itself sees to.
_COMMON = frozenset(
    {"model", "messages", "stream", "stream_options", "tools", "functions", "tool_choice", "function_call"}
)

# What is asked for by these values comes anyway.
_IDLE: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
    "stop": ([], ""),
    "store": (False,),
    "top_logprobs": (0,),
}

# These decide what the answer holds. Whatever else there is only advises: the answer is still one to the same question.
_DECISIVE = frozenset(
    {
        "audio",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "response_format",
        "stop",
        "top_logprobs",
        "web_search_options",
    }
)


@frozen
class Format:
    """`response_format` where it is not plain text. `schema` is None for just any JSON object."""

    name: str
    schema: Json | None
    strict: bool


def dropped(body: Json, taken: Collection[str]) -> tuple[str, ...]:
    """The fields that are left out, in order. Raises Unsupported for one that must not be."""
    left = [name for name, value in body.items() if not _goes_without_saying(name, value) and name not in taken]
    for name in left:
        if name in _DECISIVE:
            raise cannot_take(name, f"`{name}`")
    return tuple(left)


def format_of(body: Json) -> Format | None:
    raw = body.get("response_format")
    kind = raw.get("type") if isinstance(raw, dict) else None
    if raw is None or kind == "text":
        return None
    if kind == "json_object":
        return Format("", None, strict=False)
    schema = raw.get("json_schema") if isinstance(raw, dict) and kind == "json_schema" else None
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict | None):
        raise fault("`response_format` must be text, json_object or a json_schema with a schema.", "response_format")
    return Format(str(schema.get("name") or "answer"), schema.get("schema") or {}, strict=schema.get("strict") is True)


def stops_of(body: Json) -> list[str]:
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise fault("`stop` must be text or a list of texts.", "stop")
    return stops


def most_tokens_of(body: Json) -> int | None:
    """`max_completion_tokens`, else the older `max_tokens`."""
    for name in ("max_completion_tokens", "max_tokens"):
        most = body.get(name)
        if most is not None and type(most) is not int:
            raise fault(f"`{name}` must be a whole number.", name)
        if most is not None:
            return int(most)
    return None


def effort_of(body: Json) -> str | None:
    effort = body.get("reasoning_effort")
    if not isinstance(effort, str | None):
        raise fault("`reasoning_effort` must be text.", "reasoning_effort")
    return effort


def _goes_without_saying(name: str, value: Any) -> bool:
    return value is None or name in _COMMON or value in _IDLE.get(name, ())
