"""What Google is asked for a caller's chat, by Gemini's address and by Vertex's, and what only Google says."""

from typing import Any

import orjson
import pytest

from core.chat import Chat
from core.errors import Refused, Transient, Unsupported
from core.providers import PROVIDERS
from core.providers.dialect import Completion
from core.stream import Chunk, Item
from tests.provider_samples import STAMP
from tests.running_gateway import catalog_of
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

HELLO: Json = {"role": "user", "parts": [{"text": "Hello"}]}
ITS_TOOL: Json = {"name": "get_weather", "description": "Looks", "parametersJsonSchema": WEATHER}
METHOD = "https://generativelanguage.googleapis.com/v1beta/models/gemini-x"


def ask(**body: Any) -> Json:
    return sent("google", body, upstream_model="gemini-2.5-flash")


@pytest.mark.parametrize(
    "url",
    [
        f"{METHOD}:generateContent",
        f"{METHOD}:streamGenerateContent",
        f"{METHOD}:streamGenerateContent?alt=sse",
        METHOD,
    ],
)
def test_the_method_is_the_one_that_is_needed_whichever_is_configured(url: str) -> None:
    assert request_to("google", {}, url=url).url == f"{METHOD}:generateContent"
    assert request_to("google", {"stream": True}, url=url).url == f"{METHOD}:streamGenerateContent?alt=sse"


def test_the_key_goes_in_a_header_and_vertex_takes_a_bearers() -> None:
    assert request_to("google").headers["x-goog-api-key"] == "key-0123"
    assert "authorization" not in request_to("google").headers
    assert request_to("vertex").headers["authorization"] == "Bearer key-0123"


def test_a_key_in_an_old_address_is_sent_in_the_header_and_nowhere_else() -> None:
    entry = {"name": "g", "provider": "gemini", "url": f"{METHOD}:generateContent?key=old-canary-0123&x=1"}
    catalog = catalog_of(entry)
    model = catalog.models[0]
    request = model.row.dialect.request(model.endpoint, Chat({"messages": [USER]}, 0)).request
    assert request.url == f"{METHOD}:generateContent?x=1"
    assert request.headers["x-goog-api-key"] == "old-canary-0123"
    assert "old-canary-0123" in catalog.secrets
    assert "old-canary" not in repr(model)


def test_addresses_are_made_of_the_configuration() -> None:
    vertex = {"provider": "vertex", "token": "t", "account_id": "proj"}
    catalog = catalog_of(
        {"name": "gemini/gemini-2.5-pro", "provider": "gemini", "token": "t"},
        {"name": "a", "upstream_model": "gemini-2.5-pro", "region": "europe-west4", **vertex},
        {"name": "b", "upstream_model": "gemini-2.5-pro", "region": "global", **vertex},
        {"name": "c", "provider": "google", "token": "t", "kind": "embedding", "upstream_model": "embed"},
    )
    urls = [
        model.row.dialect.request(model.endpoint, Chat({"messages": [USER]}, 0)).request.url
        for model in catalog.models[:3]
    ]
    tail = "publishers/google/models/gemini-2.5-pro:generateContent"
    assert urls == [
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent",
        f"https://europe-west4-aiplatform.googleapis.com/v1/projects/proj/locations/europe-west4/{tail}",
        f"https://aiplatform.googleapis.com/v1/projects/proj/locations/global/{tail}",
    ]
    assert catalog.models[3].endpoint.url == "https://generativelanguage.googleapis.com/v1beta/openai/embeddings"
    assert [model.scope.day_starts for model in catalog.models[:2]] == ["00:00 America/Los_Angeles", "00:00 Etc/UTC"]


def test_a_conversation_with_tools() -> None:
    asked = ask(messages=TURN, tools=[TOOL, BARE_TOOL])
    assert asked["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "And kind."}]}
    assert asked["tools"] == [{"functionDeclarations": [ITS_TOOL, {"name": "now", "description": ""}]}]
    assert asked["contents"] == [
        {"role": "user", "parts": [{"text": "Oslo"}, {"text": " and Bergen?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me see."},
                {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}, "id": "c1"}},
                {"functionCall": {"name": "get_weather", "args": {"city": "Bergen"}, "id": "c2"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get_weather", "response": {"celsius": 4}, "id": "c1"}},
                {"functionResponse": {"name": "get_weather", "response": {"result": "rain"}, "id": "c2"}},
            ],
        },
        {"role": "user", "parts": [{"text": "Thanks."}]},
    ]


def test_vertex_knows_no_ids() -> None:
    assert '"id"' not in orjson.dumps(sent("vertex", {"messages": TURN})).decode()


def test_a_signature_goes_back_where_it_came_from() -> None:
    kept = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    turn = [USER, {"role": "assistant", "content": "So", **kept}, USER]
    assert ask(messages=turn)["contents"][1]["parts"] == [{"text": "So", "thoughtSignature": "c2ln"}]
    turn = [USER, {"role": "assistant", "tool_calls": [call("c1", "Oslo", **kept)]}]
    assert ask(messages=turn)["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_a_conversation_that_another_provider_began_is_taken_up() -> None:
    """Gemini 3 refuses calls without a signature, and says what to send for those that it did not make."""
    parts = sent("google", {"messages": TURN}, upstream_model="gemini-3-flash")["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, "skip_thought_signature_validator", None]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (PICTURE, {"inlineData": {"mimeType": "image/png", "data": PNG}}),
        (SOUND, {"inlineData": {"mimeType": "audio/wav", "data": PNG}}),
        (PDF, {"inlineData": {"mimeType": "application/pdf", "data": PNG}}),
    ],
)
def test_parts_that_it_takes(part: Json, expected: Json) -> None:
    assert ask(messages=[said_by("See", part)])["contents"][0]["parts"] == [{"text": "See"}, expected]


def test_a_picture_at_an_address_must_have_been_fetched() -> None:
    assert not PROVIDERS["google"].takes_picture_addresses
    with pytest.raises(Unsupported):
        ask(messages=[said_by(FAR_PICTURE)])


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "now"}}, {"mode": "ANY", "allowedFunctionNames": ["now"]}),
    ],
)
def test_tool_choice(choice: Any, config: Json | None) -> None:
    asked = ask(tools=[TOOL, BARE_TOOL], tool_choice=choice)
    assert asked.get("toolConfig") == (config and {"functionCallingConfig": config})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, {"maxOutputTokens": 5}),
        ({"max_completion_tokens": 6}, {"maxOutputTokens": 6}),
        ({"temperature": 1.7, "top_p": 0.9, "top_k": 4}, {"temperature": 1.7, "topP": 0.9, "topK": 4}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"seed": 3, "n": 2}, {"seed": 3, "candidateCount": 2}),
        (
            {"presence_penalty": 0.5, "frequency_penalty": 0.25},
            {"presencePenalty": 0.5, "frequencyPenalty": 0.25},
        ),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        ({"response_format": SCHEMA}, {"responseMimeType": "application/json", "responseJsonSchema": WEATHER}),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
        ({"reasoning_effort": "low"}, {"thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True}}),
        ({"reasoning_effort": "none"}, {"thinkingConfig": {"thinkingBudget": 0, "includeThoughts": False}}),
    ],
)
def test_parameters(body: Json, expected: Json) -> None:
    assert ask(**body) == {"contents": [HELLO], "generationConfig": expected}


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-3-flash", "medium", {"thinkingLevel": "medium", "includeThoughts": True}),
        ("gemini-3-flash", "none", {"thinkingLevel": "minimal", "includeThoughts": False}),
        ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "low", "includeThoughts": False}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "high", {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128, "includeThoughts": False}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0, "includeThoughts": False}),
    ],
)
def test_each_generation_is_told_of_the_effort_in_its_own_way(model: str, effort: str, config: Json) -> None:
    asked = sent("google", {"reasoning_effort": effort}, upstream_model=model)
    assert asked["generationConfig"]["thinkingConfig"] == config


def test_what_only_advises_is_left_out_and_said() -> None:
    found = outgoing("google", {"user": "u", "parallel_tool_calls": False, "store": True})
    assert found.dropped == ("user", "parallel_tool_calls", "store")


@pytest.mark.parametrize("body", [{"logit_bias": {"1": 5}}, {"modalities": ["smell"]}])
def test_what_decides_the_answer_and_it_cannot_do_is_refused(body: Json) -> None:
    with pytest.raises(Unsupported):
        ask(**body)


# --- answers


def answered(*candidates: Json, **more: Any) -> Any:
    raw = orjson.dumps({"candidates": list(candidates), "responseId": "r", **more})
    return PROVIDERS["google"].dialect.completion(raw, Chat({}, 0), STAMP)


def heard(*bodies: Json) -> list[Item]:
    decoder = PROVIDERS["google"].dialect.decoder(Chat({}, 0), STAMP)
    items = [item for body in bodies for item in decoder.feed(b"data: " + orjson.dumps(body) + b"\r\n\r\n")]
    return items + decoder.close()


def candidate(*parts: Json, reason: str | None = "STOP", index: int = 0) -> Json:
    return {"content": {"parts": list(parts)}, "index": index, **({"finishReason": reason} if reason else {})}


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter")],
)
def test_reasons_to_finish(reason: str, finish: str) -> None:
    found = answered(candidate({"text": "So"}, reason=reason))
    assert found.body["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "YET_TO_COME", None])
def test_an_answer_that_broke_off_does_not_look_finished(reason: str | None) -> None:
    assert isinstance(answered(candidate({"text": "So"}, reason=reason)), Transient)
    items = heard({"candidates": [candidate({"text": "So"}, reason=reason)]})
    finishes = [c["finish_reason"] for item in items if isinstance(item, Chunk) for c in item.body["choices"]]
    assert finishes == [None]


def test_the_likeliest_tokens_stand_beside_the_one_that_was_chosen() -> None:
    result = {
        "chosenCandidates": [{"token": "Yes", "logProbability": -0.1}, {"token": "!", "logProbability": -0.2}],
        "topCandidates": [{"candidates": [{"token": "No", "logProbability": -0.05}]}],
    }
    found = answered({**candidate({"text": "Yes!"}), "logprobsResult": result})
    tops = [one["top_logprobs"] for one in found.body["choices"][0]["logprobs"]["content"]]
    assert tops == [[{"token": "No", "logprob": -0.05, "bytes": [78, 111]}], []]


def test_a_model_without_them_is_passed_over_for_one_that_has_logprobs() -> None:
    raw = orjson.dumps({"error": {"code": 400, "message": "Logprobs is not enabled for models/gemini-2.5-pro"}})
    assert isinstance(PROVIDERS["google"].dialect.failure(400, {}, raw, now=0.0), Unsupported)


def test_null_says_the_same_as_nothing() -> None:
    """As its SDKs write answers down."""
    nothing = {"functionCall": None, "inlineData": None, "thought": None, "thoughtSignature": None}
    whole = {**candidate({"text": "So", **nothing}), "index": None, "logprobsResult": None}
    rest: Json = {"error": None, "promptFeedback": None, "usageMetadata": {"promptTokenCount": None}}
    (choice,) = answered(whole, **rest).body["choices"]
    assert (choice["index"], choice["message"]["content"], choice["finish_reason"]) == (0, "So", "stop")
    first, last = heard({"candidates": [whole], **rest})
    assert isinstance(first, Chunk)
    assert isinstance(last, Chunk)
    assert first.body["choices"][0]["delta"]["content"] == "So"
    assert last.body["choices"][0]["finish_reason"] == "stop"


def test_a_request_that_it_blocks_is_refused() -> None:
    feedback = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    raw = orjson.dumps(feedback)
    assert isinstance(PROVIDERS["google"].dialect.completion(raw, Chat({}, 0), STAMP), Refused)
    assert isinstance(heard(feedback)[0], Refused)


def test_signatures_are_kept_in_googles_own_place() -> None:
    kept = {"google": {"thought_signature": "c2ln"}}
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"}
    message = answered(candidate(part)).body["choices"][0]["message"]
    assert message["tool_calls"][0]["extra_content"] == kept
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"
    message = answered(candidate({"text": "So", "thoughtSignature": "c2ln"})).body["choices"][0]["message"]
    assert (message["content"], message["extra_content"]) == ("So", kept)
    first = heard({"candidates": [candidate(part)]})[0]
    assert isinstance(first, Chunk)
    assert first.body["choices"][0]["delta"]["tool_calls"][0]["extra_content"] == kept


def test_calls_without_ids_get_some_that_differ() -> None:
    part = {"functionCall": {"name": "f", "args": {}}}
    calls = answered(candidate(part, part)).body["choices"][0]["message"]["tool_calls"]
    assert len({one["id"] for one in calls}) == 2


def test_several_candidates_are_several_choices() -> None:
    found = answered(candidate({"text": "A"}), candidate({"text": "B"}, index=1))
    assert [(one["index"], one["message"]["content"]) for one in found.body["choices"]] == [(0, "A"), (1, "B")]
    items = heard({"candidates": [candidate({"text": "A"}), candidate({"text": "B"}, index=1)]})
    chunks = [item for item in items if isinstance(item, Chunk)]
    assert [chunk.body["choices"][0]["index"] for chunk in chunks] == [0, 1, 0, 1]


def test_why_it_finished_may_stand_in_every_event() -> None:
    """As Gemini 1.5 did."""
    items = heard(*({"candidates": [candidate({"text": text})]} for text in ("A", "B")))
    chunks = [item for item in items if isinstance(item, Chunk)]
    assert [chunk.body["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]


def test_a_picture_is_passed_on_as_openrouter_has_it() -> None:
    inline = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    expected = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]
    message = answered(candidate({"text": "See"}, inline, inline)).body["choices"][0]["message"]
    assert (message["content"], message["images"]) == ("See", expected * 2)
    first = heard({"candidates": [candidate(inline)]})[0]
    assert isinstance(first, Chunk)
    assert first.body["choices"][0]["delta"]["images"] == expected


def test_a_call_in_pieces_does_not_pass_for_one() -> None:
    part = {"functionCall": {"name": "f", "partialArgs": [{"jsonPath": "$.a", "numberValue": 1}], "willContinue": True}}
    assert isinstance(answered(candidate(part)), Transient)
    assert isinstance(heard({"candidates": [candidate(part)]})[0], Transient)


def test_usage_counts_thoughts_as_answer_and_what_tools_read_as_question() -> None:
    said = {"promptTokenCount": 10, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}
    found = answered(candidate({"text": "So"}), usageMetadata=said)
    assert isinstance(found, Completion)
    assert found.body["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 22,
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
