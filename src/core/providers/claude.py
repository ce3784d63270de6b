"""What Claude takes of a chat, generation by generation, at Anthropic as at Bedrock. Pure.

https://platform.claude.com/docs/en/about-claude/models/migration-guide
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from .conversation import Json, Message, Part, Text
from .parameters import effort_of, most_tokens_of
from .tools import choice_of

BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768}  # tokens to think with
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max"}
_THINKS_IN_BUDGETS = re.compile(r"claude-(?:3|[a-z]+-3|[a-z]+-4(?:[-.][015](?:\b|-)|-\d{8}|@|$))")
# Later ones refuse to be told how to sample, whether or not they think.
_TAKES_SAMPLING = re.compile(rf"{_THINKS_IN_BUDGETS.pattern}|claude-[a-z]+-4[-.]6|^(?!.*claude)")
_NO_ID = re.compile(r"[^a-zA-Z0-9_-]")


def fitting(body: Json, model: str) -> tuple[Json, tuple[str, ...]]:
    """Without what does not go together, and the names of it: what only advises gives way.

    A model that thinks samples in its own way, and cannot be made to call a tool; later models sample so in any case.
    https://platform.claude.com/docs/en/build-with-claude/extended-thinking and .../about-claude/models/migration-guide
    """
    choice, thoughts, unsaid = choice_of(body), thinking(body, model), list[str]()
    is_forced = choice is not None and choice.mode == "required"
    if effort_of(body) not in (None, "none") and (is_forced or not thoughts):
        unsaid, thoughts = ["reasoning_effort"], thinking({**body, "reasoning_effort": None}, model)
    sampling = [name for name in ("temperature", "top_p", "top_k") if body.get(name) not in (None, 1)]
    if thoughts.get("type", "disabled") != "disabled" or not _TAKES_SAMPLING.search(model):
        unsaid += sampling
    elif {"temperature", "top_p"} <= {*sampling} and "claude-3" not in model and "claude" in model:
        unsaid.append("top_p")  # it takes one of the two
    return {name: value for name, value in body.items() if name not in unsaid}, tuple(unsaid)


def thinking(body: Json, model: str) -> Json:
    """`thinking` in its own words goes as it is; `reasoning_effort` in the form that the model's generation knows."""
    own, said = body.get("thinking"), effort_of(body)
    if isinstance(own, dict):
        return own
    if said not in BUDGETS:  # `none` and nothing said are the same here
        return {}
    if not _THINKS_IN_BUDGETS.search(model):
        return {"type": "adaptive"}
    most, budget = most_tokens_of(body), BUDGETS[said]
    if most is not None and most <= 1024:
        return {}  # no room to think in
    return {"type": "enabled", "budget_tokens": min(budget, most - 1) if most else budget}


def effort(body: Json, thoughts: Json) -> str | None:
    """For models that decide by themselves how long they think."""
    is_adaptive = thoughts.get("type") == "adaptive"
    return _EFFORTS.get(effort_of(body) or "") if is_adaptive else None


def turns_of(messages: list[Message], blocks_of: Callable[[Message], list[Json]]) -> list[Json]:
    """Roles take turns: those of one role in a row become one, and who says nothing has none.

    Results are said by the user, first of all.
    """
    said = [(message.role, blocks) for message in messages if (blocks := blocks_of(message))]
    found = []
    for is_its_own, group in groupby(said, key=lambda turn: turn[0] == "assistant"):
        in_order = sorted(group, key=lambda turn: turn[0] != "tool")
        content = [block for _, blocks in in_order for block in blocks]
        found.append({"role": "assistant" if is_its_own else "user", "content": content})
    return found


def without_blank(parts: Iterable[Part]) -> Iterator[Part]:
    """Without blank texts, which both refuse: other models say line breaks beside their calls."""
    return (part for part in parts if not isinstance(part, Text) or part.text.strip())


def call_id(text: str) -> str:
    """As it wants ids, and the same for a call and its result: another provider may have made it."""
    return _NO_ID.sub("_", text) or "call"


def closed(schema: Any) -> Any:
    """Its objects take no properties but those they name. It wants that said, OpenAI only where a schema is strict."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found, kind = {name: closed(part) for name, part in schema.items()}, schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        found.setdefault("additionalProperties", False)
    return found
