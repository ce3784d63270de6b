"""When an answer has begun, and when it is whole: the two verdicts that decide what a caller is told of a stream."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.stream import Chunk, Progress, choices_of, is_real


def chunk(delta: Any = None, finish: Any = None, *, index: Any = 0, **more: Any) -> Chunk:
    """One choice; an `index` of None is left out, as Workers AI does."""
    choice = {"delta": delta, "finish_reason": finish, **({} if index is None else {"index": index})}
    return Chunk({"choices": [choice], **more})


USAGE = Chunk({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
FILTERS = Chunk({"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content", "Hi"),
        ("content", " "),
        ("content", [{"type": "thinking", "thinking": []}]),
        ("content", 7),
        ("tool_calls", [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
        ("reasoning_content", "Let me see"),
        ("reasoning", "Let me see"),
        ("reasoning_details", [{"type": "reasoning.text", "text": "Let me see"}]),
        ("refusal", "I will not"),
        ("audio", {"id": "a1", "data": "AAAA"}),
        ("function_call", {"name": "f", "arguments": ""}),
        ("images", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
    ],
)
def test_an_answer_has_begun_with_the_first_of_these(field: str, value: Any) -> None:
    assert is_real(chunk({field: value}))
    assert is_real(chunk({"role": "assistant", "content": "", field: value}))


@pytest.mark.parametrize("field", ["content", "tool_calls", "reasoning_content", "reasoning", "reasoning_details"])
@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_an_empty_field_begins_no_answer(field: str, empty: Any) -> None:
    assert not is_real(chunk({"role": "assistant", field: empty}))


@pytest.mark.parametrize("field", ["refusal", "audio", "function_call", "images"])
def test_a_field_that_is_null_begins_no_answer(field: str) -> None:
    assert not is_real(chunk({"role": "assistant", "content": "", field: None}))


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "content_filter", "function_call", "odd"])
@pytest.mark.parametrize("delta", [{}, None, {"content": ""}], ids=repr)
def test_a_finish_reason_is_an_answer_even_with_no_content(finish: str, delta: Any) -> None:
    assert is_real(chunk(delta, finish))


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(chunk({"role": "assistant"}), id="role"),
        pytest.param(chunk({"role": "assistant", "content": ""}), id="role and empty content"),
        pytest.param(chunk({}), id="empty delta"),
        pytest.param(chunk(None), id="no delta"),
        pytest.param(chunk({}, ""), id="empty finish reason, as older Ollama sends"),
        pytest.param(USAGE, id="usage"),
        pytest.param(FILTERS, id="prompt filter results (Azure)"),
        pytest.param(Chunk({"choices": [{"index": 0, "content_filter_results": {"hate": {}}}]}), id="filter results"),
        pytest.param(chunk({"unknown": "field"}), id="unknown field"),
        pytest.param(Chunk({}), id="no choices"),
        pytest.param(Chunk({"choices": None}), id="null choices"),
        pytest.param(Chunk({"choices": "Hi"}), id="choices of a wrong type"),
        pytest.param(Chunk({"choices": [None, "Hi", 3]}), id="choices of wrong types"),
        pytest.param(chunk("Hi"), id="delta of a wrong type"),
    ],
)
def test_another_model_may_still_answer_as_long_as_only_this_came(held: Chunk) -> None:
    assert not is_real(held)


def test_one_real_choice_of_several_is_enough() -> None:
    silent, speaking = {"index": 0, "delta": {"role": "assistant"}}, {"index": 1, "delta": {"content": "Hi"}}
    assert is_real(Chunk({"choices": [silent, speaking]}))


_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, -1, 1.5, "", "stop", [], [0], {}, {"content": 3}, [None, {"index": []}]]
)
_CHOICE = st.dictionaries(st.sampled_from(["index", "delta", "finish_reason", "message"]), _ODD)
_CHOICES = _ODD | st.lists(_CHOICE, max_size=2)


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={"choices": _CHOICES, "usage": _ODD}), max_size=4))
def test_no_chunk_however_odd_is_too_much(bodies: list[dict[str, Any]]) -> None:
    """Providers are strangers: a verdict on what they send is always given, never an exception."""
    progress = Progress()
    for body in bodies:
        progress.note(Chunk(body))
        assert isinstance(is_real(Chunk(body)), bool)
        assert all(isinstance(choice, dict) for choice in choices_of(Chunk(body)))
    assert isinstance(progress.is_finished(done=True), bool)


HI, STOP = chunk({"content": "Hi"}), chunk({}, "stop")


@pytest.mark.parametrize(
    ("expected", "chunks", "with_done", "without_done"),
    [
        pytest.param(1, [HI, STOP], True, True, id="one choice, finished"),
        pytest.param(1, [chunk({"content": "Hi"}, "length")], True, True, id="content and finish in one chunk"),
        pytest.param(1, [HI], False, False, id="no finish reason: a clean end is a break all the same"),
        pytest.param(1, [], False, False, id="nothing at all"),
        pytest.param(1, [USAGE, FILTERS], False, False, id="chunks without choices"),
        pytest.param(1, [HI, STOP, USAGE], True, True, id="usage after the finish"),
        pytest.param(1, [HI, STOP, STOP], True, True, id="finished twice"),
        pytest.param(1, [HI, STOP, chunk({"content": ""})], True, True, id="an empty chunk after the finish"),
        pytest.param(1, [HI, chunk({}, "")], False, False, id="an empty finish reason is none"),
        pytest.param(1, [chunk({"content": "Hi"}, index=None), STOP], True, True, id="index left out, then 0"),
        pytest.param(1, [HI, chunk({}, "stop", index=None)], True, True, id="finished without an index"),
        pytest.param(1, [HI, chunk({}, "stop", index="0")], True, True, id="an index of a wrong type counts as 0"),
        pytest.param(1, [chunk({}, "stop", index=[0])], True, True, id="even a list"),
        pytest.param(2, [HI, STOP], True, False, id="two asked for, one seen: only [DONE] says that it was all"),
        pytest.param(2, [HI, STOP, chunk({}, "stop", index=1)], True, True, id="two asked for, both finished"),
        pytest.param(2, [HI, STOP, chunk({}, index=1)], False, False, id="two asked for, the second still open"),
        pytest.param(2, [chunk({}, "stop", index=1), HI], False, False, id="the second before the first"),
        pytest.param(1, [STOP, chunk({}, index=1)], False, False, id="one more than was asked for is open"),
        pytest.param(
            2, [Chunk({"choices": [{"index": n, "finish_reason": "stop"} for n in (0, 1)]})], True, True, id="together"
        ),
    ],
)
def test_an_answer_is_whole_when_every_choice_has_its_finish_reason(
    expected: int, chunks: list[Chunk], with_done: bool, without_done: bool
) -> None:
    progress = Progress(expected=expected)
    for item in chunks:
        progress.note(item)
    assert progress.is_finished(done=True) is with_done
    assert progress.is_finished(done=False) is without_done


@pytest.mark.parametrize(
    ("chunks", "usage"),
    [
        pytest.param([HI, STOP], None, id="none was sent"),
        pytest.param([HI, STOP, USAGE], USAGE.body["usage"], id="in a chunk of its own"),
        pytest.param([chunk({}, "stop", usage={"total_tokens": 3})], {"total_tokens": 3}, id="beside the finish"),
        pytest.param([USAGE, STOP, chunk({}, usage=None)], USAGE.body["usage"], id="null takes nothing back"),
        pytest.param([USAGE, chunk({}, usage="many")], USAGE.body["usage"], id="neither does nonsense"),
        pytest.param(
            [chunk({}, usage={"total_tokens": n}) for n in (1, 2, 3)], {"total_tokens": 3}, id="the last one holds"
        ),
    ],
)
def test_usage_is_what_the_provider_last_reported(chunks: list[Chunk], usage: dict[str, Any] | None) -> None:
    progress = Progress()
    for item in chunks:
        progress.note(item)
    assert progress.usage == usage


def test_a_chunk_is_sent_as_it_came_and_a_mended_one_as_it_is_now() -> None:
    raw = b'{ "choices" : [] }'
    assert Chunk({"choices": []}, raw).encode() == raw
    assert orjson.loads(Chunk({"choices": [], "x": 1}).encode()) == {"choices": [], "x": 1}
