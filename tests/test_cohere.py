"""What Cohere is asked for a caller's chat or texts, and what only Cohere says."""

from typing import Any

import orjson
import pytest

from core.chat import Chat
from core.embedding import Embedding
from core.errors import Transient, Unsupported
from core.providers import PROVIDERS
from core.providers.cohere import CohereDialect
from core.providers.dialect import Completion, Endpoint
from core.stream import Chunk
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

BARE: Json = {"model": "m", "stream": False, "messages": [USER]}
WITH_KEY = Endpoint(url="https://api.cohere.com/v2/embed", upstream_model="embed-v4.0", token="key-0123")


def ask(**body: Any) -> Json:
    return sent("cohere", body)


def test_a_bare_chat() -> None:
    assert ask() == BARE
    assert ask(stream=True) == {**BARE, "stream": True}
    assert request_to("cohere").headers["authorization"] == "Bearer key-0123"


def test_a_conversation_with_tools() -> None:
    asked = ask(messages=TURN, tools=[TOOL])
    assert asked["tools"] == [TOOL]
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "And kind."},
        {"role": "user", "content": "Oslo and Bergen?"},
        {
            "role": "assistant",
            "tool_plan": "Let me see.",
            "tool_calls": [call("c1", "Oslo"), call("c2", "Bergen")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"celsius": 4}'},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
        {"role": "user", "content": "Thanks."},
    ]


@pytest.mark.parametrize("part", [PICTURE, FAR_PICTURE])
def test_pictures_are_passed_on(part: Json) -> None:
    assert ask(messages=[said_by("See", part)])["messages"][0]["content"] == [{"type": "text", "text": "See"}, part]


@pytest.mark.parametrize("part", [SOUND, PDF])
def test_parts_that_it_does_not_take_are_refused(part: Json) -> None:
    with pytest.raises(Unsupported, match=r"messages\[0\]\.content\[1\]: this provider does not take"):
        ask(messages=[said_by("See", part)])


@pytest.mark.parametrize(
    ("choice", "names", "said"),
    [
        ("auto", ["get_weather", "now"], None),
        ("none", ["get_weather", "now"], "NONE"),
        ("required", ["get_weather", "now"], "REQUIRED"),
        ({"type": "function", "function": {"name": "now"}}, ["now"], "REQUIRED"),
    ],
)
def test_tool_choice(choice: Any, names: list[str], said: str | None) -> None:
    asked = ask(tools=[TOOL, BARE_TOOL], tool_choice=choice)
    assert [tool["function"]["name"] for tool in asked["tools"]] == names
    assert asked.get("tool_choice") == said


def test_a_strict_tool_and_one_without_parameters() -> None:
    asked = ask(tools=[{"type": "function", "function": {"name": "now", "strict": True}}])
    assert asked["strict_tools"] is True
    assert asked["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 4}, {"temperature": 0.5, "p": 0.9, "k": 4}),
        ({"stop": "END", "seed": 3}, {"stop_sequences": ["END"], "seed": 3}),
        ({"presence_penalty": 0.5, "frequency_penalty": 0.5}, {"presence_penalty": 0.5, "frequency_penalty": 0.5}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"response_format": SCHEMA}, {"response_format": {"type": "json_object", "schema": WEATHER}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "token_budget": 1024}}),
        ({"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}}),
        ({"logprobs": True, "top_logprobs": 0}, {"logprobs": True}),
        ({"documents": [{"data": {"a": "b"}}]}, {"documents": [{"data": {"a": "b"}}]}),
    ],
)
def test_parameters(body: Json, expected: Json) -> None:
    assert ask(**body) == BARE | expected


def test_what_only_advises_is_left_out_and_said() -> None:
    assert outgoing("cohere", {"user": "u", "parallel_tool_calls": False}).dropped == ("user", "parallel_tool_calls")


@pytest.mark.parametrize("body", [{"n": 2}, {"logprobs": True, "top_logprobs": 2}])
def test_what_decides_the_answer_and_it_cannot_do_is_refused(body: Json) -> None:
    with pytest.raises(Unsupported):
        ask(**body)


# --- answers


def heard(*events: Json) -> list[Any]:
    decoder = PROVIDERS["cohere"].dialect.decoder(Chat({}, 0), STAMP)
    return [item for event in events for item in decoder.feed(b"data: " + orjson.dumps(event) + b"\n\n")]


def delta_of(item: Any) -> Json:
    assert isinstance(item, Chunk)
    found: Json = item.body["choices"][0]["delta"]
    return found


def test_its_plan_is_reasoning_and_its_citations_are_passed_on() -> None:
    citation = {"start": 0, "end": 2, "text": "It", "sources": []}
    items = heard(
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I look."}}},
        {"type": "citation-start", "index": 0, "delta": {"message": {"citations": citation}}},
    )
    assert delta_of(items[0])["reasoning_content"] == "I look."
    assert delta_of(items[1])["citations"] == [citation]


def test_a_call_without_arguments_has_empty_ones() -> None:
    start = {"id": "t", "type": "function", "function": {"name": "now", "arguments": ""}}
    items = heard(
        {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": start}}},
        {"type": "tool-call-end", "index": 0},
    )
    assert delta_of(items[1])["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("COMPLETE", "stop"), ("STOP_SEQUENCE", "stop"), ("MAX_TOKENS", "length"), ("ERROR", None), ("TIMEOUT", None)],
)
def test_reasons_to_finish(reason: str, finish: str | None) -> None:
    raw = orjson.dumps({"message": {"content": [{"type": "text", "text": "So"}]}, "finish_reason": reason})
    found = PROVIDERS["cohere"].dialect.completion(raw, Chat({}, 0), STAMP)
    if finish is None:
        assert isinstance(found, Transient)
    else:
        assert isinstance(found, Completion)
        assert found.body["choices"][0]["finish_reason"] == finish


def test_usage_is_what_is_charged_for_where_nothing_else_is_told() -> None:
    usage = {"billed_units": {"input_tokens": 3.0, "output_tokens": 2.0}, "cached_tokens": 1.0}
    raw = orjson.dumps({"message": {"content": []}, "finish_reason": "COMPLETE", "usage": usage})
    found = PROVIDERS["cohere"].dialect.completion(raw, Chat({}, 0), STAMP)
    assert isinstance(found, Completion)
    cached = {"prompt_tokens_details": {"cached_tokens": 1}}
    assert orjson.dumps(found.body["usage"]) == orjson.dumps(
        {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **cached}
    )


# --- embeddings


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "a"}, {"texts": ["a"]}),
        ({"input": ["a", "b"], "dimensions": 256}, {"texts": ["a", "b"], "output_dimension": 256}),
        ({"input": "a", "input_type": "search_query"}, {"texts": ["a"], "input_type": "search_query"}),
        ({"input": "a", "encoding_format": "base64"}, {"texts": ["a"], "embedding_types": ["base64"]}),
    ],
)
def test_texts_are_asked_for_in_its_words(body: Json, expected: Json) -> None:
    request = CohereDialect().embedding_request(WITH_KEY, Embedding(body, 0))
    usual = {"model": "embed-v4.0", "input_type": "search_document", "embedding_types": ["float"]}
    assert orjson.loads(request.body) == usual | expected


def test_tokens_in_place_of_text_are_refused() -> None:
    with pytest.raises(Unsupported):
        CohereDialect().embedding_request(WITH_KEY, Embedding({"input": [1, 2]}, 0))
