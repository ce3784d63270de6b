"""`sluice serve`: the gateway under uvicorn."""

import ipaddress
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from core import __version__
from core.app import App, build
from core.auth import LOCAL_TOKEN
from core.config import Loaded

from .environment import Environment, read_config, read_environment
from .http_protocol import HttpProtocol
from .log import make_log

KEEP_ALIVE_S = 75


@dataclass(frozen=True, slots=True)
class MakeApp:
    """Builds the application in the process that serves it; picklable, so that workers can be given it."""

    config: Path
    env_file: Path | None

    def __call__(self) -> App:
        try:
            loaded = read_config(self.config, read_environment(self.env_file))
        except click.ClickException as error:
            error.show()
            raise SystemExit(STARTUP_FAILURE) from None
        return build(loaded, make_log(sys.stdout), version=__version__, started=int(time.time()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    config: Path
    env_file: Path | None
    addr: str | None
    workers: int
    reload: bool
    grace: int


def serve(options: Options) -> None:
    env = read_environment(options.env_file)
    loaded = read_config(options.config, env)
    host, port = address(options.addr, env)
    _refuse_public_example_token(loaded, host)
    config = uvicorn_config(
        MakeApp(options.config, options.env_file),
        host=host,
        port=port,
        workers=options.workers,
        reload=options.reload,
        timeout_graceful_shutdown=options.grace,
    )
    make_log(sys.stdout)
    socket = config.bind_socket()
    click.echo(_greeting(loaded, host, socket.getsockname()[1], env), err=True)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them anew when all is closed: then we end with 0
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(config)
    if options.reload:
        ChangeReload(config, target=server.run, sockets=[socket]).run()
    elif options.workers > 1:
        Multiprocess(config, sockets=[socket]).run()
    else:
        server.run(sockets=[socket])


def uvicorn_config(make_app: Callable[[], App], **options: Any) -> uvicorn.Config:
    """uvicorn as the gateway wants it; `options` are uvicorn's own."""
    return uvicorn.Config(
        make_app,
        factory=True,
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        **options,
    )


def address(addr: str | None, env: Environment) -> tuple[str, int]:
    """`HOST:PORT`, `:PORT` or `[::1]:PORT`; without one 127.0.0.1 and $PORT, else 8080."""
    host, _, port = (addr or f"127.0.0.1:{env.get('PORT') or 8080}").rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise click.ClickException(
            f"{addr or env.get('PORT')}: not an address; write HOST:PORT, for example 127.0.0.1:8080"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_public_example_token(loaded: Loaded, host: str) -> None:
    for key in loaded.config.auth.keys:
        if key.token == LOCAL_TOKEN and not is_loopback(host):
            raise click.ClickException(
                f"key {key.name} has the example's token, which everybody knows: "
                f"it serves on loopback only, not on {host}. "
                "Set AUTH_TOKEN to a secret of 16 characters or more."
            )


def _greeting(loaded: Loaded, host: str, port: int, env: Environment) -> str:
    shown = f"[{host}]" if ":" in host else host
    key = loaded.config.auth.keys[0]
    token = key.token if key.token == LOCAL_TOKEN else f"<the token of key {key.name}>"
    if key.token and key.token == env.get("AUTH_TOKEN"):
        token = "$AUTH_TOKEN"  # noqa: S105
    quote = '"' if token == "$AUTH_TOKEN" else "'"  # noqa: S105
    body = '{"model": "SMALL", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    sizes = {model.model_size for model in loaded.config.models}
    if "SMALL" not in sizes:
        body = body.replace("SMALL", loaded.config.models[0].name)
    lines = [f"warning: {warning}" for warning in loaded.warnings]
    lines += [
        f"Sluice {__version__} serves {len(loaded.config.models)} models on http://{shown}:{port}  (token: {token})",
        "",
        f"curl -N http://{shown}:{port}/v1/chat/completions \\",
        f"  -H {quote}Authorization: Bearer {token}{quote} -H 'Content-Type: application/json' \\",
        f"  -d '{body}'",
        "",
    ]
    return "\n".join(lines)
