"""`sluice serve` as people meet it: a process, its greeting, its log, its signals and its exit code."""

import asyncio
import contextlib
import hashlib
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import yaml

from core import __version__
from core.config import load
from sluice.environment import read_environment
from sluice.serve import MakeApp, address, greeting, is_loopback
from tests.fake_upstream import DONE, Exchange, FakeUpstream, chunk
from tests.running_gateway import model
from tests.served import LOCAL_TOKEN, SLUICE, environment, free_port, served, sluice

ROOT = Path(__file__).parents[1]
OWN_TOKEN = "own-token-canary-0123456789"
PROMPT = "prompt-canary-zebra"
SECRETS = (OWN_TOKEN, PROMPT, "sk-canary-0123456789")

MODELS = [
    {"name": "demo/quick", "provider": "demo", "model_size": "SMALL", "demo": {"first_token_ms": 1, "token_ms": 1}},
    {"name": "demo/big", "provider": "demo", "model_size": "BIG"},
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a configuration in it, to start in."""
    write_config(tmp_path)
    return tmp_path


def write_config(folder: Path, token: str = "${AUTH_TOKEN:-sluice-local-development}", **blocks: Any) -> None:
    keys = {"keys": [{"name": "app", "token": token}]}
    (folder / "config.yaml").write_text(yaml.safe_dump({"auth": keys, "models": MODELS, **blocks}))


def ask(model: str = "SMALL", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], **more}


# --- starting


async def test_it_greets_with_address_and_token_and_answers_well_within_five_seconds(home: Path) -> None:
    started = time.monotonic()
    async with served("--addr", "127.0.0.1:0", cwd=home) as running:
        assert (await running.client.get("/ping")).text == "OK"
        took = time.monotonic() - started
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", running.url)
        assert f"Sluice {__version__} serves 2 models on {running.url}  (token: {LOCAL_TOKEN})" in running.greeting
    assert took < 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
@pytest.mark.parametrize("auth_token", [None, OWN_TOKEN], ids=["the example's token", "$AUTH_TOKEN"])
async def test_the_curl_line_of_the_greeting_streams_when_pasted(home: Path, auth_token: str | None) -> None:
    env = {"AUTH_TOKEN": auth_token} if auth_token else {}
    async with served("--addr", "127.0.0.1:0", cwd=home, env=env) as running:
        assert OWN_TOKEN not in running.greeting
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", running.curl, env=environment(home, env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(shell.communicate(), 20)
    assert shell.returncode == 0
    events = out.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(events) > 5


@pytest.mark.parametrize(
    ("key", "models", "asked"),
    [
        ({}, MODELS, "SMALL"),
        ({}, MODELS[1:], "demo/big"),
        ({"models": ["BIG"]}, MODELS, "BIG"),
    ],
    ids=["a category", "no model is SMALL", "a key that may not use SMALL"],
)
def test_the_curl_line_asks_for_what_its_key_may_use(
    key: dict[str, Any], models: list[dict[str, Any]], asked: str
) -> None:
    said = greeting_of({"auth": {"keys": [{"name": "app", "token": LOCAL_TOKEN, **key}]}, "models": models})
    assert f'-d \'{{"model": "{asked}", "stream": true' in said


@pytest.mark.parametrize("key", [{"token": OWN_TOKEN}, {"sha256": "0" * 64}], ids=["a token", "a hash"])
def test_a_token_that_is_not_the_examples_is_never_shown(key: dict[str, str]) -> None:
    said = greeting_of({"auth": {"keys": [{"name": "app", **key}]}, "models": MODELS})
    assert "Authorization: Bearer <the token of key app>" in said
    assert not any(secret in said for secret in (*key.values(), LOCAL_TOKEN))


def greeting_of(config: dict[str, Any]) -> str:
    return greeting(load(yaml.safe_dump(config), name="config.yaml", env={}), "127.0.0.1", 8080)


@pytest.mark.parametrize(
    ("addr", "env", "expected"),
    [
        (None, {}, ("127.0.0.1", 8080)),
        (None, {"PORT": "9000"}, ("127.0.0.1", 9000)),
        (None, {"PORT": ""}, ("127.0.0.1", 8080)),
        ("127.0.0.1:9001", {"PORT": "9000"}, ("127.0.0.1", 9001)),
        (":9001", {}, ("127.0.0.1", 9001)),
        ("9001", {}, ("127.0.0.1", 9001)),
        ("0.0.0.0:80", {}, ("0.0.0.0", 80)),
        ("[::1]:9001", {}, ("::1", 9001)),
        ("gateway.example:9001", {}, ("gateway.example", 9001)),
    ],
)
def test_an_address_is_read_in_every_form_people_write(
    addr: str | None, env: dict[str, str], expected: tuple[str, int]
) -> None:
    assert address(addr, env) == expected


@pytest.mark.parametrize("addr", ["here", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "a:²"])
def test_what_is_no_address_is_refused_with_an_example_of_one(addr: str) -> None:
    with pytest.raises(click.ClickException, match=r"not an address; write HOST:PORT, for example 127\.0\.0\.1:8080"):
        address(addr, {})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_only_the_machine_itself_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


async def test_port_and_token_come_from_the_environment(home: Path) -> None:
    port = free_port()
    async with served(cwd=home, env={"PORT": str(port), "AUTH_TOKEN": OWN_TOKEN}, token=OWN_TOKEN) as running:
        assert running.url == f"http://127.0.0.1:{port}"
        assert (await running.client.get("/v1/models")).status_code == 200


# --- the environment and .env


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "from-file"), ({"SLUICE_TEST_COLOUR": "from-environment"}, "from-environment")],
    ids=["fills in", "does not override"],
)
def test_env_file_fills_in_what_the_environment_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text("# a comment\nexport SLUICE_TEST_COLOUR='from-file'\nSLUICE_TEST_BARE\n")
    found = read_environment(None)
    assert found["SLUICE_TEST_COLOUR"] == expected
    assert "SLUICE_TEST_BARE" not in found


async def test_the_env_file_in_the_folder_holds_token_and_port(home: Path) -> None:
    port = free_port()
    (home / ".env").write_text(f"AUTH_TOKEN={OWN_TOKEN}\nPORT={port}\n")
    async with served(cwd=home, token=OWN_TOKEN) as running:
        assert running.url == f"http://127.0.0.1:{port}"
        assert (await running.client.get("/v1/models")).status_code == 200


async def test_env_file_option_takes_the_place_of_the_one_in_the_folder(home: Path) -> None:
    (home / ".env").write_text("AUTH_TOKEN=this-one-is-not-to-be-read\n")
    (home / "other.env").write_text(f"AUTH_TOKEN={OWN_TOKEN}\n")
    options = ("--addr", "127.0.0.1:0", "--env-file", "other.env")
    async with served(*options, cwd=home, token=OWN_TOKEN) as running:
        assert (await running.client.get("/v1/models")).status_code == 200


def test_an_env_file_that_is_not_text_is_named_and_not_quoted(home: Path) -> None:
    (home / ".env").write_bytes(b"AUTH_TOKEN=sk-canary-0123456789\xff\n")
    assert refusal("serve", cwd=home) == "Error: .env cannot be read: UnicodeDecodeError\n"


# --- refusing to start


def refusal(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What it says when it does not start: exit code 1, no traceback, nothing secret, nothing on stdout."""
    done = sluice(*args, cwd=cwd, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert not any(secret in done.stderr for secret in SECRETS)
    return done.stderr


def test_a_missing_configuration_is_met_with_what_to_do(tmp_path: Path) -> None:
    said = refusal("serve", cwd=tmp_path)
    assert (
        said == "Error: there is no config.yaml; copy config.example.yaml to config.yaml, or name one with --config\n"
    )


@pytest.mark.parametrize("what", ["a folder", "not text", "no permission"])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, what: str) -> None:
    file = tmp_path / "config.yaml"
    if what == "a folder":
        file.mkdir()
    elif what == "not text":
        file.write_bytes(b"token: sk-canary-0123456789\xff")
    else:
        file.touch(mode=0o000)
        if os.access(file, os.R_OK):
            pytest.skip("this user may read every file")
    assert re.fullmatch(r"Error: config\.yaml cannot be read: \w+Error\n", refusal("check", cwd=tmp_path))


BROKEN = """\
auth:
  keys:
    - {name: app, token: short}
models:
  - name: demo/one
    provider: demo
    priority: first
  - name: openai/two
    provider: openai
    tokn: sk-canary-0123456789
  - name: demo/one
    provider: demo
    requests_per_day: "${RPD_IS_NOT_SET}"
"""


@pytest.mark.parametrize("command", ["serve", "check"])
def test_every_problem_of_a_broken_configuration_is_named_with_its_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "config.yaml").write_text(BROKEN)
    said = refusal(command, cwd=tmp_path).splitlines()
    assert said[0].startswith("Error: the configuration is refused, ")
    for start in (
        "config.yaml:3: auth.keys[0].token: ",
        "config.yaml:7: models[0].priority: ",
        "config.yaml:10: models[1].tokn: ",
        "config.yaml:13: models[2].requests_per_day: ",
    ):
        assert any(line.startswith(start) for line in said), start


def test_a_port_in_use_is_named_with_the_remedy(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("serve", "--addr", f"127.0.0.1:{port}", cwd=home)
    words = (
        f"Error: cannot listen on 127.0.0.1:{port}: Address already in use; --addr HOST:PORT chooses another address"
    )
    assert said.strip() == words


def test_the_examples_token_is_refused_where_others_can_reach_it(home: Path) -> None:
    said = refusal("serve", "--addr", "0.0.0.0:0", cwd=home)
    assert "key app has the example's token, which everybody knows" in said
    assert "Set AUTH_TOKEN to a secret of 16 characters or more." in said


HASHED = hashlib.sha256(LOCAL_TOKEN.encode()).hexdigest()


@pytest.mark.parametrize(
    ("host", "key", "is_served"),
    [
        ("127.0.0.1", {"token": LOCAL_TOKEN}, True),
        ("::1", {"token": LOCAL_TOKEN}, True),
        ("0.0.0.0", {"token": LOCAL_TOKEN}, False),
        ("0.0.0.0", {"sha256": HASHED}, False),
        ("192.0.2.1", {"token": LOCAL_TOKEN}, False),
        ("0.0.0.0", {"token": OWN_TOKEN}, True),
    ],
)
def test_the_examples_token_serves_on_loopback_only(
    tmp_path: Path, host: str, key: dict[str, str], is_served: bool
) -> None:
    """The same rule holds in each process that reads the configuration, also after a reload."""
    write_config(tmp_path, auth={"keys": [{"name": "other", "token": OWN_TOKEN[::-1]}, {"name": "app", **key}]})
    make_app = MakeApp(tmp_path / "config.yaml", None, host)
    if is_served:
        assert len(make_app.read().config.models) == 2
    else:
        with pytest.raises(click.ClickException, match="key app has the example's token"):
            make_app.read()


# --- stopping


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")],
    ids=["SIGTERM", "SIGINT", "SIGTERM with workers"],
)
async def test_a_signal_lets_streams_finish_and_takes_no_new_ones(
    tmp_path: Path, upstream: FakeUpstream, number: signal.Signals, workers: str
) -> None:
    nobody_accepts = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(content_type="text/event-stream")
        await exchange.send(chunk("begun"))
        await nobody_accepts.wait()
        await exchange.send(chunk(" and finished", finish="stop") + DONE)
        await exchange.end()

    upstream.script = script
    write_config(tmp_path, models=[model(upstream.url)])
    async with served("--addr", "127.0.0.1:0", "--workers", workers, cwd=tmp_path) as running:
        async with running.client.stream("POST", "/v1/chat/completions", json=ask("m1", stream=True)) as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == chunk("begun")
            running.process.send_signal(number)
            await running.refuses_connections()
            nobody_accepts.set()
            rest = b"".join([piece async for piece in pieces])
        assert await running.ended() == (0, "")
    assert rest == chunk(" and finished", finish="stop") + DONE


async def test_a_signal_right_after_the_greeting_ends_it_well(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", cwd=home) as running:
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == (0, "")


async def test_a_stream_that_outlasts_the_grace_is_cut(tmp_path: Path, upstream: FakeUpstream) -> None:
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start(content_type="text/event-stream")
        await exchange.send(chunk("begun"))
        await exchange.gone.wait()
        gone.set()

    upstream.script = script
    write_config(tmp_path, models=[model(upstream.url)])
    async with served("--addr", "127.0.0.1:0", "--grace", "1", cwd=tmp_path) as running:
        got: list[bytes] = []
        async with running.client.stream("POST", "/v1/chat/completions", json=ask("m1", stream=True)) as response:
            pieces = response.aiter_raw()
            await anext(pieces)
            running.process.send_signal(signal.SIGTERM)
            stopped = time.monotonic()
            with contextlib.suppress(httpx.RemoteProtocolError):
                got += [piece async for piece in pieces]
        code, errors = await running.ended()
        took = time.monotonic() - stopped
        await asyncio.wait_for(gone.wait(), 5)
    assert b"[DONE]" not in b"".join(got)
    assert 1 <= took < 5
    assert code == 0
    assert "Traceback" not in errors


# --- workers


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_is_cut_at_the_end_leaves_its_line(tmp_path: Path, workers: str) -> None:
    endless = {"name": "demo/endless", "provider": "demo", "demo": {"first_token_ms": 1, "stall_after": 1}}
    write_config(tmp_path, models=[endless])
    args = ("--addr", "127.0.0.1:0", "--grace", "0", "--workers", workers)
    async with served(*args, cwd=tmp_path) as running, contextlib.AsyncExitStack() as open_streams:
        for _ in range(6):
            body = ask("demo/endless", stream=True)
            stream = running.client.stream("POST", "/v1/chat/completions", json=body)
            await open_streams.enter_async_context(stream)
        running.process.send_signal(signal.SIGTERM)
        lines = [await running.log_line() for _ in range(6)]
    assert [line["error"] for line in lines] == ["cut_by_shutdown"] * 6


@pytest.mark.skipif(sys.platform != "linux", reason="reads the processes' tree from /proc")
async def test_two_workers_serve_each_without_the_other(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", "--workers", "2", cwd=home) as running:
        assert (await running.client.get("/ping")).status_code == 200
        for asleep in workers_of(running.process.pid):
            os.kill(asleep, signal.SIGSTOP)
            try:
                async with httpx.AsyncClient(timeout=10, trust_env=False) as fresh:
                    assert (await fresh.get(f"{running.url}/ping")).text == "OK"
            finally:
                os.kill(asleep, signal.SIGCONT)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == (0, "")


def workers_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 2
    return found


# --- the code changes


async def test_reload_serves_the_code_as_it_has_become(home: Path) -> None:
    shutil.copytree(ROOT / "src", home / "src", ignore=shutil.ignore_patterns("__pycache__"))
    version = home / "src/core/__init__.py"
    options, env = ("--addr", "127.0.0.1:0", "--reload"), {"PYTHONPATH": str(home / "src")}

    async def served_version() -> str:
        with contextlib.suppress(httpx.TransportError):  # asked while one process goes and the next one comes
            answer = await running.client.get("/openapi.json")
            return str(answer.json()["info"]["version"])
        return ""

    async with served(*options, cwd=home, env=env) as running:
        assert await served_version() == __version__
        text = version.read_text().replace(__version__, "99.0.0")
        async with asyncio.timeout(15):
            while await served_version() != "99.0.0":
                version.write_text(text)  # again: what changed before the first look at the files is not noticed
                await asyncio.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        assert (await running.ended())[0] == 0


def test_reload_and_workers_together_are_refused(home: Path) -> None:
    done = sluice("serve", "--reload", "--workers", "2", cwd=home)
    assert done.returncode == 2
    assert "--reload serves with one process" in done.stderr


# --- the log


async def test_without_a_terminal_each_request_is_a_line_of_json(home: Path) -> None:
    async with served("--addr", "127.0.0.1:0", cwd=home) as running:
        await running.client.get("/ping")  # health checks are not worth a line
        headers = {"x-request-id": "my-request-1"}
        body = ask(stream=True, stream_options={"include_usage": True})
        await running.client.post("/v1/chat/completions", json=body, headers=headers)
        line = await running.log_line()
        await running.client.get("/v1/models", headers={"authorization": f"Bearer {OWN_TOKEN}"})
        refused = await running.log_line()
        running.process.send_signal(signal.SIGTERM)
        _, errors = await running.ended()
    assert (
        line.items()
        >= {
            "message": "request",
            "request_id": "my-request-1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "caller": "app",
            "model": "demo/quick",
            "provider": "demo",
            "status": 200,
            "attempts": 1,
        }.items()
    )
    numbers = [line["first_token_s"], line["total_s"], line["prompt_tokens"], line["completion_tokens"]]
    assert all(isinstance(number, int | float) and number > 0 for number in numbers)
    assert refused.items() >= {"status": 401, "error": "invalid_api_key", "attempts": 0}.items()
    assert not any(secret in f"{line}{refused}{errors}{running.greeting}" for secret in SECRETS)


async def test_on_a_terminal_each_request_is_a_line_to_read(home: Path) -> None:
    ours, its = pty.openpty()
    try:
        async with served("--addr", "127.0.0.1:0", cwd=home, stdout=its) as running:
            headers = {"x-request-id": "my-request-1"}
            await running.client.post("/v1/chat/completions", json=ask(), headers=headers)
            running.process.send_signal(signal.SIGTERM)
            await running.ended()
        text = os.read(ours, 65536).decode()
    finally:
        os.close(its)
        os.close(ours)
    expected = (
        r"\d\d:\d\d:\d\d  200  POST /v1/chat/completions  \d+\.\d\ds  demo/quick via demo  "
        r"\d+\+\d+ tokens  1 attempt  key app  my-request-1\r\n"
    )
    assert re.fullmatch(expected, text), text


# --- asking for help


def test_version_is_the_packages(tmp_path: Path) -> None:
    assert sluice("--version", cwd=tmp_path).stdout == f"sluice, version {__version__}\n"


def test_the_command_is_installed_beside_python(tmp_path: Path) -> None:
    command = Path(SLUICE[0]).with_name("sluice")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=20, check=True)
    assert done.stdout == f"sluice, version {__version__}\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--help"], ["serve", "check", "--version"]),
        (
            ["serve", "--help"],
            ["--config", "--addr", "--env-file", "--workers", "--reload", "--grace", "[default: 30;"],
        ),
        (["check", "--help"], ["--config", "--env-file"]),
    ],
)
def test_help_names_every_command_and_option(tmp_path: Path, args: list[str], words: list[str]) -> None:
    done = sluice(*args, cwd=tmp_path)
    assert done.returncode == 0
    assert [word for word in words if word not in done.stdout] == []
