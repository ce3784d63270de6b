"""Every failure has OpenAI's wire form, and the tree drawn in `core/errors.py` is the tree that is there."""

import inspect
import re
from collections.abc import Iterator

import orjson
import pytest

from core import errors
from core.errors import GatewayError, UpstreamError


def tree(cls: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Every class of the product, base first."""
    yield cls
    for child in cls.__subclasses__():
        if child.__module__.startswith("core."):  # a test may have one of its own
            yield from tree(child)


CLASSES = list(tree())
ALL = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
OF_UPSTREAM = [cls for cls in CLASSES if issubclass(cls, UpstreamError) and cls is not UpstreamError]
_ROW = re.compile(r"^(?P<indent>[\u2500-\u257f ]*)(?P<name>[A-Z]\w+) {2,}(?P<rest>.*)$", re.MULTILINE)
DRAWN = {row["name"]: row for row in _ROW.finditer(errors.__doc__ or "")}


@ALL
def test_every_error_has_openais_wire_form(cls: type[GatewayError]) -> None:
    body = orjson.loads(orjson.dumps(cls("What happened and what to do.").body()))
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == str(cls("What happened and what to do.")) == "What happened and what to do."
    assert isinstance(body["error"]["type"], str)
    assert body["error"]["type"]
    assert body["error"]["param"] is None
    assert body["error"]["code"] is None or re.fullmatch(r"[a-z_]+", body["error"]["code"])


@ALL
def test_every_status_is_one_of_a_failure(cls: type[GatewayError]) -> None:
    assert 400 <= cls("x").status <= 599


@pytest.mark.parametrize("cls", OF_UPSTREAM, ids=lambda cls: cls.__name__)
def test_every_failure_of_a_provider_has_a_kind_of_its_own(cls: type[UpstreamError]) -> None:
    assert [other for other in OF_UPSTREAM if getattr(other, "kind", None) == cls.kind] == [cls]


@pytest.mark.parametrize("cls", OF_UPSTREAM, ids=lambda cls: cls.__name__)
def test_no_failure_of_a_provider_is_the_callers_wrong_key(cls: type[UpstreamError]) -> None:
    assert cls("x").status not in (401, 403)


def test_the_drawing_names_exactly_the_classes_that_exist() -> None:
    assert sorted(DRAWN) == sorted(cls.__name__ for cls in CLASSES)
    defined = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
    assert sorted(cls.__name__ for cls in defined) == sorted(DRAWN)


@ALL
def test_the_drawing_hangs_every_class_where_it_belongs(cls: type[GatewayError]) -> None:
    """Four columns a level; the base is the nearest row above that stands one level further left."""
    rows = list(DRAWN.values())
    at = rows.index(DRAWN[cls.__name__])
    level = len(rows[at]["indent"])
    parents = [row["name"] for row in rows[:at] if len(row["indent"]) == level - 4]
    assert parents[-1:] == ([] if cls is GatewayError else [cls.__bases__[0].__name__])


@pytest.mark.parametrize(
    "cls", [c for c in CLASSES if c not in (GatewayError, UpstreamError)], ids=lambda c: c.__name__
)
def test_the_drawing_tells_status_type_and_code(cls: type[GatewayError]) -> None:
    columns = re.split(r" +", DRAWN[cls.__name__]["rest"])
    error = cls("x")
    assert columns[0] == "4xx" or str(error.status) in columns[0].split("/")
    if columns[1] != "as":  # ClientFault: as the provider said
        assert columns[1] == error.type
        assert error.code == (columns[2] if len(columns) > 2 else None)


def test_what_is_said_of_one_failure_goes_before_what_holds_for_its_class() -> None:
    error = errors.TooLong("x", status=413, code="too_big", type="odd_error", param="messages", headers={"a": "b"})
    assert (error.status, error.headers) == (413, {"a": "b"})
    assert error.body() == {"error": {"message": "x", "type": "odd_error", "param": "messages", "code": "too_big"}}
    assert errors.TooLong("y").status == 400


def test_a_failed_attempt_remembers_what_the_provider_said() -> None:
    error = errors.Busy("x", upstream_status=429, retry_after_s=2.5, status=429)
    assert (error.status, error.upstream_status, error.retry_after_s, error.reached) == (429, 429, 2.5, True)
    assert (errors.Transient("x", reached=False).reached, errors.Transient("x").upstream_status) == (False, None)


def test_who_has_no_key_is_told_how_keys_are_sent() -> None:
    assert errors.Unauthorized("x").headers == {"www-authenticate": 'Bearer realm="sluice"'}


def test_the_headers_of_one_error_are_its_own() -> None:
    given = {"retry-after": "1"}
    error = errors.Busy("x", headers=given)
    error.headers["x-sluice-attempts"] = "2"
    assert given == {"retry-after": "1"}
    assert errors.Busy("y").headers == {}


def test_attempts_stand_inside_the_error_object_when_there_were_any() -> None:
    error = errors.Unavailable("x")
    error.attempts = [{"model": "m1", "reason": "busy", "status": 429}]
    assert error.body()["error"]["attempts"] == [{"model": "m1", "reason": "busy", "status": 429}]
