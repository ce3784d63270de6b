"""Who may answer, best first: by category, by name with fallbacks, as far as the caller's key allows."""

from typing import Any

import pytest

from core.auth import Caller, Keyring
from core.catalog import Catalog
from core.config import KeyEntry
from core.config.schema import Kind
from core.errors import GatewayError, InvalidRequest, ModelNotFound
from core.plan import Image
from core.routing import IDLE_MS, by_priority, candidates, in_order, may_use
from tests.running_gateway import TOKEN, catalog_of, model

NOW_MS = 1_800_000_000_000


def caller(*allowed: str) -> Caller:
    """Without names: for everything."""
    entry = KeyEntry(name="app", token=TOKEN, models=list(allowed) or None)
    return Keyring([entry]).callers[0]


def m(name: str, **more: Any) -> dict[str, Any]:
    return model("http://upstream", name, **more)


def small(name: str, **more: Any) -> dict[str, Any]:
    return m(name, model_size="SMALL", **more)


POOL = catalog_of(
    small("s/late", priority=9),
    small("s/first", priority=1, aliases=["gpt-4o"], fallbacks=["b/one", "s/late"]),
    small("s/second", priority=1),
    small("s/off", priority=0, requests_per_day=0),
    m("b/one", model_size="BIG", fallbacks=["s/off", "e/one", "gpt-4o", "s/first"]),
    m("named", priority=0),
    m("h/one", model_size="HUGE", requests_per_minute=0),
    m("e/one", model_size="SMALL", kind="embedding"),
)


@pytest.mark.parametrize(
    ("asked", "names", "by_name"),
    [
        ("", ["s/first", "s/second", "s/late"], False),
        ("SMALL", ["s/first", "s/second", "s/late"], False),
        ("small", ["s/first", "s/second", "s/late"], False),
        ("Big", ["b/one"], False),
        ("s/second", ["s/second"], True),
        ("s/first", ["s/first", "b/one", "s/late"], True),
        ("gpt-4o", ["s/first", "b/one", "s/late"], True),
        ("named", ["named"], True),
        ("b/one", ["b/one", "s/first"], True),  # not the one that is off, nor the embedding; an alias counts once
    ],
)
def test_candidates_of_a_category_by_priority_and_of_a_name_with_its_fallbacks(
    asked: str, names: list[str], by_name: bool
) -> None:
    found, is_by_name = candidates(POOL, asked, caller())
    assert ([each.name for each in found], is_by_name) == (names, by_name)


@pytest.mark.parametrize("kind", ["chat", "embedding"])
def test_category_gives_only_models_for_what_is_asked(kind: Kind) -> None:
    found, _ = candidates(POOL, "SMALL", caller(), kind)
    assert {each.kind for each in found} == {kind}


@pytest.mark.parametrize(
    ("asked", "kind", "failure", "words"),
    [
        ("nobody", "chat", ModelNotFound, "'nobody' does not exist here"),
        ("Named", "chat", ModelNotFound, "'Named' does not exist"),  # names are exact; only categories are not
        ("gpt", "chat", ModelNotFound, "'gpt' does not exist"),  # short is not a category
        ("s/off", "chat", ModelNotFound, "'s/off' does not exist"),
        ("HUGE", "chat", ModelNotFound, "No model of size HUGE for chat is configured"),
        ("BIG", "embedding", ModelNotFound, "No model of size BIG for embeddings is configured"),
        ("e/one", "chat", InvalidRequest, "e/one is a model for embeddings, not for chat"),
        ("gpt-4o", "embedding", InvalidRequest, "gpt-4o is a model for chat, not for embeddings"),
    ],
)
def test_what_nobody_can_answer_is_said_before_anything_is_asked(
    asked: str, kind: Kind, failure: type[GatewayError], words: str
) -> None:
    with pytest.raises(failure, match=words) as caught:
        candidates(POOL, asked, caller(), kind)
    assert caught.value.param == "model"


def test_unknown_model_may_mean_a_category() -> None:
    catalog = catalog_of(small("a"), m("b", model_size="BIG"), server={"unknown_model": "big"})
    found, by_name = candidates(catalog, "gpt-99", caller())
    assert ([each.name for each in found], by_name) == (["b"], False)


@pytest.mark.parametrize(("default", "first"), [("SMALL", "a"), ("big", "b")])
def test_no_model_means_the_default_category(default: str, first: str) -> None:
    catalog = catalog_of(small("a"), m("b", model_size="BIG"), server={"default_category": default})
    assert [each.name for each in candidates(catalog, "", caller())[0]] == [first]


@pytest.mark.parametrize(
    ("allowed", "asked", "names"),
    [
        (["s/second"], "SMALL", ["s/second"]),
        (["gpt-4o"], "SMALL", ["s/first"]),
        (["small"], "SMALL", ["s/first", "s/second", "s/late"]),
        (["s/first", "s/late"], "s/first", ["s/first", "s/late"]),  # fallbacks too, as far as they are allowed
        (["gpt-4o"], "s/first", ["s/first"]),
        (["BIG", "s/first"], "gpt-4o", ["s/first", "b/one"]),
    ],
)
def test_key_that_is_confined_gets_only_what_it_may_have(allowed: list[str], asked: str, names: list[str]) -> None:
    assert [each.name for each in candidates(POOL, asked, caller(*allowed))[0]] == names


@pytest.mark.parametrize("asked", ["s/first", "gpt-4o", "BIG", ""])
def test_what_a_key_may_not_have_does_not_exist_for_it(asked: str) -> None:
    with pytest.raises(ModelNotFound, match="does not exist here"):
        candidates(POOL, asked, caller("named"))


def test_key_without_models_may_use_everything() -> None:
    assert all(may_use(caller(), each) for each in POOL.models)


def names_in_order(catalog: Catalog, used_ms_ago: dict[str, int]) -> list[str]:
    images: dict[str, Image] = {f"m#{name}": {"lr": NOW_MS - ago} for name, ago in used_ms_ago.items()}
    return [each.name for each in in_order(catalog.models, images, NOW_MS)]


SIZES = catalog_of(
    small("any"),
    small("large", max_request_length=100_000),
    small("medium", context_tokens=10_000),
    small("tiny", max_request_length=1_000),
)


@pytest.mark.parametrize(
    ("used_ms_ago", "names"),
    [
        ({}, ["tiny", "medium", "large", "any"]),
        ({"tiny": IDLE_MS + 1}, ["tiny", "medium", "large", "any"]),
        ({"tiny": IDLE_MS}, ["medium", "large", "any", "tiny"]),
        ({"tiny": 1, "large": 2}, ["medium", "any", "large", "tiny"]),
        ({"tiny": 1, "large": 4, "medium": 3, "any": 2}, ["large", "medium", "any", "tiny"]),
        ({"tiny": 1, "large": 2, "medium": IDLE_MS * 2, "any": IDLE_MS * 3}, ["medium", "any", "large", "tiny"]),
    ],
)
def test_of_one_priority_the_idle_go_first_by_size_then_the_least_recently_used(
    used_ms_ago: dict[str, int], names: list[str]
) -> None:
    assert names_in_order(SIZES, used_ms_ago) == names


def test_what_is_equal_in_all_else_keeps_the_order_of_the_configuration() -> None:
    same = catalog_of(small("c"), small("a"), small("b"))
    assert names_in_order(same, {}) == ["c", "a", "b"]
    assert names_in_order(same, dict.fromkeys("abc", 5)) == ["c", "a", "b"]


def test_groups_hold_what_has_one_priority() -> None:
    found, _ = candidates(POOL, "SMALL", caller())
    assert [[each.name for each in group] for group in by_priority(found)] == [["s/first", "s/second"], ["s/late"]]
