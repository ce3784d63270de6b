"""What a caller's chat says of tools, as plain values, for dialects that must say it in other words. Pure.

Reads OpenAI's form, old and new (`functions`, `function_call`). Raises as `conversation.py` does.
https://platform.openai.com/docs/guides/function-calling
"""

from typing import Any, Literal

from ..frozen import frozen
from .conversation import Json, cannot_take, fault


@frozen
class Tool:
    """`parameters` is a JSON schema; None: it takes none."""

    name: str
    description: str
    parameters: Json | None
    strict: bool

    @property
    def schema(self) -> Json:
        """For providers that want one in any case, and its type in it."""
        return {"type": "object", **(self.parameters or {"properties": {}})}


@frozen
class Choice:
    """`tool_choice`. `names`: only these may be called; empty: all."""

    mode: Literal["auto", "none", "required"]
    names: tuple[str, ...] = ()


def tools_of(body: Json) -> list[Tool]:
    old = body.get("functions")
    raw = body.get("tools") or [{"function": function} for function in (old if isinstance(old, list) else ())]
    found = []
    for place, tool in enumerate(raw if isinstance(raw, list) else ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            if isinstance(tool, dict) and tool.get("type") not in (None, "function"):
                raise cannot_take(f"tools[{place}]", f"a tool of type {tool['type']}")
            raise fault(f"`tools[{place}]` must be a function with a name.", "tools")
        parameters, says = function.get("parameters"), function.get("description")
        found.append(
            Tool(
                name=function["name"],
                description=says if isinstance(says, str) else "",
                parameters=parameters if isinstance(parameters, dict) and parameters else None,
                strict=function.get("strict") is True,
            )
        )
    return found


def offered_tools(body: Json) -> list[Tool]:
    """Those that may be called: for providers to whom a choice of some cannot be said otherwise."""
    tools, choice = tools_of(body), choice_of(body)
    return [tool for tool in tools if tool.name in choice.names] if choice is not None and choice.names else tools


def choice_of(body: Json) -> Choice | None:
    """None: the caller says nothing of it."""
    raw = body.get("tool_choice") or body.get("function_call")
    if raw is None:
        return None
    if raw in ("auto", "none", "required"):
        return Choice(raw)
    if isinstance(raw, dict):
        allowed = raw.get("allowed_tools")
        if isinstance(allowed, dict):
            names = tuple(name for tool in allowed.get("tools") or () if (name := _function_name(tool)))
            return Choice("required" if allowed.get("mode") == "required" else "auto", names)
        if name := _function_name(raw):
            return Choice("required", (name,))
        if raw.get("type") not in (None, "function", "allowed_tools"):
            raise cannot_take("tool_choice", f"a choice of type {raw['type']}")
    raise fault("`tool_choice` must be auto, none, required or name a function.", "tool_choice")


def _function_name(tool: Any) -> str:
    """Of `{function: {name}}`, or of the older `{name}`."""
    inner = tool.get("function", tool) if isinstance(tool, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) else ""
