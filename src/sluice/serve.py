"""`sluice serve`: the gateway under uvicorn."""

import asyncio
import gc
import ipaddress
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from core import __version__
from core.app import build
from core.auth import LOCAL_TOKEN, example_key
from core.config import Loaded
from core.store import make_store
from core.store.port import StoreError, StoreMisconfigured

from .environment import DOT_ENV, Environment, read_config, read_environment, retry_policy
from .http_protocol import HttpProtocol
from .log import make_log
from .metrics import Metrics, share_between_workers
from .reload import ReloadingApp
from .told import Told

KEEP_ALIVE_S = 75
BACKLOG = 2048
GARBAGE_AT = 10_000  # new objects that can hold others: a hundred requests' worth; Python's default is 700
SOURCES = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class MakeApp:
    """Builds the application in the process that serves it; picklable, so that workers can be given it."""

    config: Path
    env_file: Path | None
    host: str

    def __call__(self) -> ReloadingApp:
        try:
            loaded = self.read()
        except click.ClickException as error:
            error.show()
            raise SystemExit(STARTUP_FAILURE) from None
        metrics = Metrics()
        try:
            app = build(
                loaded,
                Told(make_log(sys.stdout), metrics),
                version=__version__,
                started=int(time.time()),
                retry=retry_policy(read_environment(self.env_file)),
                routes=[metrics.routes],
            )
        except StoreError as error:
            click.ClickException(str(error)).show()
            raise SystemExit(STARTUP_FAILURE) from None
        reloading = ReloadingApp(app, [self.config, self.env_file or DOT_ENV], self.read)
        _spare_the_collector()
        return reloading

    def read(self) -> Loaded:
        """Raises ClickException for a configuration that may not be served here."""
        loaded = read_config(self.config, read_environment(self.env_file))
        _refuse_public_example_token(loaded, self.host)
        return loaded


def _spare_the_collector() -> None:
    """What was loaded stays: to look through it again and again for garbage was most of the slowest requests' time.

    Not even once: of 75,000 objects two thousand are garbage, and to find them takes a tenth of the start.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_AT, 10, 10)
    gc.enable()


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
    host, port = address(options.addr, env)
    make_app = MakeApp(options.config, options.env_file, host)
    loaded = make_app.read()
    _try_store(loaded)
    config = uvicorn_config(
        make_app,
        host=host,
        workers=options.workers,
        reload=options.reload,
        timeout_graceful_shutdown=options.grace,
    )
    make_log(sys.stdout)
    listener = listen(host, port)
    run = _prepare(config, listener)
    click.echo(greeting(loaded, host, listener.getsockname()[1]), err=True)
    run()


def _try_store(loaded: Loaded) -> None:
    """A table that is missing or forbidden is told at start. One that is out of reach for the moment is no reason not
    to serve, and a file is tried when it is opened.
    """
    state = loaded.config.state
    if state is None or state.store != "dynamodb":
        return

    async def ask() -> None:
        store = make_store(state)
        try:
            await store.snapshot([f"m#{loaded.config.models[0].name}"])
        finally:
            await store.aclose()

    try:
        asyncio.run(ask())
    except StoreMisconfigured as error:
        raise click.ClickException(str(error)) from None
    except StoreError as error:
        click.echo(f"warning: {error}; limits are counted by this process alone until it answers", err=True)


def _prepare(config: uvicorn.Config, listener: socket.socket) -> Callable[[], None]:
    """Signals are heard from here on: nothing should greet that cannot be stopped yet."""
    if config.workers > 1:
        share_between_workers()
        return _Workers(config, sockets=[listener]).run
    server = uvicorn.Server(config)
    if config.reload:
        config.reload_dirs = [SOURCES]  # uvicorn sets them only for an application that is named, not given
        return ChangeReload(config, target=server.run, sockets=[listener]).run
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until somebody listens: it would end the process
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them anew when all is closed: then we end with 0
        signal.signal(number, server.handle_exit)
    return lambda: server.run(sockets=[listener])


class _Workers(Multiprocess):
    def handle_hup(self) -> None:
        """Each worker reads the configuration anew. uvicorn would replace them, and cut streams after the grace."""
        for worker in self.processes:
            if worker.pid is not None and worker.process.is_alive():
                os.kill(worker.pid, signal.SIGHUP)

    def terminate_all(self) -> None:
        """The parent holds the socket as well: left open, it would take connections that nobody answers any more."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def uvicorn_config(make_app: Callable[[], ASGIApp], **options: Any) -> uvicorn.Config:
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
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise click.ClickException(
            f"{addr or env.get('PORT')}: not an address; write HOST:PORT, for example 127.0.0.1:8080"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; the first ones wait until the application is there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, proto=socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on: 40 ms an answer
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise click.ClickException(
            f"cannot listen on {_shown(host)}:{port}: {error.strerror}; --addr HOST:PORT chooses another address"
        ) from None
    listener.listen(BACKLOG)
    return listener


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_public_example_token(loaded: Loaded, host: str) -> None:
    if is_loopback(host):
        return
    if (name := example_key(loaded.config.auth.keys)) is not None:
        raise click.ClickException(
            f"key {name} has the example's token, which everybody knows: it serves on loopback only, not on {host}. "
            "Set AUTH_TOKEN to a secret of 16 characters or more."
        )


def greeting(loaded: Loaded, host: str, port: int) -> str:
    """What to do next, as a command that works when pasted. Of tokens only the example's is shown."""
    url, count = f"http://{_shown(host)}:{port}", len(loaded.config.models)
    token = _shown_token(loaded)
    body = {"model": _some_model(loaded), "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    lines = [f"warning: {warning}" for warning in loaded.warnings]
    lines += [
        f"Sluice {__version__} serves {count} model{'s'[: count != 1]} on {url}  (token: {token})",
        "",
        f"curl -N {url}/v1/chat/completions \\",
        f"  -H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(json.dumps(body))}",
        "",
    ]
    return "\n".join(lines)


def _shown_token(loaded: Loaded) -> str:
    key = loaded.config.auth.keys[0]
    if key.token == LOCAL_TOKEN:
        return LOCAL_TOKEN
    if key.token and key.token == os.environ.get("AUTH_TOKEN"):
        return "$AUTH_TOKEN"
    return f"<the token of key {key.name}>"


def _some_model(loaded: Loaded) -> str:
    """A model or category that the first key may use."""
    key, models = loaded.config.auth.keys[0], loaded.config.models
    if key.models:
        return key.models[0]
    return "SMALL" if any(model.model_size == "SMALL" for model in models) else models[0].name


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
