"""`POST /v1/images/edits` through a running gateway: pictures there and back, byte for byte."""

import base64
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from core.providers.form import multipart
from tests.fake_upstream import Exchange, FakeUpstream, Received, answers, answers_json
from tests.pictures import GIF, JPEG, PNG, WEBP, png
from tests.provider_samples import FOLDER
from tests.running_gateway import TOKEN, RunningGateway, model, running

Json = dict[str, Any]
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")
DRAWN = {"created": 1795000000, "data": [{"b64_json": base64.b64encode(JPEG).decode()}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared: FakeUpstream) -> AsyncIterator[RunningGateway]:
    """Those who can change pictures, and others."""
    image, azure = {"kind": "image", "token": "key-0123"}, f"{shared.url}/openai/v1"
    models = (
        model(shared.url, "openai/gpt-image-1", **{**image, "upstream_model": "gpt-image-1"}),
        model(shared.url, "openai/dall-e-2", **{**image, "upstream_model": "dall-e-2"}),
        {"name": "azure/dep", "provider": "azure", "base_url": azure, **image, "api_version": "2025-04-01-preview"},
        {"name": "google/gemini-2.5-flash-image", "provider": "google", "base_url": f"{shared.url}/v1beta", **image},
        {"name": "google/imagen-4.0", "provider": "google", "base_url": f"{shared.url}/v1beta", **image},
        {
            "name": "xai/a",
            "provider": "xai",
            "base_url": f"{shared.url}/v1",
            **image,
            "model_size": "BIG",
            "priority": 1,
        },
        {"name": "demo/d", "provider": "demo", "kind": "image"},
        {"name": "old/b", "provider": "old", "url": f"{shared.url}/draw", "kind": "image"},
        model(shared.url, "can", **{**image, "model_size": "BIG", "priority": 2}),
    )
    async with running(*models) as gateway:
        yield gateway


def body_and_kind(asked: Received) -> tuple[bytes, str]:
    return asked.body, asked.headers["content-type"]


def parts_of(body: bytes, kind: str) -> Iterator[tuple[str, str, bytes]]:
    """Name, content type and bytes of each part of a form."""
    boundary = b"--" + kind.partition("boundary=")[2].encode()
    *parts, end = body.split(boundary)
    assert end == b"--\r\n"
    for part in parts[1:]:
        head, _, data = part.removesuffix(b"\r\n").partition(b"\r\n\r\n")
        name, media_type = re.search(rb'; name="([^"]*)"', head), re.search(rb"content-type: (.*)", head)
        assert name is not None
        yield name[1].decode(), media_type[1].decode() if media_type else "", data


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


async def edit(client: openai.AsyncOpenAI, **asked: Any) -> list[bytes]:
    answer = await client.images.edit(**asked)
    assert answer.data is not None
    return [base64.b64decode(one.b64_json or "") for one in answer.data]


@pytest.mark.parametrize(
    ("name", "path", "upstream_model", "key"),
    [
        ("openai/gpt-image-1", "/v1/images/edits", "gpt-image-1", "authorization"),
        ("azure/dep", "/openai/deployments/dep/images/edits?api-version=2025-04-01-preview", "dep", "api-key"),
    ],
)
@IN_ONE_LOOP
async def test_in_openais_form_every_field_and_file_goes_through(
    client: openai.AsyncOpenAI, shared: FakeUpstream, name: str, path: str, upstream_model: str, key: str
) -> None:
    shared.script = answers_json(DRAWN)
    large = png(300, 200)
    got = await edit(
        client,
        model=name,
        image=[("a.png", large), ("b.bin", WEBP)],
        mask=("m.png", PNG),
        prompt='a "cat"\r\n— котик',
        n=2,
        size="1024x1024",
        extra_body={"x_new": "1"},
    )
    assert got == [JPEG]
    asked = shared.requests[-1]
    assert (asked.method, asked.path) == ("POST", path)
    assert asked.headers[key].removeprefix("Bearer ") == "key-0123"
    rows = list(parts_of(*body_and_kind(asked)))
    assert {name: data.decode() for name, kind, data in rows if not kind} == {
        "model": upstream_model,
        "prompt": 'a "cat"\r\n— котик',
        "n": "2",
        "size": "1024x1024",
        "x_new": "1",
    }
    assert [row for row in rows if row[1]] == [
        ("image[]", "image/png", large),
        ("image[]", "image/webp", WEBP),
        ("mask", "image/png", PNG),
    ]


@IN_ONE_LOOP
async def test_a_model_that_has_the_choice_is_told_how_to_answer(
    gateway: RunningGateway, client: openai.AsyncOpenAI, shared: FakeUpstream
) -> None:
    shared.script = answers_json(DRAWN)
    for name, told in (("openai/dall-e-2", "b64_json"), ("openai/gpt-image-1", None)):
        await edit(client, model=name, image=("a.png", PNG), prompt="x", response_format="b64_json")
        rows = {name: data.decode("latin-1") for name, _, data in parts_of(*body_and_kind(shared.requests[-1]))}
        assert rows.get("response_format") == told


@IN_ONE_LOOP
async def test_gemini_gets_pictures_beside_the_words(
    gateway: RunningGateway, client: openai.AsyncOpenAI, shared: FakeUpstream
) -> None:
    shared.script = answers((FOLDER / "google/image.json").read_bytes())
    got = await edit(client, model="google/gemini-2.5-flash-image", image=[JPEG, GIF], prompt="a cat")
    assert got == [PNG]
    (said,) = shared.requests[-1].json["contents"]
    kinds = (("image/jpeg", JPEG), ("image/gif", GIF))
    inline = [{"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}} for kind, data in kinds]
    assert said == {"role": "user", "parts": [{"text": "a cat"}, *inline]}


@pytest.mark.parametrize("name", ["google/imagen-4.0", "xai/a", "demo/d", "old/b"])
@IN_ONE_LOOP
async def test_who_cannot_change_pictures_is_not_asked(
    gateway: RunningGateway, client: openai.AsyncOpenAI, shared: FakeUpstream, name: str
) -> None:
    shared.requests.clear()
    with pytest.raises(openai.BadRequestError) as caught:
        await edit(client, model=name, image=PNG, prompt="a cat")
    assert caught.value.code == "unsupported"
    assert not shared.requests


@IN_ONE_LOOP
async def test_a_mask_is_not_lost_on_the_way_to_gemini(gateway: RunningGateway, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="a mask"):
        await edit(client, model="google/gemini-2.5-flash-image", image=PNG, mask=PNG, prompt="a cat")


@IN_ONE_LOOP
async def test_in_a_category_the_next_one_that_can_is_asked(gateway: RunningGateway, shared: FakeUpstream) -> None:
    shared.script = answers_json(DRAWN)
    answer = await post(gateway, model="BIG")
    assert (answer.status_code, answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == (
        200,
        "can",
        "2",
    )


async def post(gateway: RunningGateway, *files: tuple[str, bytes], **fields: str) -> httpx.Response:
    sent = [(name, ("a.bin", data)) for name, data in files or [("image", PNG)]]
    body = {"model": "can", "prompt": "a cat", **fields}
    return await gateway.client.post("/v1/images/edits", data=body, files=sent)


@IN_ONE_LOOP
async def test_a_form_that_makes_no_sense_is_refused_before_anybody_is_asked(
    gateway: RunningGateway, shared: FakeUpstream
) -> None:
    shared.requests.clear()
    multi = {"content-type": "multipart/form-data; boundary=b"}
    refused = {
        "a file that is no picture": await post(gateway, ("image", b"<svg/>")),
        "a cut picture": await post(gateway, ("image", PNG[:-1])),
        "a mask alone": await post(gateway, ("mask", PNG)),
        "a file of another name": await post(gateway, ("image", PNG), ("secret", PNG)),
        "no prompt": await post(gateway, prompt=" "),
        "n in words": await post(gateway, n="two"),
        "n of nothing": await post(gateway, n="0"),
        "a stream": await post(gateway, stream="true"),
        "too many files": await post(gateway, *[("image[]", PNG)] * 18),
        "a prompt in a file": await post(gateway, ("image", PNG), ("prompt", b"a cat")),
        "JSON": await gateway.client.post("/v1/images/edits", json={"model": "can", "prompt": "x", "image": "x"}),
        "no boundary": await gateway.client.post(
            "/v1/images/edits", content=b"--b--", headers={"content-type": "multipart/form-data"}
        ),
        "no form": await gateway.client.post("/v1/images/edits", content=b"garbage", headers=multi),
        "half a form": await gateway.client.post(
            "/v1/images/edits",
            content=b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nx',
            headers=multi,
        ),
    }
    assert {what: answer.status_code for what, answer in refused.items()} == dict.fromkeys(refused, 400)
    types = {answer.json()["error"]["type"] for answer in refused.values()}
    assert types == {"invalid_request_error"}
    assert not shared.requests


@IN_ONE_LOOP
async def test_pictures_do_not_count_as_words(gateway: RunningGateway, shared: FakeUpstream) -> None:
    """A length is one of what is said; `max_body_bytes` bounds the rest."""
    shared.script = answers_json(DRAWN)
    wordy = model(shared.url, "w", kind="image", max_request_length=200)
    async with running(wordy, server={"max_body_bytes": 20_000}) as other:
        assert (await post(other, ("image", PNG + b"\0" * 10_000), model="w")).status_code == 200
        assert (await post(other, ("image", PNG + b"\0" * 20_000), model="w")).status_code == 413
        assert (await post(other, model="w", prompt="x" * 300)).status_code == 400


async def test_the_next_model_gets_the_pictures_as_well(upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        is_first = b"up-1" in exchange.request.body
        await (answers(b"<html>") if is_first else answers_json(DRAWN))(exchange)

    upstream.script = script
    first = model(upstream.url, "p1", kind="image", upstream_model="up-1", fallbacks=["p2"])
    async with running(first, model(upstream.url, "p2", kind="image", upstream_model="up-2")) as gateway:
        answer = await post(gateway, ("image", WEBP), model="p1")
    assert (answer.status_code, answer.headers["x-sluice-model"]) == (200, "p2")
    forms = [{name: data for name, _, data in parts_of(*body_and_kind(asked))} for asked in upstream.requests]
    assert [form["image"] for form in forms] == [WEBP] * len(forms)


def test_a_name_cannot_end_its_line() -> None:
    kind, body = multipart([('a"\r\nx: y', "text")])
    (row,) = parts_of(body, kind)
    assert row == ("a%22%0D%0Ax: y", "", b"text")
