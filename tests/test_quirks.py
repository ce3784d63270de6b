"""What each quirk mends: before and after, for chunks and whole answers; and that it leaves OpenAI's own form alone."""

import copy
import inspect
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import sse
from core.chat import Chat
from core.providers import PROVIDERS, quirks
from core.providers.dialect import Stamp
from core.providers.quirks import Json, Mend, Notes
from core.stream import Chunk, Done
from tests.fake_upstream import chunk, completion, event
from tests.provider_samples import data_of

MENDS: dict[str, Mend] = {
    name: function
    for name, function in inspect.getmembers(quirks, inspect.isfunction)
    if list(inspect.signature(function).parameters) == ["body", "notes"]
}


def delta(**delta: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def message(finish: str = "stop", **message: Any) -> Json:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def calls(*calls: Json) -> list[Json]:
    return [{"type": "function", **call} for call in calls]


# quirk, before, after
TABLE: list[tuple[Mend, Json, Json]] = [
    (
        quirks.index_of_choice,
        {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]},
        {"choices": [{"delta": {"content": "a"}, "index": 0}, {"delta": {"content": "b"}, "index": 1}]},
    ),
    (
        quirks.index_of_choice,
        {"choices": [{"index": None, "message": {"content": "a"}}]},
        {"choices": [{"index": 0, "message": {"content": "a"}}]},
    ),
    (
        quirks.index_of_call,
        delta(tool_calls=[{"id": "a", "function": {}}, {"id": "b", "function": {}}]),
        delta(tool_calls=[{"id": "a", "function": {}, "index": 0}, {"id": "b", "function": {}, "index": 1}]),
    ),
    (
        quirks.no_delta,
        {"choices": [{"index": 0, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}]},
    ),
    (
        quirks.no_delta,
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]},
    ),
    (quirks.numeric_content, delta(content=42), delta(content="42")),
    (quirks.numeric_content, delta(content=0), delta(content="0")),
    (quirks.numeric_content, message(content=4.5), message(content="4.5")),
    (
        quirks.content_in_parts,
        delta(content=[{"type": "text", "text": "It "}, {"type": "text", "text": "is"}]),
        delta(content="It is"),
    ),
    (
        quirks.content_in_parts,
        message(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"text": "Yes."}]),
        message(content="Yes.", reasoning_content="Hm."),
    ),
    (
        quirks.content_in_parts,
        delta(content=[{"type": "thinking", "thinking": "Hm."}, {"type": "reference", "reference_ids": [1]}]),
        delta(content="", reasoning_content="Hm."),
    ),
    (
        quirks.reasoning_by_another_name,
        delta(reasoning="Hm."),
        delta(reasoning="Hm.", reasoning_content="Hm."),
    ),
    (
        quirks.reasoning_by_another_name,
        message(content="Yes.", reasoning="Hm.", reasoning_content=None),
        message(content="Yes.", reasoning="Hm.", reasoning_content="Hm."),
    ),
    (
        quirks.arguments_as_object,
        delta(tool_calls=calls({"index": 0, "function": {"name": "f", "arguments": {"city": "Tromsø"}}})),
        delta(tool_calls=calls({"index": 0, "function": {"name": "f", "arguments": '{"city":"Tromsø"}'}})),
    ),
    (
        quirks.arguments_as_object,
        message(tool_calls=calls({"function": {"name": "f", "arguments": {}}})),
        message(tool_calls=calls({"function": {"name": "f", "arguments": "{}"}})),
    ),
    (
        quirks.calls_without_type,
        message(tool_calls=[{"id": "a", "function": {"name": "f"}}]),
        message(tool_calls=[{"id": "a", "function": {"name": "f"}, "type": "function"}]),
    ),
    (
        quirks.empty_finish,
        {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": ""}]},
        delta(content="a"),
    ),
    (quirks.finish_by_another_name, message("model_length", content="a"), message("length", content="a")),
    (quirks.finish_by_another_name, message("sensitive", content="a"), message("content_filter", content="a")),
    (
        quirks.finish_of_calls,
        message("stop", tool_calls=calls({"function": {"name": "f"}})),
        message("tool_calls", tool_calls=calls({"function": {"name": "f"}})),
    ),
    (
        quirks.message_beside_delta,
        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "b"}, "message": {"content": "ab"}}]},
        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "b"}}]},
    ),
    (
        quirks.message_beside_delta,
        {"object": "chat.completion.done", "choices": []},
        {"object": "chat.completion.chunk", "choices": []},
    ),
    (quirks.no_choices, {"id": "c1"}, {"id": "c1", "choices": []}),
    (quirks.no_choices, {"id": "c1", "choices": None}, {"id": "c1", "choices": []}),
]


@pytest.mark.parametrize(("mend", "before", "after"), TABLE)
def test_a_quirk_is_mended(mend: Mend, before: Json, after: Json) -> None:
    body = copy.deepcopy(before)
    assert mend(body, Notes()) is True
    assert body == after
    assert mend(body, Notes()) is False, "what is mended is in order"


# Bodies that look like a quirk and are none, or are another one's affair.
ALONE: list[tuple[Mend, Json]] = [
    (quirks.no_delta, message(content="a")),  # a whole answer
    (quirks.numeric_content, delta(content=True)),
    (quirks.numeric_content, delta(content=None)),
    (quirks.reasoning_by_another_name, delta(reasoning=None)),
    (quirks.reasoning_by_another_name, delta(reasoning="Hm.", reasoning_content="Hm.")),
    (quirks.arguments_as_object, delta(tool_calls=[{"index": 0, "function": {"arguments": None}}])),
    (quirks.calls_without_type, delta(tool_calls=[{"index": 0, "function": {"arguments": "{"}}])),  # OpenAI's own way
    (quirks.index_of_call, message(tool_calls=calls({"id": "a"}))),  # a whole answer's calls have none
    (quirks.finish_of_calls, message("length", tool_calls=calls({"function": {"name": "f"}}))),
    (quirks.message_beside_delta, message(content="a")),
    (quirks.usage_in_every_chunk, {**message(content="a"), "usage": {"prompt_tokens": 1}}),
    (quirks.usage_in_every_chunk, {**delta(content="a"), "usage": None}),
]


@pytest.mark.parametrize(("mend", "body"), ALONE)
def test_what_is_no_quirk_of_its_kind_is_left_alone(mend: Mend, body: Json) -> None:
    before = copy.deepcopy(body)
    assert mend(body, Notes(wants_usage=True)) is False
    assert body == before


TOOL_CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
PLAIN_STREAM = data_of(
    chunk(role="assistant", content="", refusal=None)
    + chunk("Hello")
    + chunk(tool_calls=[{"index": 0, **TOOL_CALLS[0]}])
    + chunk(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])
    + chunk(finish="tool_calls")
    + event({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 3}})
)
TOOLS_ANSWER = completion(tool_calls=TOOL_CALLS)
TOOLS_ANSWER["choices"][0]["finish_reason"] = "tool_calls"


@pytest.mark.parametrize("name", MENDS)
@pytest.mark.parametrize("wants_usage", [False, True])
def test_openais_own_chunks_and_answers_pass_every_mend_untouched(name: str, wants_usage: bool) -> None:
    notes = Notes(wants_usage=wants_usage)
    for body in [*PLAIN_STREAM, completion(), TOOLS_ANSWER]:
        seen = copy.deepcopy(body)
        assert MENDS[name](seen, notes if "delta" in str(body) else Notes()) is False
        assert seen == body
    assert notes.usage_chunk is None


@pytest.mark.parametrize("name", MENDS)
def test_every_mend_has_a_row_in_a_table_or_a_story_of_its_own(name: str) -> None:
    stories = {
        quirks.filters_without_name,
        quirks.finish_twice,
        quirks.usage_in_every_chunk,
        quirks.usage_in_x_groq,
    }
    assert MENDS[name] in stories | {mend for mend, _, _ in TABLE}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text", "thinking", "arguments", "usage"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def odd(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of these fields, each as it should be or anything at all; or anything at all instead."""
    return st.fixed_dictionaries({}, optional={name: field | JUNK for name, field in fields.items()}) | JUNK


CALL = odd(index=st.integers(0, 2), id=st.sampled_from(["a", "b"]), function=odd(arguments=st.just({"a": 1})))
PART = odd(
    content=st.just([{"type": "text", "text": "a"}]), reasoning=st.just("a"), tool_calls=st.lists(CALL, max_size=2)
)
CHOICE = odd(index=st.integers(0, 2), delta=PART, message=PART, finish_reason=st.sampled_from(["", "stop", "error"]))
CHUNK = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2) | JUNK}, optional={"usage": JUNK, "x_groq": JUNK}
)


@settings(deadline=None)
@given(st.lists(CHUNK, max_size=3))
def test_no_mend_stumbles_over_what_a_provider_makes_up(bodies: list[Json]) -> None:
    """A chunk of any shape at all is mended or left, and is JSON afterwards: a provider cannot make us fail."""
    notes = Notes(wants_usage=True)
    for body in bodies:
        for mend in MENDS.values():
            mend(body, notes)
        orjson.dumps(body)
    if notes.usage_chunk:
        orjson.dumps(notes.usage_chunk)


# --- Quirks that show over a stream


def finish(reason: str | None, index: int = 0, **delta: Any) -> Json:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


def finishes(bodies: list[Json]) -> list[str | None]:
    return [choice["finish_reason"] for body in bodies for choice in body["choices"]]


def play(mend: Mend, bodies: list[Json], notes: Notes | None = None) -> list[bool]:
    notes = notes or Notes()
    return [mend(body, notes) for body in bodies]


def test_a_choices_second_finish_is_taken_back_and_other_choices_keep_theirs() -> None:
    bodies = [finish("stop"), finish("stop", index=1), finish("stop"), finish(None), finish("length", index=1)]
    assert play(quirks.finish_twice, bodies) == [False, False, True, False, True]
    assert finishes(bodies) == ["stop", "stop", None, None, None]


def test_a_stop_is_tool_calls_only_for_the_choice_that_called() -> None:
    bodies = [finish(None, tool_calls=calls({"index": 0})), finish("stop", index=1), finish("stop"), finish("stop")]
    assert play(quirks.finish_of_calls, bodies) == [False, False, True, True]
    assert finishes(bodies) == [None, "stop", "tool_calls", "tool_calls"]


def test_calls_without_index_are_numbered_by_their_ids_over_the_whole_stream() -> None:
    """One that comes in pieces stays one; a second must not be glued to the first."""
    pieces = [{"id": "a"}, {}, {"id": "b"}, {"id": "b"}, {"id": ""}, {"id": "a"}]
    bodies = [delta(tool_calls=[dict(piece)]) for piece in pieces]
    assert all(play(quirks.index_of_call, bodies))
    assert [body["choices"][0]["delta"]["tool_calls"][0]["index"] for body in bodies] == [0, 0, 1, 1, 1, 0]


def test_a_piece_of_a_call_before_any_id_belongs_to_the_first() -> None:
    body = delta(tool_calls=[{"function": {"arguments": "{}"}}])
    assert quirks.index_of_call(body, Notes())
    assert body["choices"][0]["delta"]["tool_calls"][0]["index"] == 0


USAGE = {"prompt_tokens": 11, "completion_tokens": 7}


def test_usage_in_x_groq_waits_for_the_end_when_it_is_wanted() -> None:
    """In a chunk of OpenAI's form; the finish chunk is left as it is."""
    last = {"id": "c1", **finish("stop"), "x_groq": {"id": "req_1", "usage": USAGE}}
    notes = Notes(wants_usage=True)
    assert play(quirks.usage_in_x_groq, [delta(content="a"), last], notes) == [False, False]
    assert notes.usage_chunk == {"id": "c1", "choices": [], "usage": USAGE}
    assert last["x_groq"] == {"id": "req_1", "usage": USAGE}


@pytest.mark.parametrize(
    "bodies",
    [
        [{**finish("stop"), "x_groq": {"usage": USAGE}}, {"choices": [], "usage": USAGE}],
        [{**finish("stop"), "x_groq": {"usage": USAGE}, "usage": USAGE}],
    ],
    ids=["in a chunk of its own", "in the same chunk"],
)
def test_usage_in_x_groq_is_not_told_again_when_openais_form_comes_too(bodies: list[Json]) -> None:
    notes = Notes(wants_usage=True)
    play(quirks.usage_in_x_groq, bodies, notes)
    assert notes.usage_chunk is None


@pytest.mark.parametrize(
    ("row", "last"),
    [("groq", {**finish("stop"), "x_groq": {"usage": USAGE}}), ("perplexity", {**finish("stop"), "usage": USAGE})],
)
def test_usage_that_nobody_asked_for_is_counted_and_not_passed_on(row: str, last: Json) -> None:
    chat = Chat({"messages": [], "stream": True}, 0)
    decoder = PROVIDERS[row].dialect.decoder(chat, Stamp("id", 1, "m"))
    *_, chunk, usage, done = decoder.feed(sse.encode(orjson.dumps(last)) + sse.DONE)
    assert isinstance(chunk, Chunk)
    assert isinstance(usage, Chunk)
    assert (chunk.is_unasked, usage.is_unasked, usage.body["usage"], done) == (False, True, USAGE, Done())


def counted(tokens: int, **more: Any) -> Json:
    return {"id": "c1", **delta(content="a"), "usage": {"completion_tokens": tokens}, **more}


def test_usage_in_every_chunk_becomes_one_chunk_at_the_end() -> None:
    bodies, notes = [counted(1), counted(2)], Notes()
    assert play(quirks.usage_in_every_chunk, bodies, notes) == [True, True]
    assert not any("usage" in body for body in bodies)
    assert notes.usage_chunk == {"id": "c1", "choices": [], "usage": {"completion_tokens": 2}}


def test_usage_in_every_chunk_gives_way_to_a_chunk_that_has_nothing_else() -> None:
    own: Json = {"id": "c1", "choices": [], "usage": {"completion_tokens": 3}}
    notes = Notes(wants_usage=True)
    assert play(quirks.usage_in_every_chunk, [counted(1), own], notes) == [True, False]
    assert notes.usage_chunk is None
    assert own["usage"] == {"completion_tokens": 3}


NAMELESS = {"id": "", "object": "", "created": 0, "model": ""}
NAMED = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
FILTERS = [{"prompt_index": 0, "content_filter_results": {}}]


def test_filter_results_get_the_name_of_the_chunks_around_them() -> None:
    first: Json = {**NAMELESS, "choices": [], "prompt_filter_results": FILTERS}
    bodies = [first, {**NAMED, **delta(role="assistant")}, {**NAMED, **finish("stop")}, {**NAMELESS, **finish(None)}]
    assert play(quirks.filters_without_name, bodies) == [True, True, False, True]
    assert bodies == [
        {},
        {**NAMED, **delta(role="assistant"), "prompt_filter_results": FILTERS},
        {**NAMED, **finish("stop")},
        {**NAMED, **finish(None)},
    ]


@pytest.mark.parametrize(
    "body",
    [
        {**NAMELESS, "choices": [], "usage": USAGE},
        {**NAMELESS, **delta(content="a"), "prompt_filter_results": FILTERS},
        {"choices": [], "prompt_filter_results": FILTERS},
    ],
)
def test_what_is_more_than_filter_results_is_kept_though_nothing_has_a_name(body: Json) -> None:
    before = copy.deepcopy(body)
    assert play(quirks.filters_without_name, [body]) == [False]
    assert body == before


# --- Requests


def test_reasoning_is_taken_out_of_a_conversation_and_nothing_else_is() -> None:
    said = {"role": "assistant", "content": "So", "reasoning": "hm", "reasoning_content": "hm"}
    body = {"model": "m", "reasoning_effort": "low", "messages": [said, {"role": "user", "content": "x"}, "junk"]}
    before = copy.deepcopy(body)
    assert quirks.without_reasoning(body) == {
        **before,
        "messages": [{"role": "assistant", "content": "So", "reasoning": "hm"}, *before["messages"][1:]],
    }
    assert body == before, "the caller's request is not ours to change: another model may be asked next"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"max_completion_tokens": 5, "max_tokens": 7, "n": 1}, {"n": 1, "max_tokens": 5}),
        ({"max_completion_tokens": None, "max_tokens": 7}, {"max_completion_tokens": None, "max_tokens": 7}),
        ({"n": 1}, {"n": 1}),
    ],
)
def test_the_limit_of_tokens_has_its_older_name(asked: Json, sent: Json) -> None:
    before = copy.deepcopy(asked)
    assert quirks.limit_by_its_older_name(asked) == sent
    assert asked == before


# --- Lists of models


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": "b/c"}]}, ["a", "b/c"]),
        ([{"id": "a"}, {"id": "b"}], ["a", "b"]),
        ({"success": True, "result": [{"id": "0b4a", "name": "@cf/a"}]}, ["@cf/a"]),
        ({"object": "list", "data": None}, []),
        ({"data": [{"name": "no id"}, "junk"]}, []),
        ("<html>", []),
        (None, []),
    ],
)
def test_ids_of_a_list_of_models(body: Any, ids: list[str]) -> None:
    assert quirks.listed_models(body) == ids
