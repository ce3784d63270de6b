"""Change while running: a new configuration is taken whole or not at all, and nobody's stream notices."""

import asyncio
import contextlib
import gc
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from core.app import build
from core.auth import LOCAL_TOKEN
from core.config import Loaded, load
from core.gateway import Gateway
from sluice.reload import POLL_S, ReloadingApp
from sluice.serve import MakeApp
from tests.fake_upstream import DONE, Exchange, FakeUpstream, chunk
from tests.running_gateway import TOKEN, UPSTREAM_TOKEN, Recorder, ask, configuration, model
from tests.served import START_S, Served, served

OTHER_TOKEN = "another-canary-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"  # for models that are listed and never asked
SOON_S = 4.0


def write(folder: Path, *models: dict[str, Any], name: str = "config.yaml", **blocks: Any) -> Path:
    """In one piece, as an editor or a deployment does it: written aside and moved into its place."""
    return replace(folder / name, yaml.safe_dump(configuration(*models, **blocks)))


def replace(file: Path, text: str) -> Path:
    aside = file.with_suffix(".new")
    aside.write_text(text)
    return aside.replace(file)


def keys(**tokens: str) -> dict[str, Any]:
    return {"keys": [{"name": name, "token": token} for name, token in tokens.items()]}


async def names(client: httpx.AsyncClient, token: str = TOKEN) -> list[str]:
    """What the gateway lists, or what stands in the way."""
    response = await client.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    return [row["id"] for row in response.json()["data"]] if response.status_code == 200 else [str(response)]


async def until(claim: Callable[[], Awaitable[bool]], within_s: float = SOON_S) -> None:
    async with asyncio.timeout(within_s):
        while not await claim():
            await asyncio.sleep(0.02)


async def lists(client: httpx.AsyncClient, *expected: str, token: str = TOKEN) -> None:
    """Waits until these models are what is served."""

    async def claim() -> bool:
        return await names(client, token) == list(expected)

    await until(claim)


async def told(gateway: Served) -> str:
    """The next thing that it has to say on stderr."""
    assert gateway.process.stderr is not None
    message: str = orjson.loads(await asyncio.wait_for(gateway.process.stderr.readline(), 10))["message"]
    return message


async def hang_up(gateway: Served) -> str:
    """SIGHUP; returns what it says to that."""
    gateway.process.send_signal(signal.SIGHUP)
    return await told(gateway)


# When it is taken


async def test_a_changed_file_is_in_use_within_seconds(tmp_path: Path) -> None:
    """Whether it is written over or another one is moved into its place."""
    file = write(tmp_path, model(NOWHERE, "before"))
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        assert await names(gateway.client) == ["before"]
        file.write_text(yaml.safe_dump(configuration(model(NOWHERE, "written over"))))
        await lists(gateway.client, "written over")
        write(tmp_path, model(NOWHERE, "replaced"))
        await lists(gateway.client, "replaced")


async def test_a_changed_env_file_is_in_use_within_seconds(tmp_path: Path) -> None:
    """Also one that was not there before: a key that was unset gives its optional model back."""
    env_file = tmp_path / ".env"
    optional = {"token": "${PROVIDER_KEY}", "optional": True}
    write(tmp_path, model(NOWHERE), model(NOWHERE, "m2", **optional), auth=keys(app="${APP_TOKEN:-" + TOKEN + "}"))
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        assert await names(gateway.client) == ["m1"]
        replace(env_file, "PROVIDER_KEY=upstream-secret\n")
        await lists(gateway.client, "m1", "m2")
        replace(env_file, f"APP_TOKEN={OTHER_TOKEN}\n")
        await lists(gateway.client, "m1", token=OTHER_TOKEN)
        assert (await gateway.client.get("/v1/models")).status_code == 401


async def test_a_signal_is_enough_when_the_file_looks_the_same(tmp_path: Path) -> None:
    """Same size, same time: only SIGHUP can tell. It is heard when nothing has changed, too."""
    file = write(tmp_path, model(NOWHERE, "before"))
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        await gateway.client.get("/ping")
        was, text = file.stat(), file.read_text()
        file.write_text(text.replace("before", "behind"))
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert await hang_up(gateway) == "A new configuration is in use: 1 models"
        assert await names(gateway.client) == ["behind"]
        assert await hang_up(gateway) == "A new configuration is in use: 1 models"


async def test_half_a_file_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each piece of it would be a valid configuration; only what stands still for a moment is read."""
    file = write(tmp_path, model(NOWHERE, "before"))
    async with reloading(MakeApp(file, None, "127.0.0.1")) as client:
        text = yaml.safe_dump(configuration(model(NOWHERE, "first")), sort_keys=False)
        file.write_text(text)
        rest = [f"- {{name: m{number}, provider: openai, token: {UPSTREAM_TOKEN}}}\n" for number in range(22)]
        with file.open("a") as growing:
            for line in rest:
                growing.write(line)
                growing.flush()
                assert await names(client) == ["before"]
                await asyncio.sleep(POLL_S / 10)
        await lists(client, "first", *(f"m{number}" for number in range(22)))
    assert caplog.messages == ["A new configuration is in use: 23 models"]


# What is taken: all of it


async def test_the_whole_configuration_changes(tmp_path: Path) -> None:
    """Models, aliases, categories, keys, bounds, CORS: nothing of the old one is left."""
    old = {"cors_origins": ["https://old.example"], "max_body_bytes": 100_000}
    write(tmp_path, demo("old", model_size="SMALL"), auth=keys(stays=TOKEN, leaves=OTHER_TOKEN), server=old)
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        client = gateway.client

        async def seen(token: str = TOKEN) -> dict[str, Any]:
            headers = {"authorization": f"Bearer {token}"}
            chosen = await client.post("/v1/chat/completions", json=ask(model=""), headers=headers)
            large = await client.post("/v1/chat/completions", json=ask(pad="x" * 2000), headers=headers)
            origins = [await allowed_origin(client, f"https://{age}.example") for age in ("old", "new")]
            return {
                "answered by": chosen.headers.get("x-sluice-model", chosen.status_code),
                "names": await names(client, token),
                "a large body": large.status_code,
                "origins": origins,
            }

        assert await seen() == {
            "answered by": "old",
            "names": ["old", "SMALL"],
            "a large body": 404,
            "origins": ["https://old.example", None],
        }
        new = {"cors_origins": ["https://new.example"], "max_body_bytes": 1000, "default_category": "HUGE"}
        write(
            tmp_path,
            demo("new", model_size="HUGE"),
            demo("kept", aliases=["old"]),
            auth=keys(stays=TOKEN, comes="newcomer-canary-0123456789"),
            server=new,
        )
        assert await hang_up(gateway) == "A new configuration is in use: 2 models"
        for token in (TOKEN, "newcomer-canary-0123456789"):
            assert await seen(token) == {
                "answered by": "new",
                "names": ["new", "kept", "HUGE"],
                "a large body": 413,
                "origins": [None, "https://new.example"],
            }
        assert await names(client, OTHER_TOKEN) == ["<Response [401 Unauthorized]>"]


async def allowed_origin(client: httpx.AsyncClient, origin: str) -> str | None:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    response = await client.options("/v1/chat/completions", headers=headers)
    allowed: str | None = response.headers.get("access-control-allow-origin")
    return allowed


def demo(name: str, **more: Any) -> dict[str, Any]:
    """A model that answers at once, without a network."""
    return {"name": name, "provider": "demo", "demo": {"first_token_ms": 0, "token_ms": 0}, **more}


# What is refused


SECRET = "never-to-be-printed-0123456789"
UNUSABLE: dict[str, tuple[str, str]] = {
    "a misspelt key": ("models: [{name: m1, provider: demo, prioritty: 1}]", "config.yaml:1: models[0].prioritty: is"),
    "a wrong value": (
        f"auth: {{keys: [{{name: app, token: {SECRET}}}]}}\nmodels:\n- {{name: m1, provider: demo, priority: low}}",
        "config.yaml:3: models[0].priority: must be a whole number",
    ),
    "a short token": (
        "auth: {keys: [{name: app, token: never-to-be}]}\nmodels: []",
        "config.yaml:1: auth.keys[0].token",
    ),
    "an unset variable": (
        "models:\n- name: m1\n  provider: groq\n  token: ${GROQ_API_KEY}",
        "config.yaml:4: models[0].token: needs the variable GROQ_API_KEY, which is not set",
    ),
    "no YAML": (f"token: {SECRET}\nmodels: m1: m2", "config.yaml:2: the file: is not valid YAML"),
    "an empty file": ("", "config.yaml:1: the file: must be a mapping"),
}


async def test_an_invalid_configuration_is_refused_with_its_problems_and_the_old_one_stays(tmp_path: Path) -> None:
    file = write(tmp_path, demo("kept", model_size="SMALL"))
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        await gateway.client.get("/ping")
        for name, (text, problem) in UNUSABLE.items():
            replace(file, text)
            refusal = await hang_up(gateway)
            assert refusal.startswith("The old configuration stays: the configuration is refused, "), name
            assert problem in refusal
            assert "never-to-be" not in refusal
            assert await names(gateway.client) == ["kept", "SMALL"]
        file.write_bytes(b"\xff\xfe")
        assert await hang_up(gateway) == "The old configuration stays: config.yaml cannot be read: UnicodeDecodeError"
        file.unlink()
        assert (await hang_up(gateway)).startswith("The old configuration stays: there is no config.yaml")
        assert (await gateway.client.post("/v1/chat/completions", json=ask(model=""))).status_code == 200
        write(tmp_path, model(NOWHERE, "right"))
        await lists(gateway.client, "right")  # by itself: the file is seen again


async def test_an_invalid_file_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, model(NOWHERE, "before"))
    async with reloading(MakeApp(file, None, "127.0.0.1")) as client:
        replace(file, "models: 1")
        await until(has(caplog, "The old configuration stays"))
        await asyncio.sleep(POLL_S * 2.5)  # at least two more looks at it
        write(tmp_path, model(NOWHERE, "after"))
        await lists(client, "after")
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "The old configuration stays",
        "A new configuration is in use",
    ]


async def test_the_examples_token_is_refused_where_others_can_reach_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As at the start: the door is told that it listens on all addresses."""
    file = write(tmp_path, model(NOWHERE, "before"))
    async with reloading(MakeApp(file, None, "0.0.0.0")) as client:
        write(tmp_path, model(NOWHERE, "after"), auth=keys(app=TOKEN, local=LOCAL_TOKEN))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(has(caplog, "it serves on loopback only"))
        assert await names(client) == ["before"]
        assert await names(client, LOCAL_TOKEN) == ["<Response [401 Unauthorized]>"]


async def test_a_failure_that_nobody_foresaw_leaves_the_old_one_and_the_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, model(NOWHERE, "before"))
    make_app = MakeApp(file, None, "127.0.0.1")
    failures = [ValueError(f"about {SECRET}")]

    def read() -> Loaded:
        if failures and file.read_text().find("after") > 0:
            raise failures.pop()
        return make_app.read()

    async with reloading(make_app, read) as client:
        write(tmp_path, model(NOWHERE, "after"))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(has(caplog, "The old configuration stays"))
        assert await names(client) == ["before"]
        os.kill(os.getpid(), signal.SIGHUP)
        await lists(client, "after")
    assert SECRET not in caplog.text


def has(log: pytest.LogCaptureFixture, words: str) -> Callable[[], Awaitable[bool]]:
    async def claim() -> bool:
        return words in log.text

    return claim


# Who is in the middle of an answer


@pytest.mark.parametrize(("before", "after"), [("aiohttp", "aiohttp"), ("aiohttp", "httpx"), ("httpx", "aiohttp")])
async def test_a_stream_finishes_on_the_configuration_it_began_with(
    tmp_path: Path, upstream: FakeUpstream, before: str, after: str
) -> None:
    """The change takes its model, its caller's key and its HTTP client away; the next request sees the new ones."""
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("Hello"))
        if exchange.request.headers["authorization"] == f"Bearer {UPSTREAM_TOKEN}":
            await go_on.wait()
        await exchange.send(chunk(finish="stop") + DONE)
        await exchange.end()

    upstream.script = script
    write(tmp_path, model(upstream.url, "old"), server={"http_client": before})
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ask(model="old", stream=True)) as stream:
            pieces = stream.aiter_raw()
            got = await anext(pieces)
            new = model(upstream.url, "new", token="another-upstream-key")
            write(tmp_path, new, auth=keys(comes=OTHER_TOKEN), server={"http_client": after})
            assert await hang_up(gateway) == "A new configuration is in use: 1 models"
            assert (await gateway.client.get("/v1/models")).status_code == 401
            headers = {"authorization": f"Bearer {OTHER_TOKEN}"}
            for name, status in (("new", 200), ("old", 404)):
                body = ask(model=name, stream=True)
                response = await gateway.client.post("/v1/chat/completions", json=body, headers=headers)
                assert response.status_code == status
            go_on.set()
            async for piece in pieces:
                got += piece
        assert got == chunk("Hello") + chunk(finish="stop") + DONE
        await gateway.client.get("/v1/models")
        await upstream.until_open(2 if before == after else 1)  # a client that is not used any more keeps none


async def test_a_change_leaves_nothing_of_the_one_before() -> None:
    """Also when it comes again and again, and while nobody asks."""
    gc.collect()
    others = {id(one) for one in gc.get_objects() if isinstance(one, Gateway)}  # that other tests share
    app = build(
        load(yaml.safe_dump(configuration(model(NOWHERE))), name="", env={}), Recorder(), version="1", started=1
    )
    for number in range(10):
        changed = model(NOWHERE, http_client_config={"idle_conn_timeout_seconds": number + 1})
        app.use(load(yaml.safe_dump(configuration(changed)), name="", env={}))
    gc.collect()
    gateways = [one for one in gc.get_objects() if isinstance(one, Gateway) and id(one) not in others]
    assert len(gateways) == 1


# More than one process


async def test_every_worker_changes(tmp_path: Path) -> None:
    """Each of the two says so; from then on it is all the same who answers."""
    file = write(tmp_path, model(NOWHERE, "before"))
    async with served("--addr", "127.0.0.1:0", "--workers", "2", cwd=tmp_path, token=TOKEN) as gateway:
        await both_serve(gateway)
        replace(file, "models: 1")
        for refusal in (await told(gateway), await told(gateway)):
            assert refusal.startswith("The old configuration stays: the configuration is refused, ")
        write(tmp_path, model(NOWHERE, "after"))
        for notice in (await told(gateway), await told(gateway)):
            assert notice == "A new configuration is in use: 1 models"
        for _ in range(20):
            async with httpx.AsyncClient(base_url=gateway.url, verify=False) as newcomer:
                assert await names(newcomer) == ["after"]


async def both_serve(gateway: Served) -> None:
    """Waits until each worker hears SIGHUP, which is when it serves and watches."""

    async def claim() -> bool:
        return workers_that_hear_sighup(gateway.process.pid) == [True, True]

    await until(claim, within_s=START_S)


def workers_that_hear_sighup(parent: int) -> list[bool]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    caught = [re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text()) for pid in workers]
    return [bool(int(mask[1], 16) & 1 << signal.SIGHUP - 1) for mask in caught if mask]


# The pieces the tests are made of


@contextlib.asynccontextmanager
async def reloading(make_app: MakeApp, read: Callable[[], Loaded] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """The application that watches its file, in this loop; no socket, so nothing that streams."""
    read = read or make_app.read
    app = ReloadingApp(build(read(), Recorder(), version="test", started=1), [make_app.config], read)
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
    inbox.put_nowait({"type": "lifespan.startup"})
    await outbox.get()
    headers = {"authorization": f"Bearer {TOKEN}"}
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway", headers=headers
        ) as client:
            yield client
    finally:
        inbox.put_nowait({"type": "lifespan.shutdown"})
        await task
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


async def test_a_signal_reaches_every_worker_and_no_stream_is_cut(tmp_path: Path, upstream: FakeUpstream) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, content_type="text/event-stream")
        await exchange.send(chunk("Hello"))
        await go_on.wait()
        await exchange.send(chunk(finish="stop") + DONE)
        await exchange.end()

    upstream.script = script
    write(tmp_path, model(upstream.url, "old"))
    args = ("--addr", "127.0.0.1:0", "--workers", "2", "--grace", "0")
    async with served(*args, cwd=tmp_path, token=TOKEN) as gateway:
        await both_serve(gateway)
        async with gateway.client.stream("POST", "/v1/chat/completions", json=ask(model="old", stream=True)) as stream:
            pieces = stream.aiter_raw()
            got = await anext(pieces)
            write(tmp_path, model(upstream.url, "new"))
            gateway.process.send_signal(signal.SIGHUP)
            for notice in (await told(gateway), await told(gateway)):
                assert notice == "A new configuration is in use: 1 models"
            go_on.set()
            async for piece in pieces:
                got += piece
        assert got == chunk("Hello") + chunk(finish="stop") + DONE
        await lists(gateway.client, "new")


async def test_a_signal_right_after_the_greeting_ends_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"name": "one", "provider": "demo"})
    async with served("--addr", "127.0.0.1:0", cwd=tmp_path, token=TOKEN) as gateway:
        gateway.process.send_signal(signal.SIGHUP)
        await lists(gateway.client, "one")
