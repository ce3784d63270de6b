"""docs/providers.md against the table of providers: every cell is what the row says or what its samples show."""

import collections.abc
import dataclasses
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from core import sse, stream
from core.catalog import build_catalog
from core.chat import Chat
from core.config import load
from core.errors import Unsupported, UpstreamError
from core.http_client import port
from core.providers import (
    TRANSLATED,
    answering,
    conversation,
    dialect,
    exchange,
    failures,
    find_provider,
    parameters,
    quirks,
)
from core.providers.dialect import Completion, Endpoint, Provider
from core.providers.limit_headers import LimitHeaders
from core.providers.openai import OpenAIDialect
from core.providers.rows import ROWS
from core.stream import Chunk, Done
from tests.provider_samples import OF_TRANSLATED, SAMPLES, STAMP, Samples, passed_on
from tests.running_gateway import configuration
from tests.test_quirks import MENDS
from tests.translation import FAR_PICTURE, PDF, PICTURE, SCHEMA, SOUND, TOOL, outgoing, said_by

FOLDER = Path(__file__).parents[1] / "docs"
DOCUMENT = (FOLDER / "providers.md").read_text(encoding="utf-8")
ADDING = (FOLDER / "add_a_provider.md").read_text(encoding="utf-8")
EVERY = {**SAMPLES, **OF_TRANSLATED}
NAMES = list(EVERY)
YES, NO = "yes", "–"  # noqa: RUF001 - a dash, as the document has it


def table(heading: str) -> dict[str, dict[str, str]]:
    """The table below a heading: first cell of a line -> column -> cell."""
    section = DOCUMENT.split(f"# {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    columns, rows = lines[0], lines[2:]
    found = {cells[0].strip("`"): dict(zip(columns, cells, strict=True)) for cells in rows}
    assert len(found) == len(rows), "a line stands there twice"
    return found


def yes(claim: bool) -> str:
    return YES if claim else NO


def features(samples: Samples) -> dict[str, str]:
    row, kinds = samples.row, samples.kinds
    return {
        "Chat": yes("answer" in kinds),
        "Stream": yes("streaming" in row.capabilities and "stream" in kinds),
        "Tools": yes("tools" in row.capabilities),
        "Vision": yes("vision" in row.capabilities),
        "JSON schema": yes("json_schema" in row.capabilities),
        "Reasoning": reasoning(samples),
        "Embeddings": yes(row.embeddings is not None if row in TRANSLATED else "embeddings" in kinds),
        "Images": yes(row.images is not None),
        "Usage in a stream": "always" if has_usage(samples, asked=False) else "when asked for",
        "Limit headers": yes(bool(row.limit_headers)),
        "Needs a key": yes(row.needs_token),
    }


def reasoning(samples: Samples) -> str:
    """The samples' tests say that `reasoning_content` holds it; here only whether the provider had it there itself."""
    if "stream_reasoning" not in samples.kinds:
        return NO
    return "mended" if samples.row in TRANSLATED or samples.is_mended("stream_reasoning") else YES


def has_usage(samples: Samples, *, asked: bool) -> bool:
    """Whether the caller of a stream gets it."""
    chat = Chat({"stream": True, "stream_options": {"include_usage": asked}}, 0)
    decoder = samples.row.dialect.decoder(chat, STAMP)
    items = [*decoder.feed(samples.sent(samples.asked(wants_usage=asked))), *decoder.close()]
    return any(isinstance(item, Chunk) and item.body.get("usage") and not item.is_unasked for item in items)


# What is asked for in a chat to see what becomes of it, by the column of the table.
ASKED: dict[str, dict[str, Any]] = {
    "Pictures": {"messages": [said_by(PICTURE)]},
    "Pictures at an address": {"messages": [said_by(FAR_PICTURE)]},
    "Sounds": {"messages": [said_by(SOUND)]},
    "PDF": {"messages": [said_by(PDF)]},
    "JSON mode": {"response_format": {"type": "json_object"}},
    "`n`": {"n": 2},
    "`stop`": {"stop": ["END"]},
    "`seed`": {"seed": 7},
    "Penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5},
    "`logprobs`": {"logprobs": True},
    "`reasoning_effort`": {"reasoning_effort": "low"},
    "`parallel_tool_calls`": {"tools": [TOOL], "parallel_tool_calls": False},
}


def becomes(name: str, body: dict[str, Any]) -> str:
    if body == ASKED["Pictures at an address"] and not find_provider(name).takes_picture_addresses:
        return "fetched"  # tests/test_inlining.py
    try:
        return "dropped" if outgoing(name, body).dropped else YES
    except Unsupported:
        return "refused"


@pytest.mark.parametrize("name", OF_TRANSLATED)
def test_the_table_says_what_becomes_of_a_requests_parts_and_fields(name: str) -> None:
    cells = {column: becomes(name, body) for column, body in ASKED.items()}
    assert table("What becomes of a request")[name] == {"Provider": f"`{name}`", **cells}


@pytest.mark.parametrize("name", OF_TRANSLATED)
def test_a_translated_row_claims_what_can_be_said_in_its_language(name: str) -> None:
    claimed: dict[str, dict[str, Any]] = {
        "tools": {"tools": [TOOL]},
        "vision": {"messages": [said_by(PICTURE)]},
        "json_schema": {"response_format": SCHEMA},
    }
    can = {capability for capability, body in claimed.items() if becomes(name, body) == YES}
    assert can | {"streaming"} == find_provider(name).capabilities


def limits(row: Provider) -> str:
    return ", ".join(in_words(limit) for limit in row.limit_headers) or NO


def in_words(limit: LimitHeaders) -> str:
    return f"{limit.what} a {limit.window}" if limit.window else limit.what


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_in_the_table_is_what_the_row_and_its_samples_say(name: str) -> None:
    assert table("What each can do")[name] == {"Provider": f"`{name}`", **features(EVERY[name])}


@pytest.mark.parametrize("name", NAMES)
def test_every_usage_that_was_asked_for_comes(name: str) -> None:
    """`when asked for` is a promise, too."""
    assert has_usage(EVERY[name], asked=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_address_and_limit_in_the_table_is_the_rows(name: str) -> None:
    row = find_provider(name)
    expected = {"Provider": f"`{name}`", "Base URL": f"`{row.base_url}`", "Limits read from headers": limits(row)}
    assert table("Where they are")[name] == expected


@pytest.mark.parametrize(
    ("heading", "names"),
    [("What each can do", NAMES), ("Where they are", NAMES), ("What becomes of a request", list(OF_TRANSLATED))],
)
def test_the_tables_list_every_provider_and_no_other(heading: str, names: list[str]) -> None:
    assert list(table(heading)) == names


@pytest.mark.parametrize("name", MENDS)
def test_the_document_says_of_each_quirk_for_whom_it_is_mended(name: str) -> None:
    cell = table("What is mended")[name]["For"]
    mended = [row.name for row in ROWS if MENDS[name] in mends_of(row) and mends_of(row) != quirks.ANY]
    assert re.findall(r"`(\w+)`", cell) == mended
    assert cell.endswith("any other") == (MENDS[name] in quirks.ANY)


def test_the_document_lists_every_quirk_and_no_other() -> None:
    assert table("What is mended").keys() == MENDS.keys()


def test_any_other_stands_for_the_rows_of_whom_nothing_odd_is_known() -> None:
    section = DOCUMENT.split("\n## What is mended\n", 1)[1]
    sentence = re.search(r"“Any other” is (.*?) and every provider that is not built in", section, re.DOTALL)
    assert sentence
    assert re.findall(r"`(\w+)`", sentence[1]) == [row.name for row in ROWS if mends_of(row) == quirks.ANY]


def mends_of(row: Provider) -> tuple[Any, ...]:
    assert isinstance(row.dialect, OpenAIDialect)
    return row.dialect.mends


def examples(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("example", examples(DOCUMENT, "yaml"))
def test_every_example_of_a_configuration_is_accepted(example: str) -> None:
    names = {"MINE_KEY": "k", "WORK_KEY": "k", "HOME_KEY": "k"}
    text = yaml.safe_dump({"auth": configuration()["auth"]}) + example
    build_catalog(load(text, name="example", env=names))


def row_on_the_page() -> Provider:
    """The page's own code, run."""
    scope: dict[str, Any] = {kind.__name__: kind for kind in (Provider, OpenAIDialect, LimitHeaders)}
    scope["quirks"] = quirks
    exec(examples(ADDING, "python")[0], scope)
    row: Provider = scope["ACME"]
    return row


def test_the_row_on_the_page_about_adding_one_is_asked_where_the_page_says() -> None:
    model = {"name": "acme/m", "provider": "acme", "base_url": row_on_the_page().base_url}
    catalog = build_catalog(load(yaml.safe_dump(configuration(model)), name="example", env={}))
    assert f"`{catalog.models[0].endpoint.url}`" in ADDING


def test_the_sample_on_the_page_about_adding_one_is_mended_as_the_page_says() -> None:
    """Without the comment, and with a null in place of the second finish."""
    sample = examples(ADDING, "text")[0]
    decoder = row_on_the_page().dialect.decoder(Chat({}, 0), STAMP)
    *chunks, done = [*decoder.feed(sample.encode()), *decoder.close()]
    got = b"".join(sse.encode(chunk.encode()) for chunk in chunks if isinstance(chunk, Chunk))
    first, middle, last = passed_on(sample.encode()).split(b"\n\n")[:3]
    assert got == b"\n\n".join([first, middle, last.replace(b'"stop"', b"null"), b""])
    assert done == Done()


def test_the_language_on_the_page_about_adding_one_is_spoken() -> None:
    """Its code is run: it is a dialect that says a chat and reads what comes."""
    modules = (answering, conversation, dialect, exchange, failures, parameters, port, stream, collections.abc)
    scope: dict[str, Any] = {name: value for module in modules for name, value in vars(module).items()}
    scope |= {"Chat": Chat, "UpstreamError": UpstreamError, "orjson": orjson, "dataclass": dataclasses.dataclass}
    exec(examples(ADDING, "python")[1], scope)
    row: Provider = scope["ACME"]
    endpoint = Endpoint(url=row.base_url, upstream_model="m", token="key-0123")
    asked = row.dialect.request(endpoint, Chat({"messages": [said_by("Hi", " you")], "seed": 1, "max_tokens": 5}, 0))
    said = {"model": "m", "said": [{"by": "user", "words": "Hi you"}], "stream": False, "most": 5, "heat": None}
    assert (orjson.loads(asked.request.body), asked.dropped) == (said, ("seed",))
    whole = row.dialect.completion(b'{"words": "It is.", "read": 3, "wrote": 2}', Chat({}, 0), STAMP)
    assert isinstance(whole, Completion)
    assert whole.body["choices"][0]["message"]["content"] == "It is."
    decoder = row.dialect.decoder(Chat({}, 0), STAMP)
    events = b'data: {"words": "It is."}\n\ndata: {"over": true, "read": 3, "wrote": 2}\n\n'
    text, end, usage = [item.body for item in decoder.feed(events) if isinstance(item, Chunk)]
    assert text["choices"][0]["delta"]["content"] == "It is."
    assert end["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["total_tokens"] == 5
    assert row.failure(429, {}, b"", now=0).kind == "busy"
    with pytest.raises(Unsupported):
        row.dialect.request(endpoint, Chat({"messages": [said_by(PICTURE)]}, 0))


def test_the_page_about_adding_one_explains_every_field_of_a_row() -> None:
    explained = set(re.findall(r"^\| `(\w+)|, `(\w+)` \|", ADDING, re.MULTILINE))
    named = {name for pair in explained for name in pair if name}
    fields = {field.name for kind in (Provider, OpenAIDialect) for field in dataclasses.fields(kind)}
    assert fields - named == {"name", "dialect", "base_url"}, "those stand in the example"
