"""Every provider that draws, over real sockets: what it is asked, in its own words, and the very bytes that it sends.

All are asked the same by the official package; each answers by its sample in the form that it documents.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import openai
import orjson
import pytest
import pytest_asyncio

from core.catalog import Model
from core.drawing import Drawing, Part, parse_drawing
from core.errors import Unsupported
from core.picture import Picture
from core.providers import PROVIDERS
from core.providers.demo import DEMO
from core.providers.dialect import Drawings, Edits, Later
from tests.fake_upstream import Exchange, FakeUpstream, Script, answers, answers_json
from tests.pictures import JPEG, PNG, WEBP
from tests.provider_rig import ACCOUNT, catalog_of
from tests.provider_samples import FOLDER
from tests.running_gateway import TOKEN, RunningGateway, running
from tests.test_providers_docs import NO, table

Json = dict[str, Any]
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")
PROMPT = "a cat — «котик» & co"
ASKED: Json = {"prompt": PROMPT, "n": 2, "size": "1024x768", "quality": "high", "extra_body": {"seed": 7}}
KEY = "id-0123456789:secret-of-image-provider"
TOKEN_GIVEN = answers_json({"access_token": "gigachat-token", "expires_at": 4_000_000_000_000})
SIDES = {"width": 1024, "height": 768}
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/models"
VERTEX = "https://eu-aiplatform.googleapis.com/v1/projects/acc-1/locations/eu/publishers/google/models"
FIREWORKS = "https://api.fireworks.ai/inference/v1"
KONTEXT = "accounts/fireworks/models/flux-kontext-pro"
CLOUDFLARE = "https://api.cloudflare.com/client/v4/accounts/acc-1/ai/run/@cf"


@dataclass(frozen=True)
class Case:
    """One model at its real address. `said`: what it is sent, less the prompt; `dropped`: what it cannot be told."""

    provider: str
    model: str
    at: str
    sample: str
    picture: bytes
    said: Json
    dropped: str = ""
    prompt_in: str = "prompt"
    key_in: str = "authorization"
    files: Mapping[str, str] = field(default_factory=dict)  # samples that lie at other paths

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def path(self) -> str:
        return urlsplit(self.at).path or ("/v1/images/generations" if self.provider == "localai" else "/draw")


def gemini(provider: str, at: str, key_in: str) -> Case:
    contents = [{"role": "user", "parts": [{"text": PROMPT}]}]
    said = {"contents": contents, "generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}
    model = "gemini-2.5-flash-image"
    where = f"{at}/{model}:generateContent"
    return Case(provider, model, where, "google/image.json", PNG, said, "n, quality, size, seed", "", key_in)


def imagen(provider: str, at: str, key_in: str) -> Case:
    said = {"instances": [{"prompt": PROMPT}], "parameters": {"sampleCount": 2}}
    model = "imagen-4.0-generate-001"
    where = f"{at}/{model}:predict"
    return Case(provider, model, where, "google/image_imagen.json", PNG, said, "quality, size, seed", "", key_in)


CASES = [
    Case(
        "openai",
        "gpt-image-1",
        "https://api.openai.com/v1/images/generations",
        "openai/image.json",
        PNG,
        {"model": "gpt-image-1", "n": 2, "size": "1024x768", "quality": "high", "seed": 7},
    ),
    Case(
        "openai",
        "dall-e-3",
        "https://api.openai.com/v1/images/generations",
        "openai/image_address.json",
        PNG,
        {
            "model": "dall-e-3",
            "n": 2,
            "size": "1024x768",
            "quality": "high",
            "seed": 7,
            "response_format": "b64_json",
        },
        files={"/cat.png": "cloudflare/image_raw.bin"},
    ),
    Case(
        "azure",
        "gpt-image-1",
        "https://acc-1.openai.azure.com/openai/v1/images/generations",
        "azure/image.json",
        PNG,
        {"model": "gpt-image-1", "n": 2, "size": "1024x768", "quality": "high", "seed": 7},
        key_in="api-key",
    ),
    gemini("google", GOOGLE, "x-goog-api-key"),
    imagen("google", GOOGLE, "x-goog-api-key"),
    gemini("gemini", GOOGLE, "x-goog-api-key"),
    gemini("vertex", VERTEX, "authorization"),
    imagen("vertex", VERTEX, "authorization"),
    Case(
        "cloudflare",
        "cf/black-forest-labs/flux-1-schnell",
        f"{CLOUDFLARE}/black-forest-labs/flux-1-schnell",
        "cloudflare/image.json",
        JPEG,
        {"seed": 7},
        "n, quality, size",
    ),
    Case(
        "cloudflare",
        "@cf/stabilityai/stable-diffusion-xl-base-1.0",
        f"{CLOUDFLARE}/stabilityai/stable-diffusion-xl-base-1.0",
        "cloudflare/image_raw.bin",
        PNG,
        {"seed": 7, **SIDES},
        "n, quality",
    ),
    Case(
        "cloudflare",
        "cf/black-forest-labs/flux-2-dev",
        f"{CLOUDFLARE}/black-forest-labs/flux-2-dev",
        "cloudflare/image_form.json",
        PNG,
        {"seed": "7", "width": "1024", "height": "768"},
        "n, quality",
    ),
    Case(
        "cloudflare-run",
        "@cf/black-forest-labs/flux-1-schnell",
        f"{CLOUDFLARE}/black-forest-labs/flux-1-schnell",
        "cloudflare/image.json",
        JPEG,
        {"seed": 7},
        "n, quality, size",
    ),
    Case(
        "together",
        "black-forest-labs/FLUX.1-schnell",
        "https://api.together.xyz/v1/images/generations",
        "together/image.json",
        JPEG,
        {"model": "black-forest-labs/FLUX.1-schnell", "n": 2, "seed": 7, **SIDES, "response_format": "base64"},
        "quality",
    ),
    Case(
        "aimlapi",
        "flux/schnell",
        "https://api.aimlapi.com/v1/images/generations",
        "aimlapi/image.json",
        PNG,
        {"model": "flux/schnell", **{k: ASKED[k] for k in ("n", "size", "quality")}, "seed": 7}
        | {"response_format": "b64_json"},
    ),
    Case(
        "huggingface",
        "black-forest-labs/FLUX.1-dev",
        "https://router.huggingface.co/hf-inference/models/black-forest-labs/FLUX.1-dev",
        "huggingface/image.bin",
        JPEG,
        {"parameters": {"seed": 7, **SIDES}},
        "n, quality",
        prompt_in="inputs",
    ),
    Case(
        "fireworks",
        "accounts/fireworks/models/flux-1-schnell-fp8",
        f"{FIREWORKS}/workflows/accounts/fireworks/models/flux-1-schnell-fp8/text_to_image",
        "fireworks/image.bin",
        JPEG,
        {"seed": 7},
        "n, quality, size",
    ),
    Case(
        "fireworks",
        KONTEXT,
        f"{FIREWORKS}/workflows/{KONTEXT}",
        "fireworks/image_task.json",
        JPEG,
        {"seed": 7},
        "n, quality, size",
        files={
            f"{urlsplit(FIREWORKS).path}/workflows/{KONTEXT}/get_result": "fireworks/image_ready.json",
            "/cat.jpg": "fireworks/image.bin",
        },
    ),
    Case(
        "fireworks",
        "accounts/fireworks/models/stable-diffusion-xl-1024-v1-0",
        f"{FIREWORKS}/image_generation/accounts/fireworks/models/stable-diffusion-xl-1024-v1-0",
        "fireworks/image_diffusion.bin",
        PNG,
        {"seed": 7, **SIDES},
        "n, quality",
    ),
    Case(
        "xai",
        "grok-imagine-image",
        "https://api.x.ai/v1/images/generations",
        "xai/image.json",
        JPEG,
        {"model": "grok-imagine-image", "n": 2, "response_format": "b64_json"},
        "quality, size, seed",
    ),
    Case(
        "nvidia",
        "black-forest-labs/flux.1-schnell",
        "https://ai.api.nvidia.com/v1/genai/black-forest-labs/flux.1-schnell",
        "nvidia/image.json",
        JPEG,
        {"seed": 7, **SIDES},
        "n, quality",
    ),
    Case(
        "openrouter",
        "google/gemini-2.5-flash-image",
        "https://openrouter.ai/api/v1/chat/completions",
        "openrouter/image.json",
        PNG,
        {
            "model": "google/gemini-2.5-flash-image",
            "messages": [{"role": "user", "content": PROMPT}],
            "modalities": ["image", "text"],
        },
        "n, quality, size, seed",
        prompt_in="",
    ),
    Case(
        "gigachat",
        "GigaChat-2-Max",
        "https://gigachat.devices.sberbank.ru/api/v1/chat/completions",
        "gigachat/image.json",
        JPEG,
        {
            "model": "GigaChat-2-Max",
            "messages": [{"role": "user", "content": PROMPT}],
            "function_call": "auto",
        },
        "n, quality, size, seed",
        prompt_in="",
        files={"/api/v1/files/b28fbd1e-9e1b-4d2f-9e84-0d6a4b8c4d11/content": "gigachat/image_file.bin"},
    ),
    Case("airforce", "flux", "", "airforce/image.bin", WEBP, {"model": "flux"}, "n, quality, size, seed", key_in=""),
    Case(
        "localai",
        "flux",
        "",
        "openai/image.json",
        PNG,
        {"model": "flux", "n": 2, "size": "1024x768", "quality": "high", "seed": 7, "response_format": "b64_json"},
    ),
    Case("other", "painter", "", "cloudflare/image_raw.bin", PNG, {}, "n, quality, size, seed"),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def entry(case: Case, upstream_url: str = "") -> Json:
    """The model, at its real address or at the same one of another host."""
    found: Json = {"name": case.name, "provider": case.provider, "kind": "image", "region": "eu", "account_id": ACCOUNT}
    if case.key_in:
        found["token"] = KEY
    if case.provider == "localai":
        return {**found, "base_url": f"{upstream_url}/v1"}
    if not case.at:
        return {**found, "url": f"{upstream_url}/draw"}
    row = PROVIDERS[case.provider]
    if upstream_url:
        base = (row.images_base_url or row.base_url).format(account_id=ACCOUNT, region="eu")
        found |= {"base_url": upstream_url + urlsplit(base).path, "auth_url": f"{upstream_url}/oauth"}
    return found


def anyone(address: object) -> bool:
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared: FakeUpstream) -> AsyncIterator[RunningGateway]:
    """One with all the models, all at one host."""
    models = [entry(case, shared.url) for case in CASES]
    async with running(*models, door={"may_fetch": anyone}) as gateway:
        yield gateway


def sample(name: str, host: str = "https://pictures.example") -> Script:
    raw = (FOLDER / name).read_bytes().replace(b"https://pictures.example", host.encode())
    kind = "application/json" if name.endswith(".json") else "application/octet-stream"
    return answers(raw, content_type=kind)


def provider(case: Case, host: str) -> Script:
    """It answers by its sample, and has the files that its sample speaks of."""

    async def script(exchange: Exchange) -> None:
        path = urlsplit(exchange.request.path).path
        await (TOKEN_GIVEN if path == "/oauth" else sample(case.files.get(path, case.sample), host))(exchange)

    return script


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


async def generate(client: openai.AsyncOpenAI, **asked: Any) -> tuple[Any, str]:
    """What the official package gets, and what it is told was dropped."""
    raw = await client.images.with_raw_response.generate(**asked)
    return raw.parse(), raw.headers.get("x-sluice-dropped", "")


def said(case: Case, upstream: FakeUpstream) -> Json:
    """The first request, as values."""
    asked = next(request for request in upstream.requests if urlsplit(request.path).path != "/oauth")
    if asked.method == "GET":
        return {name: values[0] for name, values in parse_qs(urlsplit(asked.path).query).items()}
    kind = asked.headers["content-type"]
    if kind.startswith("multipart/form-data; boundary="):
        *parts, end = asked.body.split(f"--{kind.partition('=')[2]}".encode())
        assert end == b"--\r\n"
        rows = [part.strip(b"\r\n").decode().split("\r\n\r\n") for part in parts if part]
        return {head.rpartition("name=")[2].strip('"'): value for head, value in rows}
    return dict(asked.json)


@EVERY
@IN_ONE_LOOP
async def test_the_official_package_gets_the_providers_own_bytes(
    gateway: RunningGateway, client: openai.AsyncOpenAI, shared: FakeUpstream, case: Case
) -> None:
    shared.requests.clear()
    shared.script = provider(case, shared.url)
    answer, dropped = await generate(client, model=case.name, response_format="b64_json", **ASKED)
    assert [base64.b64decode(picture.b64_json) for picture in answer.data] == [case.picture]
    assert isinstance(answer.created, int)
    assert dropped == case.dropped
    wanted = {case.prompt_in: PROMPT, **case.said} if case.prompt_in else case.said
    assert said(case, shared) == wanted
    asked = next(request for request in shared.requests if urlsplit(request.path).path == case.path)
    if case.key_in:
        token = "gigachat-token" if case.provider == "gigachat" else KEY
        assert asked.headers[case.key_in].removeprefix("Bearer ") == token
    else:
        assert "authorization" not in asked.headers


@EVERY
@IN_ONE_LOOP
async def test_the_older_form_gets_the_same_bytes_with_their_true_type(
    gateway: RunningGateway, shared: FakeUpstream, case: Case
) -> None:
    shared.script = provider(case, shared.url)
    answer = await gateway.client.post("/image", json={"model": case.name, "inputs": PROMPT})
    assert (answer.status_code, answer.content) == (200, case.picture)
    kinds = {PNG: "image/png", JPEG: "image/jpeg", WEBP: "image/webp"}
    assert answer.headers["content-type"] == kinds[case.picture]
    assert answer.headers["x-sluice-model"] == case.name


@EVERY
@IN_ONE_LOOP
async def test_who_wants_an_address_gets_one(
    gateway: RunningGateway, client: openai.AsyncOpenAI, shared: FakeUpstream, case: Case
) -> None:
    """The provider's own where it gave one, else the bytes as a data URL."""
    shared.script = provider(case, shared.url)
    answer, _ = await generate(client, model=case.name, prompt=PROMPT, response_format="url")
    (picture,) = answer.data
    assert picture.b64_json is None
    if picture.url.startswith("data:"):
        assert base64.b64decode(picture.url.partition(";base64,")[2]) == case.picture
    else:
        assert picture.url.startswith(shared.url + "/cat.")


@pytest.mark.parametrize("case", [case for case in CASES if case.at], ids=lambda case: case.name)
def test_it_is_asked_where_the_provider_documents(case: Case) -> None:
    model = entry(case)
    model.pop("base_url", None)
    assert catalog_of(model).models[0].endpoint.url == case.at


@pytest.mark.parametrize(
    ("provider", "base_url", "asked"),
    [
        ("openai", "https://p.example/v1/", "https://p.example/v1/images/generations"),
        ("cloudflare", "https://p.example/acc/ai/v1", "https://p.example/acc/ai/run/@cf/m"),
        ("cloudflare", "https://p.example/acc/ai/run/", "https://p.example/acc/ai/run/@cf/m"),
        ("cloudflare", "https://p.example/acc/ai", "https://p.example/acc/ai/run/@cf/m"),
        ("huggingface", "https://p.example/v1", "https://p.example/hf-inference/models/@cf/m"),
        ("nvidia", "https://p.example/v1/genai", "https://p.example/v1/genai/@cf/m"),
        ("google", "https://p.example/v1beta", "https://p.example/v1beta/models/%40cf%2Fm:generateContent"),
    ],
)
def test_a_base_url_that_serves_chats_serves_pictures_as_well(provider: str, base_url: str, asked: str) -> None:
    model = {"name": "m", "upstream_model": "@cf/m", "provider": provider, "kind": "image", "token": "k"}
    assert catalog_of({**model, "base_url": base_url}).models[0].endpoint.url == asked


def test_every_provider_that_draws_has_a_case_and_every_sample_is_used() -> None:
    drawing = {name for name, row in PROVIDERS.items() if row.images is not None}
    assert drawing - {DEMO.name} == {case.provider for case in CASES} - {"localai", "other"}
    used = {name for case in CASES for name in (case.sample, *case.files.values())} | {"fireworks/image_pending.json"}
    assert used == {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/image*")}


def cells(case: Case) -> dict[str, str]:
    """What the document says of it."""
    found = catalog_of(entry(case, "https://pictures.example")).models[0]
    assert found.row.images is not None
    answer = found.row.images.drawings((FOLDER / case.sample).read_bytes(), found.endpoint)
    assert isinstance(answer, Drawings | Later)
    comes_as = "a second answer"
    if isinstance(answer, Drawings):
        comes_as = "an address" if answer.drawn[0].url else "bytes" if case.sample.endswith(".bin") else "base64"
    told = {f"`{name}`": "dropped" if name in case.dropped else "yes" for name in ("n", "size", "quality")}
    return {**told, "Changes pictures": "yes" if changes_pictures(found) else NO, "Answers with": comes_as}


def changes_pictures(found: Model) -> bool:
    language, part = found.row.images, Part("image", Picture("image/png", PNG))
    assert language is not None
    if not isinstance(language, Edits):
        return False
    try:
        language.edit_request(found.endpoint, Drawing({"prompt": PROMPT}, 0, parts=(part,)))
    except Unsupported:
        return False
    return True


@EVERY
def test_the_document_says_what_each_can_be_told_and_how_it_answers(case: Case) -> None:
    assert table("Pictures")[case.name] == {"Model": f"`{case.name}`", **cells(case)}


def test_the_document_has_a_line_for_each_way_of_asking() -> None:
    assert list(table("Pictures")) == [case.name for case in CASES]


# What only one of them says


async def test_a_task_is_asked_after_until_it_is_done(upstream: FakeUpstream) -> None:
    kontext = next(case for case in CASES if "kontext" in case.model)
    states = iter(("task", "pending", "ready"))

    async def script(exchange: Exchange) -> None:
        is_file = exchange.request.path == "/cat.jpg"
        await sample("fireworks/image.bin" if is_file else f"fireworks/image_{next(states)}.json", upstream.url)(
            exchange
        )

    upstream.script = script
    async with running(entry(kontext, upstream.url), door={"may_fetch": anyone}) as gateway:
        answer = await gateway.client.post("/image", json={"model": kontext.name, "prompt": PROMPT})
        assert (answer.status_code, answer.content, answer.headers["x-sluice-attempts"]) == (200, JPEG, "1")
    asked = [request.json for request in upstream.requests[1:-1]]
    assert asked == [{"id": "r-1"}] * 2


async def test_a_task_that_is_never_done_is_given_up_in_time(upstream: FakeUpstream) -> None:
    kontext = next(case for case in CASES if "kontext" in case.model)

    async def script(exchange: Exchange) -> None:
        await sample(f"fireworks/image_{'pending' if 'get_result' in exchange.request.path else 'task'}.json")(exchange)

    upstream.script = script
    model = {**entry(kontext, upstream.url), "timeouts": {"total": 0.2}}
    async with running(model) as gateway:
        async with asyncio.timeout(2):
            answer = await gateway.client.post("/image", json={"model": kontext.name, "prompt": PROMPT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


REFUSALS = [
    ("openai/gpt-image-1", 400, {"error": {"message": "Blocked by safety.", "code": "moderation_blocked"}}),
    ("google/gemini-2.5-flash-image", 200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    ("google/gemini-2.5-flash-image", 200, {"candidates": [{"finishReason": "IMAGE_SAFETY", "index": 0}]}),
    ("google/imagen-4.0-generate-001", 200, {"predictions": [{"raiFilteredReason": "Blocked by safety."}]}),
    (
        "nvidia/black-forest-labs/flux.1-schnell",
        200,
        {"artifacts": [{"base64": "", "finishReason": "CONTENT_FILTERED"}]},
    ),
    ("fireworks/accounts/fireworks/models/flux-kontext-pro", 200, {"id": "r", "status": "Request Moderated"}),
    ("gigachat/GigaChat-2-Max", 200, {"choices": [{"message": {"content": "No."}, "finish_reason": "blacklist"}]}),
]


@pytest.mark.parametrize(("name", "status", "body"), REFUSALS)
@IN_ONE_LOOP
async def test_a_refusal_to_draw_is_told_and_nobody_else_is_asked(
    gateway: RunningGateway, shared: FakeUpstream, name: str, status: int, body: Json
) -> None:
    async def script(exchange: Exchange) -> None:
        await (TOKEN_GIVEN if exchange.request.path == "/oauth" else answers_json(body, status))(exchange)

    shared.script = script
    answer = await gateway.client.post("/v1/images/generations", json={"model": name, "prompt": PROMPT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (f"{GOOGLE}/imagen-4.0-generate-001:predict?key=old-key", f"{GOOGLE}/imagen-4.0-generate-001:predict"),
        (f"{GOOGLE}/imagen-4.0-generate-001:generateContent", f"{GOOGLE}/imagen-4.0-generate-001:predict"),
    ],
)
def test_an_imagen_model_is_asked_by_its_own_method_without_a_key_in_the_address(url: str, asked: str) -> None:
    model = {"name": "google/imagen-4.0-generate-001", "provider": "google", "kind": "image", "url": url, "token": "k"}
    found = catalog_of(model).models[0]
    assert found.row.images is not None
    request = found.row.images.drawing_request(found.endpoint, parse_drawing(orjson.dumps({"prompt": "x"}))).request
    assert request.url == asked
