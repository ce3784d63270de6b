"""What a request needs of a model is read from its body, and the first rule that a model falls short of is named."""

from typing import Any

import orjson
import pytest

from core.chat import parse_chat
from core.need import Need, is_larger, need_of_chat, need_without_words, shortfall
from tests.running_gateway import catalog_of, model

PICTURE = "data:image/png;base64," + "iVBORw0KGgo/" * 1000
QUESTION = {"role": "user", "content": "Hello"}


def need(**body: Any) -> Need:
    chat = parse_chat(orjson.dumps({"messages": [QUESTION], **body}))
    return need_of_chat(chat.body, chat.length, answers=chat.answers)


def asking(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def picture(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


@pytest.mark.parametrize(
    ("body", "features"),
    [
        ({}, set()),
        ({"stream": True}, {"streaming"}),
        ({"stream": False}, set()),
        ({"tools": [{"type": "function"}]}, {"tools"}),
        ({"tools": []}, set()),
        ({"tools": None}, set()),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"response_format": "json_schema"}, set()),
        (asking(picture({"url": "https://example.org/cat.png"})), {"vision"}),
        (asking(picture({"url": PICTURE})), {"vision"}),
        (asking(picture("https://example.org/cat.png")), {"vision"}),
        (asking({"type": "text", "text": "image_url"}, "text", None, 7), set()),
        ({"messages": [{"role": "assistant"}, {"role": "tool", "content": None}]}, set()),
        ({"stream": True, "tools": [{}], **asking(picture({"url": "x"}))}, {"streaming", "tools", "vision"}),
    ],
)
def test_features_are_read_from_the_body(body: dict[str, Any], features: set[str]) -> None:
    assert need(**body).features == features


@pytest.mark.parametrize(
    ("body", "tokens_of_answers"),
    [
        ({}, 512),
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 70, "max_tokens": 100}, 70),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"n": 3}, 3 * 512),
        ({"max_tokens": 0}, 512),
        ({"max_tokens": -5}, 512),
        ({"max_tokens": "many"}, 512),
        ({"max_tokens": True}, 512),
        ({"max_tokens": None}, 512),
    ],
)
def test_estimate_is_a_quarter_of_the_bytes_and_what_each_answer_may_take(
    body: dict[str, Any], tokens_of_answers: int
) -> None:
    length = len(orjson.dumps({"messages": [QUESTION], **body}))
    assert need(**body).tokens == length // 4 + tokens_of_answers


def test_bytes_count_not_characters() -> None:
    assert (
        need(messages=[{"role": "user", "content": "й" * 100}]).length
        - need(messages=[{"role": "user", "content": "i" * 100}]).length
        == 100
    )


@pytest.mark.parametrize("url", [{"url": PICTURE}, PICTURE])
def test_inline_pictures_do_not_count(url: Any) -> None:
    body = asking(picture(url), picture({"url": "https://example.org/cat.png"}))
    assert need(**body).length == len(orjson.dumps(body)) - len(PICTURE)


def test_inline_picture_whose_slashes_are_escaped_does_not_count_either() -> None:
    """PHP's json_encode writes `\\/`: the body is longer than the address that it holds."""
    raw = orjson.dumps(asking(picture({"url": PICTURE})))
    escaped = raw.replace(b"/", b"\\/")
    chat = parse_chat(escaped)
    assert len(escaped) > len(raw)
    assert need_of_chat(chat.body, chat.length, answers=1).length == len(raw) - len(PICTURE)


def test_embedding_has_no_answer_to_reserve_for() -> None:
    assert need_without_words(4000).tokens == 1000


@pytest.mark.parametrize(
    ("settings", "request_need", "rule"),
    [
        ({}, Need(10**9), None),
        ({"max_request_length": 1000}, Need(1000), None),
        ({"max_request_length": 1000}, Need(1001), "max_request_length"),
        ({"context_tokens": 300}, Need(1000), None),
        ({"context_tokens": 300}, Need(1204), "context_tokens"),
        ({"context_tokens": 300}, Need(1000, answer_tokens=50), None),
        ({"context_tokens": 300}, Need(1000, answer_tokens=51), "context_tokens"),
        ({"capabilities": ["tools"]}, Need(1, frozenset({"tools"})), None),
        ({"capabilities": ["tools"]}, Need(1, frozenset({"tools", "vision"})), "vision"),
        ({"capabilities": []}, Need(1, frozenset({"streaming"})), "streaming"),
        ({"capabilities": []}, Need(1), None),
        ({"requests_per_day": 0}, Need(1), "off"),
        ({"tokens_per_minute": 0, "capabilities": []}, Need(1, frozenset({"vision"})), "off"),
    ],
)
def test_rule_that_keeps_a_model_out_is_named(settings: dict[str, Any], request_need: Need, rule: str | None) -> None:
    (only,) = catalog_of(model("http://upstream", **settings)).models
    assert shortfall(only, request_need) == rule


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"context_tokens": 200}, {"context_tokens": 100}, True),
        ({"context_tokens": 100}, {"context_tokens": 100}, False),
        ({"context_tokens": 50}, {"context_tokens": 100}, False),
        ({"max_request_length": 200}, {"max_request_length": 100}, True),
        ({"max_request_length": 50}, {"max_request_length": 100}, False),
        ({}, {"context_tokens": 100}, True),
        ({"context_tokens": 200}, {}, False),
        ({}, {}, False),
    ],
)
def test_larger_is_who_takes_more_by_configuration(one: dict[str, Any], other: dict[str, Any], expected: bool) -> None:
    first, second = catalog_of(model("http://u", "a", **one), model("http://u", "b", **other)).models
    assert is_larger(first, than=second) is expected
