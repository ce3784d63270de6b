"""Configurations that were written for the two programs before Sluice load and run as they are, and so does what
people would write today. The gateway is `sluice serve` with AUTH_TOKEN in its environment, as it was for those.
"""

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from core.catalog import build_catalog
from core.config import ConfigError, Loaded, load
from sluice.check import route_table
from tests.fake_upstream import (
    DONE,
    Exchange,
    FakeUpstream,
    Script,
    answers,
    answers_json,
    chunk,
    completion,
    events,
    took,
)
from tests.pictures import PNG
from tests.provider_samples import OF_TRANSLATED, TEXT
from tests.running_gateway import TOKEN, ask, model, running
from tests.served import Served, served, sluice

KEY_IN_URL = "AIzaCanary-in-the-address-0123456789"
GIGACHAT_TOKEN = "canary-client-id:canary-client-secret-9876"
COHERE_TOKEN = "cohere-canary-0123456789abcdef"
SECRETS = (KEY_IN_URL, GIGACHAT_TOKEN, "canary-client-secret", COHERE_TOKEN, TOKEN)

# Every key that the first program knew. `{upstream}` stands for the provider's address, and for nothing else.
FIRST = """\
models:
  - name: openrouter/meta-llama/llama-3.3-70b-instruct:free
    provider: openrouter
    priority: 2
    requests_per_minute: 20
    requests_per_hour: 200
    requests_per_day: 1000
    url: "{upstream}/openrouter/api/v1/chat/completions"
    token: "openrouter-token-0123"
    max_request_length: 128000
    model_size: BIG
    http_client_config:
      timeout_seconds: 30
      idle_conn_timeout_seconds: 90

  - name: deepseek/deepseek-chat:free
    provider: openrouter
    priority: 3
    requests_per_minute: 20
    requests_per_hour: 200
    requests_per_day: 1000
    url: "{upstream}/openrouter/api/v1/chat/completions"
    token: "openrouter-token-0123"
    max_request_length: 64000
    model_size: BIG

  - name: groq/llama-3.1-8b-instant
    provider: groq
    priority: 1
    requests_per_minute: 30
    requests_per_hour: 1000
    requests_per_day: 14400
    url: "{upstream}/groq/openai/v1/chat/completions"
    token: "groq-token-0123"
    max_request_length: 20000
    model_size: SMALL

  - name: cloudflare/cf/meta/llama-3.1-8b-instruct
    provider: cloudflare
    priority: 5
    requests_per_minute: 300
    requests_per_hour: 10000
    requests_per_day: 10000
    url: "{upstream}/cloudflare/accounts/a1b2/ai/v1/chat/completions"
    token: "cloudflare-token-0123"
    max_request_length: 16000
    model_size: SMALL

  - name: google/gemini-2.0-flash
    provider: google
    priority: 1
    requests_per_minute: 15
    requests_per_hour: 900
    requests_per_day: 1500
    url: "{upstream}/google/v1beta/models/gemini-2.0-flash:generateContent?key={key_in_url}"
    max_request_length: 1000000
    model_size: BIG
"""

# What the second one had besides: other providers, images by `max_request_length: 0`, idle connections.
SECOND = """\
models:
  - name: gigachat/GigaChat-2
    provider: gigachat
    priority: 1
    requests_per_minute: 60
    requests_per_hour: 3600
    requests_per_day: 5000
    url: https://gigachat.devices.sberbank.ru/api/v1
    token: "{gigachat_token}"
    max_request_length: 32000
    model_size: SMALL
    http_client_config: {{timeout_seconds: 60, idle_conn_timeout_seconds: 30}}
  - name: cohere/command-r
    provider: cohere
    priority: 1
    requests_per_minute: 20
    requests_per_hour: 1000
    requests_per_day: 33
    url: {upstream}/cohere/v2/chat
    token: {cohere_token}
    max_request_length: 100000
    model_size: BIG
  - name: huggingface/Qwen/Qwen2.5-72B-Instruct
    provider: huggingface
    priority: 2
    requests_per_minute: 10
    requests_per_hour: 100
    requests_per_day: 1000
    url: {upstream}/hf/v1/chat/completions
    token: hf_token-0123
    max_request_length: 32000
    model_size: BIG
  - name: together/meta-llama/Llama-3.3-70B-Instruct-Turbo-Free
    provider: together
    priority: 3
    requests_per_minute: 6
    requests_per_hour: 60
    requests_per_day: 1440
    url: {upstream}/together/v1/chat/completions
    token: together-token-0123
    max_request_length: 130000
    model_size: BIG
  - name: together/black-forest-labs/FLUX.1-schnell-Free
    provider: together
    priority: 1
    requests_per_minute: 6
    requests_per_hour: 60
    requests_per_day: 100
    url: {upstream}/together/v1/images/generations
    token: together-token-0123
    max_request_length: 0
    model_size: SMALL
  - name: neighbour/mixtral
    provider: neighbour
    priority: 4
    requests_per_minute: 100
    requests_per_hour: 1000
    requests_per_day: 10000
    url: {upstream}/neighbour/chat
    token: neighbour-token-0123
    max_request_length: 32000
    model_size: small
"""

# Where each model of the two is asked, what it is called there, and with which key.
ASKED = {
    "openrouter/meta-llama/llama-3.3-70b-instruct:free": (
        "/openrouter/api/v1/chat/completions",
        "meta-llama/llama-3.3-70b-instruct:free",
        "openrouter-token-0123",
    ),
    "deepseek/deepseek-chat:free": (
        "/openrouter/api/v1/chat/completions",
        "deepseek/deepseek-chat:free",
        "openrouter-token-0123",
    ),
    "groq/llama-3.1-8b-instant": ("/groq/openai/v1/chat/completions", "llama-3.1-8b-instant", "groq-token-0123"),
    "cloudflare/cf/meta/llama-3.1-8b-instruct": (
        "/cloudflare/accounts/a1b2/ai/v1/chat/completions",
        "@cf/meta/llama-3.1-8b-instruct",
        "cloudflare-token-0123",
    ),
    "huggingface/Qwen/Qwen2.5-72B-Instruct": ("/hf/v1/chat/completions", "Qwen/Qwen2.5-72B-Instruct", "hf_token-0123"),
    "together/meta-llama/Llama-3.3-70B-Instruct-Turbo-Free": (
        "/together/v1/chat/completions",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo-Free",
        "together-token-0123",
    ),
    "neighbour/mixtral": ("/neighbour/chat", "mixtral", "neighbour-token-0123"),
}

ASKED_IN_THEIR_WORDS = {
    "google/gemini-2.0-flash": (
        "/google/v1beta/models/gemini-2.0-flash:generateContent",
        "x-goog-api-key",
        KEY_IN_URL,
    ),
    "cohere/command-r": ("/cohere/v2/chat", "authorization", f"Bearer {COHERE_TOKEN}"),
}


# Models of images, as both programs marked them.
IMAGES = "models:" + "".join(
    f"""
  - name: {name}
    provider: {name.partition("/")[0]}
    priority: {priority}
    requests_per_hour: {limit}
    url: {{upstream}}{path}
    token: {token}
    max_request_length: 0
    model_size: {size}
"""
    for priority, (name, path, token, limit, size) in enumerate(
        [
            ("cloudflare/cf/black-forest-labs/flux-1-schnell", "/cf/ai/run/@cf/flux-1-schnell", "t-cf", 2, "SMALL"),
            ("huggingface/black-forest-labs/FLUX.1-dev", "/hf/models/FLUX.1-dev", "t-hf", 100, "BIG"),
            ("together/black-forest-labs/FLUX.1-schnell", "/together/v1/images/generations", "t-to", 100, "SMALL"),
            ("aimlapi/flux-pro", "/aimlapi/images/generations", "t-ai", 100, "SMALL"),
            ("airforce/flux", "/airforce/imagine", "t-air", 100, "SMALL"),
            ("neighbour/painter", "/neighbour/draw", "t-nb", 100, "SMALL"),
        ]
    )
)

# What each is sent at its address, and what it answers.
IN_BASE64 = {"data": [{"b64_json": base64.b64encode(PNG).decode()}]}
DRAWN: dict[str, tuple[dict[str, Any] | None, Script]] = {
    "cloudflare/cf/black-forest-labs/flux-1-schnell": (
        {"prompt": "a cat"},
        answers_json({"result": {"image": base64.b64encode(PNG).decode()}, "success": True}),
    ),
    "huggingface/black-forest-labs/FLUX.1-dev": ({"inputs": "a cat"}, answers(PNG, content_type="image/jpeg")),
    "together/black-forest-labs/FLUX.1-schnell": (
        {"model": "black-forest-labs/FLUX.1-schnell", "prompt": "a cat", "response_format": "base64"},
        answers_json(IN_BASE64),
    ),
    "aimlapi/flux-pro": (
        {"model": "flux-pro", "prompt": "a cat", "response_format": "b64_json"},
        answers_json(IN_BASE64),
    ),
    "airforce/flux": (None, answers(PNG)),
    "neighbour/painter": ({"prompt": "a cat"}, answers(PNG)),
}


def old(text: str, upstream: str = "http://127.0.0.1:9") -> str:
    return text.format(
        upstream=upstream, key_in_url=KEY_IN_URL, gigachat_token=GIGACHAT_TOKEN, cohere_token=COHERE_TOKEN
    )


def loaded(text: str, **env: str) -> Loaded:
    return load(text, name="config.yaml", env={"AUTH_TOKEN": TOKEN, **env})


def line_of(text: str, words: str) -> int:
    return text[: text.index(words)].count("\n") + 1


@contextlib.asynccontextmanager
async def serving(folder: Path, text: str) -> AsyncIterator[Served]:
    (folder / "config.yaml").write_text(text)
    async with served("--addr", "127.0.0.1:0", cwd=folder, env={"AUTH_TOKEN": TOKEN}, token=TOKEN) as gateway:
        yield gateway


# They load


@pytest.mark.parametrize(("text", "models"), [(FIRST, 5), (SECOND, 6)])
def test_it_loads_without_a_warning(text: str, models: int) -> None:
    found = loaded(old(text))
    assert len(found.config.models) == models
    assert found.warnings == []


def test_each_key_means_what_it_meant() -> None:
    catalog = build_catalog(loaded(old(FIRST + SECOND.removeprefix("models:\n"))))
    llama = catalog.by_name["openrouter/meta-llama/llama-3.3-70b-instruct:free"]
    limits = llama.limits
    assert (limits.requests_per_minute, limits.requests_per_hour, limits.requests_per_day) == (20, 200, 1000)
    assert (llama.priority, llama.category, llama.max_request_length) == (2, "BIG", 128000)
    assert (llama.timeouts.first_token, llama.timeouts.idle, llama.timeouts.buffered_total) == (30, 30, 30)
    assert llama.timeouts.total == 600  # never the length of a stream
    assert catalog.by_name["neighbour/mixtral"].category == "SMALL"
    assert {name: entry.kind for name, entry in catalog.by_name.items() if entry.kind != "chat"} == {
        "together/black-forest-labs/FLUX.1-schnell-Free": "image"
    }


def test_no_key_of_theirs_is_shown_anywhere(tmp_path: Path) -> None:
    """Not by what is loaded, not by the route table, not by the command."""
    text = old(FIRST + SECOND.removeprefix("models:\n"))
    found = loaded(text)
    (tmp_path / "config.yaml").write_text(text)
    checked = sluice("check", cwd=tmp_path, env={"AUTH_TOKEN": TOKEN})
    assert checked.returncode == 0
    shown = [repr(found), str(found.config), route_table(found), *found.warnings, checked.stdout, checked.stderr]
    for secret in (*SECRETS, "openrouter-token-0123", "together-token-0123"):
        assert not [text for text in shown if secret in text]


def test_a_problem_is_told_without_the_key_beside_it() -> None:
    broken = old(FIRST).replace("http://127.0.0.1:9/google", "htps://127.0.0.1:9/google")
    broken = broken.replace("requests_per_minute: 15", "requests_per_minute: many")
    with pytest.raises(ConfigError) as refused:
        loaded(broken)
    assert refused.value.problems == [
        f"config.yaml:{line_of(broken, 'many')}: models[4].requests_per_minute: must be a whole number",
        f"config.yaml:{line_of(broken, 'htps')}: models[4].url: must be an http:// or https:// address",
    ]


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({}, "auth: is missing and AUTH_TOKEN is not set"),
        ({"AUTH_TOKEN": ""}, "auth: is missing and AUTH_TOKEN is not set"),
        ({"AUTH_TOKEN": "fifteen-letters"}, "auth.keys[0].token: must have at least 16 characters"),
    ],
)
def test_without_a_good_auth_token_nothing_is_served(env: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:1: ") as refused:
        load(old(FIRST), name="config.yaml", env=env)
    assert problem in str(refused.value)
    assert "fifteen-letters" not in str(refused.value)


# They run


async def test_every_model_is_asked_as_it_was(tmp_path: Path, upstream: FakeUpstream) -> None:
    """Whole and as a stream, on the old path and the new one; nothing that is printed holds a key."""
    text = old(FIRST + SECOND.removeprefix("models:\n"), upstream.url)
    async with serving(tmp_path, text) as gateway:
        for name, (path, upstream_model, token) in ASKED.items():
            for at in ("/chat/completions", "/v1/chat/completions"):
                upstream.script = answers_json(completion(name))
                answer = await gateway.client.post(at, json=ask(model=name))
                assert answer.json()["choices"][0]["message"]["content"] == name
                assert answer.headers["x-sluice-model"] == name
                upstream.script = events(chunk(name), chunk(finish="stop"), DONE)
                streamed = await gateway.client.post(at, json=ask(model=name, stream=True))
                assert streamed.content == chunk(name) + chunk(finish="stop") + DONE
                for asked in upstream.requests[-2:]:
                    assert (asked.path, asked.json["model"]) == (path, upstream_model)
                    assert asked.headers["authorization"] == f"Bearer {token}"
        for name, (path, header, key) in ASKED_IN_THEIR_WORDS.items():
            upstream.script = answers(OF_TRANSLATED[name.partition("/")[0]].sent("answer"))
            answer = await gateway.client.post("/chat/completions", json=ask(model=name))
            assert answer.json()["choices"][0]["message"]["content"] == TEXT
            assert (upstream.requests[-1].path, upstream.requests[-1].headers[header]) == (path, key)
        listed = [row["id"] for row in (await gateway.client.get("/models")).json()["data"]]
        written = re.findall(r"- name: (\S+)", FIRST + SECOND)
        assert listed == [*written, "SMALL", "BIG"]
        gateway.process.terminate()
        log, errors = await gateway.process.communicate()
    printed = gateway.greeting + log.decode() + errors.decode()
    assert log.count(b'"message":"request"') == len(ASKED) * 4 + len(ASKED_IN_THEIR_WORDS) + 1
    assert not [secret for secret in SECRETS if secret in printed]
    assert not [token for _, _, token in ASKED.values() if token in printed]


async def test_a_size_is_answered_by_its_model_of_least_priority_number(tmp_path: Path, upstream: FakeUpstream) -> None:
    """In any case; a request without a model means SMALL. Only chat models answer a chat: the image model is better.

    A limit of 0 switches a model off, so that here all that are left speak one language.
    """
    text = old(FIRST + SECOND.removeprefix("models:\n"), upstream.url)
    text = text.replace("requests_per_day: 1500", "requests_per_day: 0").replace("per_day: 33", "per_day: 0")
    async with serving(tmp_path, text) as gateway:
        for asked, expected in {
            "BIG": "huggingface/Qwen/Qwen2.5-72B-Instruct",  # of equal priority and both idle: the smaller first,
            "big": "openrouter/meta-llama/llama-3.3-70b-instruct:free",  # then the one that was used less lately
            "SMALL": "groq/llama-3.1-8b-instant",
            "": "groq/llama-3.1-8b-instant",
            None: "groq/llama-3.1-8b-instant",
        }.items():
            answer = await gateway.client.post("/chat/completions", json=ask(model=asked))
            assert answer.headers["x-sluice-model"] == expected
        answer = await gateway.client.post("/chat/completions", json=ask(model="gpt-4"))
        assert answer.json()["error"]["code"] == "model_not_found"  # short names were sizes once


async def test_every_model_of_images_draws_as_it_did(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with serving(tmp_path, old(IMAGES, upstream.url)) as gateway:
        for name, (body, script) in DRAWN.items():
            upstream.script = script
            answer = await gateway.client.post("/image", json={"model": name, "inputs": "a cat"})
            assert (answer.status_code, answer.content) == (200, PNG)
            assert (answer.headers["content-type"], answer.headers["x-sluice-model"]) == ("image/png", name)
            asked = upstream.requests[-1]
            if body is None:
                assert (asked.method, asked.path) == ("GET", "/airforce/imagine?model=flux&prompt=a+cat")
            else:
                assert (asked.method, asked.json) == ("POST", body)
                assert asked.headers["authorization"].startswith("Bearer t-")
        upstream.script = answers(PNG)
        best = [
            await gateway.client.post("/image", json={"model": model, "prompt": "x"}) for model in ("all", "", "all")
        ]
    first, second = list(DRAWN)[:2]
    assert [answer.headers["x-sluice-model"] for answer in best] == [first, second, second], "the first has two an hour"


async def test_the_old_time_out_bounds_a_whole_answer_but_not_the_length_of_a_stream(upstream: FakeUpstream) -> None:
    """Pieces every 0.2 s, eight of them, with half a second allowed."""

    async def script(exchange: Exchange) -> None:
        streams = exchange.request.json.get("stream")
        pieces = [chunk("x")] * 7 + [chunk(finish="stop") + DONE]
        if not streams:
            raw = orjson.dumps(completion("x" * 80))
            pieces = [raw[at : at + len(raw) // 7] for at in range(0, len(raw), len(raw) // 7)]
        await exchange.start(200, content_type="text/event-stream" if streams else "application/json")
        for piece in pieces:
            await exchange.send(piece)
            await asyncio.sleep(0.2)
        await exchange.end()

    upstream.script = script
    async with running(model(upstream.url, http_client_config={"timeout_seconds": 0.5})) as gateway:
        with took(0.4, 1.2):
            assert (await gateway.chat()).status_code == 504
        streamed = await gateway.chat(stream=True)
    assert streamed.content.endswith(DONE)
    assert streamed.content.count(b'"content":"x"') == 7


async def test_the_old_idle_time_closes_connections_that_are_not_used(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url, http_client_config={"idle_conn_timeout_seconds": 0.3})) as gateway:
        assert (await gateway.chat()).status_code == 200
        assert upstream.open_connections == 1
        await upstream.until_open(0)


# What is new, as people use it


async def test_an_alias_is_a_further_name_of_a_model(upstream: FakeUpstream) -> None:
    """The caller asks for gpt-4o and learns who answered; the list shows the name that it has here."""
    async with running(model(upstream.url, "groq/llama", aliases=["gpt-4o", "gpt-4"])) as gateway:
        for name in ("gpt-4o", "gpt-4", "groq/llama"):
            answer = await gateway.chat(model=name)
            assert (answer.status_code, answer.headers["x-sluice-model"]) == (200, "groq/llama")
        assert [row["id"] for row in (await gateway.client.get("/v1/models")).json()["data"]] == ["groq/llama"]
        assert (await gateway.client.get("/v1/models/gpt-4o")).json()["id"] == "gpt-4o"
        assert (await gateway.chat(model="GPT-4o")).status_code == 404  # names are exact
    assert {request.json["model"] for request in upstream.requests} == {"up-1"}


@pytest.mark.parametrize(
    ("unknown_model", "answered_by"),
    [(None, None), (404, None), ("404", None), ("BIG", "large"), ("big", "large"), ("HUGE", "huge-1")],
)
async def test_an_unknown_model_is_refused_or_means_a_size(
    upstream: FakeUpstream, unknown_model: Any, answered_by: str | None
) -> None:
    server = {} if unknown_model is None else {"unknown_model": unknown_model}
    sizes = {"little": "SMALL", "large": "BIG", "huge-1": "HUGE"}
    models = [model(upstream.url, name, model_size=size) for name, size in sizes.items()]
    async with running(*models, server=server) as gateway:
        answer = await gateway.chat(model="claude-sonnet-4-5")
        assert (await gateway.chat(model="little")).headers["x-sluice-model"] == "little"
    if answered_by is None:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    else:
        assert (answer.status_code, answer.headers["x-sluice-model"]) == (200, answered_by)


def optional_text(upstream: str) -> str:
    return f"""\
providers:
  groq: {{token: "${{GROQ_API_KEY}}", optional: true, base_url: {upstream}/groq}}
models:
  - {{name: mine, provider: openai, base_url: {upstream}/mine, token: "${{MY_KEY}}", optional: true, model_size: SMALL}}
  - {{name: groq/llama, provider: groq, model_size: SMALL}}
  - {{name: local, provider: neighbour, base_url: {upstream}/local, model_size: SMALL}}
"""


@pytest.mark.parametrize(
    ("env", "kept", "missing"),
    [
        ({}, ["local"], ["MY_KEY", "GROQ_API_KEY"]),
        ({"MY_KEY": "k"}, ["mine", "local"], ["GROQ_API_KEY"]),
        ({"GROQ_API_KEY": "k"}, ["groq/llama", "local"], ["MY_KEY"]),
        ({"GROQ_API_KEY": "k", "MY_KEY": "k"}, ["mine", "groq/llama", "local"], []),
    ],
)
def test_what_is_optional_is_left_out_with_a_warning_when_its_variable_is_unset(
    env: dict[str, str], kept: list[str], missing: list[str]
) -> None:
    found = loaded(optional_text("http://127.0.0.1:9"), **env)
    assert [entry.name for entry in found.config.models] == kept
    assert [warning.partition("left out: ")[2] for warning in found.warnings] == [
        f"{variable} is not set" for variable in missing
    ]


def test_what_is_not_optional_is_a_problem() -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(optional_text("http://127.0.0.1:9").replace(", optional: true", ""))
    assert refused.value.problems == [
        "config.yaml:2: providers.groq.token: needs the variable GROQ_API_KEY, which is not set",
        "config.yaml:4: models[0].token: needs the variable MY_KEY, which is not set",
    ]


async def test_base_url_is_completed_by_the_dialects_paths(upstream: FakeUpstream) -> None:
    """On a model or, for all of its models, on a provider; with a slash at its end or without."""
    vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}]}

    async def script(exchange: Exchange) -> None:
        is_chat = exchange.request.path.endswith("/chat/completions")
        await answers_json(completion() if is_chat else vectors)(exchange)

    upstream.script = script
    providers = {"lab": {"base_url": f"{upstream.url}/lab/v2/"}}
    async with running(
        {"name": "lab/one", "provider": "lab"},
        {"name": "lab/two", "provider": "lab", "base_url": f"{upstream.url}/two"},
        {"name": "lab/vectors", "provider": "lab", "kind": "embedding"},
        providers=providers,
    ) as gateway:
        await gateway.chat(model="lab/one")
        await gateway.chat(model="lab/two")
        await gateway.client.post("/v1/embeddings", json={"model": "lab/vectors", "input": "x"})
    assert [(asked.path, asked.json["model"]) for asked in upstream.requests] == [
        ("/lab/v2/chat/completions", "one"),
        ("/two/chat/completions", "two"),
        ("/lab/v2/embeddings", "vectors"),
    ]
    assert "authorization" not in upstream.requests[0].headers  # it asks for no key, and has none of ours


async def test_two_accounts_of_one_provider_stand_side_by_side(upstream: FakeUpstream) -> None:
    accounts = {
        name: {"dialect": "groq", "base_url": f"{upstream.url}/openai/v1", "token": f"key-of-{name}"}
        for name in ("groq-home", "groq-work")
    }
    models = [{"name": f"{name}/llama-3.3", "provider": name} for name in accounts]
    async with running(*models, providers=accounts) as gateway:
        for name in accounts:
            assert (await gateway.chat(model=f"{name}/llama-3.3")).status_code == 200
    assert [(asked.json["model"], asked.headers["authorization"]) for asked in upstream.requests] == [
        ("llama-3.3", "Bearer key-of-groq-home"),
        ("llama-3.3", "Bearer key-of-groq-work"),
    ]


@pytest.mark.parametrize(
    ("allowed", "may", "listed"),
    [
        (["fast"], {"fast", "quick", "SMALL", ""}, ["fast", "SMALL"]),
        (["quick"], {"fast", "quick", "SMALL", ""}, ["fast", "SMALL"]),  # an alias
        (["small"], {"fast", "quick", "SMALL", "", "cheap"}, ["fast", "cheap", "SMALL"]),  # a size
        (["deep"], {"deep", "BIG"}, ["deep", "BIG"]),
        (None, {"fast", "quick", "SMALL", "", "cheap", "deep", "BIG"}, ["fast", "cheap", "deep", "SMALL", "BIG"]),
    ],
)
async def test_a_key_with_models_of_its_own_sees_and_asks_only_these(
    upstream: FakeUpstream, allowed: list[str] | None, may: set[str], listed: list[str]
) -> None:
    """What it may not use does not exist for it."""
    key = {"name": "guest", "token": TOKEN, **({"models": allowed} if allowed else {})}
    models = [
        model(upstream.url, "fast", model_size="SMALL", aliases=["quick"]),
        model(upstream.url, "cheap", model_size="SMALL"),
        model(upstream.url, "deep", model_size="BIG"),
    ]
    async with running(*models, auth={"keys": [key]}) as gateway:
        for name in ("fast", "quick", "cheap", "deep", "SMALL", "BIG", ""):
            answer = await gateway.chat(model=name)
            assert answer.status_code == (200 if name in may else 404), name
            if name in ("SMALL", "BIG", "") and name in may:
                assert answer.headers["x-sluice-model"] in may
        assert [row["id"] for row in (await gateway.client.get("/v1/models")).json()["data"]] == listed
        assert (await gateway.client.get("/v1/models/deep")).status_code == (200 if "deep" in may else 404)


async def test_a_page_of_an_allowed_origin_can_chat(upstream: FakeUpstream) -> None:
    """As a browser does it: it asks first, without a key, then sends the request and may read our headers."""
    page = {"origin": "https://chat.example"}
    preflight = {
        **page,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    upstream.script = events(chunk("Hi"), chunk(finish="stop"), DONE)
    async with (
        running(model(upstream.url), server={"cors_origins": ["https://chat.example"]}) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as browser,
    ):
        asked = await browser.options("/v1/chat/completions", headers=preflight)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://chat.example"
        assert "POST" in asked.headers["access-control-allow-methods"]
        for name in ("authorization", "content-type", "x-stainless-os"):
            assert name in asked.headers["access-control-allow-headers"]

        answer = await gateway.client.post("/v1/chat/completions", json=ask(stream=True), headers=page)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "x-sluice-model" in answer.headers["access-control-expose-headers"]
        assert answer.content.endswith(DONE)

        refused = await browser.post("/v1/chat/completions", json=ask(), headers=page)
        assert refused.status_code == 401  # and the page can read why
        assert refused.headers["access-control-allow-origin"] == "https://chat.example"

        stranger = await gateway.client.get("/v1/models", headers={"origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in stranger.headers


async def test_without_origins_there_is_no_cors(upstream: FakeUpstream) -> None:
    headers = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    async with running(model(upstream.url)) as gateway:
        answers = [
            await gateway.client.options("/v1/chat/completions", headers=headers),
            await gateway.client.get("/v1/models", headers=headers),
        ]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control-")]


async def test_the_official_package_talks_to_an_old_configuration(tmp_path: Path, upstream: FakeUpstream) -> None:
    upstream.script = events(chunk("Hel"), chunk("lo"), chunk(finish="stop"), DONE)
    async with (
        serving(tmp_path, old(FIRST, upstream.url)) as gateway,
        openai.AsyncOpenAI(base_url=gateway.url, api_key=TOKEN, max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model="SMALL", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        said = [part.choices[0].delta.content or "" async for part in stream]
    assert "".join(said) == "Hello"
