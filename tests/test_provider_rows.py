"""Every row of the table of providers over real sockets, against an upstream that answers in that provider's form."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from core import sse
from core.chat import Chat
from core.providers import PROVIDERS, TRANSLATED
from core.providers.demo import DEMO
from core.providers.dialect import Completion, Provider
from core.providers.openai import OpenAIDialect
from core.providers.quirks import ANY, Mend, listed_models
from core.providers.rows import AIRFORCE, ROWS
from core.stream import Chunk, Done
from tests.fake_upstream import FakeUpstream, answers
from tests.provider_rig import (
    REAL,
    Rig,
    base_path,
    catalog_of,
    embedder,
    entry_of,
    every_row,
    in_pieces,
    key_in,
    key_of,
    named,
    one_row,
    speaks,
)
from tests.provider_samples import (
    CALLS,
    FOLDER,
    REASONING,
    SAMPLES,
    SPEAKS_AS,
    STAMP,
    TEXT,
    data_of,
    of_kind,
    passed_on,
)
from tests.running_gateway import TOKEN, ask, running

IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # so that one gateway serves all of them
EVERY_ROW = pytest.mark.parametrize("name", SAMPLES)


def mends_of(row: Provider) -> tuple[Mend, ...]:
    assert isinstance(row.dialect, OpenAIDialect)
    return row.dialect.mends


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with every_row() as rig:
        yield rig


# --- The table and its samples


def test_every_row_has_sample_bytes_and_every_folder_of_samples_a_row() -> None:
    names = {row.name for row in (*ROWS, *TRANSLATED, AIRFORCE)}
    assert names - SPEAKS_AS.keys() == {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert set(PROVIDERS) == {*names, DEMO.name}


@EVERY_ROW
def test_samples_of_a_row_show_all_that_it_claims(name: str) -> None:
    samples, row = SAMPLES[name], SAMPLES[name].row
    assert {"stream", "answer", "errors"} <= samples.kinds
    assert ("stream_tools" in samples.kinds) == ("tools" in row.capabilities)
    assert ("models" in samples.kinds) == (row.models_url != "")
    statuses = [error["status"] for error in samples.json("errors")]
    assert statuses[0] == 429
    assert len(statuses) >= 3


@pytest.mark.parametrize(("name", "kind"), of_kind("stream", "answer"))
def test_a_sample_has_a_file_for_the_client_only_where_something_is_mended(name: str, kind: str) -> None:
    samples = SAMPLES[name]
    if samples.is_mended(kind):
        sent = samples.sent(kind)
        assert samples.got(kind) != (passed_on(sent) if kind.startswith("stream") else sent.strip())


@pytest.mark.parametrize("name", [row.name for row in ROWS if mends_of(row) != ANY])
def test_each_mend_of_a_row_changes_something_in_its_samples(name: str) -> None:
    """A row names no mend that nothing shows. Rows with ANY are those of whom nothing odd is known."""
    for mend in mends_of(SAMPLES[name].row):
        without = OpenAIDialect(mends=tuple(other for other in mends_of(SAMPLES[name].row) if other is not mend))
        kinds = [kind for row, kind in of_kind("stream", "answer") if row == name]
        assert any(played(without, name, kind) != SAMPLES[name].got(kind) for kind in kinds), mend


def played(dialect: OpenAIDialect, name: str, kind: str) -> bytes:
    """What a client would get of a sample if the provider were spoken to in `dialect`."""
    sent = SAMPLES[name].sent(kind)
    if kind.startswith("answer"):
        answer = dialect.completion(sent, Chat({}, 0), STAMP)
        assert isinstance(answer, Completion)
        return answer.raw
    decoder = dialect.decoder(Chat({"stream_options": {"include_usage": kind.startswith("stream_usage")}}, 0), STAMP)
    items = [*decoder.feed(sent), *decoder.close(), Done()]
    chunks = [item for item in items[: items.index(Done())] if isinstance(item, Chunk) and not item.is_unasked]
    return b"".join(sse.encode(chunk.encode()) for chunk in chunks) + sse.DONE


# --- What the provider is asked


@EVERY_ROW
def test_a_row_asks_its_provider_at_its_real_address_with_its_own_key(name: str) -> None:
    row = SAMPLES[name].row
    _, upstream_id, address = REAL[name]
    model = catalog_of({"name": named(name), "provider": name}, **{name: entry_of(row)}).models[0]
    request = model.row.dialect.request(model.endpoint, Chat(ask(), 0)).request
    assert (request.method, request.url) == ("POST", address)
    assert orjson.loads(request.body)["model"] == upstream_id
    assert key_in(request.headers) == (key_of(name) if row.needs_token else None)


@pytest.mark.parametrize(
    ("provider", "name", "upstream_id"),
    [
        ("openrouter", "deepseek/deepseek-chat:free", "deepseek/deepseek-chat:free"),
        ("openrouter", "openrouter/deepseek/deepseek-chat:free", "deepseek/deepseek-chat:free"),
        ("openrouter", "openrouter/openrouter/auto", "openrouter/auto"),
        ("cloudflare", "cloudflare/cf/meta/llama-3.1-8b-instruct", "@cf/meta/llama-3.1-8b-instruct"),
        ("cloudflare", "cloudflare/@cf/meta/llama-3.1-8b-instruct", "@cf/meta/llama-3.1-8b-instruct"),
        ("cloudflare", "@hf/nousresearch/hermes-2-pro-mistral-7b", "@hf/nousresearch/hermes-2-pro-mistral-7b"),
        ("github", "openai/gpt-4.1", "openai/gpt-4.1"),
        ("nvidia", "nvidia/nvidia/llama-3.1-nemotron-70b-instruct", "nvidia/llama-3.1-nemotron-70b-instruct"),
        ("groq", "llama-3.3-70b-versatile", "llama-3.3-70b-versatile"),
        ("groq", "groq", "groq"),
    ],
)
def test_upstream_id_is_the_name_less_the_provider_in_front(provider: str, name: str, upstream_id: str) -> None:
    catalog = catalog_of({"name": name, "provider": provider}, **{provider: entry_of(PROVIDERS[provider])})
    assert catalog.models[0].endpoint.upstream_model == upstream_id


@IN_ONE_LOOP
@EVERY_ROW
@pytest.mark.parametrize("stream", [False, True])
async def test_provider_gets_the_request_unchanged_but_for_the_model(rig: Rig, name: str, stream: bool) -> None:
    """Fields that we do not know too; the caller's own key stays here."""
    row = SAMPLES[name].row
    body = ask(
        model=named(name), stream=stream, temperature=0.7, stop=["\u2028", "Æ"], user=None, x_new={"deep": [1, {}]}
    )
    script = speaks(name) if stream else answers(SAMPLES[name].sent("answer"))
    await rig.chat(name, script, **{key: value for key, value in body.items() if key != "model"})
    assert (rig.asked.method, rig.asked.path) == ("POST", base_path(row) + row.chat_path)
    assert rig.asked.json == {**body, "model": REAL[name][1]}
    assert key_in(rig.asked.headers) == (key_of(name) if row.needs_token else None)
    assert rig.asked.headers["content-type"] == "application/json"
    assert rig.asked.headers["accept"] == ("text/event-stream" if stream else "application/json")
    assert TOKEN not in str(rig.asked)


@IN_ONE_LOOP
async def test_mistral_gets_nine_characters_for_the_ids_of_other_providers_calls(rig: Rig) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_Oslo1", **call}, {"id": "Ab3dE6gH9", **call}],
        },
        {"role": "tool", "tool_call_id": "call_Oslo1", "content": "rain"},
        {"role": "tool", "tool_call_id": "Ab3dE6gH9", "content": "sun"},
    ]
    await rig.chat("mistral", answers(SAMPLES["mistral"].sent("answer")), messages=messages)
    _, assistant, first, second = rig.asked.json["messages"]
    stand_in = assistant["tool_calls"][0]["id"]
    assert len(stand_in) == 9
    assert stand_in.isalnum()
    assert (first["tool_call_id"], second["tool_call_id"]) == (stand_in, "Ab3dE6gH9")
    assert assistant == {**messages[1], "tool_calls": [{"id": stand_in, **call}, {"id": "Ab3dE6gH9", **call}]}
    assert rig.asked.json["messages"][0] == messages[0]


@pytest.mark.parametrize("name", ["ollama", "vllm"])
async def test_a_key_is_sent_to_a_provider_that_needs_none_when_one_is_configured(
    upstream: FakeUpstream, name: str
) -> None:
    upstream.script = answers(SAMPLES[name].sent("answer"))
    async with one_row(name, upstream, token="my-own-key") as gateway:
        await gateway.chat(model=named(name))
    assert upstream.requests[0].headers["authorization"] == "Bearer my-own-key"


async def test_two_accounts_of_one_provider_stand_side_by_side(upstream: FakeUpstream) -> None:
    """The second has a name of its own, its own key and its own address; how it speaks is the provider's."""
    upstream.script = in_pieces(SAMPLES["groq"].sent("stream_reasoning"))
    base = upstream.url + "/openai/v1"
    providers = {
        "groq": {"token": key_of("groq"), "base_url": base},
        "groq-2": {"dialect": "groq", "token": key_of("groq-2"), "base_url": f"{base}/second"},
    }
    models = [
        {"name": "groq/llama-3.1-8b-instant", "provider": "groq"},
        {"name": "groq-2/llama-3.1-8b-instant", "provider": "groq-2"},
        {"name": "groq/gemma2-9b-it", "provider": "groq-2"},
    ]
    async with running(*models, providers=providers) as gateway:
        got = [(await gateway.chat(model=model["name"], stream=True)).content for model in models]
    assert got == [SAMPLES["groq"].got("stream_reasoning")] * 3
    assert [(r.path, r.headers["authorization"], r.json["model"]) for r in upstream.requests] == [
        ("/openai/v1/chat/completions", f"Bearer {key_of('groq')}", "llama-3.1-8b-instant"),
        ("/openai/v1/second/chat/completions", f"Bearer {key_of('groq-2')}", "llama-3.1-8b-instant"),
        ("/openai/v1/second/chat/completions", f"Bearer {key_of('groq-2')}", "gemma2-9b-it"),
    ]


# --- What the client gets


@IN_ONE_LOOP
@pytest.mark.parametrize(("name", "kind"), of_kind("stream"))
async def test_client_gets_the_chunks_as_they_came_save_for_what_the_row_mends(rig: Rig, name: str, kind: str) -> None:
    options = {"stream_options": {"include_usage": True}} if kind.startswith("stream_usage") else {}
    got = await rig.chat(name, in_pieces(SAMPLES[name].sent(kind)), stream=True, **options)
    assert got == SAMPLES[name].got(kind)


@IN_ONE_LOOP
@pytest.mark.parametrize(("name", "kind"), of_kind("answer"))
async def test_client_gets_a_whole_answer_as_it_came_save_for_what_the_row_mends(
    rig: Rig, name: str, kind: str
) -> None:
    assert await rig.chat(name, answers(SAMPLES[name].sent(kind))) == SAMPLES[name].got(kind)


@pytest.mark.parametrize(("name", "kind"), of_kind("answer_tools"))
def test_tool_calls_of_a_whole_answer_are_in_openais_form(name: str, kind: str) -> None:
    choice = orjson.loads(SAMPLES[name].got(kind))["choices"][0]
    functions = [call["function"] for call in choice["message"]["tool_calls"] if call["type"] == "function"]
    assert [(function["name"], orjson.loads(function["arguments"])) for function in functions] == CALLS
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(("name", "kind"), of_kind("answer_reasoning"))
def test_reasoning_of_a_whole_answer_stands_as_reasoning_content(name: str, kind: str) -> None:
    message = orjson.loads(SAMPLES[name].got(kind))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (TEXT, REASONING)


# Rows with a sample of a stream that breaks off, and the code that the caller hears.
BREAKS = {"openrouter": "upstream_error", "groq": "tool_use_failed"}


def test_every_stream_that_breaks_off_is_played() -> None:
    assert BREAKS.keys() == {name for name, samples in SAMPLES.items() if "stream_error" in samples.kinds}


@pytest.mark.parametrize("name", BREAKS)
async def test_an_error_in_the_middle_of_a_stream_ends_it_without_done(upstream: FakeUpstream, name: str) -> None:
    upstream.script = in_pieces(SAMPLES[name].sent("stream_error"))
    async with one_row(name, upstream) as gateway:
        response = await gateway.chat(model=named(name), stream=True)
    *chunks, last = data_of(response.content)
    assert response.status_code == 200
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "It is"
    assert last["error"]["code"] == BREAKS[name]
    assert b"[DONE]" not in response.content
    assert b'"finish_reason":"' not in response.content


# --- Embeddings and lists of models


@IN_ONE_LOOP
@pytest.mark.parametrize(("name", "kind"), of_kind("embeddings"))
async def test_embeddings_go_to_the_rows_provider_and_come_back_as_they_are(rig: Rig, name: str, kind: str) -> None:
    row = SAMPLES[name].row
    rig.upstream.script = answers(SAMPLES[name].sent(kind))
    body = {"model": embedder(name), "input": ["one", "two"], "dimensions": 2}
    response = await rig.gateway.client.post("/v1/embeddings", json=body)
    assert (response.status_code, response.content) == (200, SAMPLES[name].got(kind))
    assert rig.asked.path == base_path(row) + row.embeddings_path
    assert rig.asked.json == {**body, "model": row.model_prefix + "embed"}
    assert key_in(rig.asked.headers) == (key_of(name) if row.needs_token else None)


@pytest.mark.parametrize(("name", "kind"), of_kind("models"))
def test_ids_are_found_in_every_form_of_a_list_of_models(name: str, kind: str) -> None:
    """What is listed may lack the route behind the colon (`:novita`), or name a tag (`:latest`)."""
    listed = [model_id.partition(":")[0] for model_id in listed_models(SAMPLES[name].json(kind))]
    assert REAL[name][1].partition(":")[0] in listed
