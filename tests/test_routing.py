"""Who may answer: from what a request names, and what the caller's key allows, to models, best first."""

from typing import Any

import pytest
import yaml

from core.auth import Caller, Keyring
from core.catalog import Catalog, build_catalog
from core.config import load
from core.config.schema import Kind
from core.errors import InvalidRequest, ModelNotFound
from core.routing import candidates, may_use

TOKEN = "0123456789abcdef"


def entry(name: str, size: str | None = None, priority: int = 100, **more: Any) -> dict[str, Any]:
    return {"name": name, "provider": "demo", "priority": priority, **({"model_size": size} if size else {}), **more}


MODELS = [
    entry("later", "SMALL", 20),
    entry("first", "small", 10, aliases=["gpt-first", "Gpt-First"]),
    entry("also-later", "SMALL", 20),
    entry("large", "BIG"),
    entry("odd", "vast"),
    entry("unsized", aliases=["gpt-unsized"]),
    entry("embedder", "SMALL", 1, kind="embedding"),
    entry("painter", "SMALL", 1, kind="image"),
    entry("old-painter", "BIG", 1, max_request_length=0),
]


def build(*models: dict[str, Any], key: dict[str, Any] | None = None, **server: Any) -> tuple[Catalog, Caller]:
    """The catalog and its one caller."""
    auth = {"keys": [{"name": "app", "token": TOKEN, **(key or {})}]}
    text = yaml.safe_dump({"auth": auth, "server": server, "models": models or MODELS})
    loaded = load(text, name="x.yaml", env={})
    return build_catalog(loaded), Keyring(loaded.config.auth.keys).identify(f"Bearer {TOKEN}")


def names(asked: str, kind: Kind = "chat", *, models: list[str] | None = None, **server: Any) -> list[str]:
    """`models`: what the caller's key is confined to."""
    catalog, caller = build(key=None if models is None else {"models": models}, **server)
    return [model.name for model in candidates(catalog, asked, caller, kind)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", ["first", "later", "also-later"]),
        ("SMALL", ["first", "later", "also-later"]),
        ("small", ["first", "later", "also-later"]),
        ("sMaLl", ["first", "later", "also-later"]),
        ("BIG", ["large"]),
        ("vast", ["odd"]),
        ("VAST", ["odd"]),
        ("later", ["later"]),
        ("unsized", ["unsized"]),
        ("gpt-first", ["first"]),
        ("Gpt-First", ["first"]),
        ("gpt-unsized", ["unsized"]),
    ],
)
def test_a_category_means_its_models_by_priority_and_a_name_means_that_model(asked: str, expected: list[str]) -> None:
    assert names(asked) == expected


def test_without_a_model_the_default_category_answers() -> None:
    assert names("", default_category="big") == ["large"]


@pytest.mark.parametrize("asked", ["nobody", "FIRST", "GPT-first", "gpt", "smal", "a", "first ", "demo/first", "404"])
def test_any_other_name_is_not_found_however_short_it_is(asked: str) -> None:
    """Names are exact; an old rule took anything below ten characters for a category."""
    with pytest.raises(ModelNotFound) as caught:
        names(asked)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert repr(asked) in caught.value.message


@pytest.mark.parametrize(("unknown", "expected"), [("BIG", ["large"]), ("vast", ["odd"])])
def test_an_unknown_name_may_mean_a_category(unknown: str, expected: list[str]) -> None:
    assert names("nobody", unknown_model=unknown) == expected
    assert names("later", unknown_model=unknown) == ["later"]
    assert names("small", unknown_model=unknown)[0] == "first"


@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("embedding", "", ["embedder"]),
        ("embedding", "SMALL", ["embedder"]),
        ("embedding", "embedder", ["embedder"]),
        ("image", "", ["painter"]),
        ("image", "BIG", ["old-painter"]),
        ("image", "painter", ["painter"]),
    ],
)
def test_only_models_of_the_kind_are_candidates(kind: Kind, asked: str, expected: list[str]) -> None:
    assert names(asked, kind) == expected


@pytest.mark.parametrize(
    ("kind", "asked", "words"),
    [
        ("chat", "embedder", "embedder is a model for embeddings, not for chat."),
        ("chat", "old-painter", "old-painter is a model for images, not for chat."),
        ("embedding", "gpt-first", "gpt-first is a model for chat, not for embeddings."),
        ("image", "embedder", "embedder is a model for embeddings, not for images."),
    ],
)
def test_a_model_of_another_kind_is_told_apart_from_one_that_does_not_exist(kind: Kind, asked: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        names(asked, kind)
    assert (caught.value.message, caught.value.param) == (words, "model")


@pytest.mark.parametrize(("kind", "use"), [("chat", "chat"), ("embedding", "embeddings"), ("image", "images")])
def test_an_empty_category_is_said_to_be_empty(kind: Kind, use: str) -> None:
    catalog, caller = build(entry("m1", "SMALL" if kind != "chat" else None))
    with pytest.raises(ModelNotFound, match=f"No model of size SMALL for {use} is configured"):
        candidates(catalog, "", caller, kind)


@pytest.mark.parametrize(
    ("confined_to", "asked", "expected"),
    [
        (["later"], "", ["later"]),
        (["later"], "later", ["later"]),
        (["gpt-first"], "first", ["first"]),
        (["first"], "gpt-first", ["first"]),
        (["gpt-first"], "SMALL", ["first"]),
        (["SMALL"], "", ["first", "later", "also-later"]),
        (["small"], "later", ["later"]),
        (["BIG", "first"], "SMALL", ["first"]),
        (["vast"], "odd", ["odd"]),
    ],
)
def test_a_key_may_be_confined_to_models_aliases_and_categories(
    confined_to: list[str], asked: str, expected: list[str]
) -> None:
    assert names(asked, models=confined_to) == expected


@pytest.mark.parametrize(
    ("confined_to", "kind", "asked"),
    [
        (["later"], "chat", "first"),
        (["later"], "chat", "gpt-first"),
        (["BIG"], "chat", "later"),
        (["BIG"], "chat", "SMALL"),
        (["BIG"], "chat", "unsized"),
        (["later"], "chat", "embedder"),
        ([], "chat", "later"),
        ([], "chat", ""),
    ],
)
def test_what_a_key_may_not_use_does_not_exist_for_it(confined_to: list[str], kind: Kind, asked: str) -> None:
    """The same words as for a name that nobody has: what others may use is not its business."""
    with pytest.raises(ModelNotFound) as forbidden:
        names(asked, kind, models=confined_to)
    with pytest.raises(ModelNotFound) as unknown:
        names("nobody", kind, models=confined_to)
    meant = asked or "SMALL"
    assert forbidden.value.message == unknown.value.message.replace("nobody", meant)


@pytest.mark.parametrize(
    ("confined_to", "allowed"),
    [(None, True), ([], False), (["first"], True), (["Gpt-First"], True), (["small"], True), (["BIG"], False)],
)
def test_whether_a_key_may_use_a_model(confined_to: list[str] | None, allowed: bool) -> None:
    catalog, caller = build(key=None if confined_to is None else {"models": confined_to})
    assert may_use(caller, catalog.by_name["first"]) is allowed
