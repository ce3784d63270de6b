"""OpenAI's dialect: what is asked passes on unchanged, what is answered passes back byte for byte, failures are told.

No network: bytes in, values out. What single providers do differently is their rows' and quirks' affair.
"""

from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import sse
from core.chat import Chat, parse_chat
from core.embedding import parse_embedding
from core.errors import Busy, ClientFault, Operator, TooLong, Transient, UpstreamError
from core.providers.dialect import Completion, Endpoint
from core.providers.openai import OpenAIDialect
from core.stream import Chunk, Done, Item
from tests.provider_samples import STAMP

DIALECT = OpenAIDialect()
ENDPOINT = Endpoint(url="https://up.example/v1/chat/completions", upstream_model="up-1", token="up-canary")
MESSAGES = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> Chat:
    return parse_chat(orjson.dumps({"messages": MESSAGES, **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="nothing more"),
        pytest.param({"temperature": 0.1, "top_p": 1, "n": 2, "seed": 7, "stop": ["a", "b"], "user": "u"}, id="knobs"),
        pytest.param({"max_tokens": 5, "max_completion_tokens": 5, "logit_bias": {"50256": -100}}, id="limits"),
        pytest.param({"stream": True, "stream_options": {"include_usage": True}}, id="stream options"),
        pytest.param({"stream": None, "tools": None, "stop": None}, id="nulls"),
        pytest.param(
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
                "parallel_tool_calls": False,
            },
            id="tools",
        ),
        pytest.param(
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is this?"},
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                        ],
                    },
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "\N{SNOWMAN} \u0000 </script>"},
                ]
            },
            id="images and tool results",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": {}}}},
            id="response format",
        ),
        pytest.param({"new_in_2027": {"deep": [1, 2.5, None, {"x": []}]}, "x-odd": ""}, id="unknown fields"),
    ],
)
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": "ours"}], ids=["no model", "null", "model"])
def test_every_field_but_the_model_is_passed_on_unchanged(fields: dict[str, Any], model: dict[str, Any]) -> None:
    asked = chat(**model, **fields)
    before = orjson.dumps(asked.body)
    request = DIALECT.request(ENDPOINT, asked).request
    assert orjson.loads(request.body) == {"messages": MESSAGES, **fields, "model": "up-1"}
    assert orjson.dumps(asked.body) == before  # other candidates are asked with the same chat


def test_a_request_goes_to_the_endpoint_with_our_key() -> None:
    request = DIALECT.request(ENDPOINT, chat()).request
    assert (request.method, request.url) == ("POST", "https://up.example/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer up-canary"
    assert request.headers["content-type"] == "application/json"
    assert "up-canary" not in repr(request)


def test_no_authorization_is_sent_without_a_token() -> None:
    assert "authorization" not in DIALECT.request(Endpoint(url="http://x", upstream_model="m"), chat()).request.headers


@pytest.mark.parametrize(("stream", "accept"), [(True, "text/event-stream"), (False, "application/json")])
def test_the_answer_is_asked_for_in_its_form_and_never_compressed(stream: bool, accept: str) -> None:
    headers = DIALECT.request(ENDPOINT, chat(stream=stream)).request.headers
    assert (headers["accept"], headers["accept-encoding"]) == (accept, "identity")


def test_an_endpoints_own_headers_are_sent_and_go_before_ours_but_not_before_its_token() -> None:
    own = {"x-title": "Sluice", "user-agent": "theirs", "authorization": "Bearer other"}
    headers = DIALECT.request(
        Endpoint(url="http://x", upstream_model="m", token="t", headers=own), chat()
    ).request.headers
    assert (headers["x-title"], headers["user-agent"], headers["authorization"]) == ("Sluice", "theirs", "Bearer t")


def comparable(items: list[Item]) -> list[Any]:
    """Errors are equal when they say the same."""
    return [(type(item), item.body()) if isinstance(item, UpstreamError) else item for item in items]


def decode(*pieces: bytes, dialect: OpenAIDialect = DIALECT) -> list[Item]:
    decoder = dialect.decoder(chat(stream=True), STAMP)
    return [item for piece in pieces for item in decoder.feed(piece)] + decoder.close()


RAW_CHUNKS = [
    b'{"id":"c1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}',
    b'{ "id" : "c1",  "choices":[{"index":0,"delta":{"content":"H\\u00e9\\/ \xe2\x98\x83"}}], "x": 1.0e2 }',
    b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}',
    b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null,"obfuscation":"aG"}',
    b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
]


def test_a_chunk_is_passed_on_byte_for_byte() -> None:
    """Spaces, escapes, number forms and the order of keys too: what we do not change, nobody can say we broke."""
    items = decode(*(b"data: " + raw + b"\n\n" for raw in RAW_CHUNKS), b"data: [DONE]\n\n")
    *chunks, done = items
    assert [item.encode() for item in chunks if isinstance(item, Chunk)] == RAW_CHUNKS
    assert [item.body for item in chunks if isinstance(item, Chunk)] == [orjson.loads(raw) for raw in RAW_CHUNKS]
    assert done == Done()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_json_over_several_data_lines_reads_as_one_chunk(end: bytes) -> None:
    text = end.join([b"data: {", b'data: "choices": []', b"data: }", b"", b""])
    (item,) = decode(text)
    assert isinstance(item, Chunk)
    assert item.body == {"choices": []}
    assert sse.Reader().feed(sse.encode(item.encode()))[0].data == item.encode()


@pytest.mark.parametrize("text", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE] \n\n", b"data: [DONE]"])
def test_the_end_is_told_by_done_however_it_is_spaced(text: bytes) -> None:
    assert decode(text) == [Done()]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b": keep-alive\n\n",
        b": OPENROUTER PROCESSING\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"event: ping\n\n",
        b"\n\n\n",
    ],
)
def test_what_only_keeps_the_connection_alive_is_no_item(text: bytes) -> None:
    assert decode(text) == []


@pytest.mark.parametrize("half", [b"d", b"data: ", b'data: {"id": "c1", "cho', b"event: x\ndata: {", b"data: [DON"])
def test_half_an_event_at_the_end_says_nothing(half: bytes) -> None:
    """The usage, perhaps: the answer may have been finished long before."""
    event = b"data: " + RAW_CHUNKS[1] + b"\n\n"
    assert decode(event + half) == decode(event)


def test_a_stream_that_just_ends_says_nothing_of_its_end() -> None:
    """Whether that is a break is for `Progress` to say: nothing is invented here."""
    items = decode(b"data: " + RAW_CHUNKS[1] + b"\n\n")
    assert [type(item) for item in items] == [Chunk]


def test_a_last_event_without_its_empty_line_is_read_all_the_same() -> None:
    assert [type(item) for item in decode(b"data: " + RAW_CHUNKS[1] + b"\n\ndata: [DONE]")] == [Chunk, Done]


BROKEN: list[tuple[bytes, type[UpstreamError]]] = [
    (b'event: error\ndata: {"error":{"message":"x","type":"invalid_request_error"}}\n\n', ClientFault),
    (b'event: error\ndata: {"message":"x","code":"rate_limit_exceeded"}\n\n', Busy),
    (b"event: error\ndata: {}\n\n", Transient),
    (b"event: error\ndata: overloaded\n\n", Transient),
    (b'data: {"error":{"message":"x","code":502}}\n\n', Transient),
    (b'data: {"error":{"message":"x","code":429},"choices":[{"index":0,"delta":{"content":""}}]}\n\n', Busy),
    (b'data: {"error":"Something broke"}\n\n', Transient),
    (b'data: {"error":{"message":"x","code":"context_length_exceeded"}}\n\n', TooLong),
    (b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n', Transient),
    (b'data: {"choices":[{"finish_reason":"error","error":{"code":401,"message":"x"}}]}\n\n', Operator),
    (b"data: Hello\n\n", Transient),
    (b"data: <html>502</html>\n\n", Transient),
    (b'data: {"choices":\n\n', Transient),
    (b"data: [1,2]\n\n", Transient),
    (b"data: null\n\n", Transient),
    (b'data: "text"\n\n', Transient),
    (b"data: \xff\n\n", Transient),
]


@pytest.mark.parametrize(("text", "cls"), BROKEN, ids=[text.decode("latin-1").strip() for text, _ in BROKEN])
def test_a_failure_in_the_stream_is_an_item_and_never_raised(text: bytes, cls: type[UpstreamError]) -> None:
    before, after = b"data: " + RAW_CHUNKS[1] + b"\n\n", b"data: [DONE]\n\n"
    assert [type(item) for item in decode(before + text + after)] == [Chunk, cls, Done]


@pytest.mark.parametrize("body", [{"error": None}, {"error": ""}, {"error": False}], ids=repr)
def test_an_error_that_is_none_is_no_error(body: dict[str, Any]) -> None:
    choice = {"index": 0, "message": {"content": "Hi"}, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    raw = orjson.dumps({"choices": [choice], **body})
    assert [type(item) for item in decode(b"data: " + raw + b"\n\n")] == [Chunk]
    assert isinstance(DIALECT.completion(raw, chat(), STAMP), Completion)


def test_an_event_without_end_is_a_failure_of_the_provider() -> None:
    decoder = DIALECT.decoder(chat(stream=True), STAMP)
    assert decoder.feed(b"data: " + b"x" * (sse.MAX_EVENT_BYTES - 6)) == []
    (item,) = decoder.feed(b"x")
    assert isinstance(item, Transient)


_EVENT = st.sampled_from(
    [
        *(b"data: " + raw + b"\n\n" for raw in RAW_CHUNKS),
        *(text for text, _ in BROKEN),
        b"data: [DONE]\n\n",
        b": ping\n\n",
        b"data: {\ndata: }\n\n",
    ]
)


@settings(deadline=None)
@given(st.lists(_EVENT, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
@example([b"data: " + RAW_CHUNKS[1] + b"\n\n"], b"\r", None)
def test_a_stream_means_the_same_wherever_its_bytes_are_cut(events: list[bytes], end: bytes, data: Any) -> None:
    text = b"".join(events).replace(b"\n", end)
    borders = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12))) if data else range(len(text))
    pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    assert comparable(decode(*pieces)) == comparable(decode(text))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_are_items_or_nothing(pieces: list[bytes]) -> None:
    assert all(isinstance(item, Chunk | Done | UpstreamError) for item in decode(*pieces))


COMPLETION = (
    b'{ "id":"c1", "choices":[{"index":0,"message":{"content":"H\\u00e9"},"finish_reason":"stop"}], "x": 1.0e2}'
)


@pytest.mark.parametrize(
    "raw", [COMPLETION, b"\n\n \r\n" + COMPLETION, COMPLETION + b"\n"], ids=["plain", "led", "tail"]
)
def test_a_whole_answer_is_passed_on_byte_for_byte_less_blank_lines_around_it(raw: bytes) -> None:
    """DeepSeek sends blank lines while it thinks."""
    answer = DIALECT.completion(raw, chat(), STAMP)
    assert answer == Completion(orjson.loads(COMPLETION), COMPLETION)


@pytest.mark.parametrize(
    "message",
    [{"content": ""}, {"content": None, "tool_calls": [{"id": "c1"}]}, {"content": None, "refusal": "No."}, {}],
    ids=repr,
)
def test_an_answer_may_be_empty(message: dict[str, Any]) -> None:
    raw = orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    assert isinstance(DIALECT.completion(raw, chat(), STAMP), Completion)


@pytest.mark.parametrize(
    ("raw", "cls", "words"),
    [
        (b"", Transient, "not a JSON object"),
        (b"\n\n", Transient, "not a JSON object"),
        (b"<html><h1>Service</h1></html>", Transient, "not a JSON object"),
        (b'{"choices":[{"index":0', Transient, "not a JSON object"),
        (b"[]", Transient, "not a JSON object"),
        (b"{}", Transient, "holds no choices"),
        (b'{"choices":[]}', Transient, "holds no choices"),
        (b'{"choices":null}', Transient, "holds no choices"),
        (b'{"choices":{"index":0}}', Transient, "holds no choices"),
        (b'{"error":{"message":"x","code":429}}', Busy, "rate limit"),
        (b'{"error":{"message":"x","code":429},"choices":[]}', Busy, "rate limit"),
        (b'{"error":{"message":"x","code":502},"choices":[{"message":{"content":"Hi"}}]}', Transient, "502"),
        (b'{"error":"x"}', Transient, "502"),
        (
            b'{"choices":[{"message":{},"finish_reason":"error","error":{"code":400,"message":"Odd"}}]}',
            ClientFault,
            "Odd",
        ),
    ],
)
def test_a_200_without_an_answer_is_a_failure(raw: bytes, cls: type[UpstreamError], words: str) -> None:
    answer = DIALECT.completion(raw, chat(), STAMP)
    assert type(answer) is cls
    assert words in answer.message


@pytest.mark.parametrize(
    "raw", [b"<html>429</html>", b'[{"error":{"message":"x"}}]', b"[]", b"", b"null", b'"x"', b"{", b"\xff", b"{}"]
)
def test_a_failed_response_may_hold_anything(raw: bytes) -> None:
    """A proxy on the way answers in HTML: the status says enough."""
    error = DIALECT.failure(429, {"retry-after": "7"}, raw, now=0.0)
    assert (type(error), error.retry_after_s, error.upstream_status) == (Busy, 7.0, 429)
    assert "html" not in error.message


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:30 GMT"}, 80.0),
    ],
)
def test_a_wait_is_counted_from_the_time_of_the_answer(headers: dict[str, str], wait: float | None) -> None:
    assert DIALECT.failure(503, headers, b"{}", now=10.0).retry_after_s == wait


EMBEDDING = parse_embedding(b'{"input":["a"],"model":"ours","dimensions":8,"x":1}')


def test_embeddings_pass_through_in_both_directions() -> None:
    request = DIALECT.embedding_request(ENDPOINT, EMBEDDING)
    assert orjson.loads(request.body) == {"input": ["a"], "model": "up-1", "dimensions": 8, "x": 1}
    assert (request.headers["authorization"], request.headers["accept"]) == ("Bearer up-canary", "application/json")
    raw = b'{"object":"list", "data":[{"embedding":[0.10,1e-3]}]}'
    assert DIALECT.embedding(b"\n" + raw) == Completion(orjson.loads(raw), raw)


@pytest.mark.parametrize(
    ("raw", "cls"),
    [(b"{}", Transient), (b'{"data":[]}', Transient), (b'{"error":{"code":429}}', Busy), (b"", Transient)],
)
def test_embeddings_fail_as_chats_do(raw: bytes, cls: type[UpstreamError]) -> None:
    assert type(DIALECT.embedding(raw)) is cls
