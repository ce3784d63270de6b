"""What Cloudflare's `/ai/run` is asked for a caller's chat, and what only it says."""

from typing import Any

import orjson
import pytest

from core.chat import Chat
from core.errors import Unsupported, UpstreamError
from core.providers.cloudflare_run import CLOUDFLARE_RUN
from core.providers.dialect import Completion
from core.stream import Chunk, Done, Progress
from tests.provider_rig import catalog_of
from tests.provider_samples import STAMP
from tests.translation import (
    BARE_TOOL,
    FAR_PICTURE,
    PDF,
    PICTURE,
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

NAME = "cloudflare-run"
HOST = "https://api.cloudflare.com/client/v4/accounts/a1/ai/run"
MODEL = "@cf/meta/llama-2-7b-chat-fp16"


def ask(**body: Any) -> Json:
    return sent(NAME, body)


@pytest.mark.parametrize(
    ("provider", "settings"),
    [
        (NAME, {"account_id": "a1"}),
        ("cloudflare", {"base_url": HOST}),
        ("cloudflare", {"base_url": f"{HOST}/"}),
        ("cloudflare", {"url": f"{HOST}/{MODEL}"}),
    ],
)
def test_the_address_holds_the_model_and_tells_the_language(provider: str, settings: Json) -> None:
    entry = {"token": "key-0123", **settings}
    model = catalog_of({"name": f"{provider}/{MODEL[1:]}", "provider": provider}, **{provider: entry}).models[0]
    request = model.row.dialect.request(model.endpoint, Chat({"messages": [USER]}, 0)).request
    assert request.url == f"{HOST}/{MODEL}"
    assert orjson.loads(request.body) == {"messages": [USER], "stream": False}
    assert request.headers["authorization"] == "Bearer key-0123"


def test_a_conversation_with_tools() -> None:
    asked = ask(messages=TURN, tools=[TOOL, BARE_TOOL])
    now = {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert asked["tools"] == [TOOL, {"type": "function", "function": now}]
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "And kind."},
        {"role": "user", "content": "Oslo and Bergen?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call("c1", "Oslo"), call("c2", "Bergen")]},
        {"role": "tool", "content": '{"celsius": 4}', "tool_call_id": "c1", "name": "get_weather"},
        {"role": "tool", "content": "rain", "tool_call_id": "c2", "name": "get_weather"},
        {"role": "user", "content": "Thanks."},
    ]


@pytest.mark.parametrize("part", [PICTURE, FAR_PICTURE, SOUND, PDF])
def test_parts_that_it_does_not_take_are_refused(part: Json) -> None:
    with pytest.raises(Unsupported, match=r"messages\[0\]\.content\[1\]: this provider does not take"):
        ask(messages=[said_by("See", part)])


@pytest.mark.parametrize(
    ("choice", "names", "said"),
    [
        (None, ["get_weather", "now"], None),
        ("auto", ["get_weather", "now"], "auto"),
        ("none", ["get_weather", "now"], "none"),
        ("required", ["get_weather", "now"], "required"),
        ({"type": "function", "function": {"name": "now"}}, ["now"], "required"),
    ],
)
def test_tool_choice(choice: Any, names: list[str], said: str | None) -> None:
    """It knows no choice of one function, so that one is all it is shown."""
    asked = ask(tools=[TOOL, BARE_TOOL], tool_choice=choice)
    assert [tool["function"]["name"] for tool in asked["tools"]] == names
    assert asked.get("tool_choice") == said


def test_sampling_and_what_is_dropped() -> None:
    body: Json = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "presence_penalty": 0.1, "max_completion_tokens": 99}
    asked = outgoing(NAME, {**body, "user": "u", "reasoning_effort": "low"})
    said = {name: value for name, value in body.items() if name != "max_completion_tokens"}
    assert orjson.loads(asked.request.body) == {"messages": [USER], "stream": False, **said, "max_tokens": 99}
    assert asked.dropped == ("user", "reasoning_effort")


@pytest.mark.parametrize("body", [{"stop": ["x"]}, {"n": 2}, {"logprobs": True}])
def test_what_decides_the_answer_is_not_dropped(body: Json) -> None:
    with pytest.raises(Unsupported):
        ask(**body)


def test_a_schema_stands_there_by_itself() -> None:
    assert ask(response_format=SCHEMA)["response_format"] == {"type": "json_schema", "json_schema": WEATHER}
    assert ask(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


def test_a_model_in_the_address_is_not_said_again() -> None:
    assert request_to(NAME, url=f"{HOST}/{MODEL}", upstream_model=MODEL).url == f"{HOST}/{MODEL}"


# --- What it answers


def whole(result: Json, **body: Any) -> Completion:
    raw = orjson.dumps({"result": result, "success": True, "errors": [], "messages": []})
    answer = CLOUDFLARE_RUN.dialect.completion(raw, Chat({"messages": [USER], **body}, 0), STAMP)
    assert isinstance(answer, Completion)
    return answer


@pytest.mark.parametrize(("response", "text"), [(42, "42"), ({"city": "Oslo"}, '{"city":"Oslo"}'), (None, "")])
def test_a_response_that_is_no_text_becomes_text(response: Any, text: str) -> None:
    assert whole({"response": response}).body["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    ("body", "tokens", "finish"),
    [({}, 255, "stop"), ({}, 256, "length"), ({"max_tokens": 9}, 9, "length"), ({"max_tokens": 900}, 256, "stop")],
)
def test_an_answer_as_long_as_it_may_be_was_cut(body: Json, tokens: int, finish: str) -> None:
    """Nothing else says so: it stops at 256 tokens when nobody says a number."""
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    assert whole({"response": "a", "usage": usage}, **body).body["choices"][0]["finish_reason"] == finish


def test_an_answer_in_openais_form_is_mended_as_at_the_other_address() -> None:
    function = {"name": "f", "arguments": {"city": "Oslo"}}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    answer = whole({"choices": [{"message": message, "finish_reason": "stop"}]}).body
    assert answer["id"] == STAMP.id
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo"}'


def streamed(*events: Any, end: bytes = b"data: [DONE]\n\n") -> list[Any]:
    decoder = CLOUDFLARE_RUN.dialect.decoder(Chat({"stream": True}, 0), STAMP)
    raw = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events) + end
    return [*decoder.feed(raw), *decoder.close()]


def is_finished(items: list[Any]) -> bool:
    progress = Progress()
    for item in items:
        if isinstance(item, Chunk):
            progress.note(item)
    return progress.is_finished(done=Done() in items)


def test_a_stream_is_finished_by_done_and_by_nothing_else() -> None:
    assert is_finished(streamed({"response": "a"}))
    assert not is_finished(streamed({"response": "a"}, end=b""))


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n"])
def test_done_without_its_empty_line_finishes_it_as_well(end: bytes) -> None:
    assert is_finished(streamed({"response": "Hi"}, end=end))


def test_what_stands_behind_done_does_not_finish_what_was_not_said() -> None:
    assert streamed(end=b'data: [DONE]\n\ndata: {"response": "Hi"}\n\n')[0] == Done()


def test_done_without_an_answer_finishes_nothing() -> None:
    assert not is_finished(streamed({"p": "abc"}))


def test_a_stream_in_openais_form_ends_as_that_says() -> None:
    text, end = ({"choices": [{"delta": {"content": 4}}]}, {"choices": [{"delta": {}, "finish_reason": "length"}]})
    items = streamed(text, end)
    bodies = [item.body for item in items if isinstance(item, Chunk)]
    assert [body["id"] for body in bodies] == [STAMP.id] * 2
    assert bodies[0]["choices"][0]["delta"] == {"content": "4"}
    assert bodies[1]["choices"][0]["finish_reason"] == "length"
    assert is_finished(items)
    assert not is_finished(streamed(text))


def test_a_call_without_arguments_has_empty_ones() -> None:
    items = streamed({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "now"}}], "response": ""})
    calls = [item.body["choices"][0]["delta"].get("tool_calls") for item in items if isinstance(item, Chunk)]
    assert "".join(call[0]["function"]["arguments"] for call in calls if call) == "{}"


def test_an_error_inside_has_the_class_of_its_code() -> None:
    raw = orjson.dumps({"result": None, "success": False, "errors": [{"code": 3036, "message": "Daily"}]})
    error = CLOUDFLARE_RUN.dialect.completion(raw, Chat({}, 0), STAMP)
    assert isinstance(error, UpstreamError)
    assert error.kind == "exhausted"
