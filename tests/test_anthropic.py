"""What Anthropic is asked for a caller's chat, and what only Anthropic says."""

from typing import Any

import orjson
import pytest

from core.chat import Chat
from core.errors import ClientFault, Unsupported
from core.providers import PROVIDERS
from core.providers.anthropic import MOST_TOKENS, VERSION
from core.providers.dialect import Completion
from core.stream import Chunk
from tests.provider_samples import STAMP
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
    WEATHER,
    Json,
    call,
    outgoing,
    request_to,
    said_by,
    sent,
)

HELLO: Json = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
CLOSED: Json = {**WEATHER, "additionalProperties": False}
ITS_TOOL: Json = {"name": "get_weather", "description": "Looks", "input_schema": WEATHER}


def ask(**body: Any) -> Json:
    return sent("anthropic", body)


def test_the_key_goes_in_its_own_header() -> None:
    request = request_to("anthropic", url="https://api.anthropic.com/v1/messages")
    assert request.url == "https://api.anthropic.com/v1/messages"
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == ("key-0123", VERSION)
    assert "authorization" not in request.headers


def test_a_version_that_is_configured_is_kept() -> None:
    request = request_to("anthropic", headers={"anthropic-version": "2024-01-01", "anthropic-beta": "x"})
    assert (request.headers["anthropic-version"], request.headers["anthropic-beta"]) == ("2024-01-01", "x")


def test_a_bare_chat() -> None:
    assert ask() == {"model": "m", "max_tokens": MOST_TOKENS, "messages": [HELLO]}
    assert ask(stream=True)["stream"] is True


def test_a_conversation_with_tools() -> None:
    asked = ask(messages=TURN, tools=[TOOL])
    assert asked["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "And kind."}]
    assert asked["tools"] == [ITS_TOOL]
    assert asked["messages"] == [
        said_by("Oslo", " and Bergen?"),
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "c2", "name": "get_weather", "input": {"city": "Bergen"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": '{"celsius": 4}'}]},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "Thanks."},
            ],
        },
    ]


def test_blank_texts_are_left_out() -> None:
    """It refuses them, and other models say them beside calls."""
    said: Json = {"role": "assistant", "content": "\n\n", "tool_calls": [call("c1", "Oslo")]}
    result: Json = {"role": "tool", "tool_call_id": "c1", "content": " "}
    asked = ask(messages=[{"role": "system", "content": " "}, USER, said, result])
    assert "system" not in asked
    assert [block["type"] for block in asked["messages"][1]["content"]] == ["tool_use"]
    assert asked["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "c1", "content": []}]


def test_ids_that_it_refuses_are_made_such_as_it_takes_and_still_belong_together() -> None:
    turn = [
        USER,
        {"role": "assistant", "tool_calls": [call("a:1/b", "Oslo")]},
        {"role": "tool", "tool_call_id": "a:1/b"},
    ]
    messages = ask(messages=turn)["messages"]
    assert messages[1]["content"][0]["id"] == messages[2]["content"][0]["tool_use_id"] == "a_1_b"


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (PICTURE, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}),
        (FAR_PICTURE, {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}}),
        (
            PDF,
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "file", "file": {"file_data": "data:text/plain;base64,SGVsbG8="}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hello"}},
        ),
    ],
)
def test_parts_that_it_takes(part: Json, block: Json) -> None:
    assert ask(messages=[said_by("See", part)])["messages"][0]["content"] == [{"type": "text", "text": "See"}, block]


def test_a_picture_may_be_a_tools_result() -> None:
    turn = [*TURN[:4], {"role": "tool", "tool_call_id": "c1", "content": [PICTURE]}]
    (result,) = ask(messages=turn)["messages"][-1]["content"]
    assert result["content"][0]["type"] == "image"


@pytest.mark.parametrize(
    "part",
    [
        SOUND,
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}},
        {"type": "file", "file": {"file_id": "f1"}},
        {"type": "video_url", "video_url": {"url": "https://x.example"}},
    ],
)
def test_parts_that_it_does_not_take_are_refused(part: Json) -> None:
    with pytest.raises(Unsupported, match=r"messages\[0\]\.content\[1\]: this provider does not take"):
        ask(messages=[said_by("See", part)])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "now"}}, {"type": "tool", "name": "now"}),
    ],
)
def test_tool_choice(choice: Any, expected: Json | None) -> None:
    assert ask(tools=[TOOL, BARE_TOOL], tool_choice=choice).get("tool_choice") == expected


def test_only_the_tools_that_are_allowed_are_told() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    asked = ask(tools=[TOOL, BARE_TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in asked["tools"]] == ["now"]


def test_calls_one_at_a_time() -> None:
    asked = ask(tools=[TOOL], parallel_tool_calls=False)
    assert asked["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_a_strict_tool_and_one_without_parameters() -> None:
    strict = {"type": "function", "function": {"name": "now", "strict": True}}
    (tool,) = ask(tools=[strict])["tools"]
    assert tool == {"name": "now", "input_schema": {"type": "object", "properties": {}}, "strict": True}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6, "max_tokens": 5}, {"max_tokens": 6}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 1.7}, {"temperature": 1}),
        ({"top_p": 0.9, "top_k": 4}, {"top_p": 0.9, "top_k": 4}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["A", "B"]}, {"stop_sequences": ["A", "B"]}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        ({"response_format": SCHEMA}, {"output_config": {"format": {"type": "json_schema", "schema": CLOSED}}}),
        ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        ({"n": 1, "presence_penalty": 0, "logprobs": False}, {}),
    ],
)
def test_parameters(body: Json, expected: Json) -> None:
    assert ask(**body) == {"model": "m", "max_tokens": MOST_TOKENS, "messages": [HELLO], **expected}


@pytest.mark.parametrize(
    ("body", "dropped"),
    [
        ({"reasoning_effort": "low", "temperature": 0.2, "top_p": 0.9, "top_k": 5}, ("temperature", "top_p", "top_k")),
        ({"reasoning_effort": "low", "temperature": 1}, ()),
        ({"reasoning_effort": "none", "temperature": 0.2}, ()),
        ({"thinking": {"type": "disabled"}, "temperature": 0.2}, ()),
        ({"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"}, ("reasoning_effort",)),
        ({"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "auto"}, ()),
        ({"reasoning_effort": "low", "max_tokens": 500}, ("reasoning_effort",)),
        ({"metadata": {"a": "b"}, "user": "u"}, ("metadata",)),
    ],
)
def test_what_does_not_go_together_gives_way_and_is_named(body: Json, dropped: tuple[str, ...]) -> None:
    asked = outgoing("anthropic", body, upstream_model="claude-sonnet-4-5")
    said = orjson.loads(asked.request.body)
    assert asked.dropped == dropped
    assert not {"temperature", "top_p", "top_k"} & set(dropped) & said.keys()
    thinks = body.get("reasoning_effort") == "low" and "reasoning_effort" not in dropped
    assert (said.get("thinking", {}).get("type") == "enabled") == thinks


@pytest.mark.parametrize(
    ("model", "dropped"),
    [
        ("claude-3-7-sonnet-20250219", ()),
        ("claude-sonnet-4-5-20250929", ("top_p",)),
        ("claude-opus-4-6", ("top_p",)),
        ("claude-opus-4-7", ("temperature", "top_p", "top_k")),
        ("claude-opus-4.8", ("temperature", "top_p", "top_k")),
        ("claude-sonnet-5", ("temperature", "top_p", "top_k")),
        ("claude-haiku-5-5", ("temperature", "top_p", "top_k")),
        ("another-model", ()),
    ],
)
def test_how_to_sample_is_said_to_models_that_may_be_told(model: str, dropped: tuple[str, ...]) -> None:
    asked = outgoing("anthropic", {"temperature": 0.5, "top_p": 0.9, "top_k": 4}, upstream_model=model)
    assert asked.dropped == dropped
    said = orjson.loads(asked.request.body).keys()
    assert {"temperature", "top_p", "top_k"} - said == {*dropped}


def test_a_schema_is_closed_where_it_does_not_say_otherwise() -> None:
    inner = {"type": ["object", "null"], "properties": {"type": {"type": "string"}}}
    schema: Json = {
        "type": "object",
        "properties": {"a": inner, "b": {"type": "array", "items": [{"type": "object", "additionalProperties": True}]}},
    }
    asked = ask(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})
    found = asked["output_config"]["format"]["schema"]
    assert found["additionalProperties"] is False
    assert found["properties"]["a"] == {**inner, "additionalProperties": False}
    assert found["properties"]["b"] == schema["properties"]["b"]


def test_white_space_to_stop_at_is_refused() -> None:
    with pytest.raises(Unsupported, match="stop"):
        sent("anthropic", {"stop": ["\n"]})


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("claude-sonnet-5", "high", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("claude-opus-4-6", "low", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("claude-sonnet-4-5-20250929", "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        ("claude-3-7-sonnet-20250219", "medium", {"thinking": {"type": "enabled", "budget_tokens": 8192}}),
        ("claude-sonnet-4-20250514", "high", {"thinking": {"type": "enabled", "budget_tokens": 16384}}),
        ("claude-sonnet-5", "none", {}),
    ],
)
def test_reasoning_effort_is_said_as_the_models_generation_knows_it(model: str, effort: str, expected: Json) -> None:
    asked = sent("anthropic", {"reasoning_effort": effort}, upstream_model=model)
    assert {name: asked[name] for name in ("thinking", "output_config") if name in asked} == expected
    assert asked["max_tokens"] == MOST_TOKENS + asked.get("thinking", {}).get("budget_tokens", 0)


def test_there_must_be_room_to_think_in() -> None:
    asked = sent("anthropic", {"reasoning_effort": "high", "max_tokens": 4000}, upstream_model="claude-3-7-sonnet")
    assert asked["thinking"]["budget_tokens"] == 3999
    asked = sent("anthropic", {"reasoning_effort": "high", "max_tokens": 500}, upstream_model="claude-3-7-sonnet")
    assert "thinking" not in asked


def test_what_only_advises_is_left_out_and_said() -> None:
    found = outgoing("anthropic", {"seed": 4, "presence_penalty": 0.5, "store": True, "service_tier": "flex"})
    assert found.dropped == ("seed", "presence_penalty", "store", "service_tier")


@pytest.mark.parametrize(
    "body", [{"n": 2}, {"logprobs": True}, {"logit_bias": {"1": 5}}, {"response_format": {"type": "json_object"}}]
)
def test_what_decides_the_answer_and_it_cannot_do_is_refused(body: Json) -> None:
    with pytest.raises(Unsupported):
        ask(**body)


def test_arguments_that_are_no_json_are_the_callers_fault() -> None:
    bad = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    with pytest.raises(ClientFault):
        ask(messages=[USER, {"role": "assistant", "tool_calls": [bad]}])


def test_words_put_into_its_mouth_do_not_end_in_white_space() -> None:
    asked = ask(messages=[USER, {"role": "assistant", "content": "It is "}])
    assert asked["messages"][-1] == said_by("It is", role="assistant")


# --- answers


def test_thoughts_go_with_the_call_that_they_led_to_and_come_back_before_it() -> None:
    thought = {"type": "thinking", "thinking": "Look.", "signature": "c2ln"}
    use = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Oslo"}}
    raw = orjson.dumps({"id": "m", "model": "x", "content": [thought, use], "stop_reason": "tool_use", "usage": {}})
    found = PROVIDERS["anthropic"].dialect.completion(raw, Chat({}, 0), STAMP)
    assert isinstance(found, Completion)
    message = found.body["choices"][0]["message"]
    assert message["tool_calls"][0]["extra_content"] == {"anthropic": {"thinking": [thought]}}
    result = {"role": "tool", "tool_call_id": "t1", "content": "4"}
    assert ask(messages=[USER, message, result])["messages"][1]["content"] == [thought, use]


def test_thoughts_go_with_the_call_in_a_stream_too() -> None:
    block: list[Json] = [
        {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Look."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
    ]
    decoder = PROVIDERS["anthropic"].dialect.decoder(Chat({}, 0), STAMP)
    items = [item for event in block for item in decoder.feed(b"data: " + orjson.dumps(event) + b"\n\n")]
    last = items[-1]
    assert isinstance(last, Chunk)
    (made,) = last.body["choices"][0]["delta"]["tool_calls"]
    thought = {"type": "thinking", "thinking": "Look.", "signature": "c2ln"}
    assert made["extra_content"] == {"anthropic": {"thinking": [thought]}}


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_reasons_to_finish(reason: str, finish: str) -> None:
    content = [{"type": "text", "text": "So"}]
    raw = orjson.dumps({"id": "m", "content": content, "stop_reason": reason, "usage": {"input_tokens": 1}})
    found = PROVIDERS["anthropic"].dialect.completion(raw, Chat({}, 0), STAMP)
    assert isinstance(found, Completion)
    assert found.body["choices"][0]["finish_reason"] == finish
