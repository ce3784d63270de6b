"""A caller's chat as dialects with other words read it: what stands for what, and what has no meaning."""

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ClientFault, Unsupported
from core.providers import PROVIDERS, TRANSLATED
from core.providers.conversation import Inline, Message, Text, kept, messages_of, system_apart
from core.providers.parameters import effort_of, most_tokens_of, stops_of
from core.providers.tools import offered_tools, tools_of
from tests.test_translated import mutated
from tests.translation import (
    BARE_TOOL,
    FAR_PICTURE,
    PDF,
    PICTURE,
    PNG,
    SCHEMA,
    SOUND,
    TOOL,
    TURN,
    USER,
    Json,
    call,
    outgoing,
    said_by,
    sent,
)

BROKEN_CALL: Json = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
VIDEO: Json = {"type": "video_url", "video_url": {"url": "https://a.example"}}
FILE_BY_ID: Json = {"type": "file", "file": {"file_id": "f"}}


def read(*messages: Json) -> list[Message]:
    return messages_of({"messages": list(messages)})


def test_calls_of_the_older_form_get_an_id_and_their_results_find_it() -> None:
    """Two of the same function in one conversation must not be taken for one."""
    ask: Json = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    first, one, second, two = read(
        ask, {"role": "function", "name": "f", "content": "1"}, ask, {"role": "function", "name": "f", "content": "2"}
    )
    assert first.calls[0].id != second.calls[0].id
    assert (one.call_id, two.call_id) == (first.calls[0].id, second.calls[0].id)
    assert (one.name, one.text, two.text) == ("f", "1", "2")


def test_what_only_the_system_says_is_the_users() -> None:
    """Providers want a turn of the user's to answer to."""
    system, turns = system_apart(read({"role": "system", "content": "a"}, {"role": "developer", "content": "b"}))
    assert system == ["a"]
    assert [(turn.role, turn.text) for turn in turns] == [("user", "b")]


def test_an_assistant_that_said_nothing_is_left_out() -> None:
    """As some clients keep what was cut off before it began."""
    assert [message.role for message in read(USER, {"role": "assistant", "content": ""}, USER)] == ["user", "user"]


def test_empty_texts_say_nothing() -> None:
    (message,) = read(said_by("", "a", ""))
    assert message.parts == (Text("a"),)


@pytest.mark.parametrize("media_type", ["image/jpg", "image/JPEG", "image/jpeg"])
def test_a_jpeg_is_one_however_it_is_written(media_type: str) -> None:
    url = f"data:{media_type};base64,{PNG}"
    ((part,),) = (message.parts for message in read(said_by({"type": "image_url", "image_url": {"url": url}})))
    assert isinstance(part, Inline)
    assert part.media_type == "image/jpeg"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"messages": [{"role": "oracle", "content": "a"}]}, r"messages\[0\]\.role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, r"messages\[1\]\.content"),
        ({"messages": [said_by("a", {"type": "image_url"})]}, r"messages\[0\]\.content\[1\]\.image_url"),
        ({"messages": [said_by({"type": "image_url", "image_url": {"url": "cat.png"}})]}, r"content\[0\]\.image_url"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, r"messages\[0\]\.tool_calls\[0\]"),
        ({"messages": [{"role": "assistant", "tool_calls": [BROKEN_CALL]}]}, "arguments of the call of f"),
        ({"tools": [{"type": "function"}]}, r"tools\[0\]"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"stop": [5]}, "stop"),
        ({"max_tokens": "many"}, "max_tokens"),
    ],
)
def test_what_has_no_meaning_is_the_callers_fault_and_named(body: Json, named: str) -> None:
    with pytest.raises(ClientFault, match=named):
        outgoing("anthropic", body)


def test_the_newer_limit_of_tokens_comes_first() -> None:
    assert most_tokens_of({"max_tokens": 5, "max_completion_tokens": 7}) == 7
    assert most_tokens_of({"max_tokens": 5, "max_completion_tokens": None}) == 5
    assert most_tokens_of({}) is None


def test_stops_are_a_list() -> None:
    assert [stops_of({"stop": stop}) for stop in (None, "a", ["a", "b"], "")] == [[], ["a"], ["a", "b"], []]


def test_an_effort_is_text() -> None:
    assert effort_of({"reasoning_effort": "low"}) == "low"
    with pytest.raises(ClientFault):
        effort_of({"reasoning_effort": ["low"]})


def test_functions_are_the_older_form_of_tools() -> None:
    assert tools_of({"functions": [TOOL["function"]]}) == tools_of({"tools": [TOOL]})


def test_a_schema_without_a_type_is_an_objects() -> None:
    (tool,) = tools_of({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"required": []}}}]})
    assert tool.schema == {"type": "object", "required": []}
    (bare,) = tools_of({"tools": [BARE_TOOL]})
    assert bare.schema == {"type": "object", "properties": {}}


def test_of_allowed_tools_only_these_are_offered() -> None:
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert [tool.name for tool in offered_tools({"tools": [TOOL, BARE_TOOL], "tool_choice": choice})] == ["now"]


@pytest.mark.parametrize(
    ("extra", "found"),
    [({}, None), ({"google": "x"}, None), ({"google": {"a": 5}}, None), ({"google": {"a": "b"}}, "b")],
)
def test_what_a_provider_wants_back_is_taken_only_in_its_own_form(extra: Json, found: str | None) -> None:
    assert kept(extra, "google", "a", str) == found


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, r"tools\[0\]"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {}}]}]},
            r"messages\[0\]\.tool_calls\[0\]",
        ),
    ],
)
def test_tools_that_are_no_functions_are_for_another_model(body: Json, named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        outgoing("anthropic", body)


@pytest.mark.parametrize("part", [VIDEO, FILE_BY_ID])
def test_a_part_that_nobody_knows_is_refused_by_its_place(part: Json) -> None:
    with pytest.raises(Unsupported, match=r"messages\[0\]\.content\[1\]"):
        outgoing("google", {"messages": [said_by("a", part)]})


# --- Whatever is asked

EXTRA: Json = {
    "extra_content": {
        "google": {"thought_signature": "c2ln"},
        "anthropic": {"thinking": [{"type": "thinking", "thinking": "a", "signature": "b"}]},
        "bedrock": {"reasoning": [{"reasoningText": {"text": "a"}}]},
        "gigachat": {"functions_state_id": "x"},
    }
}
WORDS: Json = {
    "messages": [
        *TURN[:3],
        {
            "role": "assistant",
            "content": "x",
            "reasoning_content": "hm",
            "tool_calls": [call("c1", "Oslo", **EXTRA)],
            **EXTRA,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ],
    "tools": [TOOL, BARE_TOOL],
    "tool_choice": {"type": "function", "function": {"name": "now"}},
    "functions": [TOOL["function"]],
    "response_format": SCHEMA,
    "stop": ["a"],
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 1,
    "seed": 1,
    "max_tokens": 5,
    "max_completion_tokens": 6,
    "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "modalities": ["text"],
    "user": "u",
    "metadata": {"a": "b"},
}
PARTS: Json = {**WORDS, "messages": [said_by("See", part) for part in (PICTURE, FAR_PICTURE, SOUND, PDF)]}


@pytest.mark.parametrize("name", [*(row.name for row in TRANSLATED), "openai", "mistral"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_request_with_anything_changed_is_said_or_refused(name: str, seed: int) -> None:
    """Whatever a caller sends is no bug of ours."""
    dice = random.Random(seed)
    body = mutated(dice.choice([WORDS, PARTS]), dice)
    messages: Any = body["messages"]
    if not (isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages)):
        return  # the gateway refuses it before any provider is thought of
    model = dice.choice(["m", "claude-3-7-sonnet", "anthropic.claude-opus-4-6", "gemini-2.5-flash", "gemini-3-pro"])
    with contextlib.suppress(ClientFault, Unsupported):
        outgoing(name, body, upstream_model=model)


# --- What one provider wants back is nobody else's


MARKS = {"google": b"c2ln", "anthropic": b'"thinking"', "bedrock": b"reasoningText", "gigachat": b"functions_state_id"}


@pytest.mark.parametrize("name", sorted(PROVIDERS.keys() - {"demo"}))
def test_extra_content_is_sent_to_whom_it_belongs(name: str) -> None:
    sent = outgoing(name, {"messages": [USER, *WORDS["messages"][3:5]]}).request.body
    owner = {"gemini": "google", "vertex": "google"}.get(name, name)
    assert b"extra_content" not in sent
    assert {key for key, mark in MARKS.items() if mark in sent} == {owner} & MARKS.keys()


@pytest.mark.parametrize("name", sorted(PROVIDERS.keys() - {"demo"} - {row.name for row in TRANSLATED}))
def test_the_developer_is_heard_as_the_system_by_who_does_not_know_the_role(name: str) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, USER]
    said = sent(name, {"messages": messages})["messages"]
    knows = name in ("openai", "azure", "github", "openrouter")
    assert said == [{"role": "developer" if knows else "system", "content": "Be brief."}, USER]
    assert messages[0]["role"] == "developer", "another model may be asked next"


@pytest.mark.parametrize("name", ["groq", "cerebras", "mistral"])
def test_who_refuses_reasoning_in_a_conversation_does_not_get_it(name: str) -> None:
    said = {"role": "assistant", "content": "So", "reasoning_content": "hm"}
    assert "reasoning_content" not in sent(name, {"messages": [USER, said, USER]})["messages"][1]
    assert sent("deepseek", {"messages": [USER, said, USER]})["messages"][1] == said, "who wants it back gets it"


@pytest.mark.parametrize("name", ["deepseek", "ollama", "mistral"])
def test_who_knows_only_the_older_limit_of_tokens_is_told_it(name: str) -> None:
    asked = sent(name, {"max_completion_tokens": 5})
    assert (asked["max_tokens"], "max_completion_tokens" in asked) == (5, False)


def test_google_in_openais_form_gets_its_signatures_back() -> None:
    body = {"messages": [USER, *WORDS["messages"][3:5]]}
    url = "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"
    assert b"c2ln" in outgoing("openai", body, url=url).request.body
