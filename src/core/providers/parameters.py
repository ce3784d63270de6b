"""Which fields of a chat a dialect must take, and which only advise. Pure.

A translation names the fields that it has put into other words. Of the others those that only advise are dropped, and
the caller is told (`x-sluice-dropped`); one that decides what the answer is must not be lost: Unsupported, and another
model may take it. A field that says what holds anyway is no loss.
"""

from collections.abc import Collection
from typing import Any

from .conversation import Json, cannot_take

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


def dropped(body: Json, taken: Collection[str]) -> tuple[str, ...]:
    """The fields that are left out, in order. Raises Unsupported for one that must not be."""
    left = [name for name, value in body.items() if not _goes_without_saying(name, value) and name not in taken]
    for name in left:
        if name in _DECISIVE:
            raise cannot_take(name, f"`{name}`")
    return tuple(left)


def _goes_without_saying(name: str, value: Any) -> bool:
    return value is None or name in _COMMON or value in _IDLE.get(name, ())
