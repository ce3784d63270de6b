"""What is measured: how each gateway is started before the same provider, and how it is asked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .load import Question
from .processes import GATEWAY_CORE, free_port

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv" / "peers"  # `make bench-peers` fills it
TOKEN = "bench-token-0123456789"  # noqa: S105 - of gateways that live for minutes
NAMED = ("small", "large", "paced", "wait200")  # what the provider is asked for by its address
FULL = 1_000_000_000  # limits that are counted and never reached
START_S = 120.0
STOP_S = 10.0
MESSAGES = [
    {"role": "system", "content": "You are a terse assistant that answers in one short paragraph."},
    {
        "role": "user",
        "content": "Explain what a reverse proxy does, and when one would put it in front of a server. " * 3,
    },
]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """`command` is given its port, a folder of its own, and the provider's port; `ask` says path and further headers of
    a scenario, and the model to name.
    """

    name: str
    command: Callable[[int, Path, int], list[str]]
    ask: Callable[[str, int], tuple[str, dict[str, str], str]]
    env: Mapping[str, str] = field(default_factory=dict)
    is_slow: bool = False  # so slow that it is asked less, or measuring it takes all day

    def question(
        self, scenario: str, port: int, upstream_port: int, *, stream: bool = False, padding: int = 0
    ) -> Question:
        path, headers, model = self.ask(scenario, upstream_port)
        body: dict[str, object] = {"model": model, "messages": MESSAGES, "temperature": 0.7, "max_tokens": 256}
        if stream:
            body["stream"] = True
        if padding:
            body["metadata"] = {"padding": "x" * padding}
        return Question.of(port, path, {"authorization": f"Bearer {TOKEN}", **headers}, json.dumps(body).encode())


class Running:
    """A target's process, alone on its core."""

    def __init__(self, target: Target, folder: Path, upstream_port: int) -> None:
        self.target, self.port, self._upstream_port = target, free_port(), upstream_port
        self._folder = folder / target.name
        self._folder.mkdir(parents=True)
        command = target.command(self.port, self._folder, upstream_port)
        self.log = (self._folder / "log").open("w+b")
        env = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "LANG": "C.UTF-8", **target.env}
        self._process = subprocess.Popen(  # a session of its own, so that all it starts is ended with it
            command, env=env, cwd=HERE.parent, stdout=self.log, stderr=self.log, start_new_session=True
        )
        os.sched_setaffinity(self._process.pid, {GATEWAY_CORE})
        self.began = time.perf_counter()

    @property
    def pid(self) -> int:
        return self._process.pid

    def question(self, scenario: str, *, stream: bool = False, padding: int = 0) -> Question:
        return self.target.question(scenario, self.port, self._upstream_port, stream=stream, padding=padding)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-2000:].decode(errors="replace")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGCONT, signal.SIGTERM):
            if self.is_alive():
                os.killpg(self.pid, number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self.log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sluice(store: str) -> Callable[[int, Path, int], list[str]]:
    def command(port: int, folder: Path, upstream_port: int) -> list[str]:
        (folder / "config.yaml").write_text(json.dumps(configuration(store, folder, upstream_port)))
        return [sys.executable, "-m", "sluice", "serve", "--config", f"{folder}/config.yaml", "--addr", f":{port}"]

    return command


def configuration(store: str, folder: Path, upstream_port: int) -> dict[str, object]:
    """Nothing is off: a caller with a limit, five candidates of a category with limits, models by name for the rest."""

    def model(name: str, scenario: str, category: str) -> dict[str, object]:
        url = f"http://127.0.0.1:{upstream_port}/{scenario}/v1/chat/completions"
        limits = {"requests_per_minute": FULL, "requests_per_day": FULL}
        return {"name": name, "provider": "openai", "upstream_model": "up", "url": url, "token": TOKEN,
                "model_size": category, "max_request_length": 2_000_000, **limits}  # fmt: skip

    return {
        "auth": {"keys": [{"name": "bench", "token": TOKEN, "requests_per_minute": FULL}]},
        "state": {"store": store, **({"path": f"{folder}/state.db"} if store == "sqlite" else {})},
        "server": {"max_in_flight": 2000},
        "models": [model(f"{scenario}-{n}", scenario, scenario.upper()) for scenario in NAMED for n in range(5)],
    }


def _relay(port: int, folder: Path, upstream_port: int) -> list[str]:  # noqa: ARG001
    return [sys.executable, "-m", "bench.relay", str(port), str(upstream_port)]


def _nginx(port: int, folder: Path, upstream_port: int) -> list[str]:
    text = (HERE / "peers" / "nginx.conf").read_text()
    (folder / "nginx.conf").write_text(text.replace("@PORT@", str(port)).replace("@UPSTREAM@", str(upstream_port)))
    return [_NGINX or "nginx", "-p", str(folder), "-e", "stderr", "-c", f"{folder}/nginx.conf"]


def _litellm(port: int, folder: Path, upstream_port: int) -> list[str]:
    base = f"http://127.0.0.1:{upstream_port}"
    models = [
        {"model_name": name, "litellm_params": {"model": "openai/up", "api_key": "up", "api_base": f"{base}/{name}/v1"}}
        for name in NAMED
    ]
    (folder / "config.yaml").write_text(json.dumps({"model_list": models, "general_settings": {"master_key": TOKEN}}))
    command = [f"{PEERS}/litellm/bin/litellm", "--config", f"{folder}/config.yaml", "--host", "127.0.0.1"]
    return [*command, "--port", str(port), "--num_workers", "1"]


def _portkey(port: int, folder: Path, upstream_port: int) -> list[str]:  # noqa: ARG001 - each request says whom to ask
    start = PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    return ["node", str(start), f"--port={port}", "--headless"]


def _by_category(scenario: str, upstream_port: int) -> tuple[str, dict[str, str], str]:  # noqa: ARG001
    return "/v1/chat/completions", {}, scenario.upper()


def _by_address(scenario: str, upstream_port: int) -> tuple[str, dict[str, str], str]:  # noqa: ARG001
    return f"/{scenario}/v1/chat/completions", {}, "up"


def _by_name(scenario: str, upstream_port: int) -> tuple[str, dict[str, str], str]:  # noqa: ARG001
    return "/v1/chat/completions", {}, scenario


def _by_header(scenario: str, upstream_port: int) -> tuple[str, dict[str, str], str]:
    host = f"http://127.0.0.1:{upstream_port}/{scenario}/v1"
    return "/v1/chat/completions", {"x-portkey-provider": "openai", "x-portkey-custom-host": host}, "up"


_NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"]))
_QUIET = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
_LIBRARIES = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}

SLUICE = Target("sluice", _sluice("memory"), _by_category)
SQLITE = Target("sluice, sqlite", _sluice("sqlite"), _by_category)
RELAY = Target("bare relay", _relay, _by_address)
NGINX = Target("nginx", _nginx, _by_address, _LIBRARIES)
LITELLM = Target("LiteLLM", _litellm, _by_name, _QUIET, is_slow=True)
PORTKEY = Target("Portkey", _portkey, _by_header, {"NODE_ENV": "production"})


def installed() -> tuple[list[Target], list[str]]:
    """The targets that can be started here, and what is said of the others."""
    there = {
        NGINX: _NGINX is not None,
        LITELLM: (PEERS / "litellm/bin/litellm").exists(),
        PORTKEY: (PEERS / "portkey/node_modules/@portkey-ai/gateway").exists() and shutil.which("node") is not None,
    }
    return [SLUICE, SQLITE, RELAY, *(peer for peer, is_there in there.items() if is_there)], [
        f"{peer.name} is not installed" for peer, is_there in there.items() if not is_there
    ]
