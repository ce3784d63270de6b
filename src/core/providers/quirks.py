"""Where providers differ from OpenAI's dialect, and how each difference is mended: one small function a quirk.

A mend takes the JSON of a chunk, or of a whole answer, and changes it in place. It says whether it did: what nobody had
to change is passed on byte for byte. `Notes` carries what was seen earlier in the same answer.
Seen in November 2026 unless a line says otherwise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

Json = dict[str, Any]


@dataclass(slots=True)
class Notes:
    """`wants_usage`: the caller asked for usage in the stream. The sets hold indices of choices."""

    wants_usage: bool = False
    finished: set[int] = field(default_factory=set)
    called: set[int] = field(default_factory=set)
    call_ids: dict[int, list[str]] = field(default_factory=dict)  # of each choice, in order
    usage_chunk: Json | None = None  # held back until the end
    name: Json = field(default_factory=dict)  # id, model and so on, as the first chunk that has them
    prompt_filters: Any = None  # held back until that chunk


Mend = Callable[[Json, Notes], bool]
MendRequest = Callable[[Json], Json]


def index_of_choice(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """`choices[].index` is left out (Cloudflare)."""
    changed = False
    for place, choice in enumerate(_choices(body)):
        if not isinstance(choice.get("index"), int):
            choice["index"], changed = place, True
    return changed


def index_of_call(body: Json, notes: Notes) -> bool:
    """A streamed tool call's `index` is left out (Cloudflare): an id not seen before is the next call."""
    changed = False
    for choice, delta in _parts(body):
        for call in _calls(delta) if "delta" in choice else ():
            if not isinstance(call.get("index"), int):
                ids = notes.call_ids.setdefault(_index(choice), [])
                call["index"], changed = _place(ids, call.get("id")), True
    return changed


def no_delta(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """A chunk's choice, often the last, has no `delta` (GitHub, as Azure): clients look into it unasked."""
    changed = False
    for choice in _choices(body):
        if choice.get("delta") is None and "message" not in choice:
            choice["delta"], changed = {}, True
    return changed


def numeric_content(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """`content` is a number where the text happens to be one (Cloudflare)."""
    changed = False
    for _, part in _parts(body):
        content = part.get("content")
        if isinstance(content, int | float) and not isinstance(content, bool):
            part["content"], changed = str(content), True
    return changed


def content_in_parts(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """`content` is a list of text and thinking parts (Mistral's reasoning models)."""
    changed = False
    for _, part in _parts(body):
        content = part.get("content")
        if isinstance(content, list):
            part["content"] = "".join(_text_of(content, "text"))
            if thought := "".join(_text_of(content, "thinking")):
                part["reasoning_content"] = thought
            changed = True
    return changed


def reasoning_by_another_name(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """`reasoning` (Groq, OpenRouter, Cerebras, Together, vLLM) stands as `reasoning_content`, too."""
    changed = False
    for _, part in _parts(body):
        if isinstance(part.get("reasoning"), str) and not part.get("reasoning_content"):
            part["reasoning_content"], changed = part["reasoning"], True
    return changed


def arguments_as_object(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """A tool call's `arguments` is an object, not text (Cloudflare, older Ollama)."""
    changed = False
    for _, part in _parts(body):
        for call in _calls(part):
            function = call.get("function")
            if isinstance(function, dict) and isinstance(function.get("arguments"), dict | list):
                function["arguments"], changed = orjson.dumps(function["arguments"]).decode(), True
    return changed


def calls_without_type(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """A whole answer's tool calls lack `type` (Mistral)."""
    changed = False
    for choice, part in _parts(body):
        for call in _calls(part) if "message" in choice else ():
            if "type" not in call and "function" in call:
                call["type"], changed = "function", True
    return changed


def empty_finish(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """`finish_reason` is `""` in every chunk but the last (older Ollama)."""
    changed = False
    for choice in _choices(body):
        if choice.get("finish_reason") == "":
            choice["finish_reason"], changed = None, True
    return changed


_FINISHES = {"eos": "stop", "model_length": "length", "sensitive": "content_filter"}


def finish_by_another_name(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """`finish_reason` is a word of the provider's own (Together, Mistral, z.ai), which typed clients do not know."""
    changed = False
    for choice in _choices(body):
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason in _FINISHES:
            choice["finish_reason"], changed = _FINISHES[reason], True
    return changed


def finish_of_calls(body: Json, notes: Notes) -> bool:
    """`finish_reason` is `stop` after tool calls (Cloudflare)."""
    changed = False
    for choice, part in _parts(body):
        index = _index(choice)
        if _calls(part):
            notes.called.add(index)
        if choice.get("finish_reason") == "stop" and index in notes.called:
            choice["finish_reason"], changed = "tool_calls", True
    return changed


def finish_twice(body: Json, notes: Notes) -> bool:
    """A second `finish_reason` for the same choice (OpenRouter, Cloudflare). Goes last: it counts the mended ones."""
    changed = False
    for choice in _choices(body):
        index = _index(choice)
        if choice.get("finish_reason") and index in notes.finished:
            choice["finish_reason"], changed = None, True
        elif choice.get("finish_reason"):
            notes.finished.add(index)
    return changed


def usage_in_x_groq(body: Json, notes: Notes) -> bool:
    """Usage stands in `x_groq` of the last chunk; a chunk in OpenAI's form follows when it was asked for, not always.

    So it waits for the end: both together would count the tokens twice.
    """
    extra = body.get("x_groq")
    usage = extra.get("usage") if isinstance(extra, dict) else None
    if isinstance(body.get("usage"), dict):
        notes.usage_chunk = None
    elif isinstance(usage, dict):
        rest = {key: value for key, value in body.items() if key != "x_groq"}
        notes.usage_chunk = {**rest, "choices": [], "usage": usage}
    return False


def usage_in_every_chunk(body: Json, notes: Notes) -> bool:
    """Every chunk counts up the usage so far (Perplexity, vLLM): only the last is passed on, if asked for."""
    choices, usage = _choices(body), body.get("usage")
    if not isinstance(usage, dict):
        return False
    if not choices:
        notes.usage_chunk = None  # this is the chunk that OpenAI's dialect knows
        return False
    if not any("delta" in choice for choice in choices):
        return False  # a whole answer
    del body["usage"]
    notes.usage_chunk = {**body, "choices": [], "usage": usage}
    return True


def message_beside_delta(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """Each chunk repeats the whole message so far, and the last calls itself `chat.completion.done` (Perplexity)."""
    changed = False
    for choice in _choices(body):
        if "delta" in choice and "message" in choice:
            del choice["message"]
            changed = True
    if body.get("object") == "chat.completion.done":
        body["object"], changed = "chat.completion.chunk", True
    return changed


def no_choices(body: Json, notes: Notes) -> bool:  # noqa: ARG001
    """A chunk without `choices` at all, or null (filter results, keep-alives: GitHub, Cloudflare)."""
    if isinstance(body.get("choices"), list):
        return False
    body["choices"] = []
    return True


_NAME = ("id", "object", "created", "model")


def filters_without_name(body: Json, notes: Notes) -> bool:
    """Filter results come in chunks whose `id` and `model` are empty (Azure, GitHub).

    Those of the prompt come first of all, and go into the first chunk that has a name; later ones get that name.
    """
    if body.get("id"):
        notes.name = notes.name or {key: body[key] for key in _NAME if key in body}
        held, notes.prompt_filters = notes.prompt_filters, None
        if held:
            body["prompt_filter_results"] = held
        return bool(held)
    if body.get("id") != "":
        return False
    if notes.name:
        body |= notes.name
    elif "prompt_filter_results" in body and not _choices(body):
        notes.prompt_filters = body["prompt_filter_results"]
        body.clear()
    else:
        return False
    return True


def without_reasoning(body: Json) -> Json:
    """Groq and Cerebras refuse `reasoning_content` in a conversation, even where it is what they said themselves.

    https://github.com/QwenLM/qwen-code/issues/11045, November 2026.
    """
    messages = [
        {name: value for name, value in message.items() if name != "reasoning_content"}
        if isinstance(message, dict)
        else message
        for message in body["messages"]
    ]
    return {**body, "messages": messages}


def limit_by_its_older_name(body: Json) -> Json:
    """DeepSeek and Ollama pass over `max_completion_tokens` in silence, and know `max_tokens`.

    https://github.com/earendil-works/pi/issues/8018, https://github.com/ollama/ollama/issues/7125, August 2026.
    """
    most = body.get("max_completion_tokens")
    if most is None:
        return body
    rest = {name: value for name, value in body.items() if name != "max_completion_tokens"}
    return {**rest, "max_tokens": most}


def listed_models(body: Any) -> list[str]:
    """The ids in a provider's list of models, in any of its forms.

    OpenAI's `{data: [{id}]}`, a bare array (Together, GitHub), Cloudflare's `{result: [{id, name}]}`, where `name` is
    what requests call the model.
    """
    if not isinstance(body, dict):
        rows, key = body, "id"
    else:
        rows, key = (body["result"], "name") if "result" in body else (body.get("data"), "id")
    if not isinstance(rows, list):
        return []
    return [row[key] for row in rows if isinstance(row, dict) and isinstance(row.get(key), str)]


# For whoever claims to speak the dialect and is no row of ours: each mend waits for its quirk and else does nothing.
ANY: tuple[Mend, ...] = (
    no_choices,
    no_delta,
    index_of_choice,
    index_of_call,
    numeric_content,
    content_in_parts,
    reasoning_by_another_name,
    arguments_as_object,
    empty_finish,
    finish_by_another_name,
    finish_of_calls,
    finish_twice,
)


def _choices(body: Json) -> list[Json]:
    choices = body.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _parts(body: Json) -> Iterator[tuple[Json, Json]]:
    """Each choice with its delta, or its message in a whole answer."""
    for choice in _choices(body):
        part = choice.get("delta") or choice.get("message")
        yield choice, part if isinstance(part, dict) else {}


def _index(choice: Json) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _place(ids: list[str], call_id: Any) -> int:
    """Where among `ids` a call belongs; a piece without an id continues the last one."""
    if isinstance(call_id, str) and call_id:
        if call_id not in ids:
            ids.append(call_id)
        return ids.index(call_id)
    return max(0, len(ids) - 1)


def _calls(part: Any) -> list[Json]:
    calls = part.get("tool_calls") if isinstance(part, dict) else None
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _text_of(parts: list[Any], kind: str) -> Iterator[str]:
    for part in parts:
        if isinstance(part, dict) and part.get("type", "text") == kind:
            inner = part.get(kind)
            if isinstance(inner, list):
                yield from _text_of(inner, "text")
            elif isinstance(inner, str):
                yield inner
