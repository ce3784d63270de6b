"""DynamoDB as far as others play it, on a port of its own: moto's server, and dynalite where Node is.

moto is not atomic: two conditional writes at once may both succeed. So its handler takes one call at a time, and
`test_dynamodb.py` proves first that concurrent increments all land. dynalite does not return the item when a condition
fails, so it also proves the way without that.
"""

import itertools
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moto.dynamodb import responses
from moto.server import ThreadedMotoServer

from core.config.schema import State
from core.store.dynamodb_client import make_table

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
_ONE_AT_A_TIME = threading.RLock()
_TABLES = itertools.count(1)
_DYNALITE = Path(sys.prefix) / "dynalite" / "node_modules" / "dynalite" / "cli.js"


@contextmanager
def dynamodb_endpoint() -> Iterator[str]:
    """The address of an endpoint that answers until the block ends."""
    original: Any = responses.DynamoHandler.call_action

    def one_at_a_time(handler: Any) -> Any:
        with _ONE_AT_A_TIME:
            return original(handler)

    responses.DynamoHandler.call_action = one_at_a_time  # type: ignore[method-assign]
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        responses.DynamoHandler.call_action = original  # type: ignore[method-assign]


def why_no_dynalite() -> str:
    """Empty when it can be started."""
    if shutil.which("node") is None:
        return "needs Node: dynalite is a second DynamoDB"
    return "" if _DYNALITE.exists() else "dynalite is not installed: make .venv/.dynalite"


@contextmanager
def dynalite_endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["node", str(_DYNALITE), "--host", "127.0.0.1", "--port", str(port), "--createTableMs", "0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _until_it_listens(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _until_it_listens(port: int, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "dynalite ended"
            assert time.monotonic() < give_up_at, "dynalite did not start"
            time.sleep(0.02)
        else:
            return


def fresh_table(endpoint: str, *, timeout_ms: int = 5_000) -> State:
    """The configuration of a table that nobody has used yet."""
    state = State(
        store="dynamodb",
        table=f"sluice-{next(_TABLES)}",
        region="eu-west-1",
        endpoint_url=endpoint,
        timeout_ms=timeout_ms,
    )
    make_table(state)
    return state
