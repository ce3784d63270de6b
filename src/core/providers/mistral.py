"""What Mistral is asked: OpenAI's dialect, but a request may hold only what it knows. Pure.

It answers 422 to anything else: https://github.com/BerriAI/litellm/issues/30835
"""

import hashlib
from typing import Any

Json = dict[str, Any]
_NAMES = {"max_completion_tokens": "max_tokens", "seed": "random_seed"}
_OF_A_MESSAGE = frozenset({"role", "content", "prefix", "tool_calls", "tool_call_id"})
_NINE = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def as_mistral_has_it(body: Json) -> Json:
    """Its own names for what it calls otherwise; messages without what others say besides, such as their reasoning.

    Usage comes at the end of its streams in any case: it refuses `stream_options`, seen in June 2025.
    """
    asked = {_NAMES.get(name, name): value for name, value in body.items() if name != "stream_options"}
    asked["messages"] = [_message(message) if isinstance(message, dict) else message for message in body["messages"]]
    return asked


def nine_characters(call_id: str) -> str:
    """It refuses ids of calls that are not nine letters or digits: another provider's gets a stand-in.

    https://docs.mistral.ai/capabilities/function_calling/ The same id always becomes the same nine characters, so a
    call and its result still belong together, and nothing has to be remembered between requests.
    """
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest())
    return "".join(_NINE[number // 62**place % 62] for place in range(9))


def _message(message: Json) -> Json:
    known = _OF_A_MESSAGE | {"name"} if message.get("role") == "tool" else _OF_A_MESSAGE
    said = {name: value for name, value in message.items() if name in known}
    if isinstance(said.get("tool_call_id"), str):
        said["tool_call_id"] = nine_characters(said["tool_call_id"])
    if isinstance(said.get("tool_calls"), list):
        said["tool_calls"] = [_call(call) for call in said["tool_calls"]]
    return said


def _call(call: Any) -> Any:
    has_id = isinstance(call, dict) and isinstance(call.get("id"), str)
    return {**call, "id": nine_characters(call["id"])} if has_id else call
