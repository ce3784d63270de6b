"""What Mistral is asked for a caller's chat: nothing that it would refuse for being there."""

import copy

import pytest

from core.providers.mistral import as_mistral_has_it, nine_characters
from tests.translation import Json, sent


def test_a_conversation_with_another_model_holds_nothing_that_it_does_not_know() -> None:
    """As the official package sends back what it got."""
    call = {"id": "Ab3dE6gH9", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None}
    said |= {"reasoning": "hm", "reasoning_content": "hm", "tool_calls": [call | {"extra_content": {"google": {}}}]}
    result: Json = {"role": "tool", "name": "f", "tool_call_id": "Ab3dE6gH9", "content": "4"}
    user: Json = {"role": "user", "content": "Hi"}
    asked = sent("mistral", {"messages": [user | {"name": "Ann"}, said, result]})
    assert asked["messages"] == [user, {"role": "assistant", "content": None, "tool_calls": [call]}, result]


@pytest.mark.parametrize(
    ("field", "its"), [("max_completion_tokens", "max_tokens"), ("max_tokens", "max_tokens"), ("seed", "random_seed")]
)
def test_fields_have_its_names(field: str, its: str) -> None:
    asked = sent("mistral", {field: 7, "x_new": 1, "stream_options": {"include_usage": True}})
    assert {name: asked[name] for name in asked.keys() - {"model", "messages"}} == {its: 7, "x_new": 1}


def test_an_id_of_nine_letters_and_digits_is_kept() -> None:
    assert nine_characters("Ab3dE6gH9") == "Ab3dE6gH9"


@pytest.mark.parametrize("call_id", ["", "call_1", "call_8chars", "chatcmpl-tool-9f149c74", "ÄÖÜäöüß12", "Ab3_E6gH9"])
def test_any_other_id_becomes_nine_letters_and_digits_the_same_each_time(call_id: str) -> None:
    made = nine_characters(call_id)
    assert made == nine_characters(call_id)
    assert made != call_id
    assert len(made) == 9
    assert made.isascii()
    assert made.isalnum()


def test_ten_thousand_ids_become_as_many() -> None:
    assert len({nine_characters(f"call_{number}") for number in range(10_000)}) == 10_000


def test_ids_are_mended_in_calls_and_results_alone() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi", "name": "call_1"},
            {"role": "assistant", "tool_calls": [{"id": "call_1", "function": {"name": "f"}}, {"id": 7}, "junk"]},
            {"role": "tool", "tool_call_id": "call_1", "content": "call_1"},
            "junk",
        ],
        "tools": [{"id": "call_1"}],
    }
    before = copy.deepcopy(body)
    nine = nine_characters("call_1")
    assert as_mistral_has_it(body) == {
        **before,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [{"id": nine, "function": {"name": "f"}}, {"id": 7}, "junk"]},
            {"role": "tool", "tool_call_id": nine, "content": "call_1"},
            "junk",
        ],
    }
    assert body == before, "the caller's request is not ours to change: another model may be asked next"
