"""`POST /v1/images/generations` and `POST /image` through a running gateway: who draws, in which form, and honest ends.

What each provider is asked in its own words is in `test_image_providers.py`.
"""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
import pytest_asyncio

from core.config import ConfigError
from tests.fake_upstream import Exchange, FakeUpstream, Script, answers, answers_json, completion, took
from tests.pictures import GIF, JPEG, PICTURES, PNG, WEBP, pixels, png
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, RunningGateway, catalog_of, model, running
from tests.test_providers_docs import DOCUMENT, FOLDER, examples

Json = dict[str, Any]
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")
CLIENTS = pytest.mark.parametrize("http_client", ["aiohttp", "httpx"])


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def drawn(*pictures: bytes, **more: Any) -> Json:
    """An answer in OpenAI's form."""
    return {"created": 1795000000, "data": [{"b64_json": packed(one)} for one in pictures or (PNG,)], **more}


def at(*urls: str) -> Json:
    return {"created": 1795000000, "data": [{"url": url} for url in urls]}


def painter(url: str, name: str = "p1", **more: Any) -> Json:
    return model(url, name, **{"kind": "image", "upstream_model": "up-p", **more})


def old_painter(url: str, name: str, **more: Any) -> Json:
    """Somebody of whom nothing is known: the prompt in, a picture out."""
    return {"name": name, "provider": "old", "url": f"{url}/draw", "kind": "image", **more}


async def draw(gateway: RunningGateway, **body: Any) -> httpx.Response:
    return await gateway.client.post("/v1/images/generations", json={"model": "p1", "prompt": "a cat", **body})


async def image(gateway: RunningGateway, **body: Any) -> httpx.Response:
    return await gateway.client.post("/image", json={"model": "p1", "prompt": "a cat", **body})


def anyone(address: object) -> bool:
    return True


MAY_FETCH = {"may_fetch": anyone}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(broken: FakeUpstream) -> AsyncIterator[RunningGateway]:
    """Models that the test breaks, two of them with little patience, and worse ones of somebody else's that hold."""
    async with FakeUpstream() as sound:
        sound.script = answers_json(drawn(JPEG))
        quick = {"timeouts": {"response": 0.1, "idle": 0.1}}
        models = (
            painter(broken.url, "bad", model_size="SMALL", priority=1),
            painter(broken.url, "hasty", model_size="BIG", priority=1, **quick),
            painter(broken.url, "alone"),
            painter(broken.url, "hasty-alone", **quick),
            old_painter(sound.url, "good", model_size="SMALL", priority=2),
            old_painter(sound.url, "as good", model_size="BIG", priority=2),
        )
        async with running(*models, door=MAY_FETCH) as gateway:
            yield gateway


# What passes through


@CLIENTS
async def test_in_openais_form_request_and_answer_pass_through_unchanged_but_for_the_model(
    upstream: FakeUpstream, http_client: str
) -> None:
    raw = (
        b'{ "created":1, "data":[ {"b64_json":"%b", "x_own":null} ],"usage":{"total_tokens":9} }' % packed(PNG).encode()
    )
    upstream.script = answers(raw)
    more = {"n": 1, "size": "1024x1024", "quality": "high", "background": "transparent", "user": "u", "x_new": [1]}
    async with running(painter(upstream.url), server={"http_client": http_client}) as gateway:
        answer = await draw(gateway, **more)
        record = await gateway.next_record()
    assert (answer.status_code, answer.content) == (200, raw)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("p1", "1")
    assert "x-sluice-dropped" not in answer.headers
    asked = upstream.requests[0]
    assert (asked.method, asked.path) == ("POST", "/v1/images/generations")
    assert asked.json == {"model": "up-p", "prompt": "a cat", **more}
    assert asked.headers["authorization"] == f"Bearer {UPSTREAM_TOKEN}"
    assert (record.path, record.model, record.status, record.error) == ("/v1/images/generations", "p1", 200, None)


@pytest.mark.parametrize("media_type", PICTURES)
async def test_the_older_form_is_answered_with_the_picture_by_its_true_type(
    upstream: FakeUpstream, media_type: str
) -> None:
    """Whatever the provider calls it."""
    async with running(painter(upstream.url), old_painter(upstream.url, "p2")) as gateway:
        upstream.script = answers_json(drawn(PICTURES[media_type], output_format="bmp"))
        packed_up = await image(gateway)
        upstream.script = answers(PICTURES[media_type], content_type="text/html")
        bare = await image(gateway, model="p2")
    for answer in (packed_up, bare):
        assert (answer.status_code, answer.content) == (200, PICTURES[media_type])
        assert answer.headers["content-type"] == media_type
        assert answer.headers["x-sluice-model"] in ("p1", "p2")


async def test_prompt_has_an_older_name_and_one_picture_is_asked_for(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(drawn())
    async with running(painter(upstream.url)) as gateway:
        body = {"model": "p1", "inputs": "a cat", "n": 3, "stream": True, "response_format": "url", "size": "256x256"}
        assert (await gateway.client.post("/image", json=body)).content == PNG
    assert upstream.requests[0].json == {"model": "up-p", "prompt": "a cat", "size": "256x256"}


@pytest.mark.parametrize(
    ("given", "wanted", "got"),
    [
        (drawn(PNG, JPEG), "", [{"b64_json": packed(PNG)}, {"b64_json": packed(JPEG)}]),
        (drawn(JPEG), "b64_json", [{"b64_json": packed(JPEG)}]),
        (drawn(JPEG), "url", [{"url": f"data:image/jpeg;base64,{packed(JPEG)}"}]),
        (at("https://p.example/a"), "", [{"url": "https://p.example/a"}]),
        (at("https://p.example/a"), "url", [{"url": "https://p.example/a"}]),
        (at(f"data:image/png;base64,{packed(PNG)}"), "b64_json", [{"b64_json": packed(PNG)}]),
        (at(f"data:image/png;base64,{packed(PNG)}"), "url", [{"url": f"data:image/png;base64,{packed(PNG)}"}]),
    ],
)
@IN_ONE_LOOP
async def test_pictures_come_in_the_form_that_is_asked_for_and_else_as_they_came(
    gateway: RunningGateway, broken: FakeUpstream, given: Json, wanted: str, got: list[Json]
) -> None:
    broken.script = answers_json({**given, "usage": {"total_tokens": 9}})
    answer = await draw(gateway, model="alone", **({"response_format": wanted} if wanted else {}))
    assert answer.json() == {"created": 1795000000, "data": got, "usage": {"total_tokens": 9}}


async def test_an_address_is_fetched_for_who_wants_bytes(upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        is_picture = exchange.request.method == "GET"
        await (answers(WEBP) if is_picture else answers_json(at(f"{upstream.url}/a.png?sig=x%2Fy")))(exchange)

    upstream.script = script
    async with running(painter(upstream.url), door=MAY_FETCH) as gateway:
        assert (await draw(gateway, response_format="b64_json")).json()["data"] == [{"b64_json": packed(WEBP)}]
        answer = await image(gateway)
    assert (answer.content, answer.headers["content-type"]) == (WEBP, "image/webp")
    fetched = [request for request in upstream.requests if request.method == "GET"]
    assert [request.path for request in fetched] == ["/a.png?sig=x%2Fy"] * 2
    assert UPSTREAM_TOKEN not in str(fetched)


async def test_a_provider_cannot_send_us_to_fetch_from_within(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(at(f"{upstream.url}/internal"))
    async with running(painter(upstream.url, token="key-0123456789")) as gateway:
        answer = await image(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert "not on the public internet" in answer.json()["error"]["message"]
    assert {request.method for request in upstream.requests} == {"POST"}


# Who may be asked


async def test_an_empty_model_all_or_a_category_means_the_best_that_has_room(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(drawn())
    chat = model(upstream.url, "c1", model_size="SMALL", priority=0)
    best = painter(upstream.url, "p1", model_size="BIG", priority=1, requests_per_hour=4)
    next_one = painter(upstream.url, "p2", model_size="SMALL", priority=2)
    async with running(chat, best, next_one, painter(upstream.url, "by-name", priority=0)) as gateway:
        for asked in ("", None, "all", "ALL"):
            assert (await draw(gateway, model=asked)).headers["x-sluice-model"] == "p1"
        assert (await draw(gateway, model="all")).headers["x-sluice-model"] == "p2", "p1 has no room"
        assert (await draw(gateway, model="small")).headers["x-sluice-model"] == "p2"
        assert (await image(gateway, model="all")).headers["x-sluice-model"] == "p2"
        refused = await draw(gateway, model="BIG")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0


async def test_without_any_model_for_images_all_is_not_found(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url, "c1", model_size="SMALL"), painter(upstream.url)) as gateway:
        for asked in ("all", "", "SMALL", "dall-e-3"):
            answer = await draw(gateway, model=asked)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert not upstream.requests


async def test_a_chat_model_does_not_draw_nor_the_other_way_round(upstream: FakeUpstream) -> None:
    async with running(model(upstream.url, "c1"), painter(upstream.url, aliases=["art"])) as gateway:
        wrong = [await draw(gateway, model="c1"), await image(gateway, model="c1"), await gateway.chat(model="art")]
    said = [(answer.status_code, answer.json()["error"]["message"]) for answer in wrong]
    assert said == [
        (400, "c1 is a model for chat, not for images."),
        (400, "c1 is a model for chat, not for images."),
        (400, "art is a model for images, not for chat."),
    ]
    assert not upstream.requests


async def test_a_key_is_confined_to_its_models_here_too(upstream: FakeUpstream) -> None:
    upstream.script = answers_json(drawn())
    auth = {"keys": [{"name": "app", "token": TOKEN, "models": ["p1"]}]}
    others = painter(upstream.url, "p2", model_size="SMALL")
    async with running(painter(upstream.url, model_size="SMALL"), others, auth=auth) as gateway:
        assert (await draw(gateway, model="all")).headers["x-sluice-model"] == "p1"
        assert (await draw(gateway, model="p2")).status_code == 404


async def test_drawing_counts_against_all_limits(upstream: FakeUpstream) -> None:
    """Of the caller, the model and the account; tokens by what the provider reported."""
    upstream.script = answers_json(drawn(usage={"input_tokens": 9, "output_tokens": 90, "total_tokens": 99}))
    auth = {"keys": [{"name": "app", "token": TOKEN, "requests_per_day": 3}]}
    limited = painter(upstream.url, requests_per_minute=2, tokens_per_day=1000)
    async with running(limited, auth=auth, providers={"openai": {"requests_per_hour": 9}}) as gateway:
        first = await draw(gateway)
        assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "1")
        assert (await image(gateway)).status_code == 200
        over = await draw(gateway)
        used = [
            await gateway.used("m#p1", "rm"),
            await gateway.used("m#p1", "td"),
            await gateway.used("p#openai", "rh"),
        ]
        of_the_key = await draw(gateway)
        record = await gateway.next_record()
    assert (over.status_code, over.json()["error"]["attempts"][0]["reason"]) == (429, "requests_per_minute")
    assert used == [2, 198, 2]
    assert (record.prompt_tokens, record.completion_tokens) == (9, 90)
    assert "The key app has reached its limit" not in over.json()["error"]["message"]
    assert of_the_key.status_code == 429
    assert len(upstream.requests) == 2


# What is refused


@pytest.mark.parametrize("path", ["/v1/images/generations", "/image"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"model":"alone"}', "prompt"),
        (b'{"model":"alone","prompt":null}', "prompt"),
        (b'{"model":"alone","prompt":" "}', "prompt"),
        (b'{"model":"alone","prompt":["x"]}', "prompt"),
        (b'{"model":["alone"],"prompt":"x"}', "model"),
        (b'{"model":"alone","prompt":"x","size":1024}', "size"),
    ],
)
@IN_ONE_LOOP
async def test_a_body_that_makes_no_sense_is_refused_before_anybody_is_asked(
    gateway: RunningGateway, broken: FakeUpstream, path: str, body: bytes, param: str | None
) -> None:
    broken.requests.clear()
    answer = await gateway.client.post(path, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert not broken.requests


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", -1),
        ("n", "2"),
        ("n", True),
        ("n", 1.5),
        ("response_format", "jpeg"),
        ("response_format", {}),
        ("response_format", ["url"]),
        ("stream", True),
    ],
)
@IN_ONE_LOOP
async def test_a_field_that_the_gateway_reads_must_make_sense(
    gateway: RunningGateway, broken: FakeUpstream, field: str, value: Any
) -> None:
    broken.requests.clear()
    answer = await draw(gateway, model="alone", **{field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert not broken.requests


# What goes wrong


async def hangs_up(exchange: Exchange) -> None:
    exchange.reset()


async def breaks_off(exchange: Exchange) -> None:
    await exchange.start(200, content_type="image/png", content_length="1000")
    await exchange.send(PNG[:40])
    exchange.close()


async def ends_early(exchange: Exchange) -> None:
    """A clean end, though half of it is missing."""
    await exchange.start(200, content_type="image/png")
    await exchange.send(PNG[:40])
    await exchange.end()


async def never(exchange: Exchange) -> None:
    await exchange.gone.wait()


async def stops_half_way(exchange: Exchange) -> None:
    await exchange.start(200, content_type="image/png")
    await exchange.send(PNG[:40])
    await exchange.gone.wait()


def fails(status: int, code: str | None = None, **headers: str) -> Script:
    return answers_json({"error": {"message": "because", "type": "t", "param": None, "code": code}}, status, **headers)


def elsewhere(then: Script) -> Script:
    """The answer names an address, and this is what lies there."""

    async def script(exchange: Exchange) -> None:
        host = exchange.request.headers["host"]
        await (then if exchange.request.method == "GET" else answers_json(at(f"http://{host}/a.png")))(exchange)

    return script


NOT_A_PICTURE = "upstream_error"
BROKEN: dict[str, tuple[Script, int, str]] = {
    "an error inside a 200": (fails(200, "server_error"), 502, NOT_A_PICTURE),
    "an error in plain words inside a 200": (answers_json({"error": "busy"}), 502, NOT_A_PICTURE),
    "an envelope without success": (answers_json({"success": False, "errors": []}), 502, NOT_A_PICTURE),
    "a rate limit inside a 200": (
        answers_json({"error": {"message": "slow", "code": 429}}),
        429,
        "rate_limit_exceeded",
    ),
    "a page": (answers(b"<html>busy</html>", content_type="text/html"), 502, NOT_A_PICTURE),
    "a page that is called a picture": (answers(b"<html></html>", content_type="image/png"), 502, NOT_A_PICTURE),
    "nothing": (answers(b"", content_type="image/png"), 502, NOT_A_PICTURE),
    "a drawing in words": (answers(b"<svg/>", content_type="image/svg+xml"), 502, NOT_A_PICTURE),
    "JSON that is cut": (answers(orjson.dumps(drawn())[:-9]), 502, NOT_A_PICTURE),
    "a chat": (answers_json(completion()), 502, NOT_A_PICTURE),
    "no pictures": (answers_json({"created": 1, "data": []}), 502, NOT_A_PICTURE),
    "a picture that is null": (answers_json({"created": 1, "data": [{"b64_json": None}]}), 502, NOT_A_PICTURE),
    "a list of nulls": (answers_json({"created": 1, "data": [None]}), 502, NOT_A_PICTURE),
    "no base64": (answers_json({"created": 1, "data": [{"b64_json": "not base64!"}]}), 502, NOT_A_PICTURE),
    "a page in base64": (answers_json(drawn(b"<html></html>")), 502, NOT_A_PICTURE),
    "a cut picture in base64": (answers_json(drawn(PNG[:-8])), 502, NOT_A_PICTURE),
    "a whole picture and a cut one": (answers_json(drawn(PNG, JPEG[:-2])), 502, NOT_A_PICTURE),
    "base64 that is cut": (answers_json({"created": 1, "data": [{"b64_json": packed(PNG)[:-3]}]}), 502, NOT_A_PICTURE),
    "a picture that breaks off": (breaks_off, 502, NOT_A_PICTURE),
    "a picture that ends early": (ends_early, 502, NOT_A_PICTURE),
    "a reset": (hangs_up, 502, NOT_A_PICTURE),
    "silence": (never, 504, "upstream_timeout"),
    "silence in the middle": (stops_half_way, 504, "upstream_timeout"),
    "a failure": (fails(500), 502, NOT_A_PICTURE),
    "a wrong key": (fails(401), 502, "upstream_refused"),
    "a model that is gone": (fails(404), 502, "upstream_refused"),
    "a rate limit": (fails(429, retry_after="7"), 429, "rate_limit_exceeded"),
    "no quota": (fails(429, "insufficient_quota"), 429, "insufficient_quota"),
    "an overload": (fails(503), 503, "overloaded"),
    "an address where nothing is": (elsewhere(fails(404)), 502, NOT_A_PICTURE),
    "an address of a page": (elsewhere(answers(b"<html>")), 502, NOT_A_PICTURE),
    "an address of a cut picture": (elsewhere(answers(GIF[:-1])), 502, NOT_A_PICTURE),
    "an address without end": (elsewhere(answers(b"", 302, location="/a.png")), 502, NOT_A_PICTURE),
}


@pytest.mark.parametrize("what", BROKEN)
@IN_ONE_LOOP
async def test_what_is_no_picture_is_a_failure_and_the_next_model_draws(
    gateway: RunningGateway, broken: FakeUpstream, what: str
) -> None:
    broken.script = BROKEN[what][0]
    size, good = ("BIG", "as good") if "silence" in what else ("SMALL", "good")
    answer = await draw(gateway, model=size, response_format="b64_json")
    assert (answer.status_code, answer.json()["data"]) == (200, [{"b64_json": packed(JPEG)}])
    assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == (good, "2")


@pytest.mark.parametrize("what", BROKEN)
@IN_ONE_LOOP
async def test_with_nobody_else_to_draw_it_is_an_honest_error(
    gateway: RunningGateway, broken: FakeUpstream, what: str
) -> None:
    broken.script, status, code = BROKEN[what]
    answer = await image(gateway, model="hasty-alone" if "silence" in what else "alone")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == (status in (429, 503))


async def test_a_fault_of_the_callers_is_told_and_nobody_else_is_asked(upstream: FakeUpstream) -> None:
    upstream.script = fails(400, "invalid_size")
    models = (painter(upstream.url, name, model_size="SMALL") for name in ("p1", "p2"))
    async with running(*models) as gateway:
        answer = await draw(gateway, model="all")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_size")
    assert len(upstream.requests) == 1


async def test_a_field_that_one_model_does_not_take_is_anothers_chance(upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        is_first = exchange.request.json["model"] == "up-1"
        await (fails(400, "unknown_parameter") if is_first else answers_json(drawn()))(exchange)

    upstream.script = script
    first = painter(upstream.url, upstream_model="up-1", model_size="SMALL", priority=1)
    async with running(first, painter(upstream.url, "p2", model_size="SMALL", priority=2)) as gateway:
        assert (await draw(gateway, model="all", background="transparent")).headers["x-sluice-model"] == "p2"


async def test_by_name_its_fallbacks_draw_for_it(upstream: FakeUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        is_first = exchange.request.json["model"] == "up-1"
        await (answers(b"<html>") if is_first else answers_json(drawn()))(exchange)

    upstream.script = script
    first = painter(upstream.url, upstream_model="up-1", fallbacks=["c1", "p2"])
    async with running(first, model(upstream.url, "c1"), painter(upstream.url, "p2")) as gateway:
        assert (await draw(gateway)).headers["x-sluice-model"] == "p2"


async def test_a_client_that_leaves_ends_the_request_to_the_provider(upstream: FakeUpstream) -> None:
    upstream.script = never
    async with running(painter(upstream.url)) as gateway:
        request = asyncio.create_task(draw(gateway))
        await asyncio.wait_for(upstream.asked.wait(), 2)
        request.cancel()
        await upstream.until_open(0)
        assert (await gateway.next_record()).error == "client_left"


async def test_a_door_that_has_no_more_time_is_answered_in_it(upstream: FakeUpstream) -> None:
    upstream.script = elsewhere(never)
    async with running(painter(upstream.url), time_s=0.3, door=MAY_FETCH) as gateway:
        with took(0.2, 1.5):
            answer = await image(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "out_of_time")


# Those who ask


async def test_the_official_package_gets_its_pictures(upstream: FakeUpstream) -> None:
    large = png(640, 480)
    upstream.script = answers_json(drawn(large, JPEG, output_format="png", usage={"total_tokens": 9}))
    async with (
        running(painter(upstream.url), model(upstream.url, "c1")) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client,
    ):
        answer = await client.images.generate(model="p1", prompt="a cat", n=2)
        assert answer.data is not None
        assert [base64.b64decode(one.b64_json or "") for one in answer.data] == [large, JPEG]
        assert (answer.created, answer.output_format, answer.usage and answer.usage.total_tokens) == (
            1795000000,
            "png",
            9,
        )
        with pytest.raises(openai.BadRequestError, match="c1 is a model for chat"):
            await client.images.generate(model="c1", prompt="a cat")
        upstream.script = fails(429, retry_after="3")
        with pytest.raises(openai.RateLimitError):
            await client.images.generate(model="p1", prompt="a cat")


async def test_the_snippet_on_the_page_about_providers_draws_the_picture_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = examples(DOCUMENT, "python")
    painter = {"name": "demo/p", "provider": "demo", "kind": "image", "model_size": "SMALL"}
    async with running(painter) as gateway:
        snippet = snippet.replace("http://127.0.0.1:8080", gateway.url).replace("sluice-local-development", TOKEN)
        await asyncio.to_thread(exec, snippet, {})
    assert pixels((tmp_path / "picture.png").read_bytes()) == pixels((FOLDER / "picture.png").read_bytes())


async def test_the_demo_draws_the_same_for_the_same_words_as_large_as_it_is_told() -> None:
    painter = {"name": "p1", "provider": "demo", "kind": "image", "demo": {"first_token_ms": 0}}
    async with running(painter) as gateway:
        one, again, other = [await image(gateway, prompt=prompt) for prompt in ("a cat", "a cat", "a dog")]
        many = await draw(gateway, n=2, size="64x32")
        wrong = [await draw(gateway, **{field: value}) for field, value in (("size", "8x8"), ("size", "x"), ("n", 9))]
    assert one.content == again.content != other.content
    pictures = [base64.b64decode(one["b64_json"]) for one in many.json()["data"]]
    assert [struct.unpack(">II", picture[16:24]) for picture in pictures] == [(64, 32)] * 2
    assert pictures[0] != pictures[1]
    assert [answer.status_code for answer in wrong] == [400] * 3


# Configuration


@pytest.mark.parametrize(
    ("provider", "settings", "problem"),
    [
        ("groq", {"token": "k"}, "needs a url or a base_url: nothing is known of pictures by groq"),
        ("groq", {"token": "k", "url": "https://g.example/draw"}, ""),
        ("mine", {}, "is not a provider that is built in"),
        ("groq", {"token": "k", "base_url": "https://g.example/v1"}, ""),
        ("mine", {"base_url": "https://m.example/v1"}, ""),
        ("mine", {"url": "https://m.example/draw"}, ""),
        ("airforce", {}, "is not a provider that is built in: give it a url or a base_url"),
        ("cloudflare", {"token": "k"}, "needs an account_id"),
    ],
)
@pytest.mark.parametrize("mark", [{"kind": "image"}, {"max_request_length": 0}])
def test_a_model_that_nobody_knows_how_to_ask_is_refused_at_the_start(
    provider: str, settings: Json, problem: str, mark: Json
) -> None:
    entry = {"name": f"{provider}/m", "provider": provider, **settings, **mark}
    if not problem:
        assert catalog_of(entry).models[0].kind == "image"
        return
    with pytest.raises(ConfigError) as caught:
        catalog_of(entry)
    assert problem in str(caught.value.problems)
