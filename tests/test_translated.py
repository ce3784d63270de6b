"""Providers with a language of their own: whatever they say, the caller hears OpenAI's, and nothing is lost or added.

The samples are read cut at every byte; `test_<provider>.py` says what each is asked.
"""

import copy
import random
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from core.chat import Chat
from core.errors import UpstreamError
from core.providers import TRANSLATED
from core.providers.dialect import Completion
from core.stream import Chunk, Done, Item, Progress, choices_of
from tests.provider_samples import CALLS, LOGPROBS, NOW, OF_TRANSLATED, REASONING, STAMP, TEXT, TOKENS, Samples

SPOKEN = [name for name, samples in OF_TRANSLATED.items() if samples.folder.name == name]
EVERY = pytest.mark.parametrize("name", SPOKEN)
ONE_CALL_A_TURN = {"gigachat"}
STREAMS = [(name, kind) for name in SPOKEN for kind in sorted(OF_TRANSLATED[name].kinds) if kind.startswith("stream")]
WHOLE = [(name, kind) for name, kind in STREAMS if kind != "stream_error"]
RATED = [name for name in SPOKEN if "stream_logprobs" in OF_TRANSLATED[name].kinds]
ANSWERS = [(name, kind) for name in SPOKEN for kind in sorted(OF_TRANSLATED[name].kinds) if kind.startswith("answer")]


def chat(*, wants_usage: bool = True) -> Chat:
    return Chat({"stream": True, "stream_options": {"include_usage": wants_usage}}, 0)


def decoded(samples: Samples, raw: bytes, size: int, *, wants_usage: bool = True) -> list[Item]:
    """Items up to the end of the answer, of bytes that come in pieces of `size`."""
    decoder = samples.row.dialect.decoder(chat(wants_usage=wants_usage), STAMP)
    items: list[Item] = []
    for at in range(0, len(raw), size):
        items += decoder.feed(raw[at : at + size])
    items += decoder.close()
    return items[: items.index(Done())] if Done() in items else items


def chunks_of(items: list[Item]) -> list[Chunk]:
    assert not [item for item in items if isinstance(item, UpstreamError)]
    return [item for item in items if isinstance(item, Chunk) and not (item.is_unasked and "usage" not in item.body)]


def said(chunks: list[Chunk], name: str = "content") -> str:
    return "".join(choice["delta"].get(name) or "" for chunk in chunks for choice in choices_of(chunk))


def calls_in(chunks: list[Chunk]) -> list[tuple[str, Any]]:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for chunk in chunks:
        for choice in choices_of(chunk):
            for call in choice["delta"].get("tool_calls") or ():
                names[call["index"]] = names.get(call["index"], "") + (call["function"].get("name") or "")
                arguments[call["index"]] = arguments.get(call["index"], "") + (call["function"].get("arguments") or "")
    assert list(names) == list(range(len(names)))
    return [(names[index], orjson.loads(arguments[index])) for index in names]


def expected_calls(name: str) -> list[tuple[str, Any]]:
    return CALLS[:1] if name in ONE_CALL_A_TURN else CALLS


# --- samples


@EVERY
def test_samples_show_all_that_a_provider_claims(name: str) -> None:
    kinds, row = OF_TRANSLATED[name].kinds, OF_TRANSLATED[name].row
    assert {"stream", "stream_error", "answer", "errors"} <= kinds
    assert ("tools" in row.capabilities) == ({"stream_tools", "answer_tools"} <= kinds)
    assert ("stream_reasoning" in kinds) == ("answer_reasoning" in kinds)
    assert OF_TRANSLATED[name].json("errors")[0]["status"] == 429


# --- streams


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize(("name", "kind"), WHOLE)
def test_a_stream_is_openais_however_it_is_cut(name: str, kind: str, size: int) -> None:
    samples = OF_TRANSLATED[name]
    chunks = chunks_of(decoded(samples, samples.sent(kind), size))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.body)
    assert len({(chunk.body["id"], chunk.body["created"], chunk.body["model"]) for chunk in chunks}) == 1
    assert chunks[0].body["id"]
    choices = [choice for chunk in chunks for choice in choices_of(chunk)]
    assert [choice["delta"]["role"] for choice in choices if choice["delta"].get("role")] == ["assistant"]
    finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert finishes == ["tool_calls" if kind == "stream_tools" else "stop"]
    assert choices[-1]["finish_reason"]
    usages = [chunk.body["usage"] for chunk in chunks if chunk.body.get("usage")]
    assert [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages] == [TOKENS]
    assert chunks[-1].body["choices"] == []
    progress = Progress()
    for chunk in chunks:
        progress.note(chunk)
    assert progress.is_finished(done=False)


@pytest.mark.parametrize(("name", "kind"), WHOLE)
def test_a_stream_says_all_that_the_provider_said(name: str, kind: str) -> None:
    samples = OF_TRANSLATED[name]
    chunks = chunks_of(decoded(samples, samples.sent(kind), 10**6))
    assert said(chunks) == ("" if kind == "stream_tools" else TEXT)
    assert calls_in(chunks) == (expected_calls(name) if kind == "stream_tools" else [])
    assert said(chunks, "reasoning_content") == (REASONING if kind == "stream_reasoning" else "")


@pytest.mark.parametrize("name", RATED)
def test_a_stream_says_how_likely_its_tokens_were(name: str) -> None:
    samples = OF_TRANSLATED[name]
    chunks = chunks_of(decoded(samples, samples.sent("stream_logprobs"), 10**6))
    choices = [choice for chunk in chunks for choice in ChatCompletionChunk.model_validate(chunk.body).choices]
    rated = [(choice, choice.logprobs.content or []) for choice in choices if choice.logprobs]
    assert [(one.token, one.logprob) for _, tokens in rated for one in tokens] == LOGPROBS
    for choice, tokens in rated:
        assert choice.delta.content == "".join(one.token for one in tokens)
        assert all(bytes(one.bytes or ()).decode() == one.token for one in tokens)


@EVERY
def test_usage_that_nobody_asked_for_is_counted_and_not_passed_on(name: str) -> None:
    samples = OF_TRANSLATED[name]
    items = decoded(samples, samples.sent("stream"), 10**6, wants_usage=False)
    usages = [item for item in items if isinstance(item, Chunk) and item.body.get("usage")]
    assert [(chunk.is_unasked, chunk.body["usage"]["prompt_tokens"]) for chunk in usages] == [(True, TOKENS[0])]


@pytest.mark.parametrize(("name", "kind"), WHOLE)
def test_a_stream_that_is_cut_never_looks_finished(name: str, kind: str) -> None:
    """At any byte before the end: whatever is said is the beginning of what would have been said, and it is open."""
    samples = OF_TRANSLATED[name]
    raw = samples.sent(kind)
    whole = said(chunks_of(decoded(samples, raw, 10**6)))
    for at in range(0, len(raw), 3):
        progress, text = Progress(), ""
        for item in decoded(samples, raw[:at], 10**6):
            if isinstance(item, UpstreamError):
                break
            if isinstance(item, Chunk):
                progress.note(item)
                text += said([item])
        assert whole.startswith(text)
        if progress.is_finished(done=False):
            assert text == whole


@pytest.mark.parametrize("name", [name for name in SPOKEN if name != "bedrock"])
@pytest.mark.parametrize("half", [b"d", b"data: ", b'data: {"type": "mess', b"event: x\ndata: {", b"data: [DON"])
def test_half_an_event_behind_a_whole_answer_takes_nothing_from_it(name: str, half: bytes) -> None:
    samples = OF_TRANSLATED[name]
    sent = samples.sent("stream").replace(b"data: [DONE]\n\n", b"")
    assert decoded(samples, sent + half, 10**6) == decoded(samples, sent, 10**6)


@EVERY
def test_a_failure_in_the_middle_is_one_and_nothing_is_said_after_it(name: str) -> None:
    samples = OF_TRANSLATED[name]
    items = decoded(samples, samples.sent("stream_error"), 10**6)
    failures = [item for item in items if isinstance(item, UpstreamError)]
    assert len(failures) == 1
    assert failures[0].kind in ("busy", "transient")
    before = items[: items.index(failures[0])]
    assert said([item for item in before if isinstance(item, Chunk)]) == "It is"
    after = [item for item in items[items.index(failures[0]) :] if isinstance(item, Chunk)]
    assert not [choice for chunk in after for choice in choices_of(chunk) if choice["finish_reason"]]


# --- whole answers


@pytest.mark.parametrize(("name", "kind"), ANSWERS)
def test_an_answer_is_openais(name: str, kind: str) -> None:
    samples = OF_TRANSLATED[name]
    found = samples.row.dialect.completion(samples.sent(kind), chat(), STAMP)
    assert isinstance(found, Completion)
    assert orjson.loads(found.raw) == found.body
    answer = ChatCompletion.model_validate(found.body)
    (choice,) = answer.choices
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == TOKENS
    assert answer.usage.total_tokens == sum(TOKENS)
    assert answer.id
    assert answer.created > 1_700_000_000
    calls = [
        (call.function.name, orjson.loads(call.function.arguments))
        for call in choice.message.tool_calls or ()
        if call.type == "function"
    ]
    if kind == "answer_tools":
        assert (choice.finish_reason, calls) == ("tool_calls", expected_calls(name))
        assert len({call.id for call in choice.message.tool_calls or ()}) == len(calls)
    else:
        assert (choice.finish_reason, choice.message.content, calls) == ("stop", TEXT, [])
    reasoning = (choice.message.model_extra or {}).get("reasoning_content")
    assert reasoning == (REASONING if kind == "answer_reasoning" else None)


@pytest.mark.parametrize("name", RATED)
def test_an_answer_says_how_likely_its_tokens_were(name: str) -> None:
    samples = OF_TRANSLATED[name]
    found = samples.row.dialect.completion(samples.sent("answer_logprobs"), chat(), STAMP)
    assert isinstance(found, Completion)
    logprobs = ChatCompletion.model_validate(found.body).choices[0].logprobs
    assert logprobs is not None
    assert [(one.token, one.logprob) for one in logprobs.content or ()] == LOGPROBS


@EVERY
def test_tokens_from_a_cache_are_told(name: str) -> None:
    samples = OF_TRANSLATED[name]
    found = samples.row.dialect.completion(samples.sent("answer"), chat(), STAMP)
    assert isinstance(found, Completion)
    assert found.body["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


@EVERY
@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"null", b'"text"', b"{}", b'{"choices": []}', b'{"a": '])
def test_what_is_no_answer_is_a_failure(name: str, raw: bytes) -> None:
    assert isinstance(OF_TRANSLATED[name].row.dialect.completion(raw, chat(), STAMP), UpstreamError)


# --- failures


ERRORS = [
    pytest.param(name, error, id=f"{name}-{at}-{error['status']}-{error['expect']['class']}")
    for name in SPOKEN
    for at, error in enumerate(OF_TRANSLATED[name].json("errors"))
]


@pytest.mark.parametrize(("name", "error"), ERRORS)
def test_each_documented_error_has_its_class_and_its_wait(name: str, error: dict[str, Any]) -> None:
    raw = orjson.dumps(error["body"])
    failure = OF_TRANSLATED[name].row.failure(error["status"], error["headers"], raw, now=NOW)
    assert (failure.kind, failure.retry_after_s) == (error["expect"]["class"], error["expect"].get("retry_after_s"))


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
@EVERY
def test_a_failure_in_html_has_the_class_of_its_status(name: str, status: int) -> None:
    page = b"<html><body>gateway</body></html>"
    kinds = {400: "client", 401: "operator", 429: "busy", 500: "transient", 503: "busy"}
    assert OF_TRANSLATED[name].row.failure(status, {}, page, now=NOW).kind == kinds[status]


QUOTA = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'


@EVERY
def test_an_error_inside_a_200_has_the_class_of_what_it_says(name: str) -> None:
    failure = OF_TRANSLATED[name].row.dialect.completion(QUOTA, chat(), STAMP)
    assert isinstance(failure, UpstreamError)
    assert failure.kind == "exhausted"


@pytest.mark.parametrize("name", [name for name in SPOKEN if name != "bedrock"])
def test_an_error_inside_a_stream_has_the_class_of_what_it_says(name: str) -> None:
    """Bedrock's streams have events of their own for it, see its sample."""
    (failure,) = decoded(OF_TRANSLATED[name], b"data: %b\n\n" % QUOTA, 10**6)
    assert isinstance(failure, UpstreamError)
    assert failure.kind == "exhausted"


def test_an_error_in_coheres_own_form_is_one_with_any_status() -> None:
    raw = b'{"id": "a", "message": "You are rate limited", "status_code": 429}'
    for found in (
        OF_TRANSLATED["cohere"].row.dialect.completion(raw, chat(), STAMP),
        *decoded(OF_TRANSLATED["cohere"], b"data: %b\n\n" % raw, 10**6),
    ):
        assert isinstance(found, UpstreamError)
        assert found.kind == "busy"


# --- whatever comes


@EVERY
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_answer_with_anything_changed_is_an_answer_or_a_failure(name: str, seed: int) -> None:
    dice = random.Random(seed)
    samples = OF_TRANSLATED[name]
    kind = dice.choice([kind for provider, kind in ANSWERS if provider == name])
    body = mutated(samples.json(kind), dice)
    found = samples.row.dialect.completion(orjson.dumps(body), chat(), STAMP)
    assert isinstance(found, Completion | UpstreamError)
    if isinstance(found, Completion):
        orjson.loads(found.raw)


@EVERY
@given(raw=st.binary(max_size=400), at=st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_a_stream_with_anything_in_it_raises_nothing(name: str, raw: bytes, at: int) -> None:
    samples = OF_TRANSLATED[name]
    sent = samples.sent("stream")
    items = decoded(samples, sent[:at] + raw + sent[at:], 64)
    assert all(isinstance(item, Chunk | Done | UpstreamError) for item in items)


@pytest.mark.parametrize("name", [name for name in SPOKEN if name != "bedrock"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_an_event_with_anything_changed_raises_nothing(name: str, seed: int) -> None:
    dice = random.Random(seed)
    samples = OF_TRANSLATED[name]
    kind = dice.choice([kind for provider, kind in STREAMS if provider == name])
    lines = samples.sent(kind).replace(b"\r\n", b"\n").split(b"\n")
    data = [at for at, line in enumerate(lines) if line.startswith(b"data: {")]
    at = dice.choice(data)
    lines[at] = b"data: " + orjson.dumps(mutated(orjson.loads(lines[at][6:]), dice))
    items = decoded(samples, b"\n".join(lines), 10**6)
    assert all(isinstance(item, Chunk | Done | UpstreamError) for item in items)
    for item in items:
        if isinstance(item, Chunk):
            item.encode()


def mutated(value: Any, dice: random.Random) -> Any:
    """The same with one place of it made something else."""
    value = copy.deepcopy(value)
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            spots.append((node, key))
            walk(node[key])

    walk(value)
    node, key = dice.choice(spots)
    node[key] = dice.choice([None, [], {}, "", "x", 0, -1, 1.5, True, [None], {"a": None}, [{}]])
    return value


# --- embeddings


@pytest.mark.parametrize("name", [row.name for row in TRANSLATED if row.embeddings is not None])
def test_embeddings_are_openais(name: str) -> None:
    language = OF_TRANSLATED[name].row.embeddings
    assert language is not None
    found = language.embedding(EMBEDDINGS.get(name, OPENAIS))
    assert isinstance(found, Completion)
    answer = CreateEmbeddingResponse.model_validate(found.body)
    assert [one.embedding for one in answer.data] == [[0.5, -0.25], [0.0, 1.0]]
    assert answer.usage.prompt_tokens == 7
    assert isinstance(language.embedding(b"{}"), UpstreamError)
    assert isinstance(language.embedding(b"<html>"), UpstreamError)


OPENAIS = orjson.dumps(
    {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [0.0, 1.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
)
EMBEDDINGS = {
    "cohere": orjson.dumps(
        {
            "id": "e1",
            "embeddings": {"float": [[0.5, -0.25], [0.0, 1.0]]},
            "texts": ["a", "b"],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 7}},
        }
    )
}
