"""What the gateway reads of a chat request, and what it refuses before any provider is asked."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat import parse_chat
from core.errors import InvalidRequest

MESSAGES = [{"role": "user", "content": "Hello"}]
CANARY = "prompt-canary"


def raw_chat(**fields: Any) -> bytes:
    return orjson.dumps({"messages": MESSAGES, **fields})


def test_a_request_keeps_every_field_that_we_do_not_know() -> None:
    fields = {"model": "m", "tools": [{"type": "function"}], "new_in_2027": {"a": [1, None, 2.5]}, "seed": 7}
    chat = parse_chat(raw_chat(**fields))
    assert chat.body == {"messages": MESSAGES, **fields}


@pytest.mark.parametrize("raw", [raw_chat(), b" \n" + raw_chat() + b"\n", raw_chat(user="\N{SNOWMAN}")])
def test_length_is_that_of_the_body_as_it_came_in_bytes(raw: bytes) -> None:
    assert parse_chat(raw).length == len(raw)


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({}, ""),
        ({"model": None}, ""),
        ({"model": ""}, ""),
        ({"model": "openai/gpt"}, "openai/gpt"),
        ({"model": "0"}, "0"),
    ],
)
def test_a_model_that_is_missing_null_or_empty_is_ours_to_choose(fields: dict[str, Any], model: str) -> None:
    assert parse_chat(raw_chat(**fields)).model == model


@pytest.mark.parametrize(
    ("fields", "stream"), [({}, False), ({"stream": None}, False), ({"stream": False}, False), ({"stream": True}, True)]
)
def test_a_stream_is_sent_to_those_who_ask_for_it(fields: dict[str, Any], stream: bool) -> None:
    assert parse_chat(raw_chat(**fields)).stream is stream


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({}, 1),
        ({"n": 1}, 1),
        ({"n": 3}, 3),
        ({"n": None}, 1),
        ({"n": 0}, 1),
        ({"n": -2}, 1),
        ({"n": "3"}, 1),
        ({"n": 2.5}, 1),
        ({"n": True}, 1),
        ({"n": [2]}, 1),
    ],
)
def test_one_answer_is_expected_unless_more_were_asked_for(fields: dict[str, Any], answers: int) -> None:
    """A nonsensical `n` is for the provider to refuse."""
    assert parse_chat(raw_chat(**fields)).answers == answers


@pytest.mark.parametrize(
    ("options", "wants"),
    [
        ({"include_usage": True}, True),
        ({"include_usage": False}, False),
        ({"include_usage": 1}, False),
        ({}, False),
        (None, False),
        ([True], False),
        ("include_usage", False),
    ],
)
def test_usage_in_a_stream_is_wanted_by_those_who_say_true(options: Any, wants: bool) -> None:
    assert parse_chat(raw_chat(stream=True, stream_options=options)).wants_usage is wants
    assert parse_chat(raw_chat(stream=True)).wants_usage is False


@pytest.mark.parametrize(
    ("raw", "message", "param"),
    [
        (b"", "is not valid JSON", None),
        (b"Hello", "is not valid JSON", None),
        (b"{", "is not valid JSON", None),
        (b'{"messages": [{"content": "' + CANARY.encode() + b'\xff"}]}', "is not valid JSON", None),
        (b'{"messages": [{"content": "' + CANARY.encode() + b"}", "is not valid JSON", None),
        (b'{"messages": [{"content": "\\ud800"}]}', "is not valid JSON", None),
        (b'{"messages": NaN}', "is not valid JSON", None),
        pytest.param(b"[" * 100_000, "is not valid JSON", None, id="deep"),
        (b"[]", "must be a JSON object", None),
        (b"null", "must be a JSON object", None),
        (b'"' + CANARY.encode() + b'"', "must be a JSON object", None),
        (b"{}", "`messages` must be a list with at least one message", "messages"),
        (b'{"messages": null}', "`messages` must be a list with at least one message", "messages"),
        (b'{"messages": []}', "`messages` must be a list with at least one message", "messages"),
        (b'{"messages": {}}', "`messages` must be a list with at least one message", "messages"),
        (b'{"messages": "' + CANARY.encode() + b'"}', "`messages` must be a list", "messages"),
        (b'{"messages": ["' + CANARY.encode() + b'"]}', "Each of `messages` must be an object", "messages"),
        (b'{"messages": [{}, null]}', "Each of `messages` must be an object", "messages"),
        (raw_chat(model=7), "`model` must be a string", "model"),
        (raw_chat(model=[CANARY]), "`model` must be a string", "model"),
        (raw_chat(model=False), "`model` must be a string", "model"),
        (raw_chat(stream="true"), "`stream` must be true or false", "stream"),
        (raw_chat(stream=1), "`stream` must be true or false", "stream"),
    ],
)
def test_what_no_provider_could_make_sense_of_is_refused(raw: bytes, message: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(raw)
    assert message in caught.value.message
    assert (caught.value.status, caught.value.param) == (400, param)
    assert CANARY not in caught.value.message


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text(st.sampled_from('{}[]":,messages01 \\'), max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        chat = parse_chat(raw)
    except InvalidRequest:
        return
    assert chat.body["messages"]
