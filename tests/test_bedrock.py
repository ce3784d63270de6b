"""What Bedrock is asked for a caller's chat, how the request is signed, and what only Bedrock says."""

import datetime as dt
from pathlib import Path
from typing import Any

import orjson
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.eventstream import EventStreamBuffer

from core.aws_signature import Credentials, sign
from core.chat import Chat
from core.config import ConfigError
from core.errors import Transient, Unsupported
from core.http_client.port import HttpRequest
from core.providers import PROVIDERS
from core.providers.dialect import Completion
from core.providers.eventstream import BadMessage, MessageReader
from core.stream import Chunk
from tests.fake_upstream import FakeUpstream, answers, answers_json
from tests.provider_samples import NOW, OF_TRANSLATED, STAMP, TEXT
from tests.running_gateway import catalog_of, running
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

HELLO: Json = {"role": "user", "content": [{"text": "Hello"}]}
BASE = "https://bedrock-runtime.eu-west-1.amazonaws.com"
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"


def ask(**body: Any) -> Json:
    return sent("bedrock", body)


def test_the_address_holds_the_region_and_the_model_and_says_whether_it_streams() -> None:
    entry = {"name": f"bedrock/{CLAUDE}", "provider": "bedrock", "token": "t", "region": "eu-west-1"}
    model = catalog_of(entry).models[0]
    dialect, address = model.row.dialect, f"{BASE}/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0"
    whole = dialect.request(model.endpoint, Chat({"messages": [USER]}, 0)).request
    streamed = dialect.request(model.endpoint, Chat({"messages": [USER], "stream": True}, 0)).request
    assert (whole.url, streamed.url) == (f"{address}/converse", f"{address}/converse-stream")
    assert streamed.headers["accept"] == "application/vnd.amazon.eventstream"
    assert request_to("bedrock").headers["authorization"] == "Bearer key-0123"


def test_a_region_is_asked_for_at_start() -> None:
    for address in ({}, {"base_url": "https://proxy.example"}):
        with pytest.raises(ConfigError, match="needs a region"):
            catalog_of({"name": "b", "provider": "bedrock", **address})


def test_a_conversation_with_tools() -> None:
    asked = ask(messages=TURN, tools=[TOOL, BARE_TOOL])
    assert asked["system"] == [{"text": "Be brief."}, {"text": "And kind."}]
    assert asked["toolConfig"]["tools"] == [
        {"toolSpec": {"name": "get_weather", "inputSchema": {"json": WEATHER}, "description": "Looks"}},
        {"toolSpec": {"name": "now", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
    ]
    assert asked["messages"] == [
        {"role": "user", "content": [{"text": "Oslo"}, {"text": " and Bergen?"}]},
        {
            "role": "assistant",
            "content": [
                {"text": "Let me see."},
                {"toolUse": {"toolUseId": "c1", "name": "get_weather", "input": {"city": "Oslo"}}},
                {"toolUse": {"toolUseId": "c2", "name": "get_weather", "input": {"city": "Bergen"}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "c1", "content": [{"text": '{"celsius": 4}'}]}},
                {"toolResult": {"toolUseId": "c2", "content": [{"text": "rain"}]}},
                {"text": "Thanks."},
            ],
        },
    ]


def test_blank_texts_are_left_out() -> None:
    """It refuses them, and other models say them beside calls."""
    asked = ask(messages=[USER, {"role": "assistant", "content": "\n", "tool_calls": [call("c1", "Oslo")]}])
    assert [[*block] for block in asked["messages"][1]["content"]] == [["toolUse"]]


def test_who_says_nothing_has_no_turn() -> None:
    """It refuses two turns of one role in a row."""
    (turn,) = ask(messages=[USER, {"role": "assistant", "content": ""}, USER])["messages"]
    assert turn == {"role": "user", "content": [{"text": "Hello"}, {"text": "Hello"}]}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (PICTURE, {"image": {"format": "png", "source": {"bytes": PNG}}}),
        (SOUND, {"audio": {"format": "wav", "source": {"bytes": PNG}}}),
        (PDF, {"document": {"format": "pdf", "name": "a", "source": {"bytes": PNG}}}),
    ],
)
def test_parts_that_it_takes(part: Json, block: Json) -> None:
    assert ask(messages=[said_by("See", part)])["messages"][0]["content"] == [{"text": "See"}, block]


@pytest.mark.parametrize(
    "part", [FAR_PICTURE, {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}]
)
def test_parts_that_it_does_not_take_are_refused(part: Json) -> None:
    with pytest.raises(Unsupported, match=r"messages\[0\]\.content\[1\]: this provider does not take"):
        ask(messages=[said_by("See", part)])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "now"}}, {"tool": {"name": "now"}}),
    ],
)
def test_tool_choice(choice: Any, expected: Json | None) -> None:
    assert ask(tools=[TOOL, BARE_TOOL], tool_choice=choice)["toolConfig"].get("toolChoice") == expected


def test_no_tools_can_be_said_only_by_leaving_them_out() -> None:
    assert "toolConfig" not in ask(tools=[TOOL], tool_choice="none")
    with pytest.raises(Unsupported):  # it wants the tools that a conversation speaks of
        ask(messages=TURN, tools=[TOOL], tool_choice="none")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "stop": "END"},
            {"inferenceConfig": {"maxTokens": 5, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]}},
        ),
        (
            {"response_format": SCHEMA},
            {
                "outputConfig": {
                    "textFormat": {
                        "type": "json_schema",
                        "structure": {"jsonSchema": {"name": "city", "schema": orjson.dumps(WEATHER).decode()}},
                    }
                }
            },
        ),
    ],
)
def test_parameters(body: Json, expected: Json) -> None:
    assert ask(**body) == {"messages": [HELLO], **expected}


def test_claude_is_told_in_anthropics_words_what_converse_has_none_for() -> None:
    asked = sent("bedrock", {"top_k": 4}, upstream_model=CLAUDE)
    assert asked["additionalModelRequestFields"] == {"top_k": 4}
    asked = sent("bedrock", {"reasoning_effort": "low"}, upstream_model=CLAUDE)
    assert asked["additionalModelRequestFields"] == {"thinking": {"type": "enabled", "budget_tokens": 2048}}
    asked = sent("bedrock", {"reasoning_effort": "low"}, upstream_model="global.anthropic.claude-sonnet-5")
    fields = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    assert asked["additionalModelRequestFields"] == fields
    assert outgoing("bedrock", {"reasoning_effort": "low", "seed": 1}).dropped == ("reasoning_effort", "seed")


def test_claude_is_told_to_call_one_tool_where_nothing_else_is_said_of_the_choice() -> None:
    one, claude = {"tools": [TOOL], "parallel_tool_calls": False}, "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    fields = sent("bedrock", one, upstream_model=claude)["additionalModelRequestFields"]
    assert fields == {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    for body, model in [
        (one | {"tool_choice": "required"}, claude),
        (one | {"tools": []}, claude),
        (one, "anthropic.claude-3-haiku-20240307-v1:0"),
        (one, "amazon.nova-pro-v1:0"),
    ]:
        found = outgoing("bedrock", body, upstream_model=model)
        assert found.dropped == ("parallel_tool_calls",)
        assert "additionalModelRequestFields" not in orjson.loads(found.request.body)


def test_tools_that_are_no_longer_offered_but_were_called_are_named() -> None:
    """It refuses a conversation with calls and no tools."""
    tools = ask(messages=TURN)["toolConfig"]["tools"]
    assert tools == [
        {"toolSpec": {"name": "get_weather", "inputSchema": {"json": {"type": "object", "properties": {}}}}}
    ]


@pytest.mark.parametrize("body", [{"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}])
def test_what_decides_the_answer_and_it_cannot_do_is_refused(body: Json) -> None:
    with pytest.raises(Unsupported):
        ask(**body)


def test_every_name_in_a_request_is_one_that_the_service_documents() -> None:
    """botocore's own description of the service is the judge."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    service = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))
    shape = service.operation_model("Converse").input_shape
    bodies: list[Json] = [
        {"messages": TURN, "tools": [TOOL, BARE_TOOL], "tool_choice": "required"},
        {"messages": [said_by("See", PICTURE, PDF, SOUND)], "response_format": SCHEMA, "stop": "x", "max_tokens": 3},
    ]
    for body in bodies:
        found = ParamValidator().validate({"modelId": "m", **sent("bedrock", body)}, shape)
        assert not found.has_errors(), found.generate_report()


# --- answers


def test_thoughts_go_with_the_call_that_they_led_to_and_come_back_before_it() -> None:
    thought = {"reasoningText": {"text": "Look.", "signature": "c2ln"}}
    use = {"toolUse": {"toolUseId": "t1", "name": "get_weather", "input": {"city": "Oslo"}}}
    content = [{"reasoningContent": thought}, use]
    raw = orjson.dumps({"output": {"message": {"content": content}}, "stopReason": "tool_use"})
    found = PROVIDERS["bedrock"].dialect.completion(raw, Chat({}, 0), STAMP)
    assert isinstance(found, Completion)
    message = found.body["choices"][0]["message"]
    assert message["reasoning_content"] == "Look."
    turn = [USER, message, {"role": "tool", "tool_call_id": "t1", "content": "4"}]
    assert ask(messages=turn)["messages"][1]["content"] == content


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("guardrail_intervened", "content_filter"),
        ("malformed_tool_use", None),
    ],
)
def test_reasons_to_finish(reason: str, finish: str | None) -> None:
    raw = orjson.dumps({"output": {"message": {"content": [{"text": "So"}]}}, "stopReason": reason})
    found = PROVIDERS["bedrock"].dialect.completion(raw, Chat({}, 0), STAMP)
    if finish is None:
        assert isinstance(found, Transient)
    else:
        assert isinstance(found, Completion)
        assert found.body["choices"][0]["finish_reason"] == finish


# --- the event stream


@pytest.mark.parametrize("kind", ["stream", "stream_tools", "stream_reasoning", "stream_error"])
def test_botocore_reads_the_samples_as_we_do(kind: str) -> None:
    raw = OF_TRANSLATED["bedrock"].sent(kind)
    judge = EventStreamBuffer()
    judge.add_data(raw)
    ours = [(message.headers, message.payload) for message in MessageReader().feed(raw)]
    assert ours == [(message.headers, message.payload) for message in judge]


def test_a_message_that_was_damaged_on_the_way_is_noticed() -> None:
    raw = OF_TRANSLATED["bedrock"].sent("stream")
    for at in range(200):
        damaged = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(BadMessage):
            list(MessageReader().feed(damaged))


def test_a_stream_that_ends_inside_a_message_is_a_failure() -> None:
    decoder = PROVIDERS["bedrock"].dialect.decoder(Chat({}, 0), STAMP)
    items = decoder.feed(OF_TRANSLATED["bedrock"].sent("stream")[:-5])
    assert all(isinstance(item, Chunk) for item in items)
    assert [type(item) for item in decoder.close()] == [Transient]


# --- the signature


@pytest.mark.parametrize("session", [None, "session/token+0123="])
@pytest.mark.parametrize(
    "path", ["/model/anthropic.claude-v1%3A0/converse", "/model/arn%3Aaws%3Ax%2Fy/converse-stream"]
)
def test_the_signature_is_botocores(path: str, session: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    request = HttpRequest(BASE + path, {"content-type": "application/json", "accept": "x"}, b'{"a": "\xc3\xa9"}')
    ours = sign(request, Credentials("AKID", "secret", session), region="eu-west-1", service="bedrock", now=NOW)

    judged = AWSRequest("POST", request.url, headers={"content-type": "application/json"}, data=request.body)
    moment = dt.datetime.fromtimestamp(NOW, dt.UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: moment.replace(tzinfo=None))
    SigV4Auth(ReadOnlyCredentials("AKID", "secret", session), "bedrock", "eu-west-1").add_auth(judged)
    assert ours["authorization"] == judged.headers["Authorization"]
    assert ours["x-amz-date"] == judged.headers["X-Amz-Date"]
    assert ours["accept"] == "x"


async def test_without_a_token_requests_are_signed_with_the_environments_credentials(
    aws_credentials: None, upstream: FakeUpstream
) -> None:
    upstream.script = answers(OF_TRANSLATED["bedrock"].sent("answer"))
    async with running(bedrock(upstream)) as gateway:
        answer = await gateway.chat()
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    said = upstream.requests[0].headers["authorization"]
    assert said.startswith("AWS4-HMAC-SHA256 Credential=test/")
    assert "/eu-west-1/bedrock/aws4_request" in said


async def test_without_credentials_the_operator_is_told(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    async with running(bedrock(upstream)) as gateway:
        answer = await gateway.chat()
    assert answer.status_code == 502
    assert "has no AWS credentials" in answer.json()["error"]["message"]
    assert upstream.requests == []


async def test_a_bearers_key_is_sent_as_it_is(upstream: FakeUpstream) -> None:
    upstream.script = answers_json({"message": "Too many requests"}, 429)
    async with running(bedrock(upstream, token="bedrock-key-0123")) as gateway:
        assert (await gateway.chat()).status_code == 429
    assert upstream.requests[0].headers["authorization"] == "Bearer bedrock-key-0123"


def bedrock(upstream: FakeUpstream, **more: Any) -> Json:
    return {"name": "m1", "provider": "bedrock", "region": "eu-west-1", "base_url": upstream.url, **more}
